"""Reads small plain PNGs by Pillow's decoder, which starts in a fifth of libvips's time.

libvips decodes larger PNGs faster, and whatever is not plain or not in order: it alone decides what
a damaged file is.
"""

from typing import cast

import deflate
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_upscale.images.containers import png
from beam_upscale.images.values import ImageHeader

_MOST_PIXELS = 1 << 14
"""The most pixels of a small PNG: beyond, libvips is as fast."""

_BANDS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}

_PLAIN = frozenset(
    {
        *(b"IHDR", b"IDAT", b"IEND", b"cHRM", b"gAMA", b"sRGB", b"cICP", b"sBIT", b"bKGD"),
        *(b"pHYs", b"eXIf", b"tIME", b"tEXt", b"zTXt", b"iTXt"),
    }
)
"""Chunks beside which the samples are those of the file. An ICC profile is left to libvips, which
checks it."""

_HEADER_BYTES = 13
_BITS = 8
_HIGHEST_FILTER = 4


def read_small_png(data: bytes, header: ImageHeader) -> NDArray[np.uint8] | None:
    """Decodes a PNG if it is small, plain and in order.

    Args:
        data: a file in which all chunks match their checksums.
        header: its header.

    Returns:
        (height, width) or (height, width, bands), as in the file; None for any other PNG.
    """
    bands = _BANDS.get(header.mode)
    if bands is None or header.width * header.height > _MOST_PIXELS:
        return None
    compressed = _compressed_rows(data)
    if compressed is None:
        return None
    info = png.png_info(data)
    if info.bit_depth != _BITS:
        return None
    row_bytes = 1 + info.width * bands
    if not _are_rows(compressed, row_bytes, info.height):
        return None
    size = (info.width, info.height)
    try:
        image = Image.frombytes(header.mode, size, compressed, "zip", header.mode, 0)
    except ValueError:
        return None
    return cast(NDArray[np.uint8], np.asarray(image))


def _compressed_rows(data: bytes) -> bytes | None:
    """Returns the zlib stream of a PNG of rows, if its chunks are plain and in order."""
    chunks = list(png.png_chunks(data))
    kinds = [chunk.type for chunk in chunks]
    first, count = 0, kinds.count(b"IDAT")
    if count:
        first = kinds.index(b"IDAT")
    parts = chunks[first : first + count]
    is_plain = (
        kinds[0] == b"IHDR"
        and kinds.count(b"IHDR") == 1
        and chunks[0].end - chunks[0].start == _HEADER_BYTES
        # Compression, filter and interlace methods.
        and data[chunks[0].end - 3 : chunks[0].end] == bytes(3)
        and _PLAIN.issuperset(kinds)
        and all(part.type == b"IDAT" for part in parts)
    )
    return b"".join(data[part.start : part.end] for part in parts) if is_plain else None


def _are_rows(compressed: bytes, row_bytes: int, height: int) -> bool:
    """Tells whether a zlib stream is whole, and holds filtered rows of a picture."""
    size = row_bytes * height
    # libdeflate lets matches reach back farther than the window that the stream's first byte gives.
    if not compressed or 1 << (8 + (compressed[0] >> 4)) < min(size, 1 << 15):
        return False
    try:
        rows = deflate.zlib_decompress(compressed, size)
    except deflate.DeflateError:
        return False
    return len(rows) == size and max(rows[::row_bytes]) <= _HIGHEST_FILTER
