"""Pixels and metadata as fields and buffers of a message, and back, with every size checked."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from beam_upscale.images.processes.connection import Buffer, Frame
from beam_upscale.images.values import Metadata, Pixels, Resolution

Buffers = Sequence[Buffer | None]

_MAX_METADATA = 256 * 2**20
"""The most bytes that are accepted as an ICC profile, EXIF block or XMP packet."""
_MOST_RESOLUTION = 2**40
"""Pixels per inch; resolutions below this are accepted."""

DTYPES: dict[str, type[np.uint8 | np.uint16]] = {"uint8": np.uint8, "uint16": np.uint16}
"""The types of samples, by their names in messages."""


def bytes_of(samples: Pixels) -> memoryview:
    """Returns the bytes of samples, in C order; without a copy if they lie so."""
    return np.ascontiguousarray(samples).data.cast("B")


def metadata_message(metadata: Metadata) -> tuple[dict[str, Any], Buffers]:
    """Returns a message's fields and its three buffers for metadata."""
    resolution = metadata.resolution
    fields = {"resolution": None if resolution is None else dataclasses.astuple(resolution)}
    return fields, [metadata.icc_profile, metadata.exif, metadata.xmp]


def take_metadata(message: Frame, lengths: Sequence[int | None]) -> Metadata:
    """Takes the buffers of metadata, which come next.

    Raises:
        ValueError, KeyError, TypeError: the message makes no sense.
    """
    icc_length, exif_length, xmp_length = lengths
    resolution = None
    if message.fields["resolution"] is not None:
        x, y, is_ratio = message.fields["resolution"]
        if not all(0 < each < _MOST_RESOLUTION for each in (x, y)):
            raise ValueError(f"a resolution of {x} x {y}")
        resolution = Resolution(float(x), float(y), bool(is_ratio))
    return Metadata(
        icc_profile=_take_bytes(message, icc_length),
        exif=_take_bytes(message, exif_length),
        xmp=_take_bytes(message, xmp_length),
        resolution=resolution,
    )


def take_pixels(
    message: Frame,
    length: int | None,
    shape: tuple[int, ...],
    dtype: type[np.uint8 | np.uint16],
) -> Pixels:
    """Takes the samples of a buffer, which comes next.

    Args:
        message: the message.
        length: the bytes of the buffer.
        shape: the shape that the samples must have.
        dtype: their type.

    Raises:
        ValueError: the buffer has another size.
    """
    due = math.prod(shape) * np.dtype(dtype).itemsize
    if min(shape) < 1 or length != due:
        raise ValueError(f"{length} bytes for pixels of {due}")
    return cast(Pixels, message.take(due).view(dtype).reshape(shape))


def _take_bytes(message: Frame, length: int | None) -> bytes | None:
    if length is None:
        return None
    if not 0 <= length <= _MAX_METADATA:
        raise ValueError(f"metadata of {length} bytes")
    return message.take(length).tobytes()
