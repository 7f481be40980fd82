"""Pictures read in parts, never held whole in memory: rows from top to bottom, or a region.

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
import errno
import functools
import io
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyvips

from beam_upscale import containers
from beam_upscale.containers import TiffInfo
from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError
from beam_upscale.image import beside, jpeg, reading, tiff
from beam_upscale.image.codecs import (
    damage_as_image_error,
    forget_errors,
    quiet_pillow,
    raise_jpeg_warnings,
)
from beam_upscale.image.values import DecodedImage, ImageHeader, Metadata, Pixels
from beam_upscale.layout import Box
from beam_upscale.plan import Animated

# The header of most files lies within this many bytes.
_START_BYTES = 1 << 20

# Formats whose header data may be at the end of the file; such files are small.
_INSPECTED_WHOLE = frozenset({"avif", "gif", "heif", "webp"})

# Rows decoded at a time.
_ROWS = 64


@dataclass(frozen=True)
class Picture:
    """The properties of a picture that are known before its pixels are read.

    Attributes:
        header: the header of its file.
        dtype: the type of its samples, uint8 or uint16.
        channels: the number of color channels, 1 or 3.
        has_alpha: True if alpha follows the color, as the last channel.
        metadata: as in `DecodedImage`.
        notes: as in `DecodedImage`.
        by_region: True if a region can be read without the rows above it.
    """

    header: ImageHeader
    dtype: str
    channels: int
    has_alpha: bool
    metadata: Metadata
    notes: tuple[str, ...]
    by_region: bool = False

    @property
    def bands(self) -> int:
        """The number of samples per pixel, alpha included."""
        return self.channels + self.has_alpha


class PictureReader:
    """A picture in an open file; see `open_picture`."""

    def __init__(
        self,
        picture: Picture,
        rows: Callable[[], Iterator[Pixels]],
        orientation: int = 1,
        image: Any = None,
    ) -> None:
        self.picture = picture
        self._rows = rows
        self._orientation = orientation
        self._image = image

    def bands(self, height: int) -> Iterator[Pixels]:
        """Yields all rows, upright, from top to bottom.

        Args:
            height: the number of rows in each array, at least 1; the last may have fewer.

        Yields:
            (height, width, `Picture.bands`).

        Raises:
            ImageError: as `decode`; the rows yielded before are of a damaged file.
            OSError: an error of `FULL_DISK`: the temporary folder cannot hold a turned picture.
        """
        header = self.picture.header
        with damage_as_image_error(header.format):
            if self._orientation <= 2:
                rows = self._rows()
                if self._orientation == 2:
                    rows = (reading.upright(each, 2) for each in rows)
                yield from _regrouped(rows, height)
            else:
                yield from _turned(self._rows(), self.picture, self._orientation, height)

    def region(self, box: Box) -> Pixels:
        """Reads a region of a picture that is `by_region`.

        Args:
            box: the region.

        Returns:
            (box height, box width, `Picture.bands`).

        Raises:
            ImageError: as `decode`.
        """
        with damage_as_image_error(self.picture.header.format):
            return _fetch(self._image, box)


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
        reading.check_acceptable(source.header, max_pixels, animated)
        if before_pixels is not None:
            before_pixels(source.header)
        with damage_as_image_error(source.header.format):
            reader = _reader(file, source, max_pixels, animated)
        yield reader


def _inspect(file: BinaryIO) -> reading.Source:
    start = file.read(_START_BYTES)
    format_ = reading.identify(start)
    if format_ == "png":
        return reading.inspect(containers.png_without_pixels(file))
    if format_ == "tiff":
        with _mapped(file) as data:
            file.seek(0)
            return reading.inspect_tiff(data, file)
    if format_ in _INSPECTED_WHOLE:
        return reading.inspect(_whole(file))
    while True:
        try:
            return reading.inspect(start)
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


def _reader(
    file: BinaryIO, source: reading.Source, max_pixels: int, animated: Animated
) -> PictureReader:
    header = source.header
    if header.format == "png":
        containers.check_png_file(file)
        with _mapped(file) as data:
            beside.look_behind(source.beside, "png", data)
        image = _open(file)
        picture = _picture(source, image, image.bands in (2, 4), reading.png_notes(source))
        return PictureReader(picture, lambda: _rows(_open(file)), source.orientation)
    if header.format == "jpeg" and header.mode != "CMYK":
        return _jpeg(file, source)
    if (info := source.tiff) is not None:
        with _mapped(file) as data:
            containers.check_tiff(data, info)
            reader = tiff.layout(info).reader
            views = containers.tiff_views(data, info) if reader is tiff.Reader.BARE else ()
            if views:
                reading.check_jpegs(data, info)
            view = containers.tiff_plain_view(data, info)
            is_first = containers.tiff_view_at(data, info.directory) is None
        if views and header.mode != "CMYK":
            return _bare_tiff(source, info, tiff.BareTiff(info, views, _reading(file)))
        if tiff.is_for_vips(info):
            return _tiff(functools.partial(_open_tiff, file, view, is_first), source, info)
    decoded = reading.decode(_whole(file), max_pixels=max_pixels, animated=animated)
    return PictureReader(_described(decoded), lambda: iter([_joined(decoded)]))


def _jpeg(file: BinaryIO, source: reading.Source) -> PictureReader:
    """Opens a JPEG; one that may have oddities is read once before, to collect its notes."""
    open_ = functools.partial(_open, file, "sequential")
    with _mapped(file) as data:
        containers.check_jpeg(data, source.header.width * source.header.height)
        beside.look_behind(source.beside, "jpeg", data)
        odd = jpeg.mended(data)
        if odd is None or odd.notes or not odd.is_plain:
            _, odd = reading.whole_jpeg(data, open_, lambda image: image.avg())
            if odd is not None:
                open_ = functools.partial(reading.open_vips, odd.data)
    notes = odd.notes if odd is not None else ()
    picture = _picture(source, open_("warning"), has_alpha=False, notes=notes)
    return PictureReader(picture, lambda: _jpeg_rows(open_), source.orientation)


def _jpeg_rows(open_: Callable[[str], Any]) -> Iterator[Pixels]:
    waiting = None
    for rows in _rows(open_("warning")):
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


def _bare_tiff(source: reading.Source, info: TiffInfo, bare: tiff.BareTiff) -> PictureReader:
    image = bare.open()
    picture = _picture(source, image, bare.has_alpha, bare.notes, channels=bare.colors)
    return PictureReader(picture, lambda: map(bare.meant, _rows(bare.open())), info.orientation)


def _tiff(open_: Callable[[str], Any], source: reading.Source, info: TiffInfo) -> PictureReader:
    def bands(access: str = "sequential") -> tuple[Any, bool]:
        return reading.tiff_bands(open_(access), info)

    image, has_alpha = bands()
    if info.is_tiled and info.orientation == 1 and not has_alpha:
        at_random, _ = bands("random")
        picture = _picture(source, at_random, has_alpha=False, by_region=True)
        return PictureReader(picture, lambda: _rows(at_random), image=at_random)
    picture = _picture(source, image, has_alpha)
    return PictureReader(picture, lambda: _rows(bands()[0]), info.orientation)


def _open_tiff(file: BinaryIO, view: containers.TiffView, is_first: bool, access: str) -> Any:
    """Opens a TIFF as `decode` does.

    Args:
        file: the file.
        view: its `containers.tiff_plain_view`.
        is_first: True if the first page is the picture.
        access: the access mode of libvips, `sequential` or `random`.
    """
    plain = functools.partial(_open, file, access) if is_first else None
    return tiff.open_strictly(
        plain, functools.partial(tiff.open_view, view, _reading(file), access)
    )


def _picture(
    source: reading.Source,
    image: Any,
    has_alpha: bool,
    notes: tuple[str, ...] = (),
    *,
    by_region: bool = False,
    channels: int | None = None,
) -> Picture:
    reading.check_size(source.header, image.width, image.height)
    channels = channels or image.bands - has_alpha
    metadata, notes = reading.kept_metadata(source, reading.vips_profile(image), channels, notes)
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

    Each call opens the file anew: a shared descriptor would share its position in the file.
    """
    forget_errors()
    descriptor = os.open(file.name, os.O_RDONLY)
    try:
        source = pyvips.Source.new_from_descriptor(descriptor)
    finally:
        os.close(descriptor)
    return pyvips.Image.new_from_source(source, "", access=access, fail_on=fail_on)


def _rows(image: Any, top: int = 0) -> Iterator[Pixels]:
    """Yields rows in the order of the file, from `top` on, `_ROWS` at a time."""
    region = pyvips.Region.new(image)
    for start in range(top, image.height, _ROWS):
        height = min(_ROWS, image.height - start)
        yield _fetched(region, image, Box(0, start, image.width, height))


def _fetch(image: Any, box: Box) -> Pixels:
    return _fetched(pyvips.Region.new(image), image, box)


def _fetched(region: Any, image: Any, box: Box) -> Pixels:
    data = region.fetch(box.left, box.top, box.width, box.height)
    dtype = np.uint8 if image.format == "uchar" else np.uint16
    return cast(Pixels, np.frombuffer(data, dtype).reshape(box.height, box.width, image.bands))


def _regrouped(rows: Iterator[Pixels], height: int) -> Iterator[Pixels]:
    """Yields the same rows in arrays of `height` rows; the last may have fewer."""
    waiting: list[Pixels] = []
    count = 0
    for each in rows:
        while count + len(each) >= height:
            taken = height - count
            yield np.concatenate([*waiting, each[:taken]])
            each, waiting, count = each[taken:], [], 0
        if len(each):
            waiting.append(each)
            count += len(each)
    if waiting:
        yield np.concatenate(waiting)


def _turned(
    rows: Iterator[Pixels], picture: Picture, orientation: int, height: int
) -> Iterator[Pixels]:
    """Yields the rows of the upright picture, which the file stores reversed or as columns."""
    is_transposed = orientation >= 5
    is_reversed = orientation in (3, 4, 7, 8)
    header = picture.header
    stored_width = header.height if is_transposed else header.width
    with _temporary_file() as spool:
        for each in rows:
            _spool(spool, each)
        for top in range(0, header.height, height):
            bottom = min(top + height, header.height)
            if is_reversed:
                first, last = header.height - bottom, header.height - top
            else:
                first, last = top, bottom
            if is_transposed:
                box = Box(first, 0, last - first, header.width)
            else:
                box = Box(0, first, header.width, last - first)
            block = _spooled(spool, picture, stored_width, box)
            yield np.ascontiguousarray(reading.upright(block, orientation))


def _temporary_file() -> Any:
    """Opens a nameless file in the temporary folder.

    It has no buffer: after a failed write, closing a buffered file would fail again.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        # Python accepts only a temporary folder that it can write to: on a full disk there is none.
        raise OSError(errno.ENOSPC, str(error)) from error
    with _telling_of_the_folder():
        return tempfile.TemporaryFile(prefix="beam-upscale-", buffering=0)


def _spool(spool: Any, rows: Pixels) -> None:
    left = np.ascontiguousarray(rows).data.cast("B")
    with _telling_of_the_folder():
        while left:
            left = left[spool.write(left) :]


@contextlib.contextmanager
def _telling_of_the_folder() -> Iterator[None]:
    """Converts errors of the temporary folder, so that they are not taken for a damaged image.

    Raises:
        ImageError: INTERNAL_ERROR.
        OSError: the folder is full.
    """
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        if error.errno in FULL_DISK:
            raise OSError(error.errno, error.strerror, folder) from error
        raise ImageError(
            ErrorCode.INTERNAL_ERROR,
            f"the temporary folder {folder} cannot hold the picture: {error}",
        ) from error


def _spooled(spool: Any, picture: Picture, stored_width: int, box: Box) -> Pixels:
    """Reads a box of the spooled rows."""
    dtype: type[np.uint8 | np.uint16] = np.uint16 if picture.dtype == "uint16" else np.uint8
    block: Pixels = np.empty((box.height, box.width, picture.bands), dtype)
    pixel_bytes = picture.bands * block.itemsize
    for number, row in enumerate(block, start=box.top):
        offset = (number * stored_width + box.left) * pixel_bytes
        if os.preadv(spool.fileno(), [row.data.cast("B")], offset) != row.nbytes:
            raise io.UnsupportedOperation("the temporary file is shorter than what was written")
    return block
