"""Gathers small images that children decode or encode together, while the bundle goes on.

One exchange serves several images, and the thread of a bundle does not wait for it: it gathers the
next ones, or hands others to the network. Where the network takes longer for an image than an
exchange, nothing is gathered: a run that is asked to stop would first upscale what is gathered.
"""

import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from beam_upscale.errors import BrokenProcessError
from beam_upscale.images.decoding import small_images
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.values import DecodedImage
from beam_upscale.inference.local_engines import BaselineEngine, LocalEngine
from beam_upscale.inference.networks.device import Device
from beam_upscale.pipeline.run_state.input_state import state_of
from beam_upscale.pipeline.settings.pinned import PinnedSettings, Stage
from beam_upscale.sources.inputs.source_image import SourceImage

T = TypeVar("T")

MOST_TOGETHER = 16
"""The most images that are gathered."""

MOST_BYTES = 256 << 10
"""The bytes of files at which no further one is gathered."""

DECODED_AHEAD = 1
"""The exchanges with decoders that are under way while images are with the network."""

ENCODED_BEHIND = 2
"""The exchanges with encoders that are under way while further images are with the network."""

MOST_PIXELS_BEHIND = 2048 * 2048
"""Pixels of a result. A larger one is encoded before the next image is made, to save memory."""

MOST_SECONDS = 1.0
"""Seconds. Where images come slower, fewer are gathered."""


@dataclass(frozen=True, eq=False)
class ReadInput:
    """An input whose bytes are read.

    Attributes:
        source: the input.
        data: its bytes; None if they could not be read.
        error: the reason for that, or why no decoder can be started; else None.
        image: its image, if that has been decoded.
    """

    source: SourceImage
    data: bytes | None
    error: Exception | None = None
    image: DecodedImage | None = None

    @classmethod
    def of(cls, source: SourceImage, settings: PinnedSettings) -> "ReadInput":
        """Reads an input; an error is kept for the moment at which the bytes are wanted."""
        try:
            return cls(source, source.read(settings.rules.options.max_input_bytes))
        except Exception as error:
            return cls(source, None, error)

    @property
    def is_small(self) -> bool:
        """True if a decoder may take it with others."""
        return self.data is not None and len(self.data) <= small_images.MOST_FILE_BYTES

    def read(self) -> bytes:
        """Returns the bytes.

        Raises:
            Exception: the error of reading them.
        """
        if self.error is not None:
            raise self.error
        assert self.data is not None
        return self.data


def gathers(settings: PinnedSettings) -> bool:
    """Tells whether the engines take less time for an image than its exchanges with children."""
    return settings.fan_out_above is None and all(map(_is_quick, settings.stages))


def _is_quick(stage: Stage) -> bool:
    pinned = stage.pinned
    if not isinstance(pinned, LocalEngine) or stage.engine.is_guided:
        return False
    return isinstance(pinned, BaselineEngine) or pinned.device is not Device.CPU


def is_read_ahead(source: SourceImage) -> bool:
    """Tells whether an input is certainly read: it is neither done nor left to a later run."""
    state = state_of(source)
    return state.earlier is None and not state.is_postponed


def decoded(
    inputs: Sequence[ReadInput], settings: PinnedSettings, decoders: DecoderPool
) -> list[ReadInput]:
    """Decodes the small ones among inputs together, as far as that succeeds.

    Returns:
        The inputs in their order. One without an image is to be decoded alone.
    """
    files = [each.read() for each in inputs if each.is_small]
    if not files:
        return list(inputs)
    try:
        images = iter(decoders.decode_small(files, animated=settings.rules.options.animated))
    except BrokenProcessError as error:
        # No image has to wait in vain for a decoder, one after the other.
        return [replace(each, error=each.error or error) for each in inputs]
    return [replace(each, image=next(images)) if each.is_small else each for each in inputs]


class Gathering(Generic[T]):
    """Elements of a bundle that wait until they are enough.

    Args:
        most: the sum of the sizes that is enough.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.clear()

    def clear(self) -> None:
        """Forgets the elements, those of a bundle that failed."""
        self._elements: list[T] = []
        self._size = 0
        self._since = 0.0

    def add(self, element: T, size: int) -> bool:
        """Adds an element; returns whether they are enough, or have waited long enough."""
        now = time.monotonic()
        if not self._elements:
            self._since = now
        self._elements.append(element)
        self._size += size
        return (
            len(self._elements) >= MOST_TOGETHER
            or self._size >= self._most
            or now - self._since >= MOST_SECONDS
        )

    def take(self) -> list[T]:
        """Returns the elements, which are no longer held here."""
        elements = self._elements
        self.clear()
        return elements


class InFlight(Generic[T]):
    """Exchanges with child processes that are under way, in the order in which they were begun.

    Each has a thread, which mostly waits, so that the thread of the bundle goes on meanwhile.

    Args:
        most: the most exchanges that are left under way.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: deque[Future[T]] = deque()

    def clear(self) -> None:
        """Forgets the exchanges, those of a bundle that failed."""
        for exchange in self._begun:
            exchange.cancel()
        self._begun.clear()

    def begin(self, exchange: Callable[[], T]) -> None:
        """Begins an exchange."""
        self._begun.append(_threads().submit(exchange))

    def taken(self) -> Iterator[T]:
        """Yields the results of those exchanges that are too many, in their order."""
        while len(self._begun) > self._most:
            yield self._begun.popleft().result()

    def rest(self) -> Iterator[T]:
        """Yields the results of all exchanges, in their order."""
        while self._begun:
            yield self._begun.popleft().result()


_MOST_THREADS = 64


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_THREADS, "exchange")


os.register_at_fork(after_in_child=_threads.cache_clear)
