"""One device, many threads: tiles of different images share a batch."""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Batched:
    """What one tile gets back.

    Attributes:
        pixels: the result, (H x scale, W x scale, C), of the input's dtype.
        device_seconds: this tile's even share of its batch's time on the device.
        queue_seconds: time it waited before that.
        batch_size: tiles in that batch.
    """

    pixels: np.ndarray
    device_seconds: float
    queue_seconds: float
    batch_size: int


@dataclasses.dataclass(eq=False)
class _Waiting:
    pixels: np.ndarray
    since: float
    done: bool = False
    result: Batched | None = None
    error: Exception | None = None

    @property
    def kind(self) -> tuple[tuple[int, ...], np.dtype]:
        """What tiles of one batch have in common."""
        return self.pixels.shape, self.pixels.dtype


class Batcher:
    """Runs a network for many threads, one batch at a time.

    Whoever finds the device free runs the next batch: the tile that has waited longest, and all
    waiting tiles of the same shape and dtype up to a bound in pixels. While it runs, tiles gather,
    so that batches grow with the load and a lone tile never waits for company. A tile is never
    padded to fit a batch.

    Args:
        upscale: takes (N, H, W, C) and gives (N, H x scale, W x scale, C).
        max_batch_pixels: input pixels in a batch at most; 0 runs one tile at a time. A tile larger
            than that has a batch of its own.
    """

    def __init__(
        self, upscale: Callable[[np.ndarray], np.ndarray], max_batch_pixels: int = 0
    ) -> None:
        self._upscale = upscale
        self._max_batch_pixels = max_batch_pixels
        self._condition = threading.Condition()
        self._queue: list[_Waiting] = []
        self._busy = False

    def upscale(self, pixels: np.ndarray) -> Batched:
        """Upscales one tile, together with others that wait.

        Args:
            pixels: (H, W, C), uint8 or uint16.

        Raises:
            ImageError: what the network raised for this tile; another tile's error stays its own.
        """
        waiting = _Waiting(pixels, time.monotonic())
        with self._condition:
            self._queue.append(waiting)
        # The batch of the oldest tile need not hold this thread's own.
        while batch := self._lead(waiting):
            try:
                self._run(batch)
            finally:
                with self._condition:
                    self._busy = False
                    self._condition.notify_all()
        if waiting.error is not None:
            raise waiting.error
        assert waiting.result is not None
        return waiting.result

    def _lead(self, waiting: _Waiting) -> list[_Waiting]:
        """The batch that this thread is to run; empty once its own tile is done."""
        with self._condition:
            self._condition.wait_for(lambda: waiting.done or not self._busy)
            if waiting.done:
                return []
            batch = self._take_batch()
            self._busy = True
            return batch

    def _take_batch(self) -> list[_Waiting]:
        first = self._queue[0]
        height, width = first.pixels.shape[:2]
        fit = max(1, self._max_batch_pixels // (height * width))
        alike = [waiting for waiting in self._queue if waiting.kind == first.kind][:fit]
        self._queue = [waiting for waiting in self._queue if waiting not in alike]
        return alike

    def _run(self, batch: Sequence[_Waiting]) -> None:
        started = time.monotonic()
        try:
            results = self._upscale(np.stack([waiting.pixels for waiting in batch]))
            if len(results) != len(batch):
                raise ValueError(f"{len(results)} results for {len(batch)} tiles")
        except Exception as error:  # Every waiting thread must be woken, whatever went wrong.
            self._fail(batch, error)
            return
        share = (time.monotonic() - started) / len(batch)
        for waiting, pixels in zip(batch, results, strict=True):
            waiting.result = Batched(pixels, share, started - waiting.since, len(batch))
            waiting.done = True

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        if len(batch) > 1:
            # One tile spoiled the batch; alone, each shows whether it was the one.
            for waiting in batch:
                self._run([waiting])
            return
        for waiting in batch:
            waiting.error = error
            waiting.done = True
