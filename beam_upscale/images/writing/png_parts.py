"""Encodes PNGs: NumPy filters the rows, libdeflate or zlib-ng compresses them.

Every row has the filter Paeth, which is within 1 % of the best filter for each row where there are
photographs. libdeflate compresses a picture at once. It takes text and flat colors in little time,
so these are compressed once more, with more effort, where effort pays most. A picture of more than
`WHOLE_BYTES` is compressed by zlib-ng band by band, so that its rows need not be in memory. Neither
library's output depends on the CPU or on threads. `benchmarks/encoders.py` has the measurements.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

import deflate
import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from beam_upscale.images.containers.png import PNG_SIGNATURE
from beam_upscale.images.values import Metadata, Pixels, Shape
from beam_upscale.images.writing.fitting import png_chunks

WHOLE_BYTES = 32 << 20
"""The most bytes of filtered rows that are compressed at once, by libdeflate."""

_LEVELS = (
    *((0, 0, 0), (1, 1, 2), (1, 4, 3), (1, 6, 4), (4, 6, 4)),
    *((5, 6, 5), (6, 6, 6), (7, 7, 7), (9, 9, 8), (12, 12, 8)),
)
"""For each `EncodeOptions.png_compression` three levels: of libdeflate, of libdeflate for flat
pictures, and of zlib-ng."""

_FLAT = 8
"""How many times smaller than its rows a flat picture is at its first level. With this number all
pictures measured stay within 15 % of Pillow's size at the default of 3."""

_BAND_BYTES = 128 << 10
"""Bytes of the rows that are filtered at a time: with what is computed of them, they fit a core's
second cache."""

Part = bytes | bytearray
"""A part of a file."""

_PAETH = 4
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's color types, by samples of a pixel: gray, gray with alpha, RGB, RGB with alpha."""


def png_parts(
    blocks: Iterable[Sequence[Pixels]], shape: Shape, metadata: Metadata, level: int
) -> Iterator[Part]:
    """Yields the bytes of a PNG in parts; they do not depend on how the rows are cut into blocks.

    Args:
        blocks: the rows from top to bottom. Each block has one array or two, (rows, width, some
            bands), whose bands together are those of a pixel: color, then alpha.
        shape: the shape of the picture.
        metadata: what the file carries, as `fit` returns it.
        level: an `EncodeOptions.png_compression`.

    Raises:
        ValueError: the picture has no pixels, or there are fewer or more rows than it has.
        Exception: any exception that `blocks` raises.
    """
    if not shape.width or not shape.height:
        raise ValueError("a PNG has at least one pixel")
    bits = 8 * np.dtype(shape.dtype).itemsize
    header = (shape.width, shape.height, bits, _COLOR_TYPES[shape.bands], 0, 0, 0)
    yield PNG_SIGNATURE
    yield from _chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    for kind, payload in png_chunks(metadata):
        yield from _chunk(kind, payload)
    for data in _deflated(_checked(_filtered(blocks, shape), shape.height), shape, level):
        yield from _chunk(b"IDAT", data)
    yield from _chunk(b"IEND", b"")


def _chunk(kind: bytes, payload: Part) -> Iterator[Part]:
    yield struct.pack(">I", len(payload)) + kind
    yield payload
    yield struct.pack(">I", zlib_ng.crc32(payload, zlib_ng.crc32(kind)))


def _deflated(bands: Iterator[NDArray[np.uint8]], shape: Shape, level: int) -> Iterator[Part]:
    """Compresses filtered rows; yields the parts of one zlib stream, none of them empty."""
    first, for_flat, for_bands = _LEVELS[level]
    if shape.height * (1 + shape.row_bytes) <= WHOLE_BYTES:
        rows = _joined(bands, shape)
        data = deflate.zlib_compress(rows, first)
        is_flat = len(data) * _FLAT < rows.nbytes
        yield deflate.zlib_compress(rows, for_flat) if is_flat and for_flat > first else data
        return
    compressor = zlib_ng.compressobj(for_bands)
    for band in bands:
        if part := compressor.compress(band):
            yield part
    yield compressor.flush()


def _joined(bands: Iterator[NDArray[np.uint8]], shape: Shape) -> NDArray[np.uint8]:
    whole = np.empty((shape.height, 1 + shape.row_bytes), np.uint8)
    top = 0
    for band in bands:
        whole[top : top + len(band)] = band
        top += len(band)
    return whole


def _checked(bands: Iterator[NDArray[np.uint8]], height: int) -> Iterator[NDArray[np.uint8]]:
    rows = 0
    for band in bands:
        rows += len(band)
        if rows > height:
            break
        yield band
    if rows != height:
        raise ValueError(f"rows for {rows} of {height}")


def _filtered(blocks: Iterable[Sequence[Pixels]], shape: Shape) -> Iterator[NDArray[np.uint8]]:
    """Yields filtered rows, band by band; an array is valid until the next is taken."""
    band = _Band(shape)
    for block in blocks:
        taken = 0
        while taken < len(block[0]):
            taken += band.take([each[taken:] for each in block])
            if band.is_full:
                yield band.filtered()
    if band.rows:
        yield band.filtered()


class _Band:
    """A band of rows that is filled, filtered, and filled with the rows below it.

    The rows are a flat array, each followed by as many zeros as a pixel has bytes. So the bytes to
    the left, above, and above to the left of all bytes are three views of that array, each of them
    contiguous; those beyond the picture's edges are 0, as the filter requires.

    Attributes:
        rows: the number of rows that were taken since the last were filtered.
    """

    def __init__(self, shape: Shape) -> None:
        self.rows = 0
        pixel_bytes = shape.bands * np.dtype(shape.dtype).itemsize
        self._pixel_bytes = pixel_bytes
        self._row_bytes = shape.row_bytes
        self._stride = shape.row_bytes + pixel_bytes
        self._height = max(1, min(shape.height, _BAND_BYTES // self._stride))
        # One row more, the first: the last row of the band before.
        self._bytes = np.zeros(pixel_bytes + (self._height + 1) * self._stride, np.uint8)
        self._lines = self._bytes[pixel_bytes:].reshape(-1, self._stride)
        dtype = np.dtype(shape.dtype).newbyteorder(">")
        self._samples = (
            self._lines[:, : shape.row_bytes].view(dtype).reshape(-1, shape.width, shape.bands)
        )
        self._work = np.empty((4, self._height * self._stride), np.uint8)
        self._masks = np.empty((2, self._height * self._stride), np.bool_)
        self._result = np.full((self._height, 1 + shape.row_bytes), _PAETH, np.uint8)

    @property
    def is_full(self) -> bool:
        """True if the rows must be filtered before others are taken."""
        return self.rows == self._height

    def take(self, block: Sequence[Pixels]) -> int:
        """Copies rows from the top of a block, and returns their number."""
        count = min(self._height - self.rows, len(block[0]))
        target = self._samples[1 + self.rows : 1 + self.rows + count]
        first = 0
        for part in block:
            bands = part.shape[2]
            target[..., first : first + bands] = part[:count]
            first += bands
        self.rows += count
        return count

    def filtered(self) -> NDArray[np.uint8]:
        """Returns the rows as (rows, 1 + bytes of a row), and makes room for those below."""
        size, pixel_bytes, stride = self.rows * self._stride, self._pixel_bytes, self._stride
        result = self._result[: self.rows]
        here = self._bytes[pixel_bytes + stride :][:size]
        left = self._bytes[stride:][:size]
        above = self._bytes[pixel_bytes:][:size]
        corner = self._bytes[:size]
        to_above = _paeth(here, left, above, corner, self._work[:, :size], self._masks[:, :size])
        remainder, offset = (each.reshape(-1, stride)[:, : self._row_bytes] for each in to_above)
        np.subtract(remainder, offset, out=result[:, 1:])
        self._lines[0] = self._lines[self.rows]
        self.rows = 0
        return result


_Bytes = NDArray[np.uint8]


def _paeth(
    here: _Bytes,
    left: _Bytes,
    above: _Bytes,
    corner: _Bytes,
    work: _Bytes,
    masks: NDArray[np.bool_],
) -> tuple[_Bytes, _Bytes]:
    """Computes two arrays whose difference is the bytes less Paeth's prediction, modulo 256.

    The prediction (PNG specification, third edition, 9.4) is the one of left, above and corner that
    is nearest to left + above - corner. Of the lesser and the greater of left and above, that is
    the lesser if the corner exceeds it by at least twice what the greater exceeds the corner by,
    the greater in the mirrored case, and else the corner. Differences below 0 count as 0, so that
    all numbers fit into bytes.
    """
    lesser, greater, over, under = work
    is_lesser, is_greater = masks
    np.minimum(left, above, out=lesser)
    np.maximum(left, above, out=greater)
    np.maximum(corner, lesser, out=over)
    np.subtract(over, lesser, out=over)
    np.maximum(greater, corner, out=under)
    np.subtract(under, corner, out=under)
    np.right_shift(over, 1, out=lesser)
    np.less_equal(under, lesser, out=is_lesser)
    np.right_shift(under, 1, out=greater)
    np.less_equal(over, greater, out=is_greater)
    # The prediction is corner - over, corner + under or corner.
    np.multiply(over, is_lesser.view(np.uint8), out=over)
    np.multiply(under, is_greater.view(np.uint8), out=under)
    np.subtract(here, corner, out=lesser)
    np.add(lesser, over, out=lesser)
    return lesser, under
