"""Encodes pictures that are too large for memory, row by row.

libvips writes the file while it reads the rows from top to bottom. It reads them as an uncompressed
TIFF that exists only in the answers to its reads. Only an uncompressed TIFF has every depth and
alpha, costs nothing to make, and is streamed by libvips.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError
from beam_upscale.images.codecs import one_line
from beam_upscale.images.containers import png, tiff, tiff_fields
from beam_upscale.images.values import Metadata, Pixels
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.images.writing.encoding import (
    KEPT_IN_TIFF,
    as_vips,
    with_tiff_metadata,
)
from beam_upscale.images.writing.fitting import fit, png_chunks
from beam_upscale.planning.plan_options import OutputFormat

STREAMED_FORMATS = frozenset({OutputFormat.PNG, OutputFormat.TIFF})
"""The formats that are written row by row; WebP and JPEG also limit the length of a side."""

_ROWS_PER_STRIP = 16
_TILE_SIDE = 256

# More bytes than a PNG has before its pixels.
_PNG_HEAD_BYTES = 64 << 20

_COPIED_BYTES = 1 << 20
_PROBED_BYTES = 1 << 20


@dataclass(frozen=True)
class Shape:
    """The size, channels and sample type of a picture.

    Attributes:
        width: the width in pixels.
        height: the height in pixels.
        channels: color channels, 1 or 3.
        has_alpha: True if alpha follows the color, as a last channel.
        dtype: uint8 or uint16.
    """

    width: int
    height: int
    channels: int
    has_alpha: bool
    dtype: str

    @property
    def bands(self) -> int:
        """The number of samples of a pixel, alpha included."""
        return self.channels + self.has_alpha

    @property
    def row_bytes(self) -> int:
        """The number of bytes of a row."""
        return self.width * self.bands * np.dtype(self.dtype).itemsize


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
        OSError: the file cannot be written.
        Exception: any exception that `rows` raises.
    """
    stream = _Stream(rows, shape)
    metadata, notes = fit(
        metadata,
        options.format,
        options.metadata,
        width=shape.width,
        height=shape.height,
        channels=shape.channels,
    )
    picture = as_vips(stream.open(), shape.channels, shape.dtype, metadata.icc_profile)
    try:
        if options.format is OutputFormat.PNG:
            _write_png(path, picture, metadata, options)
        else:
            _write_tiff(path, with_tiff_metadata(picture, metadata))
            notes = notes if metadata.exif is None else (*notes, "EXIF not kept in a BigTIFF")
    except pyvips.Error as error:
        if stream.error is None:
            raise _encode_error(shape, options, error) from error
    # libvips may end a file without an error where its rows end early.
    if stream.error is not None:
        raise stream.error
    return notes


def _encode_error(shape: Shape, options: EncodeOptions, error: Exception) -> ImageError:
    text = (
        f"a {shape.width} x {shape.height} picture could not be written as {options.format}: "
        f"{one_line(error)}"
    )
    return ImageError(ErrorCode.ENCODE_ERROR, text)


def _write_png(path: Path, picture: Any, metadata: Metadata, options: EncodeOptions) -> None:
    bare = path.with_name(f"{path.name}.bare")
    try:
        with _telling_of_a_full_disk(bare):
            picture.pngsave(
                str(bare), compression=options.png_compression, filter="all", keep="icc"
            )
        with bare.open("rb") as source, path.open("wb") as target:
            head = source.read(_PNG_HEAD_BYTES)
            target.write(png.png_with_chunks(head, png_chunks(metadata)))
            while data := source.read(_COPIED_BYTES):
                target.write(data)
    finally:
        bare.unlink(missing_ok=True)


def _write_tiff(path: Path, picture: Any) -> None:
    with _telling_of_a_full_disk(path):
        picture.tiffsave(
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
