"""The decoder process: answers one request after the other, until its parent is gone.

There are three kinds of failure: a library rejects a file (the code of an `ImageError`), our own
code fails (INTERNAL_ERROR, with the traceback for the parent to log), and this process dies (the
parent notices).
"""

import contextlib
import dataclasses
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from PIL import AvifImagePlugin

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError, described_mistake, traceback_of
from beam_upscale.images.codecs import CodecError
from beam_upscale.images.decoding import limits
from beam_upscale.images.decoding.connection import Buffer, Connection, Frame
from beam_upscale.images.decoding.limits import ImageLimits, NoLimits
from beam_upscale.images.decoding.sealed_memory import SharedMemoryError
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

_Buffers = Sequence[Buffer | None]
_Answer = tuple[dict[str, Any], _Buffers]


def main(decode: Decode = pixels.decode, read_header: ReadHeader = inspection.read_header) -> None:
    """Runs a decoder on the socket that is its standard input, until its parent is gone.

    Args:
        decode: replaces `pixels.decode`; tests pass e.g. a function that crashes.
        read_header: replaces `inspection.read_header`.
    """
    limits.harden()
    for number in SIGNALS_OF_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_PARENT)
    with socket.socket(fileno=os.dup(0)) as end:
        # Text that a codec library prints must reach neither the protocol nor a terminal.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        # Operations in the cache of libvips keep files open, and the data last read from them.
        pyvips.cache_set_max(0)
        # Each thread takes address space, and Pillow would start one per core.
        AvifImagePlugin.DEFAULT_MAX_THREADS = min(limits.CODEC_THREADS, usable_cores())
        watch = threading.Thread(target=exit_with_parent, args=(end.fileno(),), daemon=True)
        watch.start()
        serve(Connection(end), decode, read_header, ImageLimits())


def serve(
    parent: Connection,
    decode: Decode = pixels.decode,
    read_header: ReadHeader = inspection.read_header,
    image_limits: ImageLimits | None = None,
) -> None:
    """Answers requests until the parent closes its end.

    Args:
        parent: brings requests, each with a file's bytes or its path, and takes the answers.
        decode: a function with the signature of `pixels.decode`.
        read_header: a function with the signature of `inspection.read_header`.
        image_limits: the limits for each image; None sets no limits.
    """
    decoder = _Decoder(parent, decode, read_header, image_limits or NoLimits())
    at_start = limits.address_space_of()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            taken = limits.address_space_of()
            grown = 0 if taken is None or at_start is None else taken - at_start
            parent.send({"ready": limits.resident_bytes(), "grown": grown})
            # What this holds is freed before the next "ready" reports the memory of this process.
            decoder.serve(parent.receive(), taken)


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """The functions and limits with which the parent's requests are answered."""

    parent: Connection
    decode: Decode
    read_header: ReadHeader
    limits: ImageLimits

    def serve(self, request: Frame, taken: int | None) -> None:
        """Answers a request; then, if it asks to hold its bytes, the next one, about the same.

        Args:
            request: the parent's request.
            taken: the address space of this process before it, in bytes; None if unknown.
        """
        with request:
            data = b"".join(request.take(length or 0).tobytes() for length in request.lengths)
        if request.fields.get("second_look"):
            before = limits.peak_address_space()
            self._answer(request.fields, data, taken, _Replies(None, self.limits))
            self.parent.send({"before": before, "peak": limits.peak_address_space()})
            return
        replies = _Replies(self.parent, self.limits)
        if self._answer(request.fields, data, taken, replies) and request.fields.get("is_held"):
            self._answer(self.parent.receive_fields(), data, taken, replies)

    def _answer(
        self, request: dict[str, Any], data: bytes, taken: int | None, replies: "_Replies"
    ) -> bool:
        """Answers a request; its last message is the error, if there is one.

        Returns:
            Whether there was none.
        """
        path = Path(request["path"]) if "path" in request else None
        failure: dict[str, Any]
        try:
            with self.limits.of_image(
                taken,
                len(data) if path is None else path.stat().st_size,
                request.get("seconds", 0),
                is_watched=bool(request.get("second_look")),
            ):
                self._results(request, data, path, replies)
                return True
        except CodecError as error:
            failure = {"error": error.code, "message": error.message}
            failure["limit"] = self.limits.address_space
        except ImageError as error:
            failure = {"error": error.code, "message": error.message}
        except MemoryError as error:
            message = f"the picture does not fit into memory: {error}"
            failure = {"error": ErrorCode.OUT_OF_MEMORY, "message": message}
        except SharedMemoryError as error:
            failure = _failure_of_files(error.error, in_memory=True)
        except OSError as error:
            failure = _failure_of_files(error, in_memory=path is None)
        except Exception as error:
            failure = _mistake(error)
        replies.fail(failure)
        return False

    def _results(
        self, request: dict[str, Any], data: bytes, path: Path | None, replies: "_Replies"
    ) -> None:
        match request["request"]:
            case "header":
                replies.send({"header": dataclasses.asdict(self.read_header(data))})
            case "decode":
                decoded = self.decode(
                    data,
                    max_pixels=request["max_pixels"],
                    animated=Animated(request["animated"]),
                    before_pixels=self.limits.allow,
                )
                replies.send(*_image_answer(decoded))
            case "let_go":
                pass
            case "file_header":
                assert path is not None
                replies.send({"header": dataclasses.asdict(read_file_header(path))})
            case _:
                assert path is not None
                self._picture_results(request, path, replies)

    def _picture_results(self, request: dict[str, Any], path: Path, replies: "_Replies") -> None:
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
                    replies.send(fields, buffers)
                case "region":
                    region = reader.region(Box(*request["box"]))
                    replies.send(fields, [_bytes_of(region), *buffers])
                case "bands":
                    replies.send(fields, buffers)
                    self.limits.renew_seconds()
                    for rows in reader.bands(request["height"]):
                        replies.send_rows(rows)


@dataclasses.dataclass(frozen=True)
class _Replies:
    """Sends the messages that answer a request.

    Attributes:
        parent: gets them; None for a second look, which only measures.
        limits: those of the image.
    """

    parent: Connection | None
    limits: ImageLimits

    def send(self, fields: dict[str, Any], buffers: _Buffers = ()) -> None:
        """Sends a message, within the limits of the image."""
        if self.parent is not None:
            self.limits.allow_reply(sum(len(buffer) for buffer in buffers if buffer is not None))
            self.parent.send(fields, buffers)

    def send_rows(self, rows: Pixels) -> None:
        """Sends rows of a picture, and waits until the parent has taken them.

        Otherwise this process could decode all rows into shared memory before any is used.
        """
        self.send({"rows": len(rows)}, [_bytes_of(rows)])
        if self.parent is not None:
            self.parent.receive_fields()
        self.limits.renew_seconds()

    def fail(self, failure: dict[str, Any]) -> None:
        """Sends the error that ends an answer."""
        if self.parent is not None:
            self.parent.send(failure)


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
    """Ends this process once the parent has closed its socket, i.e. is gone, even mid-image."""
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()
    os._exit(0)


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
