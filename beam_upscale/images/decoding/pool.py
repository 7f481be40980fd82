"""Decoding in child processes, so that a hostile file costs one row and not the worker.

Untrusted bytes can end a codec library with a signal, hang it or exhaust memory. A
`DecoderPool` runs `beam_upscale.images` in child processes, each of which serves many images:

    parent                                child (`python -m beam_upscale.images.decoding`)
           <- ready, resident size -
           - request, file's bytes ->
           <- reply, pixels -             and so on; it exits when its parent is gone

Parent and child exchange messages (`frames`); the parent checks every size that a message claims. A
picture that is not to be held whole stays in its file: the request names the file, and the child
sends a region of the picture, or all its rows in as many messages as they take.

A child gets none of its parent's secrets (`environment`), and limits itself (`limits`). Codecs
report a lack of memory in different ways (libwebp cannot create a decoder, libavif cannot decode
planes, libvips cannot map). So a file that a codec refuses is decoded once more, with as much
address space as its codec asks for: the parent watches how much that is, ends the child if it
exceeds the limit, and reports OUT_OF_MEMORY then.
"""

import atexit
import contextlib
import dataclasses
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError
from beam_upscale.images.decoding import child_process
from beam_upscale.images.decoding.child import usable_cores
from beam_upscale.images.decoding.child_process import (
    SECONDS_BETWEEN_STARTS,
    Child,
    ChildLostError,
    Exchange,
)
from beam_upscale.images.decoding.frames import Frame, Readable
from beam_upscale.images.decoding.replies import (
    CodecRefusalError,
    ConsumerError,
    OverLimitError,
    Told,
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
IDLE_RESIDENT_LIMIT = 256 * 2**20
"""Bytes. A child that still holds more than this after a request is replaced."""

T = TypeVar("T")


class DecoderPool:
    """Child processes that decode images; safe to use from any number of threads.

    Children are started when first needed, one of them earlier by `start_early`, and reused. A call
    waits while all of them are busy. If the system cannot start a further child, a call waits for
    one that works. A forked process starts children of its own.
    """

    _lock: threading.Lock
    _slots: threading.BoundedSemaphore
    _idle: "list[Child]"
    _early: "list[Child]"
    _children: "weakref.WeakSet[Child]"
    _working: int

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
        self._is_closed = False
        self._forget_children()
        _pools.add(self)

    def start_early(self) -> None:
        """Starts a child, unless there is one; it becomes ready while its parent does other things.

        A failure to start it is ignored: the first call that needs a child reports it.
        """
        with self._lock:
            if self._is_closed or self._children:
                return
            with contextlib.suppress(OSError):
                child = Child(self.command)
                self._early.append(child)
                self._children.add(child)

    def decode(
        self, data: bytes, *, max_pixels: int, animated: Animated = Animated.FIRST
    ) -> DecodedImage:
        """Does what `image.decode` does, in a child.

        Raises:
            ImageError: as `image.decode`; also DECODER_CRASHED (two children ended on this input),
                DECODER_TIMEOUT and OUT_OF_MEMORY.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "decode", "max_pixels": max_pixels, "animated": animated}
        return self._ask(request, data, functools.partial(receive_image, max_pixels))

    def read_header(self, data: bytes) -> ImageHeader:
        """Does what `image.read_header` does, in a child.

        Raises:
            ImageError: as `image.read_header`; also DECODER_CRASHED, DECODER_TIMEOUT and
                OUT_OF_MEMORY as in `decode`.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        return self._ask({"request": "header"}, data, receive_header, self._header_seconds)

    def read_file_header(self, path: Path) -> ImageHeader:
        """Does what `regions.read_file_header` does, in a child.

        Raises:
            ImageError: as `read_header`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "file_header"}
        return self._ask(request, _name(path), receive_header, self._header_seconds)

    def read_picture(self, path: Path, *, max_pixels: int, animated: Animated) -> Picture:
        """Reads the description of a file's picture, without its pixels, in a child.

        Raises:
            ImageError: as `decode`, for errors that show before pixels are read; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "picture", "max_pixels": max_pixels, "animated": animated}
        receive = functools.partial(receive_picture, max_pixels)
        return self._ask(request, _name(path), receive)

    def read_region(
        self, path: Path, box: Box, *, max_pixels: int, animated: Animated
    ) -> tuple[Picture, Pixels]:
        """Reads a part of a picture that is `by_region`; as `PictureReader.region`, in a child.

        Raises:
            ImageError: as `decode`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {
            "request": "region",
            "box": dataclasses.astuple(box),
            "max_pixels": max_pixels,
            "animated": animated,
        }
        receive = functools.partial(receive_region, max_pixels, box)
        return self._ask(request, _name(path), receive)

    def read_bands(
        self,
        path: Path,
        height: int,
        consume: Callable[[Picture, Iterator[Pixels]], T],
        *,
        max_pixels: int,
        animated: Animated,
    ) -> T:
        """Gives all rows of a picture to `consume`, in bands; as `PictureReader.bands`, in a child.

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
            "height": height,
            "max_pixels": max_pixels,
            "animated": animated,
        }
        receive = functools.partial(
            receive_bands, max_pixels, height, self._timeout_seconds, consume
        )
        try:
            return self._ask(request, _name(path), receive)
        except ConsumerError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None

    def close(self) -> None:
        """Ends the idle children; busy ones end with their image. The pool takes no more images."""
        with self._lock:
            self._is_closed = True
            children, self._idle = self._idle, []
            early, self._early = self._early, []
        for child in early:
            # A child that is still starting would not notice its closed streams until it is ready.
            child.kill()
        for child in children:
            child.close()

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
        data: bytes,
        receive: Callable[[Frame, Readable], T | Told],
        seconds: float | None = None,
    ) -> T:
        exchange = Exchange(request, data, seconds or self._timeout_seconds)
        with self._slots:
            try:
                return self._ask_twice(exchange, receive)
            except CodecRefusalError as refusal:
                raise self._explained(refusal, exchange) from refusal.__cause__

    def _ask_twice(self, exchange: "Exchange", receive: Callable[[Frame, Readable], T | Told]) -> T:
        try:
            child = self._take_idle() or self._start_patiently(self._take_idle)
            return self._ask_child(child, exchange, receive)
        except ChildLostError:
            # An earlier image may have damaged this child, so a fresh one decides.
            fresh = self._start_patiently(self._end_idle)
        try:
            return self._ask_child(fresh, exchange, receive)
        except ChildLostError as lost:
            raise ImageError(
                ErrorCode.DECODER_CRASHED,
                f"two decoder processes were lost on this input, the last one by {lost}; "
                "the file is damaged or hostile, or memory ran out",
            ) from lost

    def _ask_child(
        self,
        child: "Child",
        exchange: "Exchange",
        receive: Callable[[Frame, Readable], T | Told],
    ) -> T:
        with self._at_work(), self._killed_when_late(child, exchange.seconds):
            answer = child.ask(exchange, receive)
            resident = child.wait_until_ready()
        self._keep(child, resident)
        if isinstance(answer, Told):
            raise answer
        return answer

    def _explained(self, refusal: CodecRefusalError, exchange: "Exchange") -> ImageError:
        """Returns the error of a refused file: OUT_OF_MEMORY if it asks for too much memory."""
        if self._takes_more(exchange, refusal.limit):
            return ImageError(
                ErrorCode.OUT_OF_MEMORY,
                "its decoder asks for more memory than a picture of its size takes (its process "
                f"may have {refusal.limit >> 20:,} MiB of address space); the file is damaged or "
                "hostile",
            )
        return ImageError(refusal.code, refusal.message)

    def _takes_more(self, exchange: "Exchange", limit: int) -> bool:
        """Tells whether a child takes more than `limit` bytes of address space if it may."""
        child = self._take_idle() or self._start_patiently(self._take_idle)
        for _ in range(2):
            try:
                with self._at_work(), self._killed_when_late(child, exchange.seconds):
                    before, peak = child.look_again(exchange, limit)
                    resident = child.wait_until_ready()
            except OverLimitError:
                return True
            except (ChildLostError, ImageError):
                return False
            if peak > max(limit, before) or before <= limit:
                self._keep(child, resident)
                return peak > limit
            # It had taken more for an earlier image, so only a fresh child can tell.
            child.close()
            child = self._start_patiently(self._end_idle)
        child.close()
        return False

    @contextlib.contextmanager
    def _killed_when_late(self, child: "Child", seconds: float) -> Iterator[None]:
        """Runs an exchange with a child; ends a child that fails or takes longer than `seconds`."""
        child.must_answer_within(seconds)
        try:
            yield
        except TimeoutError as error:
            child.kill()
            raise _too_late(seconds) from error
        except OverLimitError:
            child.kill()
            raise
        except BaseException as error:
            ending = child.end()
            if child.ran_out_of_seconds:
                raise _too_late(seconds) from error
            if isinstance(error, (EOFError, OSError, ValueError, KeyError, TypeError)):
                raise ChildLostError(ending) from error
            raise

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Counts a child as working while it starts or handles a request."""
        with self._lock:
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1

    def _start_patiently(self, instead: Callable[[], "Child | None"]) -> "Child":
        """Returns a new child that is ready; retries while the system refuses to start one.

        The system may lack processes, memory or open files. Starting is retried as long as other
        children work, whose places may become free, and for `_START_SECONDS` after that.

        Args:
            instead: called after each refusal; a child that it returns is used instead.

        Raises:
            BrokenProcessError: DECODER_UNAVAILABLE.
        """
        give_up_at = time.monotonic() + child_process.START_SECONDS
        while True:
            try:
                return self._start()
            except OSError as error:
                if (child := instead()) is not None:
                    return child
                if self._working:
                    give_up_at = time.monotonic() + child_process.START_SECONDS
                elif time.monotonic() >= give_up_at:
                    raise self._unavailable(error) from error
            time.sleep(SECONDS_BETWEEN_STARTS)

    def _end_idle(self) -> None:
        """Ends an idle child, if there is one, so that a new one can take its place."""
        if (idle := self._take_idle()) is not None:
            idle.close()

    def _unavailable(self, error: Exception) -> BrokenProcessError:
        return BrokenProcessError(
            ErrorCode.DECODER_UNAVAILABLE,
            f"no decoder process could be started by {' '.join(self.command)}: {error}; look at "
            "the memory, and at the limits of processes and of open files",
        )

    def _start(self) -> "Child":
        """Takes the child that was started early, or starts one, and waits until it is ready.

        Raises:
            OSError: the system cannot start a child.
            BrokenProcessError: DECODER_UNAVAILABLE, the child ended at once.
        """
        with self._lock:
            child = self._early.pop() if self._early else None
        if child is None:
            child = Child(self.command)
            with self._lock:
                self._children.add(child)
        try:
            with self._at_work(), self._killed_when_late(child, self._timeout_seconds):
                child.wait_until_ready()
        except (ChildLostError, ImageError) as error:
            raise self._unavailable(error) from error
        return child

    def _take_idle(self) -> "Child | None":
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the decoder pool is closed")
            return self._idle.pop() if self._idle else None

    def _keep(self, child: "Child", resident: int) -> None:
        with self._lock:
            if not self._is_closed and resident <= IDLE_RESIDENT_LIMIT:
                self._idle.append(child)
                return
        child.close()

    def _forget_children(self) -> None:
        """Resets the pool, with new locks: another thread may have held the old ones at a fork."""
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._max_processes)
        self._idle = []
        self._early = []
        self._children = weakref.WeakSet()
        self._working = 0

    def _leave_children_to_parent(self) -> None:
        """Closes the inherited pipes after a fork, so that children notice their parent's end."""
        for child in list(self._children):
            child.close_pipes()
        self._forget_children()


def _name(path: Path) -> bytes:
    """Returns a file's absolute name, for a child, which works in another folder."""
    return os.fsencode(path.absolute())


def _too_late(seconds: float) -> ImageError:
    return ImageError(ErrorCode.DECODER_TIMEOUT, f"decoding took longer than {seconds:g} seconds")


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
        pool._leave_children_to_parent()


os.register_at_fork(after_in_child=_leave_children_to_parent)
