from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.internal import cloudpickle_pickler
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from one_image import ENGINE, double, encoded, pixels_of, prepared, row_of, source
from PIL import Image

from beam_upscale.errors import BrokenProcessError, ErrorCode, SettingsError
from beam_upscale.inference.elements import METRICS, Inference, TiledImage
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.upscale import Finish, Upscale
from beam_upscale.sources.inputs.source_image import SourceImage


def test_a_result_that_no_decoder_can_read_is_no_inputs_fault(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    class Undecodable:
        def done(self) -> bool:
            return True

        def result(self) -> Inference:
            raise BrokenProcessError(ErrorCode.DECODER_UNAVAILABLE, "no more processes")

    tiled = prepared(source(encoded(photograph())), settings)
    finishing = Finish(settings)
    finishing.start_bundle()

    (result,) = finishing.process(
        PredictionResult(tiled, Undecodable()), Timestamp(0), GlobalWindow()
    )

    assert result.value.record is None
    assert result.value.stop.code is ErrorCode.DECODER_UNAVAILABLE


# As a transform


def test_a_function_that_names_the_package_can_be_sent_to_workers() -> None:
    names: dict[str, Any] = {}
    exec("import beam_upscale as bu\nmake = lambda text: bu.SourceImage(text)", names)

    make = cloudpickle_pickler.loads(cloudpickle_pickler.dumps(names["make"]))

    assert make("a") == SourceImage("a")


def test_upscale_is_a_drop_in_transform(
    tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    pictures = [photograph(number, 20 + number, 16) for number in range(3)]
    network = TorchNetwork.load(tiny_weights, Device.CPU, Precision.FP32, threads=1)
    expected = [network.upscale(np.asarray(picture)[np.newaxis])[0] for picture in pictures]
    rows = [
        {"key": number, "tags": ["x", None], "bytes": encoded(picture)}
        for number, picture in enumerate(pictures)
    ]
    rows.append({"key": 3, "tags": [], "bytes": b"broken"})

    def to_source(row: dict[str, Any]) -> SourceImage:
        columns = {"key": row["key"], "tags": row["tags"]}
        return SourceImage(f"row {row['key']}", data=row["bytes"], columns=columns)

    def check(results: Sequence[UpscaledImage]) -> None:
        by_key = {row_of(result).input["key"]: result for result in results}
        assert sorted(by_key) == [0, 1, 2, 3]
        for number, pixels in enumerate(expected):
            assert np.array_equal(pixels_of(by_key[number]), pixels)
            assert row_of(by_key[number]).input == {"key": number, "tags": ["x", None]}
        assert row_of(by_key[3]).error_code == ErrorCode.NOT_AN_IMAGE
        assert row_of(by_key[3]).input == {"key": 3, "tags": []}

    pipeline = beam.Pipeline(runner=FnApiRunner())
    results = (
        pipeline
        | beam.Create(rows)
        | beam.Map(to_source)
        | Upscale(ENGINE, weights=str(tiny_weights), device="cpu", precision="fp32", threads=1)
    )
    assert_that(results, check)
    metrics = pipeline.run().metrics()

    found = metrics.query(beam.metrics.MetricsFilter().with_namespace(METRICS))["counters"]
    counters = {each.key.metric.name: each.committed for each in found}
    assert (counters["images_upscaled"], counters["images_failed"]) == (3, 1)
    assert (counters["input_pixels"], counters["calls"]) == (20 * 16 + 21 * 16 + 22 * 16, 3)


def test_resource_hints_reach_the_steps_of_upscale(settings: PinnedSettings) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    hinted = Upscale(settings).with_resource_hints(accelerator="type:nvidia;count:1")

    pipeline | beam.Create([source(b"")]) | "Hinted" >> hinted

    proto = pipeline.to_runner_api()
    with_hints = {
        name
        for name, environment in proto.components.environments.items()
        if any(b"nvidia" in hint for hint in environment.resource_hints.values())
    }
    steps = [
        step
        for step in proto.components.transforms.values()
        if step.unique_name.startswith("Hinted/") and step.environment_id
    ]
    assert steps
    assert {step.environment_id for step in steps} <= with_hints


def test_what_would_make_every_image_fail_is_refused_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Upscale("no-such-engine")

    assert caught.value.code is ErrorCode.UNKNOWN_ENGINE


class Later:
    """An inference that ends when no other has anything to do; those that were begun last first."""

    under_way: ClassVar[list["Later"]] = []

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self.under_way.append(self)

    def done(self) -> bool:
        return self not in self.under_way

    def wait(self, timeout: float | None = None) -> bool:
        self.under_way.pop()
        return self.done()

    def result(self) -> Inference:
        assert self.done()
        return self._inference


class StartLater(beam.DoFn):
    """Stands for RunInference with a handler whose calls go over the network."""

    def process(self, tiled: TiledImage) -> Iterator[PredictionResult]:
        yield PredictionResult(tiled, Later(double(tiled)))


def test_images_under_way_leave_with_their_own_times_and_windows(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    Later.under_way.clear()
    numbers = range(5)
    data = [encoded(photograph(number, 8 + number, 8)) for number in numbers]

    def begun(number: int) -> TimestampedValue:
        tiled = prepared(SourceImage(str(number), data=data[number]), settings)
        return TimestampedValue(tiled, 10 * number)

    def described(
        upscaled: UpscaledImage,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> tuple[str, int, int]:
        assert upscaled.data is not None
        return upscaled.source.input_id, int(timestamp.seconds()), int(window.start.seconds())

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        results = (
            pipeline
            | beam.Create([list(numbers)])
            | beam.FlatMap(lambda those: [begun(number) for number in those])
            | beam.WindowInto(FixedWindows(10))
            | beam.Map(lambda tiled: tiled).with_output_types(TiledImage)
            | beam.ParDo(StartLater())
            | beam.ParDo(Finish(settings))
            | beam.Map(described)
        )
        assert_that(
            results,
            equal_to([(str(number), 10 * number, 10 * number) for number in numbers]),
            reify_windows=False,
        )
    assert Later.under_way == []
