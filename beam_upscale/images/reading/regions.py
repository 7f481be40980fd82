"""Reads pictures in parts, never whole in memory: rows from top to bottom, or a region.

The samples equal those of `decode`, one for one. The way of reading depends on the file:

| file | read |
| --- | --- |
| TIFF in tiles: gray or RGB, 8 or 16 bits, upright, without alpha | by region, or by rows |
| other gray and RGB TIFFs; PNG; JPEG but CMYK | by rows, as they lie in the file |
| the same, turned by their EXIF orientation | by rows, over a file in the temporary folder |
| others: CMYK; TIFF with a palette or JPEG; WebP, GIF, BMP, AVIF, HEIC | whole, then by rows |

Some decoders need the whole picture in memory: an interlaced PNG takes the size of its samples, a
progressive JPEG two bytes for each sample.
"""

import contextlib
import functools
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyvips

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.codecs import (
    damage_as_image_error,
    forget_errors,
    quiet_pillow,
    raise_jpeg_warnings,
)
from beam_upscale.images.containers import jpeg, png, tiff, tiff_views
from beam_upscale.images.containers.tiff import TiffInfo
from beam_upscale.images.metadata import behind
from beam_upscale.images.reading import (
    bare_tiff,
    carried_metadata,
    identification,
    inspection,
    jpeg_repair,
    pixels,
    tiff_samples,
)
from beam_upscale.images.reading.row_readers import Picture, PictureReader, rows_of
from beam_upscale.images.reading.source import Source
from beam_upscale.images.values import DecodedImage, ImageHeader, Pixels
from beam_upscale.planning.plan_options import Animated

# The header of most files lies within this many bytes.
_START_BYTES = 1 << 20

# Formats whose header data may be at the end of the file; such files are small.
_INSPECTED_WHOLE = frozenset({"avif", "gif", "heif", "webp"})


def read_file_header(path: Path) -> ImageHeader:
    """Reads a file's header as `read_header` does, with as little of the file in memory as it can.

    Raises:
        ImageError: as `read_header`.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file, quiet_pillow():
        return _inspect(file).header


@contextlib.contextmanager
def open_picture(
    path: Path,
    *,
    max_pixels: int,
    animated: Animated = Animated.FIRST,
    before_pixels: Callable[[ImageHeader], None] | None = None,
) -> Iterator[PictureReader]:
    """Opens a file to read its picture in parts.

    Args:
        path: the file.
        max_pixels: as for `decode`.
        animated: as for `decode`.
        before_pixels: as for `decode`.

    Raises:
        ImageError: as `decode`.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file, quiet_pillow():
        source = _inspect(file)
        inspection.check_acceptable(source.header, max_pixels, animated)
        if before_pixels is not None:
            before_pixels(source.header)
        with damage_as_image_error(source.header.format):
            reader = _reader(file, source, max_pixels, animated)
        yield reader


def _inspect(file: BinaryIO) -> Source:
    start = file.read(_START_BYTES)
    format_ = identification.identify(start)
    if format_ == "png":
        return inspection.inspect(png.png_without_pixels(file))
    if format_ == "tiff":
        with _mapped(file) as data:
            file.seek(0)
            return inspection.inspect_tiff(data, file)
    if format_ in _INSPECTED_WHOLE:
        return inspection.inspect(_whole(file))
    while True:
        try:
            return inspection.inspect(start)
        except ImageError as error:
            more = file.read(3 * len(start))
            if error.code is not ErrorCode.TRUNCATED or not more:
                raise
            start += more


@contextlib.contextmanager
def _mapped(file: BinaryIO) -> Iterator[bytes]:
    """Maps a file into memory; only the bytes that are read take memory."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # A mapping supports all operations on bytes that are used here.
        yield cast(bytes, data)


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _reader(file: BinaryIO, source: Source, max_pixels: int, animated: Animated) -> PictureReader:
    header = source.header
    if header.format == "png":
        png.check_png_file(file)
        with _mapped(file) as data:
            behind.look_behind(source.beside, "png", data)
        image = _open(file)
        picture = _picture(source, image, image.bands in (2, 4), pixels.png_notes(source))
        return PictureReader(picture, lambda: rows_of(_open(file)), source.orientation)
    if header.format == "jpeg" and header.mode != "CMYK":
        return _jpeg(file, source)
    if (info := source.tiff) is not None:
        with _mapped(file) as data:
            tiff.check_tiff(data, info)
            reader = tiff_samples.layout(info).reader
            views = tiff_views.tiff_views(data, info) if reader is tiff_samples.Reader.BARE else ()
            if views:
                pixels.check_jpegs(data, info)
            view = tiff_views.tiff_plain_view(data, info)
            is_first = tiff_views.tiff_view_at(data, info.directory) is None
        if views and header.mode != "CMYK":
            return _bare_tiff(source, info, bare_tiff.BareTiff(info, views, _reading(file)))
        if tiff_samples.is_for_vips(info):
            return _tiff(functools.partial(_open_tiff, file, view, is_first), source, info)
    decoded = pixels.decode(_whole(file), max_pixels=max_pixels, animated=animated)
    return PictureReader(_described(decoded), lambda: iter([_joined(decoded)]))


def _jpeg(file: BinaryIO, source: Source) -> PictureReader:
    """Opens a JPEG; one that may have oddities is read once before, to collect its notes."""
    open_ = functools.partial(_open, file, "sequential")
    with _mapped(file) as data:
        jpeg.check_jpeg(data, source.header.width * source.header.height)
        behind.look_behind(source.beside, "jpeg", data)
        odd = jpeg_repair.mended(data)
        if odd is None or odd.notes or not odd.is_plain:
            _, odd = pixels.whole_jpeg(data, open_, lambda image: image.avg())
            if odd is not None:
                open_ = functools.partial(pixels.open_vips, odd.data)
    notes = odd.notes if odd is not None else ()
    picture = _picture(source, open_("warning"), has_alpha=False, notes=notes)
    return PictureReader(picture, lambda: _jpeg_rows(open_), source.orientation)


def _jpeg_rows(open_: Callable[[str], Any]) -> Iterator[Pixels]:
    waiting = None
    for rows in rows_of(open_("warning")):
        if waiting is not None:
            yield waiting
        waiting = rows
    # Before the last rows are yielded: a caller that has all rows does not resume this generator.
    raise_jpeg_warnings()
    if waiting is not None:
        yield waiting


def _reading(file: BinaryIO) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        return os.pread(file.fileno(), size, offset)

    return read


def _bare_tiff(source: Source, info: TiffInfo, bare: bare_tiff.BareTiff) -> PictureReader:
    image = bare.open()
    picture = _picture(source, image, bare.has_alpha, bare.notes, channels=bare.colors)
    return PictureReader(picture, lambda: map(bare.meant, rows_of(bare.open())), info.orientation)


def _tiff(open_: Callable[[str], Any], source: Source, info: TiffInfo) -> PictureReader:
    def bands(access: str = "sequential") -> tuple[Any, bool]:
        return pixels.tiff_bands(open_(access), info)

    image, has_alpha = bands()
    if info.is_tiled and info.orientation == 1 and not has_alpha:
        at_random, _ = bands("random")
        picture = _picture(source, at_random, has_alpha=False, by_region=True)
        return PictureReader(picture, lambda: rows_of(at_random), image=at_random)
    picture = _picture(source, image, has_alpha)
    return PictureReader(picture, lambda: rows_of(bands()[0]), info.orientation)


def _open_tiff(file: BinaryIO, view: tiff_views.TiffView, is_first: bool, access: str) -> Any:
    """Opens a TIFF as `decode` does.

    Args:
        file: the file.
        view: its `tiff_views.tiff_plain_view`.
        is_first: True if the first page is the picture.
        access: the access mode of libvips, `sequential` or `random`.
    """
    plain = functools.partial(_open, file, access) if is_first else None
    return bare_tiff.open_strictly(
        plain, functools.partial(bare_tiff.open_view, view, _reading(file), access)
    )


def _picture(
    source: Source,
    image: Any,
    has_alpha: bool,
    notes: tuple[str, ...] = (),
    *,
    by_region: bool = False,
    channels: int | None = None,
) -> Picture:
    inspection.check_size(source.header, image.width, image.height)
    channels = channels or image.bands - has_alpha
    metadata, notes = carried_metadata.kept_metadata(
        source, pixels.vips_profile(image), channels, notes
    )
    dtype = {"uchar": "uint8", "ushort": "uint16"}[image.format]
    return Picture(
        source.header,
        dtype,
        channels,
        has_alpha,
        metadata,
        notes,
        by_region,
    )


def _described(decoded: DecodedImage) -> Picture:
    return Picture(
        decoded.header,
        decoded.color.dtype.name,
        decoded.color.shape[2],
        decoded.alpha is not None,
        decoded.metadata,
        decoded.notes,
    )


def _joined(decoded: DecodedImage) -> Pixels:
    if decoded.alpha is None:
        return decoded.color
    return np.concatenate([decoded.color, decoded.alpha[:, :, np.newaxis]], axis=2)


def _open(file: BinaryIO, access: str = "sequential", fail_on: str = "error") -> Any:
    """Opens a picture that libvips reads from the beginning of the file.

    Each call opens the file again: a shared descriptor would share its position in the file.
    """
    forget_errors()
    descriptor = os.open(file.name, os.O_RDONLY)
    try:
        source = pyvips.Source.new_from_descriptor(descriptor)
    finally:
        os.close(descriptor)
    return pyvips.Image.new_from_source(source, "", access=access, fail_on=fail_on)
