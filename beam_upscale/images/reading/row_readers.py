"""Reads a picture row by row, turned upright, from a temporary file if need be."""

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyvips

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError
from beam_upscale.images.codecs import damage_as_image_error
from beam_upscale.images.reading import carried_metadata
from beam_upscale.images.values import ImageHeader, Metadata, Pixels
from beam_upscale.planning.tile_layout import Box

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
                    rows = (carried_metadata.upright(each, 2) for each in rows)
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


def rows_of(image: Any, top: int = 0) -> Iterator[Pixels]:
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
            yield np.ascontiguousarray(carried_metadata.upright(block, orientation))


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
