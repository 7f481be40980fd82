"""Reads headers and metadata of image files from their bytes alone.

Codec libraries hide or skip some of it: Pillow ignores the checksums of a PNG, allocates a canvas
to read the size of a WebP, and knows only the TIFFs it can decode. These readers allocate nothing
that a file claims: they cost a few reads for each chunk, box or directory that is really there.

Whatever numbers a file holds, a reader raises nothing but an `ImageError`: it looks at bytes
through `unpack`, which checks that they are there. Any other exception is a bug.
"""

import io
import itertools
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from beam_upscale.errors import ErrorCode, ImageError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
EXIF_PREFIX = b"Exif\x00\x00"
"""The prefix of the EXIF block in a JPEG segment, and by mistake in some PNG and WebP files."""

_ORIENTATION_TAG = 0x0112

_MAX_INNER_PIXELS = 1 << 24
_MAX_INNER_BYTES = 1 << 25
"""Pixels and bytes that a tile, a strip or a grid's cell of a small picture may be decoded to."""

MOST_FRAMES = 65_536
"""The most frames of a GIF or pictures of a TIFF that are counted; a file may have more."""

_READ_BYTES = 1 << 20


def unpack(format_: str, data: bytes | bytearray, position: int) -> tuple[Any, ...]:
    """Reads numbers from a file's bytes, wherever the file says that they lie.

    Args:
        format_: a format of `struct`.
        data: the bytes, or a mapping of them.
        position: of the first number; any integer.

    Raises:
        ImageError: TRUNCATED, `data` does not reach that far.
    """
    end = position + struct.calcsize(format_)
    if not 0 <= position <= end <= len(data):
        raise _too_short(data, position, end)
    return struct.unpack_from(format_, data, position)


def _too_short(data: bytes | bytearray, position: int, end: int) -> ImageError:
    return ImageError(
        ErrorCode.TRUNCATED,
        f"the file's header needs the bytes {position} to {end}, and {len(data)} are there; "
        "the file was cut off",
    )


_MAX_PARTS = 1 << 20
_MIN_PART_BYTES = 1 << 10


def _part_numbers(file_bytes: int, format_: str) -> Iterator[int]:
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
        f"{format_} of more than {most:,} chunks; at most as many are looked at; save it anew",
    )


@dataclass(frozen=True)
class Chunk:
    """One chunk of a PNG, RIFF or ISO file: its type and where its payload lies in the file."""

    type: bytes
    start: int
    end: int


@dataclass(frozen=True)
class PngInfo:
    """The header of a PNG, its number of frames and its EXIF block.

    Attributes:
        bit_depth: bits of a sample: 1, 2, 4, 8 or 16.
        color_type: 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGB with alpha.
        frames: 1, or the number that an APNG's acTL chunk gives.
        exif: payload of the eXIf chunk.
    """

    width: int
    height: int
    bit_depth: int
    color_type: int
    frames: int
    exif: bytes | None


_ACTL_BYTES = 8


def png_info(data: bytes) -> PngInfo:
    """Reads a PNG or the beginning of one (PNG specification, third edition, section 11).

    Raises:
        ImageError: TRUNCATED; UNSUPPORTED_FORMAT, it is one of Apple's own kind.
    """
    if data[12:16] == b"CgBI":
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            "PNG of Apple's own kind (CgBI), as apps for iPhone hold it; make it a PNG again, for "
            "example with pngcrush -revert-iphone-optimizations",
        )
    width, height, bit_depth, color_type = unpack(">IIBB", data, 16)
    frames, exif = 1, None
    for chunk in png_chunks(data):
        if chunk.type == b"acTL" and chunk.end - chunk.start == _ACTL_BYTES:
            (frames,) = unpack(">I", data, chunk.start)
        elif chunk.type == b"eXIf":
            exif = data[chunk.start : chunk.end]
    return PngInfo(width, height, bit_depth, color_type, max(1, frames), exif)


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """Yields the chunks that lie whole in `data`, up to and with IEND."""
    position = len(PNG_SIGNATURE)
    for _ in _part_numbers(len(data), "PNG"):
        if position + 12 > len(data):
            return
        length, kind = unpack(">I4s", data, position)
        chunk = Chunk(kind, position + 8, position + 8 + length)
        position = chunk.end + 4
        if position > len(data):
            return
        yield chunk
        if kind == b"IEND":
            return


def check_png(data: bytes) -> None:
    """Checks that a PNG is whole and that every chunk has the checksum it says.

    Raises:
        ImageError: TRUNCATED or CHECKSUM_MISMATCH.
    """
    view = memoryview(data)
    last = b""
    for chunk in png_chunks(data):
        (stored,) = unpack(">I", data, chunk.end)
        _check_png_chunk(chunk, zlib.crc32(view[chunk.start - 4 : chunk.end]), stored)
        last = chunk.type
    if last != b"IEND":
        raise _truncated("PNG", f"ends after {len(data)} bytes, before its IEND chunk")


def _check_png_chunk(chunk: Chunk, computed: int, stored: int) -> None:
    if computed != stored:
        name = chunk.type.decode("ascii", "backslashreplace")
        raise ImageError(
            ErrorCode.CHECKSUM_MISMATCH,
            f"PNG chunk {name} at byte {chunk.start - 8} has the checksum {computed:08x}, "
            f"but the file says {stored:08x}; the file is damaged",
        )


def check_png_file(file: BinaryIO) -> None:
    """Does what `check_png` does, without holding the file.

    Raises:
        ImageError: TRUNCATED or CHECKSUM_MISMATCH.
    """
    last, size = b"", file.seek(0, io.SEEK_END)
    for chunk in _png_file_chunks(file):
        file.seek(chunk.start - 4)
        left, computed = chunk.end - chunk.start + 4, 0
        while left > 0 and (data := file.read(min(left, _READ_BYTES))):
            computed = zlib.crc32(data, computed)
            left -= len(data)
        (stored,) = unpack(">I", file.read(4), 0)
        _check_png_chunk(chunk, computed, stored)
        last = chunk.type
    if last != b"IEND":
        raise _truncated("PNG", f"ends after {size} bytes, before its IEND chunk")


def png_without_pixels(file: BinaryIO) -> bytes:
    """Returns a PNG's bytes without its pixels: all that `png_info` reads."""
    file.seek(0)
    parts = [file.read(len(PNG_SIGNATURE))]
    for chunk in _png_file_chunks(file):
        if chunk.type != b"IDAT":
            file.seek(chunk.start - 8)
            parts.append(file.read(chunk.end - chunk.start + 12))
    return b"".join(parts)


def _png_file_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yields the chunks that lie whole in a file, up to and with IEND."""
    size = file.seek(0, io.SEEK_END)
    position = len(PNG_SIGNATURE)
    for _ in _part_numbers(size, "PNG"):
        if position + 12 > size:
            return
        file.seek(position)
        length, kind = unpack(">I4s", file.read(8), 0)
        chunk = Chunk(kind, position + 8, position + 8 + length)
        position = chunk.end + 4
        if position > size:
            return
        yield chunk
        if kind == b"IEND":
            return


def png_with_chunks(data: bytes, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Gives a PNG these chunks in place of its EXIF and of the resolution an encoder made up.

    Args:
        data: a whole PNG, or its beginning with the first pixels.
        chunks: their types and payloads.

    Returns:
        The PNG without its pHYs and eXIf chunks, with those given before the pixels.
    """
    view = memoryview(data)
    parts: list[bytes | memoryview] = [PNG_SIGNATURE]
    for chunk in png_chunks(data):
        if chunk.type == b"IDAT":
            parts += [_png_chunk(kind, payload) for kind, payload in chunks]
            parts.append(view[chunk.start - 8 :])
            break
        if chunk.type not in (b"pHYs", b"eXIf"):
            parts.append(view[chunk.start - 8 : chunk.end + 4])
    return b"".join(parts)


def _png_chunk(kind: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


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
        ImageError: CORRUPT where the pixels begin before any frame header; TRUNCATED where `data`
            ends before it; UNSUPPORTED_FORMAT where the height stands behind the pixels.
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
        raise _truncated("JPEG", f"ends after {len(data)} bytes, before its frame header")
    precision, height, width, components = frame
    # Among pixels, only the markers between their parts have this form.
    if height == 0 and marker == _JPEG_SOS and data.find(_JPEG_LINES, end) >= 0:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            "JPEG whose height stands behind its pixels (DNL marker); save it anew",
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
        pixels: of the picture.

    Raises:
        ImageError: UNSUPPORTED_FORMAT.
    """
    most = max(_ALWAYS_SCANS, min(_MAX_SCANS, _MAX_SCANNED_PIXELS // max(1, pixels)))
    # A marker's bytes also stand in metadata, such as thumbnails, so a high count is verified.
    signs = itertools.islice(_JPEG_SCAN_SIGN.finditer(data), most + 1)
    if sum(1 for _ in signs) > most and (scans := _jpeg_scans(data)) > most:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"JPEG of {scans} scans; at most {most} are decoded for {pixels} px; save it anew",
        )


def _jpeg_scans(data: bytes) -> int:
    return sum(marker == _JPEG_SOS for marker, _, _ in jpeg_segments(data))


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start, end) of the segments in `data`; start and end are the payload's."""
    position = 2
    for _ in _part_numbers(len(data), "JPEG"):
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


@dataclass(frozen=True)
class WebpInfo:
    """The size of a WebP's canvas, its alpha, its number of frames and its EXIF block."""

    width: int
    height: int
    has_alpha: bool
    frames: int
    exif: bytes | None


def webp_info(data: bytes) -> WebpInfo:
    """Reads a WebP or the beginning of one (WebP container specification, RFC 9649).

    EXIF stands at the end of a WebP: the beginning alone does not tell the orientation.
    """
    width, height, has_alpha = _webp_canvas(data)
    frames, exif = 0, None
    for chunk in riff_chunks(data):
        if chunk.type == b"ANMF":
            frames += 1
        elif chunk.type == b"EXIF" and chunk.end <= len(data):
            exif = data[chunk.start : chunk.end]
    return WebpInfo(width, height, has_alpha, max(1, frames), exif)


def check_webp(data: bytes) -> None:
    """Checks that a WebP is as long as it says.

    Raises:
        ImageError: TRUNCATED.
    """
    expected = int.from_bytes(data[4:8], "little") + 8
    if len(data) < expected:
        raise _truncated("WebP", f"has {len(data)} of {expected} bytes")


def _webp_canvas(data: bytes) -> tuple[int, int, bool]:
    (kind,) = unpack("4s", data, 12)
    if kind == b"VP8X":
        flags, width, height = unpack("<B3x3s3s", data, 20)
        return (
            int.from_bytes(width, "little") + 1,
            int.from_bytes(height, "little") + 1,
            bool(flags & 0x10),
        )
    if kind == b"VP8L":
        (bits,) = unpack("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    if kind == b"VP8 ":
        width, height = unpack("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF, False
    raise ImageError(ErrorCode.CORRUPT, f"WebP whose first chunk is {kind!r}, not VP8, VP8L, VP8X")


def riff_chunks(data: bytes) -> Iterator[Chunk]:
    """Yields the chunks of a WebP; the last one may claim to end behind `data`."""
    position = 12
    for _ in _part_numbers(len(data), "WebP"):
        if position + 8 > len(data):
            return
        kind, length = unpack("<4sI", data, position)
        chunk = Chunk(kind, position + 8, position + 8 + length)
        yield chunk
        position = chunk.end + length % 2


_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, 0x3B
_GIF_CONTROL = b"\xf9"
"""The label of the extension that sets the disposal of the frame behind it."""


def gif_frames(data: bytes) -> int:
    """Counts the frames of a GIF that at least begin in `data`, from 1 to 65,536 (GIF89a).

    Raises:
        ImageError: TRUNCATED; UNSUPPORTED_FORMAT.
    """
    frames = 0
    for kind, position in _gif_parts(data):
        frames += kind == _GIF_IMAGE and position + 9 <= len(data)
        if frames == MOST_FRAMES:
            break
    return max(1, frames)


def gif_that_stays(data: bytes) -> bytes:
    """Returns a GIF without disposal of its first frame, and otherwise unchanged.

    Already when it opens a file, Pillow allocates memory for what takes that frame's place, and the
    frame may claim any size.

    Raises:
        ImageError: TRUNCATED; UNSUPPORTED_FORMAT.
    """
    for kind, position in _gif_parts(data):
        if kind == _GIF_IMAGE:
            break
        flags = position + 2
        if data[position : position + 1] == _GIF_CONTROL and data[flags : flags + 1] > b"\x03":
            data = data[:flags] + bytes([data[flags] & 0x03]) + data[flags + 1 :]
    return data


def _gif_parts(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the kind of each part of a GIF, up to the trailer, and the position behind the kind.

    Raises:
        ImageError: TRUNCATED; UNSUPPORTED_FORMAT.
    """
    (flags,) = unpack("B", data, 10)
    position = 13 + _gif_table_bytes(flags)
    numbers = _part_numbers(len(data), "GIF")
    while position < len(data):
        next(numbers)
        kind = data[position]
        position += 1
        yield kind, position
        if kind == _GIF_TRAILER:
            return
        if kind == _GIF_EXTENSION:
            position = _behind_gif_blocks(data, position + 1, numbers)
        elif kind == _GIF_IMAGE and position + 9 <= len(data):
            (flags,) = unpack("B", data, position + 8)
            position = _behind_gif_blocks(data, position + 10 + _gif_table_bytes(flags), numbers)


def _gif_table_bytes(flags: int) -> int:
    """Returns the bytes of the color table that a screen's or a frame's flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind_gif_blocks(data: bytes, position: int, numbers: Iterator[int]) -> int:
    """Finds the end of a row of data blocks: each begins with its length; the last is empty."""
    while position < len(data):
        next(numbers)
        length = data[position]
        position += 1 + length
        if not length:
            break
    return position


class Photometric(IntEnum):
    """Values of TIFF's PhotometricInterpretation (TIFF 6.0, pages 37 and following)."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    CMYK = 5
    YCBCR = 6
    LAB = 8


class SampleFormat(IntEnum):
    """Values of TIFF's SampleFormat (TIFF 6.0, page 80)."""

    UNSIGNED = 1
    SIGNED = 2
    FLOAT = 3


class ExtraSample(IntEnum):
    """Values of TIFF's ExtraSamples (TIFF 6.0, page 31)."""

    UNSPECIFIED = 0
    ASSOCIATED_ALPHA = 1
    UNASSOCIATED_ALPHA = 2


@dataclass(frozen=True)
class TiffInfo:
    """The picture of a TIFF; names as in TIFF 6.0.

    It is the first one in the chain of directories that is marked neither as a reduced copy of
    another nor as a mask; where all are, the first.

    Attributes:
        directory: the position of its directory in the file.
        bits_per_sample: of the first sample.
        has_equal_samples: True if all samples have the same bits and format.
        samples_per_pixel: with those beyond the color.
        extra_samples: the meaning of each sample beyond the color's own, as an `ExtraSample`.
        is_planar: True if samples lie plane by plane, False if pixel by pixel.
        ink_set: the inks of photometric interpretation 5; 1 for CMYK.
        color_map: values of a palette, 0 to 65535: all red, then all green, then all blue ones.
        orientation: 1 to 8.
        frames: pictures in the file, reduced copies of others and masks not counted.
        is_reduced_copy: True if the picture itself is marked as a reduced copy.
        reduced_copies: the number of other pictures that are marked as reduced copies.
        masks: the number of other pictures that are marked as masks.
        inner_pictures: the number of pictures that the directory's SubIFDs field points to.
        is_tiled: True if pixels lie in tiles, False if in strips.
        parts: the number of strips or tiles that the picture takes; of each plane if planar.
        has_spare_parts: True if the directory points to more strips or tiles than that.
        has_lengths: True if the directory has the lengths of the strips or tiles.
        is_big_endian_big: True if the file is a big-endian BigTIFF.
        data_end: the byte after the last byte of pixels that the directory points to.
    """

    directory: int
    width: int
    height: int
    bits_per_sample: int
    has_equal_samples: bool
    compression: int
    sample_format: int
    photometric: int
    samples_per_pixel: int
    extra_samples: tuple[int, ...]
    is_planar: bool
    ink_set: int
    color_map: tuple[int, ...]
    orientation: int
    frames: int
    is_reduced_copy: bool
    reduced_copies: int
    masks: int
    inner_pictures: int
    is_tiled: bool
    parts: int
    has_spare_parts: bool
    has_lengths: bool
    is_big_endian_big: bool
    data_end: int


@dataclass(frozen=True)
class _TiffLayout:
    """Byte order and the field sizes in which classic TIFF and BigTIFF differ."""

    order: str
    count: str
    offset: str
    first_directory: int

    @property
    def entry_size(self) -> int:
        return 12 if self.offset == "I" else 20

    @property
    def value_size(self) -> int:
        return struct.calcsize(self.order + self.offset)

    @property
    def count_size(self) -> int:
        return struct.calcsize(self.order + self.count)

    @property
    def head_size(self) -> int:
        """The bytes of the file's header; no directory begins before its end."""
        return 8 if self.offset == "I" else 16

    def head(self, data: bytes, directory: int) -> bytes:
        """Returns the first bytes of a TIFF, changed to point to another first directory."""
        return data[: self.head_size - self.value_size] + self.pack(self.offset, [directory])

    def pack(self, format_: str, values: Sequence[int]) -> bytes:
        """Packs integers of one size.

        Raises:
            ImageError: UNSUPPORTED_FORMAT, one is too large: the file is at the limit of its kind.
        """
        try:
            return struct.pack(f"{self.order}{len(values)}{format_}", *values)
        except struct.error as error:
            raise ImageError(
                ErrorCode.UNSUPPORTED_FORMAT, f"TIFF with a field that holds {max(values)}"
            ) from error

    def read(self, format_: str, data: bytes, position: int) -> int:
        value: int
        (value,) = unpack(self.order + format_, data, position)
        return value


TIFF_UNCOMPRESSED = 1
"""The value of TIFF's Compression for uncompressed samples."""

TIFF_OLD_JPEG = 6
"""The value of TIFF's Compression for a JPEG that other fields may point to."""

CMYK_INKS = 1
"""The value of TIFF's InkSet for cyan, magenta, yellow and black."""

_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
"""struct codes of the integer field types BYTE, SHORT, LONG, IFD and LONG8."""

_TIFF_TYPE_BYTES = {
    type_: size
    for size, types in (
        (1, (1, 2, 6, 7)),
        (2, (3, 8)),
        (4, (4, 9, 11, 13)),
        (8, (5, 10, 12, 16, 17, 18)),
    )
    for type_ in types
}
"""Bytes of a value of each field type."""

_COPIED_TYPES = frozenset({1, 2, 3, 4, 7, 13, 16})
"""The types of whole numbers, ASCII and UNDEFINED."""

_TIFF_TAGS = frozenset(
    {
        *(256, 257, 258, 259, 262, 274, 277, 278, 284, 320, 322, 323, 330, 332, 338, 339),
        *(34310, 50706, 50740),
    }
)
"""The fields that `tiff_info` reads. Others (XMP is one) may be as long as the file."""

_TIFF_PLACES = frozenset({273, 279, 324, 325})
"""The fields with the positions and lengths of strips and tiles."""

_MAX_TIFF_FIELDS = 65_535
_MAX_TIFF_VALUES = 3 << 16
"""The number of values in the longest palette."""

_TIFF_STORAGE_TAGS = frozenset(
    {
        *(256, 257, 258, 259, 266, 273, 277, 278, 279, 292, 293, 317, 322, 323, 324, 325, 339),
        *(347, 34675),
    }
)
"""The fields that say how samples are stored, and the ICC profile."""

_COLOR_TAGS = frozenset({262, 284, 338})
"""Fields that say what samples mean, and in which order they lie."""

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255
_REDUCED_COPY, _MASK = 1, 4
_OLD_REDUCED_COPY = 2
_PLANAR = 2


def tiff_info(data: bytes) -> TiffInfo:
    """Reads the directories of a TIFF or BigTIFF.

    Raises:
        ImageError: CORRUPT where the file has no directory with a width and a height, or one that
            says of the same pixels that they lie in strips and in tiles, or that points to fewer
            of these than the picture takes; TRUNCATED where a directory or a field's values lie
            beyond the end of `data`; UNSUPPORTED_FORMAT where a strip or tile is left out.
    """
    layout = _tiff_layout(data)
    pages = _tiff_pages(data, layout)
    pictures = [start for start, kind in pages if not kind & (_REDUCED_COPY | _MASK)]
    directory = pictures[0] if pictures else layout.first_directory
    tags, places = _tiff_fields(data, layout, directory)
    width, height = _first(tags, 256, -1), _first(tags, 257, -1)
    if width < 0 or height < 0:
        raise ImageError(ErrorCode.CORRUPT, "TIFF directory without ImageWidth and ImageLength")
    orientation = _first(tags, 274, 1)
    _check_tiff_parts(tags, width, height)
    _check_strips_or_tiles(tags, places)
    samples = _first(tags, 277, 1)
    is_planar = _first(tags, 284, 1) == _PLANAR
    starts = places.get(324, places.get(273))
    parts = _tiff_parts(tags, width, height)
    all_parts = parts * (samples if is_planar else 1)
    if starts is not None and _first(tags, 259, TIFF_UNCOMPRESSED) != TIFF_OLD_JPEG:
        _check_tiff_starts(starts, all_parts, layout)
    is_reduced_copy = (directory, _REDUCED_COPY) in [(start, kind & 1) for start, kind in pages]
    return TiffInfo(
        directory=directory,
        width=width,
        height=height,
        bits_per_sample=_first(tags, 258, 1),
        has_equal_samples=all(len(set(tags.get(tag, ())[:samples])) <= 1 for tag in (258, 339)),
        compression=_first(tags, 259, TIFF_UNCOMPRESSED),
        sample_format=_first(tags, 339, SampleFormat.UNSIGNED),
        # Without the field: for gray the value that Pillow assumes, for color no valid value.
        photometric=_first(tags, 262, Photometric.WHITE_IS_ZERO if samples == 1 else -1),
        samples_per_pixel=samples,
        extra_samples=tags.get(338, ()),
        is_planar=is_planar,
        ink_set=_first(tags, 332, CMYK_INKS),
        color_map=tags.get(320, ()),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        frames=max(1, len(pictures)),
        is_reduced_copy=is_reduced_copy,
        reduced_copies=sum(kind & _REDUCED_COPY for _, kind in pages) - is_reduced_copy,
        masks=sum(kind & _MASK > 0 for start, kind in pages if start != directory),
        inner_pictures=len(tags.get(330, ())),
        is_tiled=324 in places,
        parts=parts,
        has_spare_parts=starts is not None and len(starts) > all_parts,
        has_lengths=279 in places or 325 in places,
        is_big_endian_big=(layout.order, layout.offset) == (">", "Q"),
        data_end=_tiff_data_end(places),
    )


class _RawPhotometric(IntEnum):
    """Values of PhotometricInterpretation for raw sensor data (DNG 1.7.1, page 24)."""

    COLOR_FILTER_ARRAY = 32803
    LINEAR_RAW = 34892


_RAW_COMPRESSIONS = frozenset({32767, 32769, 32770, 32772, 34713, 65000, 65535})
"""Compressions of raw sensor data by Sony, Samsung, Nikon, Kodak and Pentax."""

_RAW_TAGS = {50706: "DNG", 50740: "with DNGPrivateData", 34310: "Leaf"}
"""Fields that stand in the first directory of camera raw files only."""

_MAKE = 271
_LOOKED_AT = 16
"""The most directories that are searched for signs of a camera raw file."""


def camera_raw(data: bytes) -> str | None:
    """Names the kind of a TIFF that holds raw sensor data beside previews; else returns None.

    Raises:
        ImageError: as `tiff_info`.
    """
    layout = _tiff_layout(data)
    if layout.first_directory != 8:
        if data[8:10] == b"CR":
            return "Canon CR2"
        if data[8:12] in (b"IIII", b"MMMM"):
            return "Phase One IIQ"
    first, _ = _tiff_fields(data, layout, layout.first_directory)
    for tag, name in _RAW_TAGS.items():
        if tag in first:
            return name
    pages = _tiff_pages(data, layout)
    outer = [start for start, _ in pages[1:_LOOKED_AT]]
    inner = [start for start in first.get(330, ()) if start < len(data)][:_LOOKED_AT]
    further = (tags for start in (*outer, *inner) if (tags := _some_tags(data, layout, start)))
    if _is_of_a_sensor(first) or any(map(_is_of_a_sensor, further)):
        return _make(data, layout)
    # If the chain has only reduced copies, the picture is where only the maker's programs look.
    if all(kind & _REDUCED_COPY for _, kind in pages) and any(
        not _subfile_type(data, layout, start) & (_REDUCED_COPY | _MASK) for start in inner
    ):
        return _make(data, layout)
    return None


def _some_tags(data: bytes, layout: _TiffLayout, directory: int) -> dict[int, tuple[int, ...]]:
    """Returns the integer fields of a directory; none of a damaged one."""
    try:
        return _tiff_fields(data, layout, directory)[0]
    except ImageError:
        return {}


def _is_of_a_sensor(tags: dict[int, tuple[int, ...]]) -> bool:
    return (
        _first(tags, 262, -1) in tuple(_RawPhotometric)
        or _first(tags, 259, TIFF_UNCOMPRESSED) in _RAW_COMPRESSIONS
    )


def _make(data: bytes, layout: _TiffLayout) -> str:
    """Returns the camera's maker from the first directory, or "unnamed maker"."""
    for tag, entry in _raw_entries(data, layout, layout.first_directory):
        if tag == _MAKE:
            count = layout.read(layout.offset, entry, 4)
            start = layout.read(layout.offset, entry, 4 + layout.value_size)
            value = data[start : start + min(count, 40)] if count > layout.value_size else b""
            name = value.split(b"\x00")[0].decode("ascii", "ignore")
            return " ".join("".join(filter(str.isprintable, name)).split()) or "unnamed maker"
    return "unnamed maker"


def check_tiff(data: bytes, info: TiffInfo) -> None:
    """Checks that the pixels a TIFF points to lie within it.

    Raises:
        ImageError: TRUNCATED.
    """
    if len(data) < info.data_end:
        raise _truncated("TIFF", f"has {len(data)} of {info.data_end} bytes")


@dataclass(frozen=True)
class TiffView:
    """A TIFF that shares most bytes of an original one.

    Attributes:
        head: replaces the first bytes of the original.
        tail_start: the position of `tail`, at or after the end of the original.
        tail: the bytes that follow the original.
    """

    head: bytes
    tail_start: int
    tail: bytes


def tiff_views(data: bytes, info: TiffInfo) -> tuple[TiffView, ...]:
    """Makes TIFFs of the same samples that do not declare the samples' meaning.

    A codec returns such samples unchanged. For many kinds of color and alpha, it would guess how to
    join or convert the samples.

    Args:
        data: a whole TIFF.
        info: of the TIFF.

    Returns:
        One gray TIFF for each plane where samples lie plane by plane; else one in which all
        samples but the first are unspecified extra ones.

    Raises:
        ImageError: CORRUPT, the TIFF has too few strips or tiles for its planes.
    """
    layout = _tiff_layout(data)
    planes = info.samples_per_pixel if info.is_planar else 1
    bands = info.samples_per_pixel // planes
    kept = _entries_with_values(data, layout, info.directory)
    where, lengths = (324, 325) if info.is_tiled else (273, 279)
    _, places = _tiff_fields(data, layout, info.directory)
    blocks = info.parts
    found = [len(places.get(tag, ())) for tag in (where, lengths)]
    if min(found) < blocks * planes:
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF of {planes} planes in {found[0]} strips or tiles, with {found[1]} lengths; "
            f"each plane takes {blocks}",
        )
    kept |= {
        258: (3, bands, layout.pack("H", [info.bits_per_sample] * bands)),
        262: (3, 1, layout.pack("H", [Photometric.BLACK_IS_ZERO])),
        277: (3, 1, layout.pack("H", [bands])),
        284: (3, 1, layout.pack("H", [1])),
        # libtiff warns of one that is said for more samples than there are.
        339: (3, bands, layout.pack("H", [info.sample_format] * bands)),
    }
    if bands > 1:
        extra = [ExtraSample.UNSPECIFIED] * (bands - 1)
        kept[338] = (3, bands - 1, layout.pack("H", extra))
    kind = 16 if layout.offset == "Q" else 4
    views = []
    for first in range(0, blocks * planes, blocks):
        own = {
            tag: (
                kind,
                blocks,
                layout.pack(layout.offset, places[tag][first : first + blocks].tolist()),
            )
            for tag in (where, lengths)
        }
        views.append(_view(data, layout, {**kept, **own}))
    return tuple(views)


def tiff_jpegs(data: bytes, info: TiffInfo) -> Iterator[bytes]:
    """Yields the JPEGs that hold a TIFF's samples, one for each strip or tile (TIFF Technote 2).

    Args:
        data: a whole TIFF, compressed by JPEG.
        info: of the TIFF.
    """
    layout = _tiff_layout(data)
    _, _, tables = _entries_with_values(data, layout, info.directory).get(347, (0, 0, b""))
    tables = tables.removeprefix(_JPEG_START).removesuffix(_JPEG_END)
    _, places = _tiff_fields(data, layout, info.directory)
    starts, lengths = (places.get(a, places.get(b, ())) for a, b in ((273, 324), (279, 325)))
    for start, length in zip(map(int, starts), map(int, lengths), strict=False):
        part = data[start : start + length].removeprefix(_JPEG_START)
        if part:
            # libtiff does not need an end marker.
            end = b"" if _JPEG_END in part[-_PADDING:] else _JPEG_END
            yield _JPEG_START + tables + part + end


def tiff_plain_view(data: bytes, info: TiffInfo) -> TiffView:
    """Returns the view of a TIFF's picture without any field that its samples do not need.

    libtiff warns of unknown fields in the same way as of damage.
    """
    layout = _tiff_layout(data)
    return _view(data, layout, _entries_with_values(data, layout, info.directory, _COLOR_TAGS))


def tiff_view_at(data: bytes, directory: int) -> TiffView | None:
    """Returns the view of a TIFF that begins with this directory; None if the TIFF itself does."""
    layout = _tiff_layout(data)
    if directory == layout.first_directory:
        return None
    return TiffView(layout.head(data, directory), len(data), b"")


_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PADDING = 64
"""The most bytes of padding after the data in a strip or tile."""

_Field = tuple[int, int, bytes]
"""The type, the number of values and the values' bytes of a field."""


def _entries_with_values(
    data: bytes, layout: _TiffLayout, directory: int, further: frozenset[int] = frozenset()
) -> dict[int, _Field]:
    """Returns the fields of a directory that say how samples are stored, and some further ones."""
    fields = {}
    for tag, entry in _raw_entries(data, layout, directory):
        kind = layout.read("H", entry, 2)
        count = layout.read(layout.offset, entry, 4)
        if tag not in _TIFF_STORAGE_TAGS | further or kind not in _COPIED_TYPES:
            continue
        size, start = count * _TIFF_TYPE_BYTES[kind], 4 + layout.value_size
        if size <= layout.value_size:
            value = entry[start : start + size]
        else:
            start = layout.read(layout.offset, entry, start)
            value = data[start : start + size]
        if count and len(value) == size:
            fields[tag] = (kind, count, value)
    return fields


def _view(data: bytes, layout: _TiffLayout, fields: dict[int, _Field]) -> TiffView:
    start = len(data) + len(data) % 2
    end = start + layout.count_size + len(fields) * layout.entry_size + layout.value_size
    entries, values = layout.pack(layout.count, [len(fields)]), b""
    for tag, (kind, count, value) in sorted(fields.items()):
        entries += layout.pack("H", [tag, kind]) + layout.pack(layout.offset, [count])
        if len(value) <= layout.value_size:
            entries += value.ljust(layout.value_size, b"\x00")
        else:
            entries += layout.pack(layout.offset, [end + len(values)])
            values += value + b"\x00" * (len(value) % 2)
    tail = entries + bytes(layout.value_size) + values
    return TiffView(layout.head(data, start), start, tail)


def exif_orientation(exif: bytes) -> int:
    """Returns the orientation an EXIF block gives: 1 (upright) to 8, 1 where it gives none."""
    position = _orientation_position(exif)
    if position is None:
        return 1
    value = _tiff_layout(exif).read("H", exif, position)
    return value if 1 <= value <= 8 else 1


def tiff_with_tags(data: bytes, tags: bytes) -> bytes:
    """Appends a directory to a TIFF that holds its own tags and further ones.

    Args:
        data: a classic TIFF with one directory.
        tags: a directory as it is to stand at the end of `data` (at an even offset: pad first),
            with the values it points to; tags that `data` has already are left out.

    Returns:
        `data`, `tags` and the joint directory, to which the header points.
    """
    layout = _tiff_layout(data)
    whole = data + tags
    entries = dict(_raw_entries(whole, layout, len(data)))
    entries |= dict(_raw_entries(whole, layout, layout.first_directory))
    padding = b"\x00" * (len(whole) % 2)
    directory = struct.pack(layout.order + "H", len(entries))
    directory += b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    header = data[:4] + struct.pack(layout.order + "I", len(whole) + len(padding))
    return b"".join((header, memoryview(whole)[8:], padding, directory))


def _tiff_layout(data: bytes) -> _TiffLayout:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ImageError(ErrorCode.CORRUPT, f"TIFF byte order {data[:2]!r}, neither II nor MM")
    (version,) = unpack(order + "H", data, 2)
    if version == 43:
        (first,) = unpack(order + "Q", data, 8)
        return _TiffLayout(order, "Q", "Q", first)
    (first,) = unpack(order + "I", data, 4)
    return _TiffLayout(order, "H", "I", first)


def _raw_entries(data: bytes, layout: _TiffLayout, directory: int) -> Iterator[tuple[int, bytes]]:
    position = directory + layout.count_size
    for _ in range(_count_tiff_fields(data, layout, directory)):
        yield layout.read("H", data, position), data[position : position + layout.entry_size]
        position += layout.entry_size


def _count_tiff_fields(data: bytes, layout: _TiffLayout, directory: int) -> int:
    """Reads the number of fields that a directory says it has.

    Raises:
        ImageError: CORRUPT; TRUNCATED.
    """
    count = layout.read(layout.count, data, directory)
    if count > _MAX_TIFF_FIELDS:
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF directory of {count} fields; at most {_MAX_TIFF_FIELDS} are read",
        )
    return count


_TiffTags = dict[int, tuple[int, ...]]
_TiffPlaces = dict[int, NDArray[np.unsignedinteger[Any]]]


@dataclass(frozen=True)
class _TiffField:
    """A directory's entry.

    Attributes:
        code: the values' struct code with their byte order; None if they are no whole numbers.
        count: the number of values.
        size: the bytes of all values.
        start: the position of the values in the file.
    """

    tag: int
    code: str | None
    count: int
    size: int
    start: int


def _tiff_entries(data: bytes, layout: _TiffLayout, directory: int) -> Iterator[_TiffField]:
    entry = f"{layout.order}HH{layout.offset}{layout.offset}"
    position = directory + layout.count_size
    for _ in range(_count_tiff_fields(data, layout, directory)):
        tag, kind, count, start = unpack(entry, data, position)
        size = count * _TIFF_TYPE_BYTES.get(kind, 1)
        if size <= layout.value_size:
            start = position + layout.entry_size - layout.value_size
        code = _TIFF_INTEGERS.get(kind)
        yield _TiffField(tag, code and layout.order + code, count, size, start)
        position += layout.entry_size


def _tiff_fields(data: bytes, layout: _TiffLayout, directory: int) -> tuple[_TiffTags, _TiffPlaces]:
    """Reads the integer fields of one directory; if a tag occurs twice, the first one.

    Raises:
        ImageError: CORRUPT where fields share their values, which every reader would copy for each;
            TRUNCATED.
    """
    tags: _TiffTags = {}
    places: _TiffPlaces = {}
    total = 0
    for field in _tiff_entries(data, layout, directory):
        if field.code is not None and field.tag in _TIFF_TAGS and field.tag not in tags:
            tags[field.tag] = _tiff_integers(data, field)
        elif field.code is not None and field.tag in _TIFF_PLACES and field.tag not in places:
            places[field.tag] = _tiff_places(data, field)
        # Readers ignore values beyond the end of the file.
        total += field.size if field.start + field.size <= len(data) else 0
    if total > 2 * len(data):
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF directory whose fields hold {total} bytes, in a file of {len(data)}",
        )
    return tags, places


def _tiff_integers(data: bytes, field: _TiffField) -> tuple[int, ...]:
    assert field.code is not None
    _check_tiff_values(data, field)
    count = min(field.count, _MAX_TIFF_VALUES)
    return unpack(f"{field.code[0]}{count}{field.code[1]}", data, field.start)


def _tiff_places(data: bytes, field: _TiffField) -> NDArray[np.unsignedinteger[Any]]:
    """Reads the values of a field that may have millions of them, as an array."""
    _check_tiff_values(data, field)
    return np.frombuffer(data[field.start : field.start + field.size], field.code)


def _check_tiff_values(data: bytes, field: _TiffField) -> None:
    """Checks that a field's values lie within the file.

    Raises:
        ImageError: TRUNCATED.
    """
    end = field.start + field.size
    if end > len(data):
        raise _too_short(data, field.start, end)


def _tiff_data_end(places: _TiffPlaces) -> int:
    """Returns the byte after the last byte of strips or tiles; 0 if the fields name none."""
    starts, lengths = (places.get(a, places.get(b)) for a, b in ((273, 324), (279, 325)))
    if starts is None or lengths is None:
        return 0
    count = min(len(starts), len(lengths))
    if not count:
        return 0
    # 2^62 is beyond any file, and a sum of two such values stays below 2^64.
    ends = [np.minimum(each[:count].astype(np.uint64), 1 << 62) for each in (starts, lengths)]
    return int((ends[0] + ends[1]).max())


def _check_tiff_parts(tags: _TiffTags, width: int, height: int) -> None:
    """Checks that no strip or tile, each of which is decoded whole, is far larger than the picture.

    Raises:
        ImageError: UNSUPPORTED_FORMAT.
    """
    is_planar = _first(tags, 284, 1) == _PLANAR
    bits = _first(tags, 258, 1) * (1 if is_planar else _first(tags, 277, 1))
    strip = width * min(height, _first(tags, 278, height))
    tile = _first(tags, 322, 0) * _first(tags, 323, 0)
    size = max(strip, tile) * bits // 8
    most = max(_MAX_INNER_BYTES, 32 * width * height)
    if size > most:
        what = "tiles" if tile > strip else "strips"
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"TIFF of {width} x {height} px in {what}, {size} bytes each; at most {most} are "
            "decoded at a time; save it anew",
        )


def _check_strips_or_tiles(tags: _TiffTags, places: _TiffPlaces) -> None:
    """Checks that all fields agree on whether pixels lie in strips or in tiles.

    If they disagree, Pillow goes by the field of positions, libtiff by the presence of a tile size.

    Raises:
        ImageError: CORRUPT.
    """
    tile_sizes = {322, 323} & tags.keys()
    has_both = places.keys() >= {273, 324} or places.keys() >= {279, 325}
    if has_both or (tile_sizes and 273 in places) or (not tile_sizes and 324 in places):
        said = sorted(tile_sizes | places.keys())
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF whose fields {said} say that the same pixels lie in strips and in tiles; "
            "save it anew",
        )


def _tiff_parts(tags: _TiffTags, width: int, height: int) -> int:
    """Returns the number of strips or tiles that one plane of a picture takes.

    Raises:
        ImageError: CORRUPT, tiles have no width or height.
    """
    if not width or not height:
        return 0
    if not {322, 323} & tags.keys():
        # Codecs take 0 for all rows, as they do without the field.
        return -(-height // (_first(tags, 278, 0) or height))
    across, down = _first(tags, 322, 0), _first(tags, 323, 0)
    if across <= 0 or down <= 0:
        raise ImageError(ErrorCode.CORRUPT, f"TIFF of tiles of {across} x {down} px")
    return -(-width // across) * -(-height // down)


def _check_tiff_starts(
    starts: NDArray[np.unsignedinteger[Any]], needed: int, layout: _TiffLayout
) -> None:
    """Checks that there is data for all pixels.

    Codecs leave the pixels of a missing strip or tile black, or decode the file's header for them.

    Args:
        starts: the positions of the strips or tiles.
        needed: the number of strips or tiles that the picture takes.
        layout: of the file.

    Raises:
        ImageError: CORRUPT, there are fewer; UNSUPPORTED_FORMAT, some are left out on purpose.
    """
    if len(starts) < needed:
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF that points to {len(starts)} strips or tiles; its size takes {needed}",
        )
    empty = int((starts[:needed] < layout.head_size).sum())
    if empty:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"sparse TIFF: {empty} of its {needed} strips or tiles lie nowhere in the file; save "
            "it whole, for example with gdal_translate -co SPARSE_OK=FALSE",
        )


def _tiff_pages(data: bytes, layout: _TiffLayout) -> list[tuple[int, int]]:
    """Returns the position and the NewSubfileType of each directory of the chain.

    A damaged or circular chain ends where it breaks.

    Raises:
        ImageError: CORRUPT where directories share their bytes: reading all would take hours.
    """
    pages: dict[int, int] = {}
    looked_at = 0
    directory = layout.first_directory
    while directory and directory not in pages and len(pages) < MOST_FRAMES:
        try:
            entries = _count_tiff_fields(data, layout, directory)
            end = directory + layout.count_size + entries * layout.entry_size
            following = layout.read(layout.offset, data, end)
            pages[directory] = _subfile_type(data, layout, directory)
        except ImageError:
            break
        looked_at += entries * layout.entry_size
        if looked_at > 2 * len(data):
            raise ImageError(ErrorCode.CORRUPT, "TIFF whose directories lie in one another")
        directory = following
    return list(pages.items())


def _subfile_type(data: bytes, layout: _TiffLayout, directory: int) -> int:
    """Returns the NewSubfileType of a directory, or its value by the older field SubfileType."""
    for field in _tiff_entries(data, layout, directory):
        # Fields are sorted, and these two come first.
        if field.tag > _SUBFILE_TYPE:
            break
        if field.tag >= _NEW_SUBFILE_TYPE and field.code is not None:
            values = _tiff_integers(data, field)
            value = values[0] if values else 0
            if field.tag == _NEW_SUBFILE_TYPE:
                return value
            return _REDUCED_COPY if value == _OLD_REDUCED_COPY else 0
    return 0


def _first(tags: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    values = tags.get(tag)
    return values[0] if values else default


def _orientation_position(exif: bytes) -> int | None:
    """Returns the position of the orientation's value in an EXIF block; None if not readable."""
    try:
        layout = _tiff_layout(exif)
        position = layout.first_directory + layout.count_size
        for tag, entry in _raw_entries(exif, layout, layout.first_directory):
            if tag == _ORIENTATION_TAG and layout.read("H", entry, 2) == 3:
                return position + 8 if position + 10 <= len(exif) else None
            position += layout.entry_size
    except ImageError:
        return None
    return None


def check_boxes(data: bytes, format_: str) -> None:
    """Checks that the top-level boxes of an AVIF or HEIC file lie within it (ISO/IEC 14496-12).

    Raises:
        ImageError: TRUNCATED.
    """
    position = 0
    for box in _boxes(data, 0, len(data), format_):
        position = box.end
    if position > len(data):
        raise _truncated(format_.upper(), f"has {len(data)} of {position} bytes")


def check_iso_sizes(data: bytes, format_: str, pixels: int) -> None:
    """Checks that no picture inside an AVIF or HEIC is far larger than the one that is shown.

    A cell of a grid, an alpha plane or a picture that is cropped is decoded as a whole, in the size
    of its `ispe` property (ISO/IEC 23008-12, 6.5.3).

    Args:
        data: a whole file.
        format_: "avif" or "heif".
        pixels: of the picture that is shown.

    Raises:
        ImageError: UNSUPPORTED_FORMAT.
    """
    most = max(_MAX_INNER_PIXELS, 4 * pixels)
    for width, height in _iso_sizes(data, format_):
        if width * height > most:
            raise ImageError(
                ErrorCode.UNSUPPORTED_FORMAT,
                f"{format_.upper()} of {pixels} px that holds a picture of {width} x {height}; at "
                f"most {most} px are decoded for it; save it anew",
            )


def _iso_sizes(data: bytes, format_: str) -> Iterator[tuple[int, int]]:
    """Yields the sizes of all pictures in an AVIF or HEIC: /meta/iprp/ipco/ispe."""
    spans = [(0, len(data))]
    # A "meta" begins with a version and flags.
    for kind, skipped in ((b"meta", 4), (b"iprp", 0), (b"ipco", 0)):
        spans = [
            (box.start + skipped, min(box.end, end))
            for start, end in spans
            for box in _boxes(data, start, end, format_)
            if box.type == kind
        ]
    for start, end in spans:
        for box in _boxes(data, start, end, format_):
            if box.type == b"ispe" and box.start + 12 <= len(data):
                width, height = unpack(">II", data, box.start + 4)
                yield width, height


def _boxes(data: bytes, start: int, end: int, format_: str) -> Iterator[Chunk]:
    """Yields the boxes of a part of a file one after the other; the last may end beyond it."""
    position = start
    for _ in _part_numbers(end - start, format_.upper()):
        if position + 8 > end:
            return
        size, kind = unpack(">I4s", data, position)
        payload = position + 8
        if size == 1 and position + 16 <= end:
            (size,) = unpack(">Q", data, payload)
            payload += 8
        if size == 0:
            # Size 0: the box goes on to the end.
            yield Chunk(kind, payload, end)
            return
        position += max(size, 8)
        yield Chunk(kind, payload, position)


def _truncated(format_: str, found: str) -> ImageError:
    return ImageError(ErrorCode.TRUNCATED, f"{format_} {found}; the file was cut off")
