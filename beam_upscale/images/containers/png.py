"""PNG: header, chunks, and the check that a file is whole."""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers.parts import READ_BYTES, part_numbers, truncated, unpack

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_INNER_PIXELS = 1 << 24
MAX_INNER_BYTES = 1 << 25
"""Pixels and bytes that a tile, a strip or a grid's cell of a small picture may be decoded to."""


@dataclass(frozen=True)
class Chunk:
    """One chunk of a PNG, RIFF or ISO file: its type and the position of its payload."""

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
    for _ in part_numbers(len(data), "PNG"):
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
    """Checks that a PNG is whole and that every chunk matches its checksum.

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
        raise truncated("PNG", f"ends after {len(data)} bytes, before its IEND chunk")


def _check_png_chunk(chunk: Chunk, computed: int, stored: int) -> None:
    if computed != stored:
        name = chunk.type.decode("ascii", "backslashreplace")
        raise ImageError(
            ErrorCode.CHECKSUM_MISMATCH,
            f"PNG chunk {name} at byte {chunk.start - 8} has the checksum {computed:08x}, "
            f"but the file says {stored:08x}; the file is damaged",
        )


def check_png_file(file: BinaryIO) -> None:
    """Checks a PNG as `check_png` does, without holding the file.

    Raises:
        ImageError: TRUNCATED or CHECKSUM_MISMATCH.
    """
    last, size = b"", file.seek(0, io.SEEK_END)
    for chunk in _png_file_chunks(file):
        file.seek(chunk.start - 4)
        left, computed = chunk.end - chunk.start + 4, 0
        while left > 0 and (data := file.read(min(left, READ_BYTES))):
            computed = zlib.crc32(data, computed)
            left -= len(data)
        (stored,) = unpack(">I", file.read(4), 0)
        _check_png_chunk(chunk, computed, stored)
        last = chunk.type
    if last != b"IEND":
        raise truncated("PNG", f"ends after {size} bytes, before its IEND chunk")


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
    for _ in part_numbers(size, "PNG"):
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
