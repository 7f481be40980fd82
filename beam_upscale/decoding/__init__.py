"""Decoding in child processes, so that a hostile file costs one row and not the worker.

Untrusted bytes can end a codec library with a signal, hang it or exhaust memory. A
`DecoderPool` runs `beam_upscale.image` in child processes, each of which serves many images:

    parent                                child (`python -m beam_upscale.decoding`)
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
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from beam_upscale.decoding.child import SIGNALS_OF_PARENT, main, usable_cores
from beam_upscale.decoding.environment import module_path, plain_environment
from beam_upscale.decoding.frames import (
    Frame,
    Readable,
    read_buffer,
    read_frame,
    read_into,
    write_frame,
)
from beam_upscale.decoding.limits import address_space_of
from beam_upscale.errors import (
    FULL_DISK,
    BrokenProcessError,
    ErrorCode,
    ImageError,
    log_mistake,
)
from beam_upscale.image import DecodedImage, ImageHeader, Metadata, Pixels
from beam_upscale.image.regions import Picture
from beam_upscale.image.values import Resolution
from beam_upscale.layout import Box
from beam_upscale.plan import Animated

__all__ = [
    "CHILD_COMMAND",
    "DEFAULT_TIMEOUT_SECONDS",
    "HEADER_TIMEOUT_SECONDS",
    "IDLE_RESIDENT_LIMIT",
    "SIGNALS_OF_PARENT",
    "DecoderPool",
    "blocked",
    "main",
    "shared_pool",
    "usable_cores",
]

CHILD_COMMAND: tuple[str, ...] = (sys.executable, "-m", "beam_upscale.decoding")
"""The command that starts a child. Any other command has to call `main`."""

DEFAULT_TIMEOUT_SECONDS = 300.0
HEADER_TIMEOUT_SECONDS = 30.0
"""The longest that reading a header may take, where pixels may take longer."""
IDLE_RESIDENT_LIMIT = 256 * 2**20
"""Bytes. A child that still holds more than this after a request is replaced."""

_PIPE_SIZE = 2**20
"""Bytes; the most that Linux gives an ordinary user."""
_MAX_METADATA = 256 * 2**20
"""The most bytes that a parent accepts as an ICC profile, EXIF block or XMP packet."""
_MOST_RESOLUTION = 2**40
"""Pixels per inch; a parent accepts resolutions below this."""
_EXIT_SECONDS = 5.0
"""Seconds that a child may take to end by itself, once its streams are closed."""
_START_SECONDS = 5.0
"""Seconds for which the system may refuse to start a child while no other one works."""
_SECONDS_BETWEEN_STARTS = 0.1

_SECONDS_BETWEEN_LOOKS = 0.005
"""Seconds between checks of the address space of a child that the system does not limit."""

_CHILD_ENVIRONMENT = {
    # Keep the working directory off the module path: a data set may hold a numpy.py.
    "PYTHONSAFEPATH": "1",
    # Processes, not threads, use the cores.
    "OPENBLAS_NUM_THREADS": "1",
    "VIPS_CONCURRENCY": "1",
    # glibc: give large blocks back to the system when they are freed.
    "MALLOC_MMAP_THRESHOLD_": "131072",
    # Also glibc: each further arena takes 64 MB of address space.
    "MALLOC_ARENA_MAX": "2",
}

T = TypeVar("T")

# An error that a child reports: one of the picture, or a temporary folder that is full.
_Told = ImageError | OSError


class _ChildLostError(Exception):
    """The child ended, or sent an invalid answer; the text says how."""


class _CodecRefusalError(ImageError):
    """A codec's error for a file, under a limit of address space that may be its cause.

    Attributes:
        limit: bytes of address space that the child was allowed.
    """

    limit: int


class _OverLimitError(Exception):
    """A child takes more address space than it may."""


class _ConsumerError(Exception):
    """The consumer of the rows that a child sends failed; its error is the cause of this one."""


class DecoderPool:
    """Child processes that decode images; safe to use from any number of threads.

    Children are started when first needed, one of them earlier by `start_early`, and reused. A call
    waits while all of them are busy. If the system cannot start a further child, a call waits for
    one that works. A forked process starts children of its own.
    """

    _lock: threading.Lock
    _slots: threading.BoundedSemaphore
    _idle: "list[_Child]"
    _early: "list[_Child]"
    _children: "weakref.WeakSet[_Child]"
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
        self.command = tuple(command or CHILD_COMMAND)
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
                child = _Child(self.command)
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
        return self._ask(request, data, functools.partial(_receive_image, max_pixels))

    def read_header(self, data: bytes) -> ImageHeader:
        """Does what `image.read_header` does, in a child.

        Raises:
            ImageError: as `image.read_header`; also DECODER_CRASHED, DECODER_TIMEOUT and
                OUT_OF_MEMORY as in `decode`.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        return self._ask({"request": "header"}, data, _receive_header, self._header_seconds)

    def read_file_header(self, path: Path) -> ImageHeader:
        """Does what `regions.read_file_header` does, in a child.

        Raises:
            ImageError: as `read_header`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "file_header"}
        return self._ask(request, _name(path), _receive_header, self._header_seconds)

    def read_picture(self, path: Path, *, max_pixels: int, animated: Animated) -> Picture:
        """Reads the description of a file's picture, without its pixels, in a child.

        Raises:
            ImageError: as `decode`, for errors that show before pixels are read; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "picture", "max_pixels": max_pixels, "animated": animated}
        receive = functools.partial(_receive_picture, max_pixels)
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
        receive = functools.partial(_receive_region, max_pixels, box)
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
            _receive_bands, max_pixels, height, self._timeout_seconds, consume
        )
        try:
            return self._ask(request, _name(path), receive)
        except _ConsumerError as error:
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
        receive: Callable[[Frame, Readable], T | _Told],
        seconds: float | None = None,
    ) -> T:
        exchange = _Exchange(request, data, seconds or self._timeout_seconds)
        with self._slots:
            try:
                return self._ask_twice(exchange, receive)
            except _CodecRefusalError as refusal:
                raise self._explained(refusal, exchange) from refusal.__cause__

    def _ask_twice(
        self, exchange: "_Exchange", receive: Callable[[Frame, Readable], T | _Told]
    ) -> T:
        try:
            child = self._take_idle() or self._start_patiently(self._take_idle)
            return self._ask_child(child, exchange, receive)
        except _ChildLostError:
            # An earlier image may have damaged this child, so a fresh one decides.
            fresh = self._start_patiently(self._end_idle)
        try:
            return self._ask_child(fresh, exchange, receive)
        except _ChildLostError as lost:
            raise ImageError(
                ErrorCode.DECODER_CRASHED,
                f"two decoder processes were lost on this input, the last one by {lost}; "
                "the file is damaged or hostile, or memory ran out",
            ) from lost

    def _ask_child(
        self,
        child: "_Child",
        exchange: "_Exchange",
        receive: Callable[[Frame, Readable], T | _Told],
    ) -> T:
        with self._at_work(), self._killed_when_late(child, exchange.seconds):
            answer = child.ask(exchange, receive)
            resident = child.wait_until_ready()
        self._keep(child, resident)
        if isinstance(answer, _Told):
            raise answer
        return answer

    def _explained(self, refusal: _CodecRefusalError, exchange: "_Exchange") -> ImageError:
        """Returns the error of a refused file: OUT_OF_MEMORY if it asks for too much memory."""
        if self._takes_more(exchange, refusal.limit):
            return ImageError(
                ErrorCode.OUT_OF_MEMORY,
                "its decoder asks for more memory than a picture of its size takes (its process "
                f"may have {refusal.limit >> 20:,} MiB of address space); the file is damaged or "
                "hostile",
            )
        return ImageError(refusal.code, refusal.message)

    def _takes_more(self, exchange: "_Exchange", limit: int) -> bool:
        """Tells whether a child takes more than `limit` bytes of address space if it may."""
        child = self._take_idle() or self._start_patiently(self._take_idle)
        for _ in range(2):
            try:
                with self._at_work(), self._killed_when_late(child, exchange.seconds):
                    before, peak = child.look_again(exchange, limit)
                    resident = child.wait_until_ready()
            except _OverLimitError:
                return True
            except (_ChildLostError, ImageError):
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
    def _killed_when_late(self, child: "_Child", seconds: float) -> Iterator[None]:
        """Runs an exchange with a child; ends a child that fails or takes longer than `seconds`."""
        child.must_answer_within(seconds)
        try:
            yield
        except TimeoutError as error:
            child.kill()
            raise _too_late(seconds) from error
        except _OverLimitError:
            child.kill()
            raise
        except BaseException as error:
            ending = child.end()
            if child.ran_out_of_seconds:
                raise _too_late(seconds) from error
            if isinstance(error, (EOFError, OSError, ValueError, KeyError, TypeError)):
                raise _ChildLostError(ending) from error
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

    def _start_patiently(self, instead: Callable[[], "_Child | None"]) -> "_Child":
        """Returns a new child that is ready; retries while the system refuses to start one.

        The system may lack processes, memory or open files. Starting is retried as long as other
        children work, whose places may become free, and for `_START_SECONDS` after that.

        Args:
            instead: called after each refusal; a child that it returns is used instead.

        Raises:
            BrokenProcessError: DECODER_UNAVAILABLE.
        """
        give_up_at = time.monotonic() + _START_SECONDS
        while True:
            try:
                return self._start()
            except OSError as error:
                if (child := instead()) is not None:
                    return child
                if self._working:
                    give_up_at = time.monotonic() + _START_SECONDS
                elif time.monotonic() >= give_up_at:
                    raise self._unavailable(error) from error
            time.sleep(_SECONDS_BETWEEN_STARTS)

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

    def _start(self) -> "_Child":
        """Takes the child that was started early, or starts one, and waits until it is ready.

        Raises:
            OSError: the system cannot start a child.
            BrokenProcessError: DECODER_UNAVAILABLE, the child ended at once.
        """
        with self._lock:
            child = self._early.pop() if self._early else None
        if child is None:
            child = _Child(self.command)
            with self._lock:
                self._children.add(child)
        try:
            with self._at_work(), self._killed_when_late(child, self._timeout_seconds):
                child.wait_until_ready()
        except (_ChildLostError, ImageError) as error:
            raise self._unavailable(error) from error
        return child

    def _take_idle(self) -> "_Child | None":
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the decoder pool is closed")
            return self._idle.pop() if self._idle else None

    def _keep(self, child: "_Child", resident: int) -> None:
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


@dataclass(frozen=True)
class _Exchange:
    """A request to a child.

    Attributes:
        request: the fields of the message.
        data: a file's bytes, or its name.
        seconds: the longest that the child may take.
    """

    request: dict[str, Any]
    data: bytes
    seconds: float

    def send(self, stream: "_TimedPipe", **fields: Any) -> None:
        """Sends the request, with further fields."""
        write_frame(stream, {**self.request, "seconds": self.seconds, **fields}, [self.data])


def _name(path: Path) -> bytes:
    """Returns a file's absolute name, for a child, which works in another folder."""
    return os.fsencode(path.absolute())


def _too_late(seconds: float) -> ImageError:
    return ImageError(ErrorCode.DECODER_TIMEOUT, f"decoding took longer than {seconds:g} seconds")


class _Child:
    """The parent's end of one child process."""

    def __init__(self, command: Sequence[str]) -> None:
        # The child inherits the block; else a signal could end it before it can ignore signals.
        with blocked(SIGNALS_OF_PARENT):
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=os.path.sep,
                env={**plain_environment(), **_CHILD_ENVIRONMENT, "PYTHONPATH": module_path()},
                process_group=0,
                pipesize=_PIPE_SIZE,
            )
        self._requests = _TimedPipe(self._process.stdin, select.POLLOUT)
        self._replies = _TimedPipe(self._process.stdout, select.POLLIN)

    def must_answer_within(self, seconds: float) -> None:
        """Sets a deadline from now on; after it, an exchange raises TimeoutError."""
        self._requests.deadline = self._replies.deadline = time.monotonic() + seconds

    def wait_until_ready(self) -> int:
        """Waits until the child is ready; returns the bytes of memory that it holds.

        Address space that it has not given back counts half: it leaves less for the next image.
        """
        fields = read_frame(self._replies).fields
        return max(int(fields["ready"]), int(fields.get("grown", 0)) // 2)

    def ask(
        self, exchange: _Exchange, receive: Callable[[Frame, Readable], T | _Told]
    ) -> T | _Told:
        exchange.send(self._requests)
        reply = read_frame(self._replies)
        return _told(reply) or receive(reply, self._replies)

    def look_again(self, exchange: _Exchange, limit: int) -> tuple[int, int]:
        """Decodes again without a limit; returns the peak address space before and after, in bytes.

        Raises:
            _OverLimitError: the child takes more than `limit` bytes, at this moment.
        """
        self._replies.check = functools.partial(_check_address_space, self._process.pid, limit)
        try:
            exchange.send(self._requests, second_look=True)
            fields = read_frame(self._replies).fields
        finally:
            self._replies.check = None
        return int(fields["before"]), int(fields["peak"])

    @property
    def ran_out_of_seconds(self) -> bool:
        """True if the child was ended by its limit of CPU seconds."""
        return self._process.returncode == -signal.SIGXCPU

    def kill(self) -> None:
        """Ends a child at once, whatever it is doing."""
        self.close_pipes()
        self._process.kill()
        self._process.wait()

    def end(self) -> str:
        """Makes sure that a lost child is gone; returns what ended it."""
        self.close_pipes()
        try:
            status = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "an answer that made no sense"
        if status < 0:
            return f"signal {signal.Signals(-status).name}"
        return f"exit status {status}"

    def close(self) -> None:
        """Ends an idle child."""
        self.end()

    def close_pipes(self) -> None:
        self._requests.close()
        self._replies.close()


def _check_address_space(pid: int, limit: int) -> None:
    taken = address_space_of(pid)
    if taken is not None and taken > limit:
        raise _OverLimitError


@contextlib.contextmanager
def blocked(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Blocks signals in this thread within the context, and for good in processes started there.

    Other threads of the process may receive them meanwhile.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _TimedPipe:
    """The parent's end of a pipe, read or written with a deadline.

    Attributes:
        deadline: in seconds of the monotonic clock; a later read or write raises TimeoutError.
        check: called repeatedly while a read or write waits; None for nothing.
    """

    def __init__(self, end: Any, event: int) -> None:
        """Takes over an unbuffered end.

        Args:
            end: a stream of `subprocess.Popen`.
            event: the event that `select.poll` waits for.
        """
        os.set_blocking(end.fileno(), False)
        self._end = end
        self._poll = select.poll()
        self._poll.register(end, event)
        self.deadline = math.inf
        self.check: Callable[[], None] | None = None

    def readinto(self, view: memoryview) -> int:
        while (count := self._end.readinto(view)) is None:
            self._wait()
        return int(count)

    def write(self, view: memoryview) -> int:
        while (count := self._end.write(view)) is None:
            self._wait()
        return int(count)

    def close(self) -> None:
        self._end.close()

    def _wait(self) -> None:
        while (seconds := self.deadline - time.monotonic()) > 0:
            if self.check is not None:
                self.check()
                seconds = min(seconds, _SECONDS_BETWEEN_LOOKS)
            if self._poll.poll(math.ceil(1000 * seconds)):
                return
        raise TimeoutError


_pools: weakref.WeakSet[DecoderPool] = weakref.WeakSet()
_shared: DecoderPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> DecoderPool:
    """Returns the process's own pool, with as many children as there are cores to run on."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared.command != CHILD_COMMAND:
            _shared = DecoderPool(usable_cores())
            atexit.register(_shared.close)
        return _shared


def _receive_metadata(
    fields: dict[str, Any], lengths: Sequence[int | None], stream: Readable
) -> Metadata:
    """Reads the buffers of metadata, which come next."""
    icc_length, exif_length, xmp_length = lengths
    resolution = None
    if fields["resolution"] is not None:
        x, y, is_ratio = fields["resolution"]
        if not all(0 < each < _MOST_RESOLUTION for each in (x, y)):
            raise ValueError(f"a resolution of {x} x {y}")
        resolution = Resolution(float(x), float(y), bool(is_ratio))
    return Metadata(
        icc_profile=_read_metadata(stream, icc_length),
        exif=_read_metadata(stream, exif_length),
        xmp=_read_metadata(stream, xmp_length),
        resolution=resolution,
    )


def _receive_header(reply: Frame, _: Readable) -> ImageHeader:
    return ImageHeader(**reply.fields["header"])


def _told(reply: Frame) -> _Told | None:
    """Returns the error that a message reports; None if it reports none."""
    fields = reply.fields
    if "error" in fields:
        return _told_error(fields)
    if "full_disk" not in fields:
        return None
    if fields["full_disk"] not in FULL_DISK:
        raise ValueError(f"a full disk by the number {fields['full_disk']}")
    folder = () if fields["in"] is None else (str(fields["in"]),)
    return OSError(fields["full_disk"], str(fields["message"]), *folder)


def _told_error(fields: dict[str, Any]) -> ImageError:
    code, message = ErrorCode(fields["error"]), str(fields["message"])
    if "traceback" in fields:
        log_mistake(str(fields["traceback"]))
    if fields.get("limit") is None:
        return ImageError(code, message)
    refusal = _CodecRefusalError(code, message)
    refusal.limit = int(fields["limit"])
    return refusal


def _receive_picture(max_pixels: int, reply: Frame, stream: Readable) -> Picture:
    """Reads and checks a child's description of a picture."""
    fields = reply.fields
    header = ImageHeader(**fields["header"])
    if not 0 < header.width * header.height <= max_pixels:
        raise ValueError(f"a picture of {header.width} x {header.height}")
    if fields["dtype"] not in _DTYPES or fields["channels"] not in (1, 3):
        raise ValueError(f"pixels of {fields['channels']} x {fields['dtype']}")
    return Picture(
        header=header,
        dtype=fields["dtype"],
        channels=fields["channels"],
        has_alpha=bool(fields["has_alpha"]),
        metadata=_receive_metadata(fields, reply.lengths[:3], stream),
        notes=tuple(map(str, fields["notes"])),
        by_region=bool(fields["by_region"]),
    )


def _receive_region(
    max_pixels: int, box: Box, reply: Frame, stream: Readable
) -> tuple[Picture, Pixels]:
    picture = _receive_picture(max_pixels, reply, stream)
    shape = box.height, box.width, picture.bands
    return picture, _read_pixels(stream, reply.lengths[3], shape, _DTYPES[picture.dtype])


def _receive_bands(
    max_pixels: int,
    height: int,
    seconds: float,
    consume: Callable[[Picture, Iterator[Pixels]], T],
    reply: Frame,
    stream: Readable,
) -> T | _Told:
    picture = _receive_picture(max_pixels, reply, stream)
    bands = _Bands(stream, picture, height, seconds)
    rows = iter(bands)
    try:
        result = consume(picture, rows)
    except Exception as error:
        if error is bands.told:
            return bands.told
        if error is bands.broken:
            raise
        raise _ConsumerError from error
    for _ in rows:
        # Drain unread rows from the pipe, or the next read would parse them as its answer.
        pass
    return result


class _Bands:
    """The rows of a picture, as a child sends them.

    Attributes:
        told: the error that the child reported; None if it reported none so far.
        broken: the exception raised while reading from the child; None if there is none so far.
    """

    def __init__(self, stream: Any, picture: Picture, height: int, seconds: float) -> None:
        self.told: _Told | None = None
        self.broken: Exception | None = None
        self._stream = stream
        self._picture = picture
        self._height = height
        self._seconds = seconds

    def __iter__(self) -> Iterator[Pixels]:
        left = self._picture.header.height
        while left:
            # Time that the consumer of the rows takes does not count against the child.
            self._stream.deadline = time.monotonic() + self._seconds
            try:
                frame = read_frame(self._stream)
                self.told = _told(frame)
                rows = None if self.told else self._read(frame, min(self._height, left))
            except Exception as error:
                self.broken = error
                raise
            if rows is None:
                assert self.told is not None
                raise self.told
            left -= len(rows)
            yield rows

    def _read(self, frame: Frame, rows: int) -> Pixels:
        if frame.fields["rows"] != rows:
            raise ValueError(f"{frame.fields['rows']} rows where {rows} are due")
        picture = self._picture
        shape = rows, picture.header.width, picture.bands
        return _read_pixels(self._stream, frame.lengths[0], shape, _DTYPES[picture.dtype])


_DTYPES: dict[str, type[np.uint8 | np.uint16]] = {"uint8": np.uint8, "uint16": np.uint16}


def _receive_image(max_pixels: int, reply: Frame, stream: Readable) -> DecodedImage:
    """Reads pixels straight into arrays of the size that the reply claims, after checking it."""
    fields = reply.fields
    dtype = _DTYPES[fields["dtype"]]
    height, width, channels = fields["shape"]
    if not 0 < height * width <= max_pixels or channels not in (1, 3):
        raise ValueError(f"pixels of shape {fields['shape']}")
    color_length, alpha_length, *lengths = reply.lengths
    color = _read_pixels(stream, color_length, (height, width, channels), dtype)
    alpha = None
    if alpha_length is not None:
        alpha = _read_pixels(stream, alpha_length, (height, width), dtype)
    return DecodedImage(
        header=ImageHeader(**fields["header"]),
        color=color,
        alpha=alpha,
        metadata=_receive_metadata(fields, lengths, stream),
        notes=tuple(map(str, fields["notes"])),
    )


def _read_pixels(
    stream: Readable,
    length: int | None,
    shape: tuple[int, ...],
    dtype: type[np.uint8 | np.uint16],
) -> Pixels:
    pixels: Pixels = np.empty(shape, dtype)
    if length != pixels.nbytes:
        raise ValueError(f"{length} bytes for pixels of {pixels.nbytes}")
    read_into(stream, pixels.data.cast("B"))
    return pixels


def _read_metadata(stream: Readable, length: int | None) -> bytes | None:
    if length is None:
        return None
    if not 0 <= length <= _MAX_METADATA:
        raise ValueError(f"metadata of {length} bytes")
    return bytes(read_buffer(stream, length))


def _leave_children_to_parent() -> None:
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    _shared = None
    for pool in list(_pools):
        pool._leave_children_to_parent()


os.register_at_fork(after_in_child=_leave_children_to_parent)
