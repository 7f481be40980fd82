"""The encoder process: answers one request after the other, until its parent is gone."""

import contextlib
import errno
from collections.abc import Callable
from typing import Any

import pyvips

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError
from beam_upscale.images.encoding.messages import (
    Message,
    answer_of,
    requested_image,
    requested_part,
    requested_small,
    resized_answer,
    small_answer_of,
)
from beam_upscale.images.encoding.unencoded import EncodedFile, UnencodedImage
from beam_upscale.images.processes.child import connected_to_parent
from beam_upscale.images.processes.connection import Connection, Frame
from beam_upscale.images.processes.failures import (
    failure_of_full_disk,
    failure_of_image,
    failure_of_mistake,
)
from beam_upscale.images.processes.memory_use import resident_bytes
from beam_upscale.images.processes.sealed_memory import SharedMemoryError

Encode = Callable[[UnencodedImage], EncodedFile]


def main(encode: Encode = UnencodedImage.encoded) -> None:
    """Runs an encoder on the socket that is its standard input, until its parent is gone.

    Args:
        encode: replaces `UnencodedImage.encoded`; tests pass e.g. a function that crashes.
    """
    with connected_to_parent() as parent:
        # Operations in the cache of libvips keep the pixels that they read.
        pyvips.cache_set_max(0)
        serve(parent, encode)


def serve(parent: Connection, encode: Encode = UnencodedImage.encoded) -> None:
    """Answers requests until the parent closes its end.

    Args:
        parent: brings requests, and takes the answers. An answer says at once that this process is
            ready for the next request: a message for that alone would be one more to handle.
        encode: a function with the signature of `UnencodedImage.encoded`.
    """
    with contextlib.suppress(EOFError, ConnectionError):
        parent.send({"ready": resident_bytes()})
        while True:
            _serve_one(parent, encode)


def _serve_one(parent: Connection, encode: Encode) -> None:
    """Answers one request; nothing of it is held while the process waits for the next one."""
    fields, buffers = _answer(parent, encode)
    # The pixels of the request are freed by now, and the answer is soon.
    answer = sum(len(buffer) for buffer in buffers if buffer is not None)
    ready = {"ready": max(0, resident_bytes() - answer)}
    try:
        parent.send(fields | ready, buffers)
    except SharedMemoryError as error:
        parent.send(_failure(error.error) | ready)


def _answer(parent: Connection, encode: Encode) -> Message:
    """Does what the next request asks for; returns its result or its failure."""
    with parent.receive() as request:
        try:
            return _result(request, encode)
        except Exception as error:
            return _failure(error), ()


def _result(request: Frame, encode: Encode) -> Message:
    match request.fields["request"]:
        case "resize":
            return resized_answer(requested_part(request))
        case "encode_small":
            return small_answer_of([_encoded(image, encode) for image in requested_small(request)])
        case _:
            return answer_of(encode(requested_image(request)))


def _encoded(image: UnencodedImage, encode: Encode) -> EncodedFile | None:
    """Encodes one of several images; None if that fails: the parent asks for it alone."""
    with contextlib.suppress(Exception):
        return encode(image)
    return None


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, ImageError):
        return failure_of_image(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in FULL_DISK:
        assert isinstance(error, OSError)
        return failure_of_full_disk(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        message = "the image does not fit in memory"
        return failure_of_image(ImageError(ErrorCode.OUT_OF_MEMORY, message))
    return failure_of_mistake(error)
