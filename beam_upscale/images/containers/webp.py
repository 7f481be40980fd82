"""WebP: header, chunks, and the check that a file is whole."""

from collections.abc import Iterator
from dataclasses import dataclass

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers.parts import part_numbers, truncated, unpack
from beam_upscale.images.containers.png import Chunk


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

    EXIF is at the end of a WebP: the orientation is unknown from the beginning alone.
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
    """Checks that a WebP has the length that its header states.

    Raises:
        ImageError: TRUNCATED.
    """
    expected = int.from_bytes(data[4:8], "little") + 8
    if len(data) < expected:
        raise truncated("WebP", f"has {len(data)} of {expected} bytes")


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
    for _ in part_numbers(len(data), "WebP"):
        if position + 8 > len(data):
            return
        kind, length = unpack("<4sI", data, position)
        chunk = Chunk(kind, position + 8, position + 8 + length)
        yield chunk
        position = chunk.end + length % 2
