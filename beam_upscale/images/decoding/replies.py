"""Checks every size that a child's replies claim, and makes arrays and values of them."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from beam_upscale.errors import ImageError
from beam_upscale.images.processes import failures
from beam_upscale.images.processes.connection import Connection, Frame
from beam_upscale.images.processes.failures import ReportedError
from beam_upscale.images.processes.payloads import DTYPES, take_metadata, take_pixels
from beam_upscale.images.reading.row_readers import Picture
from beam_upscale.images.values import NO_METADATA, DecodedImage, ImageHeader, Pixels
from beam_upscale.planning.tile_layout import Box

T = TypeVar("T")

# Makes a value of a reply and of the messages that follow it.
Receive = Callable[[Frame, Connection], T | ReportedError]


class CodecRefusalError(ImageError):
    """A codec's error for a file, under a limit of address space that may be its cause.

    Attributes:
        limit: bytes of address space that the child was allowed.
    """

    limit: int


class ConsumerError(Exception):
    """The consumer of the rows that a child sends failed; its error is the cause of this one."""


def receive_header(reply: Frame, _: Connection) -> ImageHeader:
    """Reads a child's reply to a request for a header."""
    return ImageHeader(**reply.fields["header"])


def reported_error(reply: Frame) -> ReportedError | None:
    """Returns the error that a decoder's message reports; None if it reports none."""
    error = failures.reported_error(reply.fields)
    if not isinstance(error, ImageError) or reply.fields.get("limit") is None:
        return error
    refusal = CodecRefusalError(error.code, error.message)
    refusal.limit = int(reply.fields["limit"])
    return refusal


def receive_picture(max_pixels: int, reply: Frame, _: Connection) -> Picture:
    """Checks a child's description of a picture."""
    picture = _described(max_pixels, reply)
    return dataclasses.replace(picture, metadata=take_metadata(reply, reply.lengths))


def receive_region(
    max_pixels: int, box: Box, reply: Frame, _: Connection
) -> tuple[Picture, Pixels]:
    """Takes a picture's description and the samples of `box`: (height, width, bands)."""
    picture = _described(max_pixels, reply)
    length, *lengths = reply.lengths
    shape = box.height, box.width, picture.bands
    pixels = take_pixels(reply, length, shape, DTYPES[picture.dtype])
    return dataclasses.replace(picture, metadata=take_metadata(reply, lengths)), pixels


def _described(max_pixels: int, reply: Frame) -> Picture:
    """Returns the picture that a child describes, without its metadata."""
    fields = reply.fields
    header = ImageHeader(**fields["header"])
    if not 0 < header.width * header.height <= max_pixels:
        raise ValueError(f"a picture of {header.width} x {header.height}")
    if fields["dtype"] not in DTYPES or fields["channels"] not in (1, 3):
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
        pixels = take_pixels(frame, frame.lengths[0], shape, DTYPES[picture.dtype])
        # The child decodes its next rows while these are used, and waits for this before it sends
        # the rows after those.
        self._child.send({"taken": rows})
        return pixels


def receive_image(max_pixels: int, reply: Frame, _: Connection) -> DecodedImage:
    """Takes an image, after checking that its pixels are as many as the reply claims."""
    fields = reply.fields
    dtype = DTYPES[fields["dtype"]]
    height, width, channels = fields["shape"]
    if not 0 < height * width <= max_pixels or channels not in (1, 3):
        raise ValueError(f"pixels of shape {fields['shape']}")
    color_length, alpha_length, *lengths = reply.lengths
    color = take_pixels(reply, color_length, (height, width, channels), dtype)
    alpha = None
    if alpha_length is not None:
        alpha = take_pixels(reply, alpha_length, (height, width), dtype)
    return DecodedImage(
        header=ImageHeader(**fields["header"]),
        color=color,
        alpha=alpha,
        metadata=take_metadata(reply, lengths),
        notes=tuple(map(str, fields["notes"])),
    )
