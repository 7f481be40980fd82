"""The messages between a process and its encoders: requests, and their answers."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from beam_upscale.images.encoding.unencoded import EncodedFile, ResizedPart, UnencodedImage
from beam_upscale.images.processes.connection import Frame
from beam_upscale.images.processes.payloads import (
    DTYPES,
    Buffers,
    bytes_of,
    metadata_message,
    take_metadata,
    take_pixels,
)
from beam_upscale.images.values import Pixels
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import MetadataRule, OutputFormat
from beam_upscale.planning.tile_layout import Box

Message = tuple[dict[str, Any], Buffers]
"""The fields of a message, and its buffers."""

_BUFFERS = 5  # Color, alpha, ICC profile, EXIF and XMP.


def request_of(image: UnencodedImage) -> Message:
    """Returns the request for an image's encoding."""
    described, metadata = metadata_message(image.metadata)
    fields = {
        **described,
        "request": "encode",
        "dtype": _dtype_of(image.color),
        "color": image.color.shape,
        "alpha": None if image.alpha is None else image.alpha.shape,
        "size": (image.width, image.height),
        "options": vars(image.options),
    }
    alpha = None if image.alpha is None else bytes_of(image.alpha)
    return fields, [bytes_of(image.color), alpha, *metadata]


def small_request_of(images: Sequence[UnencodedImage]) -> Message:
    """Returns the request for the encoding of several images."""
    requests = [request_of(image) for image in images]
    buffers = [buffer for _, buffers in requests for buffer in buffers]
    return {"request": "encode_small", "images": [fields for fields, _ in requests]}, buffers


def requested_small(request: Frame) -> Iterator[UnencodedImage]:
    """Yields the images of a request, in their order."""
    for number, fields in enumerate(request.fields["images"]):
        lengths = request.lengths[number * _BUFFERS : (number + 1) * _BUFFERS]
        yield requested_image(Frame(fields, lengths, request.memory))


def _dtype_of(pixels: Pixels) -> str:
    # NumPy takes ten times as long to name a type.
    return "uint8" if pixels.dtype == np.uint8 else "uint16"


def requested_image(request: Frame) -> UnencodedImage:
    """Returns the image of a request."""
    fields = request.fields
    dtype = DTYPES[fields["dtype"]]
    color_length, alpha_length, *lengths = request.lengths
    color = take_pixels(request, color_length, tuple(fields["color"]), dtype)
    alpha = None
    if fields["alpha"] is not None:
        alpha = take_pixels(request, alpha_length, tuple(fields["alpha"]), dtype)
    width, height = fields["size"]
    metadata = take_metadata(request, lengths)
    return UnencodedImage(color, alpha, width, height, metadata, _options(fields["options"]))


def _options(fields: dict[str, Any]) -> EncodeOptions:
    # JSON has no enums; every other value comes back as it was.
    rule = MetadataRule(fields["metadata"])
    return EncodeOptions(**fields | {"format": OutputFormat(fields["format"]), "metadata": rule})


def answer_of(file: EncodedFile) -> Message:
    """Returns the answer with an encoded file."""
    return {"sha256": file.sha256, "notes": file.notes}, [file.data]


def answered_file(answer: Frame) -> EncodedFile:
    """Returns the encoded file of an answer.

    Raises:
        ValueError, KeyError, TypeError, OSError: the answer makes no sense.
    """
    (length,) = answer.lengths
    if length is None:
        raise ValueError("an answer without a file")
    fields = answer.fields
    data = answer.take(length).tobytes()
    return EncodedFile(data, str(fields["sha256"]), tuple(map(str, fields["notes"])))


def small_answer_of(files: Sequence[EncodedFile | None]) -> Message:
    """Returns the answer with encoded files; None stands for one that failed."""
    answers = [None if file is None else answer_of(file) for file in files]
    described = [None if answer is None else answer[0] for answer in answers]
    return {"files": described}, [None if answer is None else answer[1][0] for answer in answers]


def answered_small(count: int, answer: Frame) -> list[EncodedFile | None]:
    """Returns the encoded files of an answer, of `count` images.

    Raises:
        ValueError, KeyError, TypeError, OSError: the answer makes no sense.
    """
    described = answer.fields["files"]
    if not len(described) == len(answer.lengths) == count:
        raise ValueError(f"{len(described)} files of {count} images")
    return [
        None if fields is None else answered_file(Frame(fields, (length,), answer.memory))
        for fields, length in zip(described, answer.lengths, strict=True)
    ]


def resize_request_of(part: ResizedPart) -> Message:
    """Returns the request for a part of resized pixels."""
    fields = {
        "request": "resize",
        "dtype": _dtype_of(part.pixels),
        "color": part.pixels.shape,
        "size": (part.width, part.height),
        "box": dataclasses.astuple(part.box),
    }
    return fields, [bytes_of(part.pixels)]


def requested_part(request: Frame) -> ResizedPart:
    """Returns the part that a request asks for."""
    fields = request.fields
    (length,) = request.lengths
    pixels = take_pixels(request, length, tuple(fields["color"]), DTYPES[fields["dtype"]])
    width, height = fields["size"]
    return ResizedPart(pixels, width, height, Box(*fields["box"]))


def resized_answer(part: ResizedPart) -> Message:
    """Returns the answer with the pixels of a part."""
    pixels = part.resized()
    return {"dtype": _dtype_of(pixels), "shape": pixels.shape}, [bytes_of(pixels)]


def answered_pixels(answer: Frame) -> Pixels:
    """Returns the pixels of an answer.

    Raises:
        ValueError, KeyError, TypeError, OSError: the answer makes no sense.
    """
    (length,) = answer.lengths
    fields = answer.fields
    return take_pixels(answer, length, tuple(fields["shape"]), DTYPES[fields["dtype"]])
