"""Encodes pictures that are too large for memory, row by row.

A TIFF is written by libvips while it reads the rows from top to bottom. It reads them as an
uncompressed TIFF that exists only in the answers to its reads. Only an uncompressed TIFF has every
depth and alpha, costs nothing to make, and is streamed by libvips.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError
from beam_upscale.images.codecs import one_line
from beam_upscale.images.containers import tiff, tiff_fields
from beam_upscale.images.values import Metadata, Pixels, Shape
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.images.writing.encoding import (
    KEPT_IN_TIFF,
    as_vips,
    with_tiff_metadata,
)
from beam_upscale.images.writing.fitting import fit
from beam_upscale.images.writing.png_parts import png_parts
from beam_upscale.planning.plan_options import OutputFormat

STREAMED_FORMATS = frozenset({OutputFormat.PNG, OutputFormat.TIFF})
"""The formats that are written row by row; WebP and JPEG also limit the length of a side."""

_ROWS_PER_STRIP = 16
_TILE_SIDE = 256

_PROBED_BYTES = 1 << 20


def encode_rows(
    path: Path,
    rows: Iterator[Pixels],
    shape: Shape,
    *,
    metadata: Metadata,
    options: EncodeOptions,
) -> tuple[str, ...]:
    """Writes a picture to a local file, with only some of its rows in memory.

    A PNG has the same bytes as from `encode`. A TIFF has the same samples, in a tiled BigTIFF, and
    no EXIF block.

    Args:
        path: the path of the file.
        rows: arrays of (rows, width, bands), from top to bottom.
        shape: the shape of the whole picture.
        metadata: as for `encode`.
        options: the options for writing; their format is one of `STREAMED_FORMATS`.

    Returns:
        Notes on changes that fit the picture to the format, as `Encoded.notes`.

    Raises:
        ImageError: ENCODE_ERROR.
        OSError: of `FULL_DISK`; of a TIFF, any other too.
        Exception: any exception that `rows` raises.
    """
    metadata, notes = fit(
        metadata,
        options.format,
        options.metadata,
        width=shape.width,
        height=shape.height,
        channels=shape.channels,
    )
    if options.format is OutputFormat.PNG:
        _write_png(path, rows, shape, metadata, options.png_compression)
        return notes
    _write_tiff(path, rows, shape, metadata)
    return notes if metadata.exif is None else (*notes, "EXIF not kept in a BigTIFF")


def _encode_error(shape: Shape, format_: OutputFormat, error: Exception) -> ImageError:
    text = (
        f"a {shape.width} x {shape.height} picture could not be written as {format_}: "
        f"{one_line(error)}"
    )
    return ImageError(ErrorCode.ENCODE_ERROR, text)


def _write_png(
    path: Path, rows: Iterator[Pixels], shape: Shape, metadata: Metadata, level: int
) -> None:
    reader = _RowReader(rows, shape)
    try:
        with path.open("wb") as file:
            for part in png_parts(reader.blocks(), shape, metadata, level):
                file.write(part)
    except OSError as error:
        if error is reader.error or error.errno in FULL_DISK:
            raise
        raise _encode_error(shape, OutputFormat.PNG, error) from error


class _RowReader:
    """The rows of a picture, as blocks for `png_parts`.

    Attributes:
        error: the exception that the rows raised; None if they raised none.
    """

    def __init__(self, rows: Iterator[Pixels], shape: Shape) -> None:
        self.error: Exception | None = None
        self._rows = rows
        self._row = (-1, shape.width, shape.bands)

    def blocks(self) -> Iterator[tuple[Pixels]]:
        """Yields the rows."""
        try:
            for rows in self._rows:
                yield (rows.reshape(self._row),)
        except Exception as error:
            self.error = error
            raise


def _write_tiff(path: Path, rows: Iterator[Pixels], shape: Shape, metadata: Metadata) -> None:
    stream = _Stream(rows, shape)
    picture = as_vips(stream.open(), shape.channels, shape.dtype, metadata.icc_profile)
    try:
        with _telling_of_a_full_disk(path):
            with_tiff_metadata(picture, metadata).tiffsave(
                str(path),
                compression="deflate",
                predictor="horizontal",
                resunit="inch",
                keep=KEPT_IN_TIFF,
                tile=True,
                tile_width=_TILE_SIDE,
                tile_height=_TILE_SIDE,
                bigtiff=True,
            )
    except pyvips.Error as error:
        if stream.error is None:
            raise _encode_error(shape, OutputFormat.TIFF, error) from error
    # libvips may end a file without an error where its rows end early.
    if stream.error is not None:
        raise stream.error


@contextlib.contextmanager
def _telling_of_a_full_disk(path: Path) -> Iterator[None]:
    """Raises an OSError if libvips fails on a full disk, which its own error does not show.

    Other failures are the picture's own fault. A full disk is not: the run is resumed later.
    """
    try:
        yield
    except pyvips.Error as error:
        # First look for the system's message: another process may have freed space by now.
        for number in FULL_DISK:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from error
        # Then write a few bytes: on a full disk, this raises an OSError too.
        with contextlib.suppress(FileNotFoundError), path.open("ab") as file:
            file.write(bytes(_PROBED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        raise


class _Stream:
    """A virtual TIFF file of rows, which libvips reads.

    Attributes:
        error: the exception that ended the file early; None if there is none.
    """

    def __init__(self, rows: Iterator[Pixels], shape: Shape) -> None:
        self.error: Exception | None = None
        self._rows = rows
        self._header = _tiff_header(shape)
        self._size = len(self._header) + shape.height * shape.row_bytes
        self._position = 0
        self._taken = len(self._header)
        self._waiting = memoryview(b"")

    def open(self) -> Any:
        """Opens the picture, which reads rows as they are needed."""
        source = pyvips.SourceCustom()
        source.on_read(self._read)
        source.on_seek(self._seek)
        return pyvips.Image.new_from_source(source, "", access="sequential")

    def _seek(self, offset: int, whence: int) -> int:
        self._position = offset + {0: 0, 1: self._position, 2: self._size}[whence]
        return self._position

    def _read(self, size: int) -> bytes:
        # No exception may pass through libvips; it takes empty bytes as the end of the file.
        if self.error is not None:
            return b""
        try:
            data = self._part(size)
        except Exception as error:
            self.error = error
            return b""
        self._position += len(data)
        return data

    def _part(self, size: int) -> bytes:
        if self._position < len(self._header):
            return self._header[self._position : self._position + size]
        if self._position != self._taken:
            raise RuntimeError(f"byte {self._position} is asked for where {self._taken} is next")
        if not self._waiting and self._taken < self._size:
            rows = next(self._rows, None)
            if rows is None:
                raise ValueError(f"rows for {self._taken} of {self._size} bytes")
            self._waiting = np.ascontiguousarray(rows).data.cast("B")
        part = bytes(self._waiting[:size])
        self._waiting = self._waiting[len(part) :]
        self._taken += len(part)
        return part


_FORMATS = {3: "H", 4: "I", 16: "Q"}
"""The struct codes of SHORT, LONG and LONG8, by their numbers in TIFF."""


def _tiff_header(shape: Shape) -> bytes:
    """Builds a little-endian BigTIFF up to its pixels, which follow in strips without gaps."""
    strips = range(0, shape.height, _ROWS_PER_STRIP)
    lengths = [min(_ROWS_PER_STRIP, shape.height - top) * shape.row_bytes for top in strips]
    bits = np.dtype(shape.dtype).itemsize * 8
    fields: dict[int, tuple[int, list[int]]] = {
        256: (4, [shape.width]),
        257: (4, [shape.height]),
        258: (3, [bits] * shape.bands),
        259: (3, [tiff.TIFF_UNCOMPRESSED]),
        262: (3, [tiff_fields.Photometric.RGB if shape.channels == 3 else 1]),
        273: (16, [0] * len(lengths)),
        277: (3, [shape.bands]),
        278: (4, [_ROWS_PER_STRIP]),
        279: (16, lengths),
        284: (3, [1]),
    }
    if shape.has_alpha:
        fields[338] = (3, [tiff_fields.ExtraSample.UNASSOCIATED_ALPHA])
    position = len(_directory(fields))
    offsets = [position]
    for length in lengths[:-1]:
        offsets.append(offsets[-1] + length)
    return _directory({**fields, 273: (16, offsets)})


def _directory(fields: dict[int, tuple[int, list[int]]]) -> bytes:
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
    entries, values = b"", b""
    end = len(header) + 8 + 20 * len(fields) + 8
    for tag, (kind, numbers) in fields.items():
        packed = struct.pack(f"<{len(numbers)}{_FORMATS[kind]}", *numbers)
        entries += struct.pack("<HHQ", tag, kind, len(numbers))
        if len(packed) <= 8:
            entries += packed.ljust(8, b"\x00")
        else:
            entries += struct.pack("<Q", end + len(values))
            values += packed.ljust(-(-len(packed) // 8) * 8, b"\x00")
    return header + struct.pack("<Q", len(fields)) + entries + bytes(8) + values
