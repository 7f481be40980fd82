"""JPEG: header, segments, and the check that a file is whole."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers.parts import EXIF_PREFIX, part_numbers, truncated, unpack


@dataclass(frozen=True)
class JpegInfo:
    """The frame header of a JPEG and its EXIF block.

    Attributes:
        components: 1 gray, 3 color, 4 CMYK or YCCK.
        precision: bits of a sample; 8 or, seldom, 12 or 16.
        exif: payload of the EXIF segment without `EXIF_PREFIX`.
    """

    width: int
    height: int
    components: int
    precision: int
    exif: bytes | None


_JPEG_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of frame headers: SOF0 to SOF15, without DHT, JPG and DAC, which share their range."""
_JPEG_APP1, _JPEG_EOI, _JPEG_SOS = 0xE1, 0xD9, 0xDA
_JPEG_LINES = b"\xff\xdc\x00\x04"
"""The DNL marker and its length (T.81, B.2.5)."""


def jpeg_info(data: bytes) -> JpegInfo:
    """Reads a JPEG or the beginning of one (ITU-T T.81, annex B).

    Raises:
        ImageError: CORRUPT if the pixels begin before any frame header; TRUNCATED if `data` ends
            before it; UNSUPPORTED_FORMAT if the height follows the pixels.
    """
    frame, exif = None, None
    for marker, start, end in jpeg_segments(data):
        if marker in _JPEG_FRAME and frame is None:
            frame = unpack(">BHHB", data, start)
        elif marker == _JPEG_APP1 and exif is None and data[start : start + 6] == EXIF_PREFIX:
            exif = data[start + len(EXIF_PREFIX) : end]
        elif marker in (_JPEG_SOS, _JPEG_EOI):
            if frame is None:
                raise ImageError(ErrorCode.CORRUPT, "JPEG without a frame header")
            break
    if frame is None:
        raise truncated("JPEG", f"ends after {len(data)} bytes, before its frame header")
    precision, height, width, components = frame
    # Among pixels, only the markers between their parts have this form.
    if height == 0 and marker == _JPEG_SOS and data.find(_JPEG_LINES, end) >= 0:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            "JPEG whose height stands behind its pixels (DNL marker); save it again",
        )
    return JpegInfo(width, height, components, precision, exif)


_MAX_SCANS = 100
_MAX_SCANNED_PIXELS = _MAX_SCANS << 26
_ALWAYS_SCANS = 32
"""Scans that a JPEG may have at any size: about twice as many as any encoder makes."""

_JPEG_SCAN_SIGN = re.compile(rb"\xff\xda")
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""A marker with a length: not TEM, RST0 to RST7 or SOI."""


def check_jpeg(data: bytes, pixels: int) -> None:
    """Checks that a JPEG does not have too many scans.

    Each scan costs time for all pixels, even if it holds no data for them.

    Args:
        data: a whole file, or a mapping of one.
        pixels: the number of pixels of the picture.

    Raises:
        ImageError: UNSUPPORTED_FORMAT.
    """
    most = max(_ALWAYS_SCANS, min(_MAX_SCANS, _MAX_SCANNED_PIXELS // max(1, pixels)))
    # A marker's bytes also occur in metadata, such as thumbnails, so a high count is verified.
    signs = itertools.islice(_JPEG_SCAN_SIGN.finditer(data), most + 1)
    if sum(1 for _ in signs) > most and (scans := _jpeg_scans(data)) > most:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"JPEG of {scans} scans; at most {most} are decoded for {pixels} px; save it again",
        )


def _jpeg_scans(data: bytes) -> int:
    return sum(marker == _JPEG_SOS for marker, _, _ in jpeg_segments(data))


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start, end) of the segments in `data`; start and end are the payload's."""
    position = 2
    for _ in part_numbers(len(data), "JPEG"):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            return
        marker, position = found[1][0], found.end()
        if position + 2 > len(data) or marker == _JPEG_EOI:
            yield marker, position, position
            return
        end = position + int.from_bytes(data[position : position + 2], "big")
        yield marker, position + 2, end
        position = end
