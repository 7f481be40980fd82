"""GIF: the count of frames, and the removal of the first frame's disposal."""

from collections.abc import Iterator

from beam_upscale.images.containers import parts
from beam_upscale.images.containers.parts import part_numbers, unpack

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
        if frames == parts.MOST_FRAMES:
            break
    return max(1, frames)


def gif_that_stays(data: bytes) -> bytes:
    """Returns a GIF without disposal of its first frame, and otherwise unchanged.

    Pillow allocates memory for the disposed frame as soon as it opens the file, and the frame may
    claim any size.

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
    numbers = part_numbers(len(data), "GIF")
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
