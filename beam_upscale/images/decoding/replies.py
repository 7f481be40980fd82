"""Checks every size that a child's replies claim, and makes arrays and values of them."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError, log_mistake
from beam_upscale.images.decoding.connection import Connection, Frame
from beam_upscale.images.reading.row_readers import Picture
from beam_upscale.images.values import (
    NO_METADATA,
    DecodedImage,
    ImageHeader,
    Metadata,
    Pixels,
    Resolution,
)
from beam_upscale.planning.tile_layout import Box

_MAX_METADATA = 256 * 2**20
"""The most bytes that a parent accepts as an ICC profile, EXIF block or XMP packet."""
_MOST_RESOLUTION = 2**40
"""Pixels per inch; a parent accepts resolutions below this."""

T = TypeVar("T")

# An error that a child reports: one of the picture, or a temporary folder that is full.
ReportedError = ImageError | OSError

# Makes a value of a reply and of the messages that follow it.
Receive = Callable[[Frame, Connection], T | ReportedError]


class CodecRefusalError(ImageError):
    """A codec's error for a file, under a limit of address space that may be its cause.

    Attributes:
        limit: bytes of address space that the child was allowed.
    """

    limit: int


class OverLimitError(Exception):
    """A child takes more address space than it may."""


class ConsumerError(Exception):
    """The consumer of the rows that a child sends failed; its error is the cause of this one."""


def _take_metadata(reply: Frame, lengths: Sequence[int | None]) -> Metadata:
    """Takes the buffers of metadata, which come next."""
    icc_length, exif_length, xmp_length = lengths
    resolution = None
    if reply.fields["resolution"] is not None:
        x, y, is_ratio = reply.fields["resolution"]
        if not all(0 < each < _MOST_RESOLUTION for each in (x, y)):
            raise ValueError(f"a resolution of {x} x {y}")
        resolution = Resolution(float(x), float(y), bool(is_ratio))
    return Metadata(
        icc_profile=_take_bytes(reply, icc_length),
        exif=_take_bytes(reply, exif_length),
        xmp=_take_bytes(reply, xmp_length),
        resolution=resolution,
    )


def receive_header(reply: Frame, _: Connection) -> ImageHeader:
    """Reads a child's reply to a request for a header."""
    return ImageHeader(**reply.fields["header"])


def reported_error(reply: Frame) -> ReportedError | None:
    """Returns the error that a message reports; None if it reports none."""
    fields = reply.fields
    if "error" in fields:
        return _reported_image_error(fields)
    if "full_disk" not in fields:
        return None
    if fields["full_disk"] not in FULL_DISK:
        raise ValueError(f"a full disk by the number {fields['full_disk']}")
    folder = () if fields["in"] is None else (str(fields["in"]),)
    return OSError(fields["full_disk"], str(fields["message"]), *folder)


def _reported_image_error(fields: dict[str, Any]) -> ImageError:
    code, message = ErrorCode(fields["error"]), str(fields["message"])
    if "traceback" in fields:
        log_mistake(str(fields["traceback"]))
    if fields.get("limit") is None:
        return ImageError(code, message)
    refusal = CodecRefusalError(code, message)
    refusal.limit = int(fields["limit"])
    return refusal


def receive_picture(max_pixels: int, reply: Frame, _: Connection) -> Picture:
    """Checks a child's description of a picture."""
    picture = _described(max_pixels, reply)
    return dataclasses.replace(picture, metadata=_take_metadata(reply, reply.lengths))


def receive_region(
    max_pixels: int, box: Box, reply: Frame, _: Connection
) -> tuple[Picture, Pixels]:
    """Takes a picture's description and the samples of `box`: (height, width, bands)."""
    picture = _described(max_pixels, reply)
    length, *lengths = reply.lengths
    shape = box.height, box.width, picture.bands
    pixels = _take_pixels(reply, length, shape, _DTYPES[picture.dtype])
    return dataclasses.replace(picture, metadata=_take_metadata(reply, lengths)), pixels


def _described(max_pixels: int, reply: Frame) -> Picture:
    """Returns the picture that a child describes, without its metadata."""
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
        metadata=NO_METADATA,
        notes=tuple(map(str, fields["notes"])),
        by_region=bool(fields["by_region"]),
    )


def receive_bands(
    max_pixels: int,
    height: int,
    seconds: float,
    consume: Callable[[Picture, Iterator[Pixels]], T],
    reply: Frame,
    child: Connection,
) -> T | ReportedError:
    """Passes the rows that a child sends to `consume`, and returns its result.

    Args:
        max_pixels: the most pixels that the picture may have.
        height: rows of each array but the last.
        seconds: the longest wait for an array.
        consume: takes the picture and its rows.
        reply: the child's reply, the picture's description.
        child: brings the child's next messages.

    Raises:
        ConsumerError: `consume` failed.
    """
    picture = receive_picture(max_pixels, reply, child)
    bands = _Bands(child, picture, height, seconds)
    rows = iter(bands)
    try:
        result = consume(picture, rows)
    except Exception as error:
        if error is bands.reported:
            return bands.reported
        if error is bands.broken:
            raise
        raise ConsumerError from error
    for _ in rows:
        # Take the rows that are left, or the next read would parse them as its answer.
        pass
    return result


class _Bands:
    """The rows of a picture, as a child sends them.

    Attributes:
        reported: the error that the child reported; None if it reported none so far.
        broken: the exception raised while reading from the child; None if there is none so far.
    """

    def __init__(self, child: Connection, picture: Picture, height: int, seconds: float) -> None:
        self.reported: ReportedError | None = None
        self.broken: Exception | None = None
        self._child = child
        self._picture = picture
        self._height = height
        self._seconds = seconds

    def __iter__(self) -> Iterator[Pixels]:
        left = self._picture.header.height
        while left:
            # Time that the consumer of the rows takes does not count against the child.
            self._child.deadline = time.monotonic() + self._seconds
            try:
                with self._child.receive() as frame:
                    self.reported = reported_error(frame)
                    rows = None if self.reported else self._take(frame, min(self._height, left))
            except Exception as error:
                self.broken = error
                raise
            if rows is None:
                assert self.reported is not None
                raise self.reported
            left -= len(rows)
            yield rows

    def _take(self, frame: Frame, rows: int) -> Pixels:
        if frame.fields["rows"] != rows:
            raise ValueError(f"{frame.fields['rows']} rows where {rows} are due")
        picture = self._picture
        shape = rows, picture.header.width, picture.bands
        pixels = _take_pixels(frame, frame.lengths[0], shape, _DTYPES[picture.dtype])
        # The child decodes its next rows while these are used, and waits for this before it sends
        # the rows after those.
        self._child.send({"taken": rows})
        return pixels


_DTYPES: dict[str, type[np.uint8 | np.uint16]] = {"uint8": np.uint8, "uint16": np.uint16}


def receive_image(max_pixels: int, reply: Frame, _: Connection) -> DecodedImage:
    """Takes an image, after checking that its pixels are as many as the reply claims."""
    fields = reply.fields
    dtype = _DTYPES[fields["dtype"]]
    height, width, channels = fields["shape"]
    if not 0 < height * width <= max_pixels or channels not in (1, 3):
        raise ValueError(f"pixels of shape {fields['shape']}")
    color_length, alpha_length, *lengths = reply.lengths
    color = _take_pixels(reply, color_length, (height, width, channels), dtype)
    alpha = None
    if alpha_length is not None:
        alpha = _take_pixels(reply, alpha_length, (height, width), dtype)
    return DecodedImage(
        header=ImageHeader(**fields["header"]),
        color=color,
        alpha=alpha,
        metadata=_take_metadata(reply, lengths),
        notes=tuple(map(str, fields["notes"])),
    )


def _take_pixels(
    reply: Frame,
    length: int | None,
    shape: tuple[int, ...],
    dtype: type[np.uint8 | np.uint16],
) -> Pixels:
    due = math.prod(shape) * np.dtype(dtype).itemsize
    if min(shape) < 1 or length != due:
        raise ValueError(f"{length} bytes for pixels of {due}")
    return cast(Pixels, reply.take(due).view(dtype).reshape(shape))


def _take_bytes(reply: Frame, length: int | None) -> bytes | None:
    if length is None:
        return None
    if not 0 <= length <= _MAX_METADATA:
        raise ValueError(f"metadata of {length} bytes")
    return reply.take(length).tobytes()
