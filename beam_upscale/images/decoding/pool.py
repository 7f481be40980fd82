"""A pool of child processes that decode images, and the requests that they take."""

import atexit
import contextlib
import dataclasses
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from beam_upscale.images.decoding import child_process, exchanges
from beam_upscale.images.decoding.child import usable_cores
from beam_upscale.images.decoding.child_process import Exchange
from beam_upscale.images.decoding.children import Children
from beam_upscale.images.decoding.opened import OpenedImage
from beam_upscale.images.decoding.replies import (
    ConsumerError,
    Receive,
    receive_bands,
    receive_header,
    receive_image,
    receive_picture,
    receive_region,
)
from beam_upscale.images.reading.row_readers import Picture
from beam_upscale.images.values import DecodedImage, ImageHeader, Pixels
from beam_upscale.planning.plan_options import Animated
from beam_upscale.planning.tile_layout import Box

DEFAULT_TIMEOUT_SECONDS = 300.0
HEADER_TIMEOUT_SECONDS = 30.0
"""The longest that reading a header may take, where pixels may take longer."""

T = TypeVar("T")


class DecoderPool:
    """Child processes that decode images; safe to use from any number of threads.

    Children are started when first needed, one of them earlier by `start_early`, and reused. A call
    waits while all of them are busy. If the system cannot start a further child, a call waits for
    one that works. A forked process starts children of its own.
    """

    def __init__(
        self,
        max_processes: int,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        *,
        command: Sequence[str] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            max_processes: the most children at a time, at least 1.
            timeout_seconds: the longest that one image may take; a header takes
                `HEADER_TIMEOUT_SECONDS` at most.
            command: the command that starts a child; None for `CHILD_COMMAND`.
        """
        self.command = tuple(command or child_process.CHILD_COMMAND)
        self._max_processes = max_processes
        self._timeout_seconds = timeout_seconds
        self._header_seconds = min(timeout_seconds, HEADER_TIMEOUT_SECONDS)
        self._slots = threading.BoundedSemaphore(max_processes)
        self.children = Children(self.command, timeout_seconds)
        _pools.add(self)

    def start_early(self) -> None:
        """Starts a child, unless there is one; it becomes ready while its parent does other things.

        A failure to start it is ignored: the first call that needs a child reports it.
        """
        self.children.start_early()

    def decode(
        self, data: bytes, *, max_pixels: int, animated: Animated = Animated.FIRST
    ) -> DecodedImage:
        """Decodes an image in a child, as `pixels.decode` does.

        Raises:
            ImageError: as `pixels.decode`; also DECODER_CRASHED (two children ended on this input),
                DECODER_TIMEOUT and OUT_OF_MEMORY.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "decode", "max_pixels": max_pixels, "animated": animated}
        return self._ask(request, data, functools.partial(receive_image, max_pixels))

    @contextlib.contextmanager
    def opened(self, data: bytes, header: ImageHeader | None = None) -> Iterator[OpenedImage]:
        """Passes a file to a child once, to read its header and then, if wanted, its pixels.

        The child is this image's until its pixels are there or the context ends, so that a caller
        only decides within it, and asks this pool for nothing else there.

        Args:
            data: a whole file.
            header: the header of these bytes, if it has been read before; None reads it.

        Raises:
            ImageError, BrokenProcessError: as `read_header`.
        """
        with self._slots:
            opened = OpenedImage(
                self.children,
                data,
                header=header,
                header_seconds=self._header_seconds,
                seconds=self._timeout_seconds,
            )
            try:
                yield opened
            finally:
                opened.close()

    def read_header(self, data: bytes) -> ImageHeader:
        """Reads an image's header in a child, as `inspection.read_header` does.

        Raises:
            ImageError: as `inspection.read_header`; also DECODER_CRASHED, DECODER_TIMEOUT and
                OUT_OF_MEMORY as in `decode`.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        return self._ask({"request": "header"}, data, receive_header, self._header_seconds)

    def read_file_header(self, path: Path) -> ImageHeader:
        """Reads a file's header in a child, as `regions.read_file_header` does.

        Raises:
            ImageError: as `read_header`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "file_header", "path": _name(path)}
        return self._ask(request, None, receive_header, self._header_seconds)

    def read_picture(self, path: Path, *, max_pixels: int, animated: Animated) -> Picture:
        """Reads the description of a file's picture, without its pixels, in a child.

        Raises:
            ImageError: as `decode`, for errors that show before pixels are read; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {
            "request": "picture",
            "path": _name(path),
            "max_pixels": max_pixels,
            "animated": animated,
        }
        return self._ask(request, None, functools.partial(receive_picture, max_pixels))

    def read_region(
        self, path: Path, box: Box, *, max_pixels: int, animated: Animated
    ) -> tuple[Picture, Pixels]:
        """Reads a region of a `by_region` picture in a child, as `PictureReader.region` does.

        Raises:
            ImageError: as `decode`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {
            "request": "region",
            "path": _name(path),
            "box": dataclasses.astuple(box),
            "max_pixels": max_pixels,
            "animated": animated,
        }
        receive = functools.partial(receive_region, max_pixels, box)
        return self._ask(request, None, receive)

    def read_bands(
        self,
        path: Path,
        height: int,
        consume: Callable[[Picture, Iterator[Pixels]], T],
        *,
        max_pixels: int,
        animated: Animated,
    ) -> T:
        """Reads all rows of a picture in a child, in bands, and passes them to `consume`.

        Args:
            path: the picture's file.
            height: rows of each array but the last, at least 1.
            consume: takes the picture and its rows. It is called again if a child was lost.
            max_pixels: the most pixels (width times height) that the file may claim.
            animated: whether a file of several frames gives its first or is refused.

        Returns:
            The result of `consume`.

        Raises:
            ImageError: as `decode`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
            OSError: of `FULL_DISK`, the child's temporary folder has no space for the picture.
            Exception: any that `consume` raises.
        """
        request = {
            "request": "bands",
            "path": _name(path),
            "height": height,
            "max_pixels": max_pixels,
            "animated": animated,
        }
        receive = functools.partial(
            receive_bands, max_pixels, height, self._timeout_seconds, consume
        )
        try:
            return self._ask(request, None, receive)
        except ConsumerError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None

    def close(self) -> None:
        """Ends the idle children; busy ones end with their image. The pool takes no more images."""
        self.children.close()

    def leave_children_to_parent(self) -> None:
        """Gives up, after a fork, the children that the parent uses; the fork starts its own."""
        # Another thread may have held a slot at the fork.
        self._slots = threading.BoundedSemaphore(self._max_processes)
        self.children.leave_to_parent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(
        self,
        request: dict[str, Any],
        data: bytes | None,
        receive: Receive[T],
        seconds: float | None = None,
    ) -> T:
        exchange = Exchange(request, seconds or self._timeout_seconds, data)
        with self._slots:
            return exchanges.ask(self.children, exchange, receive)


def _name(path: Path) -> str:
    """Returns a file's absolute name, for a child, which works in another folder."""
    return str(path.absolute())


_pools: weakref.WeakSet[DecoderPool] = weakref.WeakSet()
_shared: DecoderPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> DecoderPool:
    """Returns the process's own pool, with as many children as there are cores to run on."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared.command != child_process.CHILD_COMMAND:
            _shared = DecoderPool(usable_cores())
            atexit.register(_shared.close)
        return _shared


def _leave_children_to_parent() -> None:
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    _shared = None
    for pool in list(_pools):
        pool.leave_children_to_parent()


os.register_at_fork(after_in_child=_leave_children_to_parent)
