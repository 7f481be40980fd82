"""The decoder process: answers one request after the other, until its parent is gone.

There are three kinds of failure: a library rejects a file (the code of an `ImageError`), our own
code fails (INTERNAL_ERROR, with the traceback for the parent to log), and this process dies (the
parent notices).
"""

import dataclasses
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from PIL import AvifImagePlugin

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError, described_mistake, traceback_of
from beam_upscale.images.codecs import CodecError
from beam_upscale.images.decoding import limits
from beam_upscale.images.decoding.frames import (
    Readable,
    Writable,
    read_buffer,
    read_frame,
    write_frame,
)
from beam_upscale.images.decoding.limits import ImageLimits, NoLimits
from beam_upscale.images.reading import inspection, pixels
from beam_upscale.images.reading.regions import open_picture, read_file_header
from beam_upscale.images.values import NO_METADATA, DecodedImage, ImageHeader, Metadata, Pixels
from beam_upscale.planning.plan_options import Animated
from beam_upscale.planning.tile_layout import Box

SIGNALS_OF_PARENT = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask the parent to end; a child ignores them, as the parent first finishes the
work begun. Children receive them too: a terminal sends them to a process group, Slurm and systemd
to every process of a job."""

Decode = Callable[..., DecodedImage]
ReadHeader = Callable[[bytes], ImageHeader]

_Answer = tuple[dict[str, Any], list[bytes | memoryview | None]]

_IN_MEMORY = frozenset({"header", "decode"})
"""The requests that carry the file's bytes; all others carry its path."""


def main(decode: Decode = pixels.decode, read_header: ReadHeader = inspection.read_header) -> None:
    """Runs a decoder on standard input and output until its parent is gone.

    Args:
        decode: replaces `pixels.decode`; tests pass e.g. a function that crashes.
        read_header: replaces `inspection.read_header`.
    """
    limits.harden()
    for number in SIGNALS_OF_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_PARENT)
    with os.fdopen(os.dup(0), "rb", 0) as requests, os.fdopen(os.dup(1), "wb", 0) as replies:
        # Text that a codec library prints must reach neither the protocol nor a terminal.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        # Operations in the cache of libvips keep files open, and the data last read from them.
        pyvips.cache_set_max(0)
        # Each thread takes address space, and Pillow would start one per core.
        AvifImagePlugin.DEFAULT_MAX_THREADS = min(limits.CODEC_THREADS, usable_cores())
        watch = threading.Thread(target=exit_with_parent, args=(requests.fileno(),), daemon=True)
        watch.start()
        serve(requests, replies, decode, read_header, ImageLimits())


def serve(
    requests: Readable,
    replies: Writable,
    decode: Decode = pixels.decode,
    read_header: ReadHeader = inspection.read_header,
    image_limits: ImageLimits | None = None,
) -> None:
    """Answers requests until their stream ends.

    Args:
        requests: the stream of requests, frames that each carry a file's bytes or path.
        replies: the stream for the answers, frames too.
        decode: a function with the signature of `pixels.decode`.
        read_header: a function with the signature of `inspection.read_header`.
        image_limits: the limits for each image; None sets no limits.
    """
    decoder = _Decoder(decode, read_header, image_limits or NoLimits())
    at_start = limits.address_space_of()
    while True:
        taken = limits.address_space_of()
        grown = 0 if taken is None or at_start is None else taken - at_start
        write_frame(replies, {"ready": limits.resident_bytes(), "grown": grown})
        try:
            request = read_frame(requests)
        except EOFError:
            return
        data = bytes(read_buffer(requests, request.lengths[0] or 0))
        if request.fields.get("second_look"):
            write_frame(replies, decoder.look_again(request.fields, data, taken))
            continue
        for fields, buffers in decoder.answers(request.fields, data, taken):
            write_frame(replies, fields, buffers)
            # Freed before the next "ready" reports the memory of this process.
            del fields, buffers
        del data


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """The functions and limits with which requests are answered."""

    decode: Decode
    read_header: ReadHeader
    limits: ImageLimits

    def answers(self, request: dict[str, Any], data: bytes, taken: int | None) -> Iterator[_Answer]:
        """Yields the messages that answer a request; after a failure, the last one is its error.

        Args:
            request: the fields of the parent's request.
            data: the file's bytes, or its path.
            taken: the address space of this process before the request, in bytes; None if unknown.
        """
        try:
            in_memory = request["request"] in _IN_MEMORY
            path = None if in_memory else Path(os.fsdecode(data))
            file_bytes = len(data) if path is None else path.stat().st_size
            with self.limits.of_image(
                taken,
                file_bytes,
                request.get("seconds", 0),
                is_watched=bool(request.get("second_look")),
            ):
                yield from self._results(request, data, path)
        except CodecError as error:
            fields = {"error": error.code, "message": error.message}
            yield {**fields, "limit": self.limits.address_space}, []
        except ImageError as error:
            yield {"error": error.code, "message": error.message}, []
        except MemoryError as error:
            message = f"the picture does not fit into memory: {error}"
            yield {"error": ErrorCode.OUT_OF_MEMORY, "message": message}, []
        except OSError as error:
            yield _failure_of_files(error, in_memory), []
        except Exception as error:
            yield _mistake(error), []

    def look_again(self, request: dict[str, Any], data: bytes, taken: int | None) -> dict[str, Any]:
        """Repeats a request and returns only the peak of address space, before it and after it."""
        before = limits.peak_address_space()
        for _ in self.answers(request, data, taken):
            pass
        return {"before": before, "peak": limits.peak_address_space()}

    def _results(
        self, request: dict[str, Any], data: bytes, path: Path | None
    ) -> Iterator[_Answer]:
        match request["request"]:
            case "header":
                yield {"header": dataclasses.asdict(self.read_header(data))}, []
            case "decode":
                decoded = self.decode(
                    data,
                    max_pixels=request["max_pixels"],
                    animated=Animated(request["animated"]),
                    before_pixels=self.limits.allow,
                )
                yield _image_answer(decoded)
            case "file_header":
                assert path is not None
                yield {"header": dataclasses.asdict(read_file_header(path))}, []
            case _:
                assert path is not None
                for answer in self._picture_answers(request, path):
                    yield answer
                    self.limits.renew_seconds()

    def _picture_answers(self, request: dict[str, Any], path: Path) -> Iterator[_Answer]:
        with open_picture(
            path,
            max_pixels=request["max_pixels"],
            animated=Animated(request["animated"]),
            before_pixels=self.limits.allow,
        ) as reader:
            picture = reader.picture
            described, buffers = _metadata_answer(picture.metadata)
            fields = described | dataclasses.asdict(
                dataclasses.replace(picture, metadata=NO_METADATA)
            )
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


def _failure_of_files(error: OSError, in_memory: bool) -> dict[str, Any]:
    """Returns the answer for an OSError that no codec raised."""
    if error.errno in FULL_DISK:
        # Only the temporary folder is written to, so that folder is full.
        return {"full_disk": error.errno, "message": error.strerror, "in": error.filename}
    if error.errno is None or in_memory:
        return _mistake(error)
    return {"error": ErrorCode.READ_ERROR, "message": f"the file cannot be read: {error}"}


def _mistake(error: Exception) -> dict[str, Any]:
    """Returns the answer for an exception of our own code, with a traceback for the log."""
    return {
        "error": ErrorCode.INTERNAL_ERROR,
        "message": described_mistake(error),
        "traceback": traceback_of(error),
    }


def _bytes_of(samples: Pixels) -> memoryview:
    return np.ascontiguousarray(samples).data.cast("B")


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
    """Returns a message's fields and buffers for metadata; these buffers follow the pixels'."""
    resolution = metadata.resolution
    fields = {"resolution": None if resolution is None else dataclasses.astuple(resolution)}
    return fields, [metadata.icc_profile, metadata.exif, metadata.xmp]


def exit_with_parent(descriptor: int) -> None:
    """Ends this process once the pipe has no writer, i.e. the parent is gone, even mid-image."""
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()
    os._exit(0)


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
