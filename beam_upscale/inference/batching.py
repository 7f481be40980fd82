"""Batches tiles of different images, from many threads, for one device."""

import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from beam_upscale.errors import BrokenProcessError
from beam_upscale.inference.networks.failures import DeviceState, Fault, device_lost, fault_of


class Batchable(Protocol):
    """An item of a batch: a tile, or an image with the data it needs beside its pixels."""

    @property
    def area(self) -> int:
        """The item's share of a batch, in pixels."""
        ...

    @property
    def kind(self) -> Hashable:
        """A key that is equal for items that may share a batch."""
        ...


Item = TypeVar("Item", bound=Batchable)


@dataclasses.dataclass(frozen=True, eq=False)
class Patch:
    """An item of pixels alone; patches of the same shape and dtype may share a batch.

    Attributes:
        pixels: (H, W, C), uint8 or uint16.
    """

    pixels: np.ndarray

    @property
    def area(self) -> int:
        """The height times the width, in pixels."""
        height, width, _ = self.pixels.shape
        return int(height * width)

    @property
    def kind(self) -> Hashable:
        """The shape and the dtype of the pixels."""
        return self.pixels.shape, self.pixels.dtype


@dataclasses.dataclass(frozen=True)
class Batched:
    """The result of one tile, and the timing of its batch.

    Attributes:
        pixels: the result, (H x scale, W x scale, C), of the input's dtype.
        device_seconds: this tile's even share of its batch's time on the device.
        queue_seconds: time that the tile waited for its batch to start.
        batch_size: number of tiles in the batch.
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

    The thread that finds the device free runs the next batch: the tile that has waited longest,
    and other waiting tiles of its kind, up to a bound in pixels. While a batch runs, tiles gather,
    so that batches grow with the load, and a lone tile never waits for others. A tile is never
    padded to fit a batch. Once the device is lost, all tiles fail with the same error, and no
    further batch is run.

    Args:
        upscale: takes tiles of one kind and returns a result, (H x scale, W x scale, C), for each.
        max_batch_pixels: most input pixels in a batch; 0 runs one tile at a time. A tile larger
            than that has a batch of its own.
        state: the state of the network's device; None if no other network shares the device.
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
        """Upscales one tile, together with others that are waiting.

        Args:
            item: the tile.

        Raises:
            ImageError: the network failed on this tile; errors of other tiles are not raised.
            BrokenProcessError: the device is lost, through this tile or another.
        """
        self._state.check()
        waiting = _Waiting(item, time.monotonic())
        with self._condition:
            self._queue.append(waiting)
        # The batch of the oldest tile may not include this thread's own tile.
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
        """Makes all waiting tiles, and all later ones, fail with `error`."""
        self._state.lose(error)

    def _lead(self, waiting: _Waiting[Item]) -> list[_Waiting[Item]]:
        """Returns the batch that this thread must run next; empty once its own tile is done."""
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
            # One tile made the batch fail; running each tile alone shows which.
            for waiting in batch:
                self._run([waiting])
            return
        self._settle(batch, lambda: error)

    @staticmethod
    def _settle(batch: Sequence[_Waiting[Item]], error: Callable[[], Exception]) -> None:
        for waiting in batch:
            waiting.error = error()
            waiting.done = True
