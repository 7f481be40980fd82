"""Small images that a child decodes in one exchange: the requests, their answers, and their limits.

An exchange takes longer than to decode a small image, so several share one. What fails for any
reason is left out of the answer; the parent asks for it alone, and learns why.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from beam_upscale.images.decoding.limits import ImageLimits
from beam_upscale.images.decoding.replies import receive_image
from beam_upscale.images.processes.connection import Connection, Frame
from beam_upscale.images.processes.payloads import Buffers, bytes_of, metadata_message
from beam_upscale.images.values import DecodedImage
from beam_upscale.planning.plan_options import Animated

REQUEST = "small_images"
"""The name of the request."""

MOST_FILE_BYTES = 64 << 10
"""Bytes. A larger file is no small image."""

MOST_PIXELS = 256 * 256
"""Pixels (width times height). An image of more is no small one, however small its file is."""

_BUFFERS = 5  # Color, alpha, ICC profile, EXIF and XMP.
_MOST_METADATA = 1 << 20


def request_of(animated: Animated) -> dict[str, Any]:
    """Returns the fields of a request, whose buffers are the files."""
    return {"request": REQUEST, "max_pixels": MOST_PIXELS, "animated": animated}


def answer_of(
    request: dict[str, Any],
    files: Sequence[bytes],
    decode: Callable[..., DecodedImage],
    limits: ImageLimits,
) -> tuple[dict[str, Any], Buffers]:
    """Decodes files in a child; returns the answer's fields and buffers.

    Args:
        request: the fields of the request.
        files: the files.
        decode: a function with the signature of `pixels.decode`.
        limits: those of all the files together.
    """
    images: list[dict[str, Any] | None] = []
    found: list[Any] = []
    for data in files:
        fields = None
        limits.begin_next()
        with contextlib.suppress(Exception):
            decoded = decode(
                data,
                max_pixels=request["max_pixels"],
                animated=Animated(request["animated"]),
                before_pixels=limits.allow,
            )
            described, buffers = image_message(decoded)
            # A profile of some bytes may unpack to many megabytes.
            if sum(len(each) for each in buffers[2:] if each is not None) <= _MOST_METADATA:
                fields = described
                found.extend(buffers)
        images.append(fields)
    return {"images": images}, found


def receive_images(count: int, reply: Frame, child: Connection) -> list[DecodedImage | None]:
    """Takes the images of an answer: one for each file; None for one that was left out.

    Raises:
        ValueError, KeyError, TypeError, OSError: the answer makes no sense.
    """
    images = reply.fields["images"]
    if len(images) != count:
        raise ValueError(f"{len(images)} images of {count} files")
    taken: list[DecodedImage | None] = []
    first = 0
    for fields in images:
        image = None
        if fields is not None:
            part = Frame(fields, reply.lengths[first : first + _BUFFERS], reply.memory)
            image = receive_image(MOST_PIXELS, part, child)
            first += _BUFFERS
        taken.append(image)
    return taken


def image_message(decoded: DecodedImage) -> tuple[dict[str, Any], Buffers]:
    """Returns the fields and the five buffers of a decoded image, for `receive_image`."""
    metadata, buffers = metadata_message(decoded.metadata)
    fields = {
        **metadata,
        "header": dataclasses.asdict(decoded.header),
        "notes": decoded.notes,
        "dtype": decoded.color.dtype.name,
        "shape": decoded.color.shape,
    }
    alpha = None if decoded.alpha is None else bytes_of(decoded.alpha)
    return fields, [bytes_of(decoded.color), alpha, *buffers]
