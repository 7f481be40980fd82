"""What a dataset is refused for before it is written, and what stops a run that writes it."""

import dataclasses
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from persisted_results import result

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.read import ReadImages
from beam_upscale.pipeline.run_state.stop import clear_stop, stop_reason
from beam_upscale.pipeline.upscale import Upscale
from beam_upscale.pipeline.write import WriteDataset


def test_a_service_that_refuses_all_calls_stops_the_run(
    dataset: DatasetFolder, caplog: pytest.LogCaptureFixture
) -> None:
    stop = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")
    refused = dataclasses.replace(result("a", None), record=None, stop=stop)

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        pipeline | beam.Create([refused, result("b", None)]) | WriteDataset(dataset.root)

    assert stop_reason(dataset) == "api_key_refused: the key expired"
    assert "is not complete: api_key_refused: the key expired" in caplog.text
    assert dataset.read_record("/in/a.jpg") is None
    assert dataset.read_record("/in/b.jpg") is not None
    clear_stop(dataset)


@pytest.mark.parametrize(
    ("outputs", "reason"), [(["other"], "a run goes on from one output"), (["out", "out"], "2")]
)
def test_inputs_of_another_listing_are_refused_before_anything_runs(
    tmp_path: Path, tiny_weights: Path, outputs: list[str], reason: str
) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    reads = [
        pipeline | f"Read{number}" >> ReadImages(str(tmp_path), output=str(tmp_path / output))
        for number, output in enumerate(outputs)
    ]
    upscaled = reads | beam.Flatten() | Upscale(weights=str(tiny_weights), device="cpu")

    with pytest.raises(SettingsError, match=reason) as caught:
        _ = upscaled | WriteDataset(str(tmp_path / "out"))

    assert caught.value.code is ErrorCode.INVALID_OPTION


def test_a_layout_that_there_is_not_is_refused(tmp_path: Path, tiny_weights: Path) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    upscaled = (
        pipeline | ReadImages(str(tmp_path)) | Upscale(weights=str(tiny_weights), device="cpu")
    )

    with pytest.raises(SettingsError, match=r"layout is 'parkett'; .*parquet") as caught:
        _ = upscaled | WriteDataset(str(tmp_path / "out"), layout="parkett")

    assert caught.value.code is ErrorCode.INVALID_OPTION
