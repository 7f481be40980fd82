"""The decoder process: answers one request after the other, until its parent is gone.

There are three kinds of failure: a library rejects a file (the code of an `ImageError`), our own
code fails (INTERNAL_ERROR, with the traceback for the parent to log), and this process dies (the
parent notices).
"""

import contextlib
import dataclasses
import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyvips
from PIL import AvifImagePlugin

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError
from beam_upscale.images.codecs import CodecError
from beam_upscale.images.decoding import limits, small_images
from beam_upscale.images.decoding.limits import ImageLimits, NoLimits
from beam_upscale.images.processes import memory_use
from beam_upscale.images.processes.child import connected_to_parent, usable_cores
from beam_upscale.images.processes.connection import Connection, Frame
from beam_upscale.images.processes.failures import (
    failure_of_full_disk,
    failure_of_image,
    failure_of_mistake,
)
from beam_upscale.images.processes.payloads import Buffers, bytes_of, metadata_message
from beam_upscale.images.processes.sealed_memory import SharedMemoryError
from beam_upscale.images.reading import inspection, pixels
from beam_upscale.images.reading.regions import open_picture, read_file_header
from beam_upscale.images.values import NO_METADATA, DecodedImage, ImageHeader, Pixels
from beam_upscale.planning.plan_options import Animated
from beam_upscale.planning.tile_layout import Box

Decode = Callable[..., DecodedImage]
ReadHeader = Callable[[bytes], ImageHeader]


def main(decode: Decode = pixels.decode, read_header: ReadHeader = inspection.read_header) -> None:
    """Runs a decoder on the socket that is its standard input, until its parent is gone.

    Args:
        decode: replaces `pixels.decode`; tests pass e.g. a function that crashes.
        read_header: replaces `inspection.read_header`.
    """
    limits.harden()
    with connected_to_parent() as parent:
        # Operations in the cache of libvips keep files open, and the data last read from them.
        pyvips.cache_set_max(0)
        # Each thread takes address space, and Pillow would start one per core.
        AvifImagePlugin.DEFAULT_MAX_THREADS = min(limits.CODEC_THREADS, usable_cores())
        serve(parent, decode, read_header, ImageLimits())


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
    at_start = memory_use.address_space_of()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            taken = memory_use.address_space_of()
            grown = 0 if taken is None or at_start is None else taken - at_start
            parent.send({"ready": memory_use.resident_bytes(), "grown": grown})
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
            files = [request.take(length or 0).tobytes() for length in request.lengths]
        if request.fields.get("second_look"):
            before = memory_use.peak_address_space()
            self._answer(request.fields, files, taken, _Replies(None, self.limits))
            self.parent.send({"before": before, "peak": memory_use.peak_address_space()})
            return
        replies = _Replies(self.parent, self.limits)
        if self._answer(request.fields, files, taken, replies) and request.fields.get("is_held"):
            self._answer(self.parent.receive_fields(), files, taken, replies)

    def _answer(
        self,
        request: dict[str, Any],
        files: Sequence[bytes],
        taken: int | None,
        replies: "_Replies",
    ) -> bool:
        """Answers a request; its last message is the error, if there is one.

        Returns:
            True if there was none.
        """
        path = Path(request["path"]) if "path" in request else None
        failure: dict[str, Any]
        try:
            with self.limits.of_image(
                taken,
                sum(map(len, files)) if path is None else path.stat().st_size,
                request.get("seconds", 0),
                is_watched=bool(request.get("second_look")),
            ):
                self._results(request, files, path, replies)
                return True
        except CodecError as error:
            failure = failure_of_image(error) | {"limit": self.limits.address_space}
        except ImageError as error:
            failure = failure_of_image(error)
        except MemoryError as error:
            message = f"the picture does not fit into memory: {error}"
            failure = {"error": ErrorCode.OUT_OF_MEMORY, "message": message}
        except SharedMemoryError as error:
            failure = _failure_of_files(error.error, in_memory=True)
        except OSError as error:
            failure = _failure_of_files(error, in_memory=path is None)
        except Exception as error:
            failure = failure_of_mistake(error)
        replies.fail(failure)
        return False

    def _results(
        self,
        request: dict[str, Any],
        files: Sequence[bytes],
        path: Path | None,
        replies: "_Replies",
    ) -> None:
        match request["request"]:
            case "header":
                data = b"".join(files)
                replies.send({"header": dataclasses.asdict(self.read_header(data))})
            case "decode":
                data = b"".join(files)
                decoded = self.decode(
                    data,
                    max_pixels=request["max_pixels"],
                    animated=Animated(request["animated"]),
                    before_pixels=self.limits.allow,
                )
                replies.send(*small_images.image_message(decoded))
            case small_images.REQUEST:
                replies.send(*small_images.answer_of(request, files, self.decode, self.limits))
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
            described, buffers = metadata_message(picture.metadata)
            fields = described | dataclasses.asdict(
                dataclasses.replace(picture, metadata=NO_METADATA)
            )
            del fields["metadata"]
            match request["request"]:
                case "picture":
                    replies.send(fields, buffers)
                case "region":
                    region = reader.region(Box(*request["box"]))
                    replies.send(fields, [bytes_of(region), *buffers])
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

    def send(self, fields: dict[str, Any], buffers: Buffers = ()) -> None:
        """Sends a message, within the limits of the image."""
        if self.parent is not None:
            self.limits.allow_reply(sum(len(buffer) for buffer in buffers if buffer is not None))
            self.parent.send(fields, buffers)

    def send_rows(self, rows: Pixels) -> None:
        """Sends rows of a picture, and waits until the parent has taken them.

        Otherwise this process could decode all rows into shared memory before any is used.
        """
        self.send({"rows": len(rows)}, [bytes_of(rows)])
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
        return failure_of_full_disk(error)
    if error.errno == errno.ENOMEM:
        message = "the picture does not fit into memory"
        return {"error": ErrorCode.OUT_OF_MEMORY, "message": message}
    if error.errno is None or in_memory:
        return failure_of_mistake(error)
    return {"error": ErrorCode.READ_ERROR, "message": f"the file cannot be read: {error}"}
