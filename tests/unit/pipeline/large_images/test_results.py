"""Results that wait in a scratch folder, for this pipeline or for the next one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from persisted_results import result, with_row

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.large_images.results import PersistInScratch, ScratchResults
from beam_upscale.pipeline.one_image.states import ResultDraft, UpscaledImage, begun_telemetry
from beam_upscale.pipeline.run_state.stop import clear_stop, stop_reason
from beam_upscale.pipeline.settings.pinned import PinnedSettings


@pytest.fixture
def scratch(tmp_path: Path) -> DatasetFolder:
    return DatasetFolder(str(tmp_path / "scratch"))


@pytest.fixture
def waiting(scratch: DatasetFolder, settings: PinnedSettings) -> ScratchResults:
    return ScratchResults.of(scratch, settings)


def made(name: str, data: bytes | None) -> UpscaledImage:
    return with_row(result(name, data), source_sha256="a hash")


def begun(upscaled: UpscaledImage, **columns: Any) -> ResultDraft:
    """The draft of a result's input, as a later pipeline has it once the bytes are read."""
    assert upscaled.record is not None
    row = upscaled.record.row
    draft = Row(
        row.input_id,
        row.source_uri,
        Status.UPSCALED,
        source_sha256=row.source_sha256,
        input=row.input,
    )
    return ResultDraft(upscaled.source, dataclasses.replace(draft, **columns), begun_telemetry())


def test_a_result_that_was_persisted_is_found(waiting: ScratchResults) -> None:
    persisted = waiting.persist(made("a", b"image"))

    assert persisted.data is None
    assert Path(persisted.file or "").read_bytes() == b"image"
    assert waiting.find(begun(persisted)) == dataclasses.replace(persisted, is_taken_up=True)


def test_a_result_without_an_image_is_made_anew(waiting: ScratchResults) -> None:
    failed = made("a", None)

    assert waiting.persist(failed) is failed
    assert waiting.find(begun(failed)) is None


def test_a_result_of_another_input_of_other_bytes_or_settings_is_not_found(
    waiting: ScratchResults, scratch: DatasetFolder, pin: Callable[..., PinnedSettings]
) -> None:
    persisted = waiting.persist(made("a", b"image"))
    others = ScratchResults.of(scratch, pin(output_format="webp"))

    assert waiting.find(begun(persisted, input_id="another")) is None
    assert waiting.find(begun(persisted, source_sha256="another")) is None
    assert others.find(begun(persisted)) is None


def test_a_result_that_is_found_has_the_columns_of_now(waiting: ScratchResults) -> None:
    persisted = waiting.persist(made("a", b"image"))

    found = waiting.find(begun(persisted, source_uri="now", input={"label": "now"}))

    assert found is not None
    assert found.record is not None
    assert (found.record.row.source_uri, found.record.row.input) == ("now", {"label": "now"})


def test_a_result_of_a_service_that_refuses_all_calls_stops_the_tiles(
    waiting: ScratchResults, scratch: DatasetFolder
) -> None:
    stop = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")
    refused = UpscaledImage(made("a", None).source, None, stop=stop)
    step = PersistInScratch(waiting)

    step.start_bundle()
    assert list(step.process(refused)) == [refused]
    step.finish_bundle()

    assert stop_reason(scratch) == "api_key_refused: the key expired"
    clear_stop(scratch)
