"""Unpacks numbers from files, and bounds how many parts a file may have."""

import struct
from collections.abc import Iterator
from typing import Any

from beam_upscale.errors import ErrorCode, ImageError

EXIF_PREFIX = b"Exif\x00\x00"
"""The prefix of the EXIF block in a JPEG segment, and by mistake in some PNG and WebP files."""

MOST_FRAMES = 65_536
"""The most frames of a GIF or pictures of a TIFF that are counted; a file may have more."""

READ_BYTES = 1 << 20


def unpack(format_: str, data: bytes | bytearray, position: int) -> tuple[Any, ...]:
    """Reads numbers from a file's bytes, wherever the file says that they lie.

    Args:
        format_: a format of `struct`.
        data: the bytes, or a mapping of them.
        position: the position of the first number; any integer.

    Raises:
        ImageError: TRUNCATED, `data` does not reach that far.
    """
    end = position + struct.calcsize(format_)
    if not 0 <= position <= end <= len(data):
        raise too_short(data, position, end)
    return struct.unpack_from(format_, data, position)


def too_short(data: bytes | bytearray, position: int, end: int) -> ImageError:
    """Returns the error for a file that ends within a header: TRUNCATED."""
    return ImageError(
        ErrorCode.TRUNCATED,
        f"the file's header needs the bytes {position} to {end}, and {len(data)} are there; "
        "the file was cut off",
    )


_MAX_PARTS = 1 << 20
_MIN_PART_BYTES = 1 << 10


def part_numbers(file_bytes: int, format_: str) -> Iterator[int]:
    """Yields a number for each chunk, box or block of a file that may be read, from 0.

    A file that has only the smallest chunks would take minutes. Real files have far fewer than a
    million chunks, or at least a kilobyte in each.

    Raises:
        ImageError: UNSUPPORTED_FORMAT, after the last number.
    """
    most = max(_MAX_PARTS, file_bytes // _MIN_PART_BYTES)
    yield from range(most)
    raise ImageError(
        ErrorCode.UNSUPPORTED_FORMAT,
        f"{format_} of more than {most:,} chunks; at most as many are looked at; save it again",
    )


def truncated(format_: str, found: str) -> ImageError:
    """Returns the error for a file whose parts lead beyond its end: TRUNCATED."""
    return ImageError(ErrorCode.TRUNCATED, f"{format_} {found}; the file was cut off")
