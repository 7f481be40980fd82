"""One device, many threads: tiles of different images share a batch."""

import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from beam_upscale.errors import BrokenProcessError
from beam_upscale.models.failures import DeviceState, Fault, device_lost, fault_of


class Batchable(Protocol):
    """What a batch is made of: a tile, or an image with what it needs beside its pixels."""

    @property
    def area(self) -> int:
        """Pixels that it fills of a batch."""
        ...

    @property
    def kind(self) -> Hashable:
        """Equal for all that may share a batch."""
        ...


Item = TypeVar("Item", bound=Batchable)


@dataclasses.dataclass(frozen=True, eq=False)
class Patch:
    """Pixels and nothing beside them; those of one shape and type share batches.

    Attributes:
        pixels: (H, W, C), uint8 or uint16.
    """

    pixels: np.ndarray

    @property
    def area(self) -> int:
        """Height times width."""
        height, width, _ = self.pixels.shape
        return int(height * width)

    @property
    def kind(self) -> Hashable:
        """Shape and dtype."""
        return self.pixels.shape, self.pixels.dtype


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
class _Waiting(Generic[Item]):
    item: Item
    since: float
    done: bool = False
    result: Batched | None = None
    error: Exception | None = None


class Batcher(Generic[Item]):
    """Runs a network for many threads, one batch at a time.

    Whoever finds the device free runs the next batch: the tile that has waited longest, and all
    waiting tiles of the same kind up to a bound in pixels. While it runs, tiles gather,
    so that batches grow with the load and a lone tile never waits for company. A tile is never
    padded to fit a batch. Once the device is lost, all tiles fail alike, and no batch is run.

    Args:
        upscale: takes tiles of one kind and gives for each (H x scale, W x scale, C).
        max_batch_pixels: input pixels in a batch at most; 0 runs one tile at a time. A tile larger
            than that has a batch of its own.
        state: of the device that the network runs on; None for one that no other network shares.
    """

    def __init__(
        self,
        upscale: Callable[[Sequence[Item]], Sequence[np.ndarray]],
        max_batch_pixels: int = 0,
        state: DeviceState | None = None,
    ) -> None:
        self._upscale = upscale
        self._max_batch_pixels = max_batch_pixels
        self._state = state or DeviceState()
        self._condition = threading.Condition()
        self._queue: list[_Waiting[Item]] = []
        self._busy = False

    def upscale(self, item: Item) -> Batched:
        """Upscales one tile, together with others that wait.

        Args:
            item: the tile.

        Raises:
            ImageError: what the network raised for this tile; another tile's error stays its own.
            BrokenProcessError: the device is lost, whichever tile met that.
        """
        self._state.check()
        waiting = _Waiting(item, time.monotonic())
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

    def lose_device(self, error: BrokenProcessError) -> None:
        """Has all tiles that wait, and all later ones, fail with this error."""
        self._state.lose(error)

    def _lead(self, waiting: _Waiting[Item]) -> list[_Waiting[Item]]:
        """The batch that this thread is to run; empty once its own tile is done."""
        with self._condition:
            self._condition.wait_for(lambda: waiting.done or not self._busy)
            if waiting.done:
                return []
            batch = self._take_batch()
            self._busy = True
            return batch

    def _take_batch(self) -> list[_Waiting[Item]]:
        first = self._queue[0]
        fit = max(1, self._max_batch_pixels // first.item.area)
        alike = [waiting for waiting in self._queue if waiting.item.kind == first.item.kind][:fit]
        self._queue = [waiting for waiting in self._queue if waiting not in alike]
        return alike

    def _run(self, batch: Sequence[_Waiting[Item]]) -> None:
        started = time.monotonic()
        try:
            self._state.check()
            results = self._upscale([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise ValueError(f"{len(results)} results for {len(batch)} tiles")
        except Exception as error:  # Every waiting thread must be woken, whatever went wrong.
            self._fail(batch, error)
            return
        share = (time.monotonic() - started) / len(batch)
        for waiting, pixels in zip(batch, results, strict=True):
            waiting.result = Batched(pixels, share, started - waiting.since, len(batch))
            waiting.done = True

    def _fail(self, batch: Sequence[_Waiting[Item]], error: Exception) -> None:
        if fault_of(error) is Fault.DEVICE:
            lost = device_lost(error)
            self._state.lose(lost)
            self._settle(batch, lost.copy)
            return
        if len(batch) > 1:
            # One tile spoiled the batch; alone, each shows whether it was the one.
            for waiting in batch:
                self._run([waiting])
            return
        self._settle(batch, lambda: error)

    @staticmethod
    def _settle(batch: Sequence[_Waiting[Item]], error: Callable[[], Exception]) -> None:
        for waiting in batch:
            waiting.error = error()
            waiting.done = True
