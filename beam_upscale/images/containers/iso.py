"""AVIF and HEIC: boxes, and the sizes that they claim."""

from collections.abc import Iterator

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers.parts import part_numbers, truncated, unpack
from beam_upscale.images.containers.png import MAX_INNER_PIXELS, Chunk


def check_boxes(data: bytes, format_: str) -> None:
    """Checks that the top-level boxes of an AVIF or HEIC file lie within it (ISO/IEC 14496-12).

    Raises:
        ImageError: TRUNCATED.
    """
    position = 0
    for box in _boxes(data, 0, len(data), format_):
        position = box.end
    if position > len(data):
        raise truncated(format_.upper(), f"has {len(data)} of {position} bytes")


def check_iso_sizes(data: bytes, format_: str, pixels: int) -> None:
    """Checks that no picture inside an AVIF or HEIC is far larger than the one that is shown.

    A cell of a grid, an alpha plane or a picture that is cropped is decoded as a whole, in the size
    of its `ispe` property (ISO/IEC 23008-12, 6.5.3).

    Args:
        data: a whole file.
        format_: "avif" or "heif".
        pixels: the number of pixels of the picture that is shown.

    Raises:
        ImageError: UNSUPPORTED_FORMAT.
    """
    most = max(MAX_INNER_PIXELS, 4 * pixels)
    for width, height in _iso_sizes(data, format_):
        if width * height > most:
            raise ImageError(
                ErrorCode.UNSUPPORTED_FORMAT,
                f"{format_.upper()} of {pixels} px that holds a picture of {width} x {height}; at "
                f"most {most} px are decoded for it; save it again",
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
    for _ in part_numbers(end - start, format_.upper()):
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
