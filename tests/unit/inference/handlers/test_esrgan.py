import contextlib
import dataclasses
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import torch
from apache_beam.ml.inference.base import PredictionResult, RunInference
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from apache_beam.utils import multi_process_shared
from esrgan_calls import infer, whole
from small_networks import noise

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError, SettingsError
from beam_upscale.images import resampling
from beam_upscale.inference.elements import METRICS, Inference, Tile, TiledImage
from beam_upscale.inference.handlers.esrgan import EsrganHandler
from beam_upscale.inference.local_engines import EsrganEngine
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.super_resolution import SuperResolution
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork
from beam_upscale.planning.tile_layout import Box

PATIENCE = 30


@pytest.fixture
def network(tiny_weights: Path) -> TorchNetwork:
    return TorchNetwork.load(tiny_weights, Device.CPU, Precision.FP32, threads=1)


@contextlib.contextmanager
def spy(
    monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None] = lambda: None
) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the batches that the network is given; the first of them takes its time.

    On a CPU the network itself runs a batch's images one by one, so that none depends on its
    neighbors: what shares a batch is seen where the batcher hands it over.
    """
    batches: list[tuple[int, ...]] = []
    original = SuperResolution.upscale

    def upscale(self: SuperResolution, batch: np.ndarray) -> np.ndarray:
        batches.append(batch.shape)
        if len(batches) == 1:
            meanwhile()
        return original(self, batch)

    monkeypatch.setattr(SuperResolution, "upscale", upscale)
    yield batches


# Results


def test_an_image_is_what_the_network_makes_of_it(
    engine: EsrganEngine, network: TorchNetwork
) -> None:
    pixels = noise(20, 30, 3)

    (inference,) = infer(EsrganHandler(engine), [whole(pixels)])

    assert inference.error is None
    assert np.array_equal(inference.cores[0], network.upscale(pixels[np.newaxis])[0])
    assert inference.batch_size == 1
    assert inference.device_seconds > 0


def test_sixteen_bits_and_gray_stay_what_they_are(engine: EsrganEngine) -> None:
    deep, gray = infer(
        EsrganHandler(engine), [whole(noise(9, 8, 3, dtype=np.uint16)), whole(noise(9, 8, 1))]
    )

    assert (deep.cores[0].dtype, deep.cores[0].shape) == (np.uint16, (18, 16, 3))
    assert (gray.cores[0].dtype, gray.cores[0].shape) == (np.uint8, (18, 16, 1))


def test_only_the_core_of_a_tile_is_kept(engine: EsrganEngine, network: TorchNetwork) -> None:
    pixels = noise(20, 30, 3)
    tiled = TiledImage([Tile(pixels, Box(5, 4, 10, 8))], scale=2)

    (inference,) = infer(EsrganHandler(engine), [tiled])

    expected = network.upscale(pixels[np.newaxis])[0][8:24, 10:30]
    assert np.array_equal(inference.cores[0], expected)
    assert inference.cores[0].base is None


def test_a_larger_scale_than_asked_for_is_reduced(
    engine: EsrganEngine, network: TorchNetwork
) -> None:
    pixels = noise(20, 30, 3)
    tiled = TiledImage(whole(pixels).tiles, scale=1)

    (inference,) = infer(EsrganHandler(engine), [tiled])

    expected = resampling.resize(network.upscale(pixels[np.newaxis])[0], 30, 20)
    assert np.array_equal(inference.cores[0], expected)


def test_tiles_cut_for_memory_give_the_uncut_result(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(120, 150, 3)
    cut = dataclasses.replace(engine, max_tile_pixels=70 * 70)

    (uncut,) = infer(EsrganHandler(engine), [whole(pixels)])
    with spy(monkeypatch) as batches:
        (inference,) = infer(EsrganHandler(cut), [whole(pixels)])

    assert len(batches) > 1
    assert all(height * width <= 70 * 70 for _, height, width, _ in batches)
    difference = np.abs(inference.cores[0].astype(int) - uncut.cores[0])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_an_empty_batch_and_an_image_without_tiles_pass(engine: EsrganEngine) -> None:
    handler = EsrganHandler(engine)

    assert infer(handler, []) == []
    assert infer(handler, [TiledImage([], 1)]) == [Inference()]


# Errors


def fail_on_black(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    original = SuperResolution.upscale

    def upscale(self: SuperResolution, batch: np.ndarray) -> np.ndarray:
        if any(not pixels.any() for pixels in batch):
            raise error
        return original(self, batch)

    monkeypatch.setattr(SuperResolution, "upscale", upscale)


@pytest.mark.parametrize("max_batch_pixels", [0, 10**6])
def test_one_images_error_leaves_the_others(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch, max_batch_pixels: int
) -> None:
    fail_on_black(monkeypatch, ImageError(ErrorCode.NOT_A_NUMBER, "bad"))
    engine = dataclasses.replace(engine, max_batch_pixels=max_batch_pixels)
    good, black = noise(8, 8, 3), np.zeros((8, 8, 3), np.uint8)
    half_bad = TiledImage([*whole(good).tiles, *whole(black).tiles], scale=2)

    results = infer(EsrganHandler(engine), [whole(good), half_bad, whole(black), whole(good)])

    codes = [result.error and result.error.code for result in results]
    assert codes == [None, ErrorCode.NOT_A_NUMBER, ErrorCode.NOT_A_NUMBER, None]
    assert [len(result.cores) for result in results] == [1, 0, 0, 1]


def test_an_unforeseen_error_is_a_model_error(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on_black(monkeypatch, RuntimeError("kernel"))

    (result,) = infer(EsrganHandler(engine), [whole(np.zeros((8, 8, 3), np.uint8))])

    assert result.error is not None
    assert result.error.code is ErrorCode.MODEL_ERROR
    assert result.error.message == "RuntimeError: kernel"


def test_an_error_of_all_images_stops_the_run(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on_black(monkeypatch, SettingsError(ErrorCode.DEVICE_UNAVAILABLE, "gone"))

    with pytest.raises(SettingsError):
        infer(EsrganHandler(engine), [whole(np.zeros((8, 8, 3), np.uint8))])


# Errors of the device


LOST = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


class Failing:
    """The network of `TorchNetwork`, which raises an error after so many passes.

    Attributes:
        shapes: of all passes, the failing ones too.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception, sound: int = 0, least: int = 0
    ) -> None:
        self.shapes: list[tuple[int, ...]] = []
        forward = TorchNetwork._forward

        def failing(network: TorchNetwork, batch: np.ndarray, strip_pixels: int) -> np.ndarray:
            self.shapes.append(batch.shape)
            if len(self.shapes) > sound and batch.size >= least:
                raise error
            return forward(network, batch, strip_pixels)

        monkeypatch.setattr(TorchNetwork, "_forward", failing)


@pytest.mark.parametrize("max_batch_pixels", [0, 10**6])
def test_a_lost_device_is_no_images_fault_and_is_not_tried_again(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch, max_batch_pixels: int
) -> None:
    failing = Failing(monkeypatch, LOST, sound=1)
    engine = dataclasses.replace(engine, max_batch_pixels=max_batch_pixels)
    handler = EsrganHandler(engine)
    loaded = handler.load_model()

    def infer_one(pixels: np.ndarray) -> Inference:
        (result,) = handler.run_inference([whole(pixels)], loaded)
        return result.inference  # type: ignore[no-any-return]

    found = [infer_one(noise(8, 8 + number, 3)) for number in range(4)]

    assert [result.error for result in found] == [None] * 4
    assert [result.stop and result.stop.code for result in found] == [
        None,
        *[ErrorCode.DEVICE_LOST] * 3,
    ]
    assert [len(result.cores) for result in found] == [1, 0, 0, 0]
    assert len(failing.shapes) == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
        ImageError(ErrorCode.NOT_A_NUMBER, "The network gave values that are infinite"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        MemoryError(),
    ],
    ids=str,
)
def test_what_the_smallest_picture_meets_too_is_no_images_fault(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing = Failing(monkeypatch, error)
    handler = EsrganHandler(engine)
    loaded = handler.load_model()

    first, second = (
        next(handler.run_inference([whole(noise(40, 40, 3))], loaded)).inference for _ in range(2)
    )

    assert (first.error, second.error) == (None, None)
    assert first.stop is not None and second.stop is not None
    assert "not even the smallest picture" in first.stop.message
    # The image's own pass, in thinner and thinner strips where that may help, and the other one.
    assert {shape[1:3] for shape in failing.shapes} == {(40, 40), (32, 32)}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), ErrorCode.OUT_OF_MEMORY),
        (MemoryError(), ErrorCode.OUT_OF_MEMORY),
        (ImageError(ErrorCode.NOT_A_NUMBER, "infinite"), ErrorCode.NOT_A_NUMBER),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), ErrorCode.MODEL_ERROR),
    ],
)
def test_what_a_small_picture_does_not_meet_is_one_images(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch, error: Exception, code: ErrorCode
) -> None:
    Failing(monkeypatch, error, least=40 * 40 * 3)

    found = infer(EsrganHandler(engine), [whole(noise(40, 40, 3)), whole(noise(8, 8, 3))])

    assert [result.error and result.error.code for result in found] == [code, None]
    assert [result.stop for result in found] == [None, None]


def test_a_device_that_is_lost_before_the_network_is_on_it(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any) -> None:
        raise LOST

    monkeypatch.setattr(TorchNetwork, "load", lose)

    with pytest.raises(BrokenProcessError, match="illegal memory access"):
        EsrganHandler(engine).load_model()


def test_a_network_in_another_process_that_has_ended_is_no_images_fault(
    engine: EsrganEngine, tmp_path: Path
) -> None:
    handler = EsrganHandler(engine, large_model=True)
    others = set(multiprocessing.active_children())
    shared = multi_process_shared.MultiProcessShared(
        handler.load_model, "lost", path=str(tmp_path), always_proxy=True, spawn_process=True
    )
    loaded = shared.acquire()
    before = next(handler.run_inference([whole(noise(8, 8, 3))], loaded)).inference

    (process,) = set(multiprocessing.active_children()) - others
    process.kill()
    process.join()
    after = next(handler.run_inference([whole(noise(8, 8, 3))], loaded)).inference

    assert (before.error, before.stop) == (None, None)
    assert after.error is None
    assert after.stop is not None and after.stop.code is ErrorCode.DEVICE_LOST


def test_errors_of_a_network_in_another_process_arrive_as_they_are(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Failing(monkeypatch, LOST)
    handler = EsrganHandler(engine, large_model=True)
    # Its server is a thread of this process; what is asked goes through a connection all the same.
    loaded = multi_process_shared.MultiProcessShared(
        handler.load_model, "proxied", path=str(tmp_path), always_proxy=True
    ).acquire()

    found = next(handler.run_inference([whole(noise(8, 8, 3))], loaded)).inference

    assert found.error is None
    assert found.stop is not None and "illegal memory access" in found.stop.message


# Batches


def test_tiles_of_different_images_share_a_batch(
    engine: EsrganEngine, network: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [noise(8, 8, 3) // (number + 1) for number in range(5)]
    handler = EsrganHandler(dataclasses.replace(engine, max_batch_pixels=4 * 64))
    batcher = handler.load_model()

    def wait_for_the_others() -> None:
        for _ in range(PATIENCE * 1000):
            if len(batcher._queue) == 4:
                return
            threading.Event().wait(0.001)

    with spy(monkeypatch, wait_for_the_others) as batches:
        results = list(handler.run_inference([whole(pixels) for pixels in images], batcher))

    assert batches == [(1, 8, 8, 3), (4, 8, 8, 3)]
    for pixels, result in zip(images, results, strict=True):
        alone = network.upscale(pixels[np.newaxis])[0]
        assert np.array_equal(result.inference.cores[0], alone)
    assert [result.inference.batch_size for result in results] == [1, 4, 4, 4, 4]


def test_tiles_run_one_at_a_time_on_a_cpu(
    engine: EsrganEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spy(monkeypatch) as batches:
        infer(EsrganHandler(engine), [whole(noise(8, 8, 3)) for _ in range(4)])

    assert batches == [(1, 8, 8, 3)] * 4


@pytest.mark.parametrize("options", [{}, {"large_model": True}])
def test_run_inference(
    engine: EsrganEngine, network: TorchNetwork, options: dict[str, Any]
) -> None:
    images = [noise(8 + number, 8, 3) for number in range(3)]
    expected = [network.upscale(pixels[np.newaxis])[0] for pixels in images]

    def check(results: list[PredictionResult]) -> None:
        assert sorted(result.example.context for result in results) == [0, 1, 2]
        for result in results:
            core = result.inference.cores[0]
            assert np.array_equal(core, expected[result.example.context])

    pipeline = beam.Pipeline(runner=FnApiRunner())
    results = (
        pipeline
        | beam.Create([whole(pixels, number) for number, pixels in enumerate(images)])
        | RunInference(EsrganHandler(engine, **options))
    )
    assert_that(results, check)
    finished = pipeline.run()

    metrics = finished.metrics().query(beam.metrics.MetricsFilter().with_namespace(METRICS))
    counters = {each.key.metric.name: each.committed for each in metrics["counters"]}
    assert counters["num_inferences"] == 3
    sizes = {each.key.metric.name: each.committed for each in metrics["distributions"]}
    assert sizes["inference_request_batch_byte_size"].sum == sum(each.nbytes for each in images)
