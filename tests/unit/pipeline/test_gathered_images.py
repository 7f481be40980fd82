"""Runs in which small images are decoded and encoded together give what others give."""

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.window import FixedWindows, GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from one_image import double, encoded, prepared, row_of
from PIL import Image

from beam_upscale.dataset.manifest.row import Status
from beam_upscale.errors import ErrorCode
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.decoding.small_images import MOST_FILE_BYTES
from beam_upscale.images.encoding.pool import EncoderPool
from beam_upscale.pipeline.one_image import gathering
from beam_upscale.pipeline.one_image.gathering import MOST_TOGETHER, ReadInput
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.upscale import Finish, Prepare, Upscale
from beam_upscale.sources.inputs.source_image import SourceImage, source_image

INPUTS = 40
SECONDS = 10
WINDOW = 30

Photograph = Callable[..., Image.Image]
Found = dict[str, list[tuple[int, int, UpscaledImage]]]


@pytest.fixture
def nearest(pin: Callable[..., PinnedSettings]) -> PinnedSettings:
    return pin(weights="nearest")


def content(number: int, photograph: Photograph) -> bytes:
    """The bytes of an input; each kind comes several times, between others."""
    match number % 10:
        case 3:
            return b"broken"
        case 4:
            return encoded(photograph(number, 60, 50), "JPEG")[:-300]
        case 5:
            # Of many pixels, and small as a file.
            return encoded(Image.new("L", (300, 230), number))
        case 6:
            noise = np.random.default_rng(number).integers(0, 256, (180, 170, 3), np.uint8)
            return encoded(Image.fromarray(noise))
        case 7:
            # Too few pixels for an encoder process.
            return encoded(photograph(number, 12, 10))
        case _:
            return encoded(photograph(number, 60 + number, 50))


@pytest.fixture
def sources(tmp_path: Path, photograph: Photograph) -> list[SourceImage]:
    found = []
    for number in range(INPUTS):
        path = tmp_path / f"{number:02}"
        # Each tenth file is missing.
        if number % 10 != 8:
            path.write_bytes(content(number, photograph))
        found.append(source_image(str(path)))
    assert (tmp_path / "06").stat().st_size > MOST_FILE_BYTES
    return found


_found: Found = {}
_lock = threading.Lock()


def _keep(
    upscaled: UpscaledImage,
    timestamp: Timestamp = beam.DoFn.TimestampParam,
    window: Any = beam.DoFn.WindowParam,
) -> None:
    with _lock:
        kept = int(timestamp.seconds()), int(window.start.seconds()), upscaled
        _found.setdefault(upscaled.source.input_id, []).append(kept)


def upscaled(sources: list[SourceImage], settings: PinnedSettings, workers: int) -> Found:
    """The results of a run by their inputs, with their timestamps and the starts of windows."""
    options = PipelineOptions([])
    direct = options.view_as(DirectOptions)
    direct.direct_num_workers = workers
    direct.direct_running_mode = "multi_threading" if workers > 1 else "in_memory"
    timed = [TimestampedValue(source, SECONDS * n) for n, source in enumerate(sources)]
    _found.clear()
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create([timed])
            | beam.FlatMap(lambda those: those)
            | beam.WindowInto(FixedWindows(WINDOW))
            | beam.Reshuffle()
            | Upscale(settings)
            | beam.Map(_keep)
        )
    return dict(_found)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The sizes of the groups that are decoded and encoded."""
    sizes: dict[str, list[int]] = {"decoded": [], "encoded": []}
    decode, encode = DecoderPool.decode_small, EncoderPool.encode_small

    def decoding(pool: DecoderPool, files: Any, **options: Any) -> Any:
        sizes["decoded"].append(len(files))
        return decode(pool, files, **options)

    def encoding(pool: EncoderPool, images: Any) -> Any:
        sizes["encoded"].append(len(images))
        return encode(pool, images)

    monkeypatch.setattr(DecoderPool, "decode_small", decoding)
    monkeypatch.setattr(EncoderPool, "encode_small", encoding)
    return sizes


@pytest.mark.parametrize("workers", [1, 3])
def test_gathered_images_give_what_each_gives_alone(
    workers: int,
    sources: list[SourceImage],
    nearest: PinnedSettings,
    groups: dict[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = upscaled(sources, nearest, workers)
    sizes = {name: list(each) for name, each in groups.items()}
    monkeypatch.setattr(gathering, "gathers", lambda _: False)
    alone = upscaled(sources, nearest, workers)

    assert max(sizes["decoded"]) > 1
    assert max(sizes["encoded"]) > 1
    assert groups == sizes
    assert together.keys() == alone.keys() == {source.input_id for source in sources}
    for number, source in enumerate(sources):
        ((time, window, one),) = together[source.input_id]
        ((_, _, other),) = alone[source.input_id]
        assert (time, window) == (SECONDS * number, SECONDS * number // WINDOW * WINDOW)
        assert row_of(one) == row_of(other)
        assert one.data == other.data
    codes = [row_of(together[source.input_id][0][2]).error_code for source in sources[:10]]
    not_an_image, truncated = ErrorCode.NOT_AN_IMAGE, ErrorCode.TRUNCATED
    assert codes == [*[None] * 3, not_an_image, truncated, *[None] * 3, ErrorCode.NOT_FOUND, None]


# Bundles that fail


def prepared_by(step: Prepare, source: SourceImage, at: int) -> list[str]:
    found = step.process(source, Timestamp(at), GlobalWindow())
    return [each.value.context.source.input_id for each in found]


def test_prepare_forgets_the_inputs_of_a_bundle_that_failed(
    nearest: PinnedSettings, photograph: Photograph
) -> None:
    names = [str(number) for number in range(MOST_TOGETHER + 3)]
    inputs = [SourceImage(name, data=encoded(photograph(0, 9, 8))) for name in names]
    step = Prepare(nearest, None, None)

    step.start_bundle()
    # Fails in the middle, with inputs that wait.
    failed = [prepared_by(step, each, 0) for each in inputs[:5]]
    step.start_bundle()
    found = [name for each in inputs for name in prepared_by(step, each, 0)]
    rest = [each.value.context.source.input_id for each in step.finish_bundle()]

    assert failed == [[]] * 5
    # The first group is given once a child has the second one.
    assert found == []
    assert rest == names
    assert list(step.finish_bundle()) == []


def test_prepare_gives_images_while_a_child_decodes_the_next_ones(
    nearest: PinnedSettings, photograph: Photograph
) -> None:
    data = encoded(photograph(0, 9, 8))
    inputs = [SourceImage(str(number), data=data) for number in range(3 * MOST_TOGETHER)]
    step = Prepare(nearest, None, None)

    step.start_bundle()
    found = [len(prepared_by(step, each, 0)) for each in inputs]
    rest = list(step.finish_bundle())

    nothing = [0] * (MOST_TOGETHER - 1)
    assert found == [*nothing, 0, *nothing, MOST_TOGETHER, *nothing, MOST_TOGETHER]
    assert len(rest) == MOST_TOGETHER


def test_prepare_holds_no_image_while_its_output_is_worked_on(
    nearest: PinnedSettings, photograph: Photograph, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(photograph(0, 9, 8))
    inputs = [SourceImage(str(number), data=data) for number in range(3)]
    decode = gathering.decoded
    held: list[weakref.ref[ReadInput]] = []

    def noted(*arguments: Any) -> list[ReadInput]:
        found = decode(*arguments)
        held.extend(map(weakref.ref, found))
        return found

    monkeypatch.setattr(gathering, "decoded", noted)
    step = Prepare(nearest, None, None)
    step.start_bundle()
    for each in inputs:
        assert prepared_by(step, each, 0) == []
    outputs = step.finish_bundle()
    next(outputs)
    gc.collect()

    assert [each() is not None for each in held] == [False, True, True]


def test_prepare_forgets_inputs_whose_outputs_were_not_all_taken(
    nearest: PinnedSettings, photograph: Photograph
) -> None:
    inputs = [
        SourceImage(str(number), data=encoded(photograph(0, 9, 8)))
        for number in range(2 * MOST_TOGETHER)
    ]
    step = Prepare(nearest, None, None)

    step.start_bundle()
    for each in inputs[:-1]:
        assert prepared_by(step, each, 0) == []
    outputs = step.process(inputs[-1], Timestamp(0), GlobalWindow())
    first = next(outputs)
    # The step behind it failed.
    outputs.close()
    step.start_bundle()

    assert first.value.context.source.input_id == "0"
    assert list(step.finish_bundle()) == []


def test_finish_forgets_the_images_of_a_bundle_that_failed(
    nearest: PinnedSettings, photograph: Photograph
) -> None:
    def result(number: int) -> PredictionResult:
        source = SourceImage(str(number), data=encoded(photograph(number, 60, 50)))
        tiled = prepared(source, nearest)
        return PredictionResult(tiled, double(tiled))

    step = Finish(nearest)
    step.start_bundle()
    for number in range(3):
        assert list(step.process(result(number), Timestamp(0), GlobalWindow())) == []
    step.start_bundle()
    for number in (7, 8):
        assert list(step.process(result(number), Timestamp(number), GlobalWindow())) == []
    found = list(step.finish_bundle())

    assert [(each.value.source.input_id, each.timestamp) for each in found] == [
        ("7", Timestamp(7)),
        ("8", Timestamp(8)),
    ]
    assert [row_of(each.value).status for each in found] == [Status.UPSCALED] * 2
    assert list(step.finish_bundle()) == []
