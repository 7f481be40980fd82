"""An image's row is built once, from all that was found out by then."""

import pickle
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from input_states import committed, known
from one_image import ENGINE, LATENT, encoded, oversized, prepared, row_of, source
from PIL import Image
from spread_runs import ABOVE, with_small_calls

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.images.encoding.pool import shared_encoders
from beam_upscale.images.values import NO_METADATA, ImageHeader
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.pipeline.commit.persist import final_uri
from beam_upscale.pipeline.large_images.assemble import assemble
from beam_upscale.pipeline.large_images.cut import cut
from beam_upscale.pipeline.large_images.tiles import persist_tile, read_tile
from beam_upscale.pipeline.one_image.finish import advance, finish
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.states import (
    ImageInFlight,
    LargeImage,
    ResultDraft,
    UpscaledImage,
)
from beam_upscale.pipeline.one_image.tiles import element
from beam_upscale.pipeline.run_state.input_state import Allowance
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning import engines
from beam_upscale.sources.inputs.source_image import SourceImage, source_image

SMALL = encoded(Image.new("RGB", (40, 30), "teal"))
CLEAR = encoded(Image.new("RGBA", (40, 30), (0, 128, 128, 100)))
LOCAL = {"weights": "nearest"}
SERVICE = {"backend": "grpc", "endpoint": "localhost:1"}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[type]]:
    """The classes of the rows and inputs that are built from now on, one for each."""
    found: list[type] = []
    with monkeypatch.context() as patched:
        for kind in (Row, SourceImage):
            patched.setattr(kind, "__init__", _noted(kind, kind.__init__, found))
        patched.setattr(Row, "of", _noted(Row, Row.of, found))
        yield found


def _noted(kind: type, make: Callable[..., Any], found: list[type]) -> Callable[..., Any]:
    def noted(*arguments: Any, **fields: Any) -> Any:
        found.append(kind)
        return make(*arguments, **fields)

    return noted


def pin(engine: Any = ENGINE, **options: Any) -> PinnedSettings:
    return UpscaleSettings.of(engine, **options).pin()


def enlarged(tiled: TiledImage, **told: Any) -> Inference:
    """The outcome of a network that makes a black image of every tile."""
    scale, tiles = tiled.scale, tiled.tiles
    shapes = [(each.core.height * scale, each.core.width * scale) for each in tiles]
    channels = [each.pixels.shape[2] for each in tiles]
    cores = [
        np.zeros((*shape, depth), np.uint8) for shape, depth in zip(shapes, channels, strict=True)
    ]
    return Inference(cores, **told)


def upscaled(image: SourceImage, settings: PinnedSettings) -> UpscaledImage:
    """What becomes of an image in a chain of such networks."""
    tiled = prepared(image, settings)
    for _ in settings.stages[1:]:
        tiled = element(advance(tiled.context, enlarged(tiled), settings, shared_encoders()))
    return finish(tiled.context, enlarged(tiled), settings, shared_encoders())


def assembled(image: SourceImage, settings: PinnedSettings, scratch: DatasetFolder) -> Any:
    """What becomes of a large image whose tiles such a network takes."""
    large = prepare(image, settings, shared_pool())
    assert isinstance(large, LargeImage)
    found = cut(pickle.loads(pickle.dumps(large)), settings, scratch, shared_pool())
    assert not isinstance(found, UpscaledImage)
    tiled = [read_tile(tile, settings, scratch, shared_pool()) for tile in found[1]]
    results = [persist_tile(each, enlarged(each), scratch) for each in tiled]
    return assemble(found[0], results, settings, scratch, final_uri)


@pytest.mark.parametrize(
    ("engine", "options", "data"),
    [
        (ENGINE, LOCAL, SMALL),
        (ENGINE, LOCAL, CLEAR),
        (ENGINE, {**LOCAL, "oversize": "tile"}, encoded(Image.fromarray(oversized()))),
        (ENGINE, SERVICE, CLEAR),
        (LATENT, SERVICE, SMALL),
        ([ENGINE, LATENT], SERVICE, SMALL),
        ([ENGINE, ENGINE], {**LOCAL, "keep_intermediates": True}, CLEAR),
    ],
)
def test_one_row_and_one_input_are_built_for_an_image_that_is_upscaled(
    engine: Any, options: dict[str, Any], data: bytes, built: list[type]
) -> None:
    settings, image = pin(engine, **options), source(data)
    built.clear()

    result = upscaled(image, settings)

    assert row_of(result).status is Status.UPSCALED
    # The input is copied once, without the bytes that it holds.
    assert built == [SourceImage, Row]


def test_an_input_in_a_file_is_never_copied(tmp_path: Path, built: list[type]) -> None:
    (tmp_path / "a.png").write_bytes(SMALL)
    settings, image = pin(**LOCAL), source_image(str(tmp_path / "a.png"))
    built.clear()

    result = upscaled(image, settings)

    assert result.source is image
    assert built == [Row]


def test_one_row_is_built_for_a_large_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[type]
) -> None:
    monkeypatch.setattr(engines, "ENGINES", with_small_calls())
    settings = pin(**LOCAL, oversize="tile", fan_out_above=ABOVE)
    Image.new("RGB", (200, 150)).save(tmp_path / "a.png")
    image = source_image(str(tmp_path / "a.png"))

    result = assembled(image, settings, DatasetFolder(str(tmp_path / "scratch")))

    assert row_of(result).status is Status.UPSCALED
    assert built.count(Row) == 1


def failed_at(inference: Inference) -> UpscaledImage:
    settings = pin(**LOCAL)
    return finish(prepared(source(SMALL), settings).context, inference, settings, shared_encoders())


@pytest.mark.parametrize(
    ("image", "options", "status"),
    [
        (source(b"a text"), {}, Status.FAILED),
        (source(SMALL[:-40]), {}, Status.FAILED),
        (source_image("/no/such.png"), {}, Status.FAILED),
        (source(SMALL), {"max_input_pixels": 100}, Status.REJECTED),
        (source(SMALL), {"min_side": 8}, Status.SKIPPED),
        (known(source(SMALL), allowance=Allowance(Decimal(0))), {}, Status.OVER_BUDGET),
    ],
)
def test_one_row_is_built_for_an_image_that_no_network_sees(
    image: SourceImage, options: dict[str, Any], status: Status, built: list[type]
) -> None:
    result = upscaled(image, pin(**LOCAL, **options))

    assert row_of(result).status is status
    assert built.count(Row) == 1


@pytest.mark.parametrize(
    "inference",
    [Inference(error=ImageError(ErrorCode.OUT_OF_MEMORY, "too large")), Inference()],
    ids=["an error of the network", "a mistake while its results are stitched"],
)
def test_one_row_is_built_for_an_image_that_fails_late(
    inference: Inference, built: list[type]
) -> None:
    result = failed_at(inference)

    assert row_of(result).status is Status.FAILED
    assert built.count(Row) == 1


def test_no_row_is_built_for_an_input_that_is_done_or_left_to_a_later_run(
    built: list[type],
) -> None:
    earlier = committed(Record(Row("a", "a", Status.UPSCALED), None))
    stop = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")
    listed = source_image("/in/a.png")
    images = [known(listed, earlier=earlier), known(listed, is_postponed=True)]
    built.clear()

    done, postponed = (upscaled(image, pin(**LOCAL)) for image in images)
    stopped = failed_at(Inference(stop=stop))

    assert (done.record, postponed.record, stopped.record) == (earlier.record, None, None)
    assert Row not in built


def test_a_row_of_a_chain_adds_up_what_its_networks_tell() -> None:
    settings = pin([ENGINE, LATENT], **SERVICE)
    tiled = prepared(source(SMALL), settings)
    first = enlarged(
        tiled,
        notes=("a note",),
        request_ids=("one",),
        billed_credits=Decimal(1),
        device_seconds=0.5,
        queue_seconds=1.0,
        attempts=1,
    )
    tiled = element(advance(tiled.context, first, settings, shared_encoders()))
    second = enlarged(
        tiled,
        notes=("another",),
        request_ids=("two",),
        billed_credits=Decimal(2),
        device_seconds=1.0,
        queue_seconds=0.5,
        attempts=2,
    )

    result = finish(tiled.context, second, settings, shared_encoders())

    row = row_of(result)
    assert row.notes == ("stage 1 of 2: a note", "stage 2 of 2: another")
    assert (row.request_ids, row.billed_credits) == (("one", "two"), 3)
    assert [stage["request_ids"] for stage in row.stages] == [["one"], ["two"]]
    assert [stage["seed"] for stage in row.stages] == [None, row.seed]
    assert row.seed
    assert result.record is not None
    assert result.record.telemetry is not None
    told = result.record.telemetry
    assert (told.device_seconds, told.queue_seconds, told.attempts) == (1.5, 1.0, 2)


def test_a_step_that_is_taken_twice_gives_the_same_result() -> None:
    settings = pin(**LOCAL)
    tiled = prepared(source(CLEAR), settings)

    first, second = (
        finish(tiled.context, enlarged(tiled), settings, shared_encoders()) for _ in range(2)
    )

    assert first == second


def test_what_a_header_claims_is_noted_before_anything_else() -> None:
    header = ImageHeader("png", "RGB", 1 << 31, 1, 1, 8)
    draft = ResultDraft(SourceImage("a"), {}, started_at=0, header=header)

    row = draft.record(Status.SKIPPED, ("it is large enough",)).row

    found = "input_width is 0x80000000, more than the 31 bits of its column"
    assert (row.input_width, row.input_height) == (None, 1)
    assert row.notes == (found, "it is large enough")


def test_an_error_after_a_network_names_its_stage() -> None:
    settings = pin([ENGINE, LATENT], **SERVICE)
    plan = settings.rules.plan(40, 30)
    draft = ResultDraft(SourceImage("a"), settings.shared_columns, started_at=0)
    image = ImageInFlight(draft, plan, NO_METADATA, done=({},), inferences=(Inference(),))

    row = row_of(image.failed(ImageError(ErrorCode.SERVICE_ERROR, "no"), Inference()))

    assert (row.error_message, row.engine) == ("stage 2 of 2: no", LATENT)
