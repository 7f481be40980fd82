"""Parses a child's replies, and checks every size that they claim."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError, log_mistake
from beam_upscale.images.decoding.frames import Frame, Readable, read_buffer, read_frame, read_into
from beam_upscale.images.reading.row_readers import Picture
from beam_upscale.images.values import DecodedImage, ImageHeader, Metadata, Pixels, Resolution
from beam_upscale.planning.tile_layout import Box

_MAX_METADATA = 256 * 2**20
"""The most bytes that a parent accepts as an ICC profile, EXIF block or XMP packet."""
_MOST_RESOLUTION = 2**40
"""Pixels per inch; a parent accepts resolutions below this."""

T = TypeVar("T")

# An error that a child reports: one of the picture, or a temporary folder that is full.
ReportedError = ImageError | OSError

# Makes a value of a reply and of the stream that follows it.
Receive = Callable[[Frame, Readable], T | ReportedError]


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


def receive_header(reply: Frame, _: Readable) -> ImageHeader:
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


def receive_picture(max_pixels: int, reply: Frame, stream: Readable) -> Picture:
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


def receive_region(
    max_pixels: int, box: Box, reply: Frame, stream: Readable
) -> tuple[Picture, Pixels]:
    """Reads a picture's description and the samples of `box`: (height, width, bands)."""
    picture = receive_picture(max_pixels, reply, stream)
    shape = box.height, box.width, picture.bands
    return picture, _read_pixels(stream, reply.lengths[3], shape, _DTYPES[picture.dtype])


def receive_bands(
    max_pixels: int,
    height: int,
    seconds: float,
    consume: Callable[[Picture, Iterator[Pixels]], T],
    reply: Frame,
    stream: Readable,
) -> T | ReportedError:
    """Passes the rows that a child sends to `consume`, and returns its result.

    Args:
        max_pixels: the most pixels that the picture may have.
        height: rows of each array but the last.
        seconds: the longest wait for an array.
        consume: takes the picture and its rows.
        reply: the child's reply, the picture's description.
        stream: the stream of the child's next messages.

    Raises:
        ConsumerError: `consume` failed.
    """
    picture = receive_picture(max_pixels, reply, stream)
    bands = _Bands(stream, picture, height, seconds)
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
        # Drain unread rows from the pipe, or the next read would parse them as its answer.
        pass
    return result


class _Bands:
    """The rows of a picture, as a child sends them.

    Attributes:
        reported: the error that the child reported; None if it reported none so far.
        broken: the exception raised while reading from the child; None if there is none so far.
    """

    def __init__(self, stream: Any, picture: Picture, height: int, seconds: float) -> None:
        self.reported: ReportedError | None = None
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
                self.reported = reported_error(frame)
                rows = None if self.reported else self._read(frame, min(self._height, left))
            except Exception as error:
                self.broken = error
                raise
            if rows is None:
                assert self.reported is not None
                raise self.reported
            left -= len(rows)
            yield rows

    def _read(self, frame: Frame, rows: int) -> Pixels:
        if frame.fields["rows"] != rows:
            raise ValueError(f"{frame.fields['rows']} rows where {rows} are due")
        picture = self._picture
        shape = rows, picture.header.width, picture.bands
        return _read_pixels(self._stream, frame.lengths[0], shape, _DTYPES[picture.dtype])


_DTYPES: dict[str, type[np.uint8 | np.uint16]] = {"uint8": np.uint8, "uint16": np.uint16}


def receive_image(max_pixels: int, reply: Frame, stream: Readable) -> DecodedImage:
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
