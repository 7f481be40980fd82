import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError
from beam_upscale.inference.batching import Batched, Batcher, Patch
from beam_upscale.inference.networks.failures import DeviceState

# Longer than any of this takes; what is not done by then never will be.
PATIENCE = 30


class Device:
    """A network that doubles the size, and waits before its first batch until it may go on.

    Attributes:
        batches: the shapes of what it was given.
    """

    def __init__(self, is_bad: Callable[[np.ndarray], bool] = lambda _: False) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.error: Exception = ImageError(ErrorCode.NOT_A_NUMBER, "bad")
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self._is_bad = is_bad
        self._at_once = threading.Lock()

    def upscale(self, patches: Sequence[Patch]) -> np.ndarray:
        batch = np.stack([patch.pixels for patch in patches])
        assert self._at_once.acquire(blocking=False), "two batches at once"
        try:
            self.batches.append(batch.shape)
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
            if any(self._is_bad(pixels) for pixels in batch):
                raise self.error
            return batch.repeat(2, axis=1).repeat(2, axis=2)
        finally:
            self._at_once.release()


def tile(value: int, height: int = 4, width: int = 4, dtype: type = np.uint8) -> Patch:
    return Patch(np.full((height, width, 3), value, dtype))


def upscale_together(
    device: Device, batcher: Batcher[Patch], tiles: Sequence[Patch]
) -> list[Future[Batched]]:
    """Hands over the first tile, and the others in order while it is on the device."""
    with ThreadPoolExecutor(len(tiles)) as executor:
        futures = [executor.submit(batcher.upscale, tiles[0])]
        assert device.begun.wait(PATIENCE)
        for number, pixels in enumerate(tiles[1:], start=1):
            futures.append(executor.submit(batcher.upscale, pixels))
            while len(batcher._queue) < number:  # Until it has joined the queue.
                threading.Event().wait(0.001)
        device.go_on.set()
    return futures


def values(futures: Sequence[Future[Batched]]) -> list[int]:
    return [int(future.result(PATIENCE).pixels[0, 0, 0]) for future in futures]


def test_a_lone_tile_does_not_wait_for_company() -> None:
    device = Device()
    device.go_on.set()

    result = Batcher(device.upscale, max_batch_pixels=1_000_000).upscale(tile(7))

    assert np.array_equal(result.pixels, tile(7, 8, 8).pixels)
    assert result.batch_size == 1
    assert result.device_seconds >= 0
    assert result.queue_seconds >= 0


def test_tiles_of_different_threads_share_a_batch() -> None:
    device = Device()
    batcher = Batcher(device.upscale, max_batch_pixels=1_000_000)

    futures = upscale_together(device, batcher, [tile(number) for number in range(6)])

    assert values(futures) == [0, 1, 2, 3, 4, 5]
    assert device.batches == [(1, 4, 4, 3), (5, 4, 4, 3)]
    assert [future.result().batch_size for future in futures] == [1, 5, 5, 5, 5, 5]


def test_a_batch_is_bounded_in_pixels() -> None:
    device = Device()
    batcher = Batcher(device.upscale, max_batch_pixels=2 * 16 + 15)

    futures = upscale_together(device, batcher, [tile(number) for number in range(6)])

    assert values(futures) == [0, 1, 2, 3, 4, 5]
    assert [shape[0] for shape in device.batches] == [1, 2, 2, 1]


def test_a_tile_larger_than_a_batch_has_one_of_its_own() -> None:
    device = Device()
    batcher = Batcher(device.upscale, max_batch_pixels=15)

    futures = upscale_together(device, batcher, [tile(number) for number in range(3)])

    assert values(futures) == [0, 1, 2]
    assert [shape[0] for shape in device.batches] == [1, 1, 1]


def test_without_a_bound_tiles_run_one_at_a_time() -> None:
    device = Device()

    futures = upscale_together(device, Batcher(device.upscale), [tile(n) for n in range(4)])

    assert values(futures) == [0, 1, 2, 3]
    assert [shape[0] for shape in device.batches] == [1, 1, 1, 1]


def test_tiles_of_other_shapes_and_depths_never_share_a_batch() -> None:
    device = Device()
    batcher = Batcher(device.upscale, max_batch_pixels=1_000_000)
    tiles = [
        tile(0),
        tile(1, height=5),
        tile(2),
        tile(3, dtype=np.uint16),
        Patch(tile(4).pixels[:, :, :1]),
        tile(5),
        tile(6, height=5),
    ]

    futures = upscale_together(device, batcher, tiles)

    assert values(futures) == list(range(7))
    assert sorted(device.batches[1:]) == [(1, 4, 4, 1), (1, 4, 4, 3), (2, 4, 4, 3), (2, 5, 4, 3)]
    assert [future.result().pixels.dtype for future in futures][3] == np.uint16


def test_the_tile_that_has_waited_longest_is_next() -> None:
    device = Device()
    batcher = Batcher(device.upscale, max_batch_pixels=1_000_000)

    upscale_together(device, batcher, [tile(0), tile(1, height=9), tile(2), tile(3, height=9)])

    assert device.batches == [(1, 4, 4, 3), (2, 9, 4, 3), (1, 4, 4, 3)]


def test_a_tiles_error_stays_its_own() -> None:
    device = Device(is_bad=lambda pixels: pixels[0, 0, 0] == 2)
    batcher = Batcher(device.upscale, max_batch_pixels=1_000_000)

    futures = upscale_together(device, batcher, [tile(number) for number in range(5)])

    with pytest.raises(ImageError, match="bad"):
        futures.pop(2).result(PATIENCE)
    assert values(futures) == [0, 1, 3, 4]
    assert [shape[0] for shape in device.batches] == [1, 4, 1, 1, 1, 1]


def test_another_exception_reaches_the_tile_that_raises_it_and_no_other() -> None:
    device = Device(is_bad=lambda pixels: pixels[0, 0, 0] == 2)
    device.error = ValueError("the device is gone")
    batcher = Batcher(device.upscale, max_batch_pixels=1_000_000)

    futures = upscale_together(device, batcher, [tile(0), tile(1), tile(2), tile(3, height=5)])

    with pytest.raises(ValueError, match="the device is gone"):
        futures[2].result(PATIENCE)
    assert values([futures[0], futures[1], futures[3]]) == [0, 1, 3]


def test_too_few_results_are_an_error_for_all_and_not_a_wait_without_end() -> None:
    device = Device()
    batcher = Batcher(lambda batch: device.upscale(batch)[:0], max_batch_pixels=1_000_000)

    futures = upscale_together(device, batcher, [tile(number) for number in range(4)])

    for future in futures:
        with pytest.raises(ValueError, match="0 results for 1 tiles"):
            future.result(PATIENCE)


@pytest.mark.parametrize("max_batch_pixels", [0, 1_000_000])
def test_a_lost_device_is_seen_by_all_tiles_and_gets_no_further_batch(
    max_batch_pixels: int,
) -> None:
    device = Device(is_bad=lambda pixels: pixels[0, 0, 0] == 2)
    device.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    batcher = Batcher(device.upscale, max_batch_pixels)
    tiles = [tile(2), tile(0), tile(1), tile(3, height=5)]

    futures = upscale_together(device, batcher, tiles)

    errors = [future.exception(PATIENCE) for future in futures]
    with pytest.raises(BrokenProcessError, match="illegal memory access"):
        batcher.upscale(tile(0))
    assert [type(error) for error in errors] == [BrokenProcessError] * 4
    assert len(set(map(id, errors))) == 4
    assert [shape[0] for shape in device.batches] == [1]


def test_a_batch_that_loses_the_device_is_not_tried_tile_by_tile() -> None:
    device = Device(is_bad=lambda pixels: pixels[0, 0, 0] == 2)
    device.error = RuntimeError("CUDA error: unspecified launch failure")
    batcher = Batcher(device.upscale, max_batch_pixels=1_000_000)

    futures = upscale_together(device, batcher, [tile(number) for number in range(5)])

    errors = [future.exception(PATIENCE) for future in futures]
    assert [type(error) for error in errors] == [type(None)] + [BrokenProcessError] * 4
    assert [shape[0] for shape in device.batches] == [1, 4]


def test_networks_that_share_a_device_lose_it_together() -> None:
    device, state = Device(), DeviceState()
    first, second = Batcher(device.upscale, state=state), Batcher(device.upscale, state=state)

    first.lose_device(BrokenProcessError(ErrorCode.DEVICE_LOST, "gone"))

    with pytest.raises(BrokenProcessError, match="gone"):
        second.upscale(tile(0))
    assert device.batches == []


def test_many_threads_get_their_own_results() -> None:
    device = Device()
    device.go_on.set()
    batcher = Batcher(device.upscale, max_batch_pixels=5 * 16)

    with ThreadPoolExecutor(32) as executor:
        tiles = [tile(n % 256, height=4 + n % 3) for n in range(600)]
        futures = [executor.submit(batcher.upscale, pixels) for pixels in tiles]
        results = [future.result(PATIENCE).pixels for future in futures]

    for patch, result in zip(tiles, results, strict=True):
        assert np.array_equal(result, patch.pixels.repeat(2, axis=0).repeat(2, axis=1))
    assert sum(shape[0] for shape in device.batches) == 600
