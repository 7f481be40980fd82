"""Decoding in processes of its own, so that a hostile file costs one row and not the worker.

Bytes from strangers can end a codec library with a signal, hang it or exhaust memory. A
`DecoderPool` runs `beam_upscale.image` in child processes, each of which serves many images:

    parent                                child (`python -m beam_upscale.decoding`)
           <- ready, resident size -
           - request, file's bytes ->
           <- reply, pixels -             and so on; it exits when its parent is gone

A message is a frame: four bytes with the length of a JSON object, the object, and raw buffers whose
lengths stand in the object. Nothing is pickled: whoever takes over a child must not be able to hand
objects to the parent, and the parent checks every size that it is told.

A picture that is not to be held whole stays in its file: the request names that, and the child
sends a region of it, or all its rows in as many messages as they take.
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import math
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import pyvips

from beam_upscale import image
from beam_upscale.errors import FULL_DISK, BrokenProcessError, ErrorCode, ImageError
from beam_upscale.image import DecodedImage, ImageHeader, Metadata, Pixels
from beam_upscale.image.regions import Picture, open_picture, read_file_header
from beam_upscale.image.values import NO_METADATA, Resolution
from beam_upscale.layout import Box
from beam_upscale.plan import Animated

CHILD_COMMAND: tuple[str, ...] = (sys.executable, "-m", "beam_upscale.decoding")
"""How a child is started. Another command has to call `main`."""

DEFAULT_TIMEOUT_SECONDS = 300.0
IDLE_RESIDENT_LIMIT = 256 * 2**20
"""Bytes. A child that still holds more than this after a request is replaced."""

_PIPE_SIZE = 2**20
"""Bytes; the most that Linux gives an ordinary user."""
_MAX_OBJECT = 2**20
_MAX_METADATA = 256 * 2**20
"""Bytes that a parent takes as a frame's JSON object, and as an ICC profile or EXIF block."""
_MOST_RESOLUTION = 2**40
"""Pixels in an inch that a parent takes."""
_EXIT_SECONDS = 5.0
"""How long a child whose streams are closed may take to end by itself."""
_START_SECONDS = 5.0
"""Seconds for which the system may refuse to start a child while no other one works."""
_SECONDS_BETWEEN_STARTS = 0.1

SIGNALS_OF_PARENT = (signal.SIGINT, signal.SIGTERM)
"""They ask the parent to end, which finishes what is begun, and reach its children too: a terminal
sends them to a process group, Slurm and systemd to every process of a job."""

_CHILD_ENVIRONMENT = {
    # Keep the working directory off the module path: a data set may hold a numpy.py.
    "PYTHONSAFEPATH": "1",
    # Processes, not threads, use the cores.
    "OPENBLAS_NUM_THREADS": "1",
    "VIPS_CONCURRENCY": "1",
    # glibc: give large blocks back to the system when they are freed.
    "MALLOC_MMAP_THRESHOLD_": "131072",
}

T = TypeVar("T")

# What a child says went wrong: with the picture, or with the temporary folder, which is full.
_Told = ImageError | OSError


class _Readable(Protocol):
    def readinto(self, view: memoryview, /) -> int: ...


class _Writable(Protocol):
    def write(self, view: memoryview, /) -> int: ...


class _ChildLostError(Exception):
    """The child ended, or answered what no child answers; the text says how."""


class _ConsumerError(Exception):
    """Whoever takes the rows that a child sends failed; its cause says how."""


@dataclass(frozen=True)
class _Frame:
    """A message without its buffers, which are still to be read from the stream.

    Attributes:
        fields: the JSON object.
        lengths: bytes of each buffer; None for one that is absent.
    """

    fields: dict[str, Any]
    lengths: tuple[int | None, ...]


class DecoderPool:
    """Child processes that decode images; safe to use from any number of threads.

    Children are started when first needed and reused. A call waits while all of them are busy.
    Where the system lets no further child be started, a call waits for one of those that work.
    A process forked off starts children of its own.
    """

    _lock: threading.Lock
    _slots: threading.BoundedSemaphore
    _idle: "list[_Child]"
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
            timeout_seconds: the longest that one image may take.
            command: how a child is started; None for `CHILD_COMMAND`.
        """
        self.command = tuple(command or CHILD_COMMAND)
        self._max_processes = max_processes
        self._timeout_seconds = timeout_seconds
        self._is_closed = False
        self._forget_children()
        _pools.add(self)

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
        return self._ask({"request": "header"}, data, _receive_header)

    def read_file_header(self, path: Path) -> ImageHeader:
        """Does what `regions.read_file_header` does, in a child.

        Raises:
            ImageError: as `read_header`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        return self._ask({"request": "file_header"}, os.fsencode(path), _receive_header)

    def read_picture(self, path: Path, *, max_pixels: int, animated: Animated) -> Picture:
        """What a file says of its picture.

        Raises:
            ImageError: as `decode`, as far as that shows before pixels are read; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "picture", "max_pixels": max_pixels, "animated": animated}
        receive = functools.partial(_receive_picture, max_pixels)
        return self._ask(request, os.fsencode(path), receive)

    def read_region(
        self, path: Path, box: Box, *, max_pixels: int, animated: Animated
    ) -> tuple[Picture, Pixels]:
        """A part of a picture that is read `by_region`; as `PictureReader.region`, in a child.

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
        return self._ask(request, os.fsencode(path), receive)

    def read_bands(
        self,
        path: Path,
        height: int,
        consume: Callable[[Picture, Iterator[Pixels]], T],
        *,
        max_pixels: int,
        animated: Animated,
    ) -> T:
        """Has all rows of a picture taken, some at a time; as `PictureReader.bands`, in a child.

        Args:
            path: of its file.
            height: rows of each array but the last, at least 1.
            consume: takes the picture and its rows. It is called anew where a child was lost.
            max_pixels: as for `decode`.
            animated: as for `decode`.

        Returns:
            What `consume` gives.

        Raises:
            ImageError: as `decode`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
            OSError: of `FULL_DISK`, the child's temporary folder has no space for the picture.
            Exception: what `consume` raises.
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
            return self._ask(request, os.fsencode(path), receive)
        except _ConsumerError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None

    def close(self) -> None:
        """Ends the idle children; busy ones end with their image. The pool takes no more images."""
        with self._lock:
            self._is_closed = True
            children, self._idle = self._idle, []
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
        receive: Callable[[_Frame, _Readable], T | _Told],
    ) -> T:
        with self._slots:
            try:
                child = self._take_idle() or self._start_patiently(self._take_idle)
                return self._ask_child(child, request, data, receive)
            except _ChildLostError:
                # An earlier image may have damaged this child: a fresh one tells.
                fresh = self._start_patiently(self._end_idle)
            try:
                return self._ask_child(fresh, request, data, receive)
            except _ChildLostError as lost:
                raise ImageError(
                    ErrorCode.DECODER_CRASHED,
                    f"two decoder processes were lost on this input, the last one by {lost}; "
                    "the file is damaged or hostile, or memory ran out",
                ) from lost

    def _ask_child(
        self,
        child: "_Child",
        request: dict[str, Any],
        data: bytes,
        receive: Callable[[_Frame, _Readable], T | _Told],
    ) -> T:
        with self._at_work(), self._killed_when_late(child):
            answer = child.ask(request, data, receive)
            resident = child.wait_until_ready()
        self._keep(child, resident)
        if isinstance(answer, _Told):
            raise answer
        return answer

    @contextlib.contextmanager
    def _killed_when_late(self, child: "_Child") -> Iterator[None]:
        """Runs an exchange with a child; a child that does not get through it is ended."""
        child.must_answer_within(self._timeout_seconds)
        try:
            yield
        except TimeoutError as error:
            child.kill()
            raise ImageError(
                ErrorCode.DECODER_TIMEOUT,
                f"decoding took longer than {self._timeout_seconds:g} seconds",
            ) from error
        except BaseException as error:
            ending = child.end()
            if isinstance(error, (EOFError, OSError, ValueError, KeyError, TypeError)):
                raise _ChildLostError(ending) from error
            raise

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Counts a child that begins or has a request."""
        with self._lock:
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1

    def _start_patiently(self, instead: Callable[[], "_Child | None"]) -> "_Child":
        """A new child that is ready.

        The system may refuse to start one, for want of processes, memory or open files. It is asked
        again as long as other children work, whose places may become free, and for some seconds.

        Args:
            instead: called after each refusal; a child that it gives is taken.

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
        """Ends an idle child, whose place a new one may take."""
        if (idle := self._take_idle()) is not None:
            idle.close()

    def _unavailable(self, error: Exception) -> BrokenProcessError:
        return BrokenProcessError(
            ErrorCode.DECODER_UNAVAILABLE,
            f"no decoder process could be started by {' '.join(self.command)}: {error}; look at "
            "the memory, and at the limits of processes and of open files",
        )

    def _start(self) -> "_Child":
        """A new child that is ready.

        Raises:
            OSError: the system starts none.
            BrokenProcessError: DECODER_UNAVAILABLE, it ended at once.
        """
        child = _Child(self.command)
        with self._lock:
            self._children.add(child)
        try:
            with self._at_work(), self._killed_when_late(child):
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
        """Begins anew, without any lock that another thread of a forked process held."""
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._max_processes)
        self._idle = []
        self._children = weakref.WeakSet()
        self._working = 0

    def _leave_children_to_parent(self) -> None:
        """After a fork: closes the inherited pipes, so that children notice their parent's end."""
        for child in list(self._children):
            child.close_pipes()
        self._forget_children()


class _Child:
    """The parent's end of one child process."""

    def __init__(self, command: Sequence[str]) -> None:
        # Blocked, they stay so in the child, which would end by one before it can ignore them.
        with blocked(SIGNALS_OF_PARENT):
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **_CHILD_ENVIRONMENT, "PYTHONPATH": _module_path()},
                process_group=0,
                pipesize=_PIPE_SIZE,
            )
        self._requests = _TimedPipe(self._process.stdin, select.POLLOUT)
        self._replies = _TimedPipe(self._process.stdout, select.POLLIN)

    def must_answer_within(self, seconds: float) -> None:
        """From now on; later than that, an exchange raises TimeoutError."""
        self._requests.deadline = self._replies.deadline = time.monotonic() + seconds

    def wait_until_ready(self) -> int:
        """Returns the bytes of memory that the child holds."""
        return int(_read_frame(self._replies).fields["ready"])

    def ask(
        self,
        request: dict[str, Any],
        data: bytes,
        receive: Callable[[_Frame, _Readable], T | _Told],
    ) -> T | _Told:
        _write_frame(self._requests, request, [data])
        reply = _read_frame(self._replies)
        return _told(reply) or receive(reply, self._replies)

    def kill(self) -> None:
        """Ends a child that may be doing anything."""
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


@contextlib.contextmanager
def blocked(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Within it, this thread takes none of these signals, and what it starts none for good.

    Other threads of the process take them meanwhile.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _TimedPipe:
    """The parent's end of a pipe, as far as it is read or written here.

    Attributes:
        deadline: of the monotonic clock, in seconds; what is not done by then raises TimeoutError.
    """

    def __init__(self, end: Any, event: int) -> None:
        """Takes an unbuffered end over.

        Args:
            end: as `subprocess.Popen` has it.
            event: what `select.poll` waits for.
        """
        os.set_blocking(end.fileno(), False)
        self._end = end
        self._poll = select.poll()
        self._poll.register(end, event)
        self.deadline = math.inf

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
        seconds = self.deadline - time.monotonic()
        if seconds <= 0 or not self._poll.poll(math.ceil(1000 * seconds)):
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


def main(
    decode: Callable[..., DecodedImage] = image.decode,
    read_header: Callable[[bytes], ImageHeader] = image.read_header,
) -> None:
    """Runs a child on standard input and output until its parent is gone.

    Args:
        decode: replaces `image.decode`, e.g. by one that crashes, in tests.
        read_header: replaces `image.read_header`.
    """
    for number in SIGNALS_OF_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_PARENT)
    with os.fdopen(os.dup(0), "rb", 0) as requests, os.fdopen(os.dup(1), "wb", 0) as replies:
        # What a codec library prints must reach neither the protocol nor a terminal.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        # Kept operations hold files open, and what they last read of them.
        pyvips.cache_set_max(0)
        watch = threading.Thread(target=_exit_with_parent, args=(requests.fileno(),), daemon=True)
        watch.start()
        serve(requests, replies, decode, read_header)


def serve(
    requests: _Readable,
    replies: _Writable,
    decode: Callable[..., DecodedImage] = image.decode,
    read_header: Callable[[bytes], ImageHeader] = image.read_header,
) -> None:
    """Answers requests until their stream ends."""
    while True:
        _write_frame(replies, {"ready": _resident_bytes()})
        try:
            request = _read_frame(requests)
        except EOFError:
            return
        data = bytes(_read_buffer(requests, request.lengths[0] or 0))
        for fields, buffers in _answers(request.fields, data, decode, read_header):
            _write_frame(replies, fields, buffers)
            # Freed before the next "ready" tells how much this process holds.
            del fields, buffers
        del data


_Answer = tuple[dict[str, Any], list[bytes | memoryview | None]]


def _answers(
    request: dict[str, Any],
    data: bytes,
    decode: Callable[..., DecodedImage],
    read_header: Callable[[bytes], ImageHeader],
) -> Iterator[_Answer]:
    """The messages that answer a request; the last one says what went wrong, where that did."""
    try:
        match request["request"]:
            case "header":
                yield {"header": dataclasses.asdict(read_header(data))}, []
            case "decode":
                animated = Animated(request["animated"])
                max_pixels = request["max_pixels"]
                yield _image_answer(decode(data, max_pixels=max_pixels, animated=animated))
            case "file_header":
                header = read_file_header(Path(os.fsdecode(data)))
                yield {"header": dataclasses.asdict(header)}, []
            case _:
                yield from _picture_answers(request, Path(os.fsdecode(data)))
    except ImageError as error:
        yield {"error": error.code, "message": error.message}, []
    except MemoryError as error:
        message = f"the picture does not fit into memory: {error}"
        yield {"error": ErrorCode.OUT_OF_MEMORY, "message": message}, []
    except OSError as error:
        if error.errno in FULL_DISK:
            # What it was read into, then: the temporary folder.
            yield {"full_disk": error.errno, "message": error.strerror, "in": error.filename}, []
            return
        yield {"error": ErrorCode.READ_ERROR, "message": f"the file cannot be read: {error}"}, []
    except Exception as error:
        # A mistake of ours, told where it can be seen: standard error is closed.
        message = f"the decoder failed with {type(error).__name__}: {error}"
        yield {"error": ErrorCode.DECODER_CRASHED, "message": message}, []


def _picture_answers(request: dict[str, Any], path: Path) -> Iterator[_Answer]:
    animated = Animated(request["animated"])
    with open_picture(path, max_pixels=request["max_pixels"], animated=animated) as reader:
        picture = reader.picture
        told, buffers = _metadata_answer(picture.metadata)
        fields = told | dataclasses.asdict(dataclasses.replace(picture, metadata=NO_METADATA))
        del fields["metadata"]
        match request["request"]:
            case "picture":
                yield fields, buffers
            case "region":
                region = reader.region(Box(*request["box"]))
                yield fields, [*buffers, _bytes_of(region)]
            case "bands":
                yield fields, buffers
                for rows in reader.bands(request["height"]):
                    yield {"rows": len(rows)}, [_bytes_of(rows)]


def _bytes_of(pixels: Pixels) -> memoryview:
    return np.ascontiguousarray(pixels).data.cast("B")


def _image_answer(decoded: DecodedImage) -> _Answer:
    metadata, buffers = _metadata_answer(decoded.metadata)
    fields = {
        **metadata,
        "header": dataclasses.asdict(decoded.header),
        "notes": decoded.notes,
        "dtype": decoded.color.dtype.name,
        "shape": decoded.color.shape,
    }
    alpha = None if decoded.alpha is None else decoded.alpha.data.cast("B")
    return fields, [decoded.color.data.cast("B"), alpha, *buffers]


def _metadata_answer(metadata: Metadata) -> _Answer:
    """What a message says of metadata; its buffers stand behind those of the pixels."""
    resolution = metadata.resolution
    told = {"resolution": None if resolution is None else dataclasses.astuple(resolution)}
    return told, [metadata.icc_profile, metadata.exif, metadata.xmp]


def _receive_metadata(
    fields: dict[str, Any], lengths: Sequence[int | None], stream: _Readable
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


def _receive_header(reply: _Frame, _: _Readable) -> ImageHeader:
    return ImageHeader(**reply.fields["header"])


def _told(reply: _Frame) -> _Told | None:
    """The error that a message is; None for any other."""
    fields = reply.fields
    if "error" in fields:
        return ImageError(ErrorCode(fields["error"]), str(fields["message"]))
    if "full_disk" not in fields:
        return None
    if fields["full_disk"] not in FULL_DISK:
        raise ValueError(f"a full disk by the number {fields['full_disk']}")
    folder = () if fields["in"] is None else (str(fields["in"]),)
    return OSError(fields["full_disk"], str(fields["message"]), *folder)


def _receive_picture(max_pixels: int, reply: _Frame, stream: _Readable) -> Picture:
    """Reads what a child says of a picture, if it may say that."""
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
    max_pixels: int, box: Box, reply: _Frame, stream: _Readable
) -> tuple[Picture, Pixels]:
    picture = _receive_picture(max_pixels, reply, stream)
    shape = box.height, box.width, picture.bands
    return picture, _read_pixels(stream, reply.lengths[3], shape, _DTYPES[picture.dtype])


def _receive_bands(
    max_pixels: int,
    height: int,
    seconds: float,
    consume: Callable[[Picture, Iterator[Pixels]], T],
    reply: _Frame,
    stream: _Readable,
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
        # What is not taken is not to stand where the next answer is looked for.
        pass
    return result


class _Bands:
    """The rows of a picture, as a child sends them.

    Attributes:
        told: what the child says went wrong, once it has.
        broken: what went wrong with the child, once something did.
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
            # The time that whoever takes the rows needs is not the child's.
            self._stream.deadline = time.monotonic() + self._seconds
            try:
                frame = _read_frame(self._stream)
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

    def _read(self, frame: _Frame, rows: int) -> Pixels:
        if frame.fields["rows"] != rows:
            raise ValueError(f"{frame.fields['rows']} rows where {rows} are due")
        picture = self._picture
        shape = rows, picture.header.width, picture.bands
        return _read_pixels(self._stream, frame.lengths[0], shape, _DTYPES[picture.dtype])


_DTYPES: dict[str, type[np.uint8 | np.uint16]] = {"uint8": np.uint8, "uint16": np.uint16}


def _receive_image(max_pixels: int, reply: _Frame, stream: _Readable) -> DecodedImage:
    """Reads pixels straight into arrays of the size that the reply claims, if it may."""
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
    stream: _Readable,
    length: int | None,
    shape: tuple[int, ...],
    dtype: type[np.uint8 | np.uint16],
) -> Pixels:
    pixels: Pixels = np.empty(shape, dtype)
    if length != pixels.nbytes:
        raise ValueError(f"{length} bytes for pixels of {pixels.nbytes}")
    _read_into(stream, pixels.data.cast("B"))
    return pixels


def _read_metadata(stream: _Readable, length: int | None) -> bytes | None:
    if length is None:
        return None
    if not 0 <= length <= _MAX_METADATA:
        raise ValueError(f"metadata of {length} bytes")
    return bytes(_read_buffer(stream, length))


def _write_frame(
    stream: _Writable,
    fields: dict[str, Any],
    buffers: Sequence[bytes | memoryview | None] = (),
) -> None:
    lengths = [None if buffer is None else len(buffer) for buffer in buffers]
    encoded = json.dumps({**fields, "lengths": lengths}).encode()
    _write_all(stream, struct.pack(">I", len(encoded)) + encoded)
    for buffer in buffers:
        if buffer is not None:
            _write_all(stream, buffer)


def _read_frame(stream: _Readable) -> _Frame:
    """Reads a message up to its buffers.

    Raises:
        EOFError: the stream ends.
        ValueError: what comes is no frame.
    """
    (length,) = struct.unpack(">I", _read_buffer(stream, 4))
    if length > _MAX_OBJECT:
        raise ValueError(f"a frame's object of {length} bytes; at most {_MAX_OBJECT} are taken")
    fields = json.loads(_read_buffer(stream, length))
    return _Frame(fields, tuple(fields.pop("lengths")))


def _read_buffer(stream: _Readable, length: int) -> bytearray:
    buffer = bytearray(length)
    _read_into(stream, memoryview(buffer))
    return buffer


def _read_into(stream: _Readable, view: memoryview) -> None:
    while view:
        count = stream.readinto(view)
        if not count:
            raise EOFError("the stream ended within a message")
        view = view[count:]


def _write_all(stream: _Writable, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _exit_with_parent(descriptor: int) -> None:
    """Ends this process as soon as no one can write to the pipe any more, even in mid-image."""
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()
    os._exit(0)


def _resident_bytes() -> int:
    """Memory that this process holds; where the system tells only the peak, that."""
    with contextlib.suppress(OSError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _module_path() -> str:
    """Where this process finds its modules, for a child to find the same ones."""
    return os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _leave_children_to_parent() -> None:
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    _shared = None
    for pool in list(_pools):
        pool._leave_children_to_parent()


os.register_at_fork(after_in_child=_leave_children_to_parent)


if __name__ == "__main__":
    main()
