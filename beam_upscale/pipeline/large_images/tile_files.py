"""The files of a large image's tiles: samples without loss, in groups of rows, and a JSON footer.

    part | part | … | JSON | length of the JSON, 4 bytes, little-endian

A part holds some rows as they lie in memory, compressed by LZ4. That saves little with photographs
and most bytes with smooth pictures, and takes hardly any time.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from beam_upscale.errors import ImageError
from beam_upscale.images.values import Pixels
from beam_upscale.storage import files

PART_ROWS = 256
"""The most rows of a part in a file that is read by rows."""

_CODEC = "lz4"

# The footers of most files are shorter than this.
_TAIL_BYTES = 16 << 10


def packed(parts: Iterable[Pixels], values: Mapping[str, Any] | None = None) -> bytes:
    """Returns the bytes of a tile's file.

    Args:
        parts: arrays of (rows, width, bands) of one dtype, from top to bottom.
        values: further values of the tile, as plain JSON.
    """
    blobs, rows = [], []
    last: Pixels | None = None
    for last in parts:
        flat = np.ascontiguousarray(last).data.cast("B")
        blobs.append(pa.compress(flat, codec=_CODEC, asbytes=True))
        rows.append(len(last))
    assert last is not None
    footer = {
        "dtype": last.dtype.name,
        "width": last.shape[1],
        "bands": last.shape[2],
        "rows": rows,
        "bytes": [len(blob) for blob in blobs],
        "values": dict(values or {}),
    }
    encoded = json.dumps(footer).encode()
    return b"".join([*blobs, encoded, struct.pack("<I", len(encoded))])


def in_parts(pixels: Pixels) -> Iterable[Pixels]:
    """Cuts a tile into parts of `PART_ROWS` rows."""
    return (pixels[top : top + PART_ROWS] for top in range(0, len(pixels), PART_ROWS))


class TileFile:
    """A tile's file; its rows are read when they are requested.

    Args:
        uri: the file's URI.

    Raises:
        OSError: the file cannot be read. It is no input: without it the run cannot go on.

    Attributes:
        values: the values that were written with the samples.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        size = files.size(uri)
        if size is None:
            raise FileNotFoundError(f"{uri} does not exist")
        footer = self._footer(size)
        self.values: dict[str, Any] = footer["values"]
        self._dtype = np.dtype(footer["dtype"])
        self._shape = footer["width"], footer["bands"]
        self._parts: list[tuple[int, int, int, int]] = []
        row = offset = 0
        for rows, length in zip(footer["rows"], footer["bytes"], strict=True):
            self._parts.append((row, row + rows, offset, length))
            row, offset = row + rows, offset + length
        self._last: tuple[int, Pixels] | None = None

    def _footer(self, size: int) -> dict[str, Any]:
        tail = self._read(max(0, size - _TAIL_BYTES), _TAIL_BYTES)
        (length,) = struct.unpack("<I", tail[-4:])
        if length + 4 > len(tail):
            tail = self._read(size - length - 4, length + 4)
        footer: dict[str, Any] = json.loads(tail[-4 - length : -4])
        return footer

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return files.read_range(self._uri, offset, size)
        except ImageError as error:
            raise OSError(error.message) from error

    def pixels(self) -> Pixels:
        """Reads all rows: (height, width, bands)."""
        return self.rows(0, self._parts[-1][1])

    def rows(self, top: int, bottom: int) -> Pixels:
        """Reads some rows: (bottom - top, width, bands). The last part read is kept in memory."""
        found = [
            self._part(number)[max(0, top - first) : bottom - first]
            for number, (first, end, _, _) in enumerate(self._parts)
            if first < bottom and top < end
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _part(self, number: int) -> Pixels:
        if self._last is None or self._last[0] != number:
            first, end, offset, length = self._parts[number]
            shape = end - first, *self._shape
            size = int(np.prod(shape)) * self._dtype.itemsize
            data = pa.decompress(self._read(offset, length), size, codec=_CODEC)
            self._last = number, np.frombuffer(data, self._dtype).reshape(shape)
        return self._last[1]
