"""Cuts an image's pixels into tiles, and stitches the upscaled tiles together.

Arrays are (height, width) or (height, width, channels) of any dtype, which is kept.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from beam_upscale.planning.tile_layout import Box, TilePlace, spread

Pixel = TypeVar("Pixel", bound=np.generic)


def grid(width: int, height: int, max_pixels: int, halo: int) -> tuple[TilePlace, ...]:
    """Returns an even grid of tiles whose extended boxes have at most `max_pixels` pixels.

    It fits a call into a device's memory, regardless of price. Of the grids that fit, counted with
    cores rounded up to equal size, it is the one with the fewest extended pixels (the least
    repeated work), then the fewest tiles, then the fewest rows.

    A core's side is never cut shorter than the halo, so that the halo costs at most nine times the
    work. Where no grid fits for that reason, the grid with the smallest tiles is returned, whose
    extended boxes are larger than `max_pixels`.

    Args:
        width: the image's width in pixels, at least 1.
        height: the image's height in pixels, at least 1.
        max_pixels: most pixels of an extended box.
        halo: pixels around a core, at least 0.
    """
    row_counts = range(1, max(1, height // max(1, halo)) + 1)
    column_counts = range(1, max(1, width // max(1, halo)) + 1)
    fitting: list[tuple[int, int, int, int]] = []
    for rows in row_counts:
        max_width = max_pixels // _longest_extended(height, rows, halo)
        columns = _fewest_cuts(width, max_width, column_counts, halo)
        if columns is not None:
            extended = _total_extended(height, rows, halo) * _total_extended(width, columns, halo)
            fitting.append((extended, rows * columns, rows, columns))
        if columns == 1:
            break  # More rows would only repeat more work.
    if fitting:
        _, _, rows, columns = min(fitting)
    else:
        rows = min(row_counts, key=lambda count: _longest_extended(height, count, halo))
        columns = min(column_counts, key=lambda count: _longest_extended(width, count, halo))
    return tuple(
        TilePlace.around(Box(left, top, core_width, core_height), halo, width, height)
        for (top, core_height), (left, core_width) in product(
            _even_cuts(height, rows), _even_cuts(width, columns)
        )
    )


def split(pixels: NDArray[Pixel], places: Iterable[TilePlace]) -> list[NDArray[Pixel]]:
    """Returns the extended box of each place as a view of `pixels`, in the order of the places."""
    return [_view(pixels, place.extended, scale=1) for place in places]


def crop_halo(tile: NDArray[Pixel], place: TilePlace, scale: int) -> NDArray[Pixel]:
    """Returns the core of an upscaled extended tile, as a view.

    Args:
        tile: the upscaled extended box of `place`: `scale` times its height and width.
        place: the place of the tile, in input pixels.
        scale: output pixels for each input pixel and side.

    Raises:
        ValueError: the tile is not of that size.
    """
    core, extended = place.core, place.extended
    _check_size(tile, extended, scale)
    inner = Box(core.left - extended.left, core.top - extended.top, core.width, core.height)
    return _view(tile, inner, scale)


def stitch(
    tiles: Iterable[NDArray[Pixel]],
    places: Sequence[TilePlace],
    scale: int,
    width: int,
    height: int,
) -> NDArray[Pixel]:
    """Pastes upscaled cores into one image.

    Tiles are taken one at a time and not kept, so that an iterator's memory is freed as it goes.

    Args:
        tiles: the upscaled core of each place, in the order of the places.
        places: whose cores partition the image, in input pixels.
        scale: output pixels for each input pixel and side.
        width: the image's width in input pixels.
        height: the image's height in input pixels.

    Returns:
        An array of `height * scale` x `width * scale` with the first tile's channels and dtype.

    Raises:
        ValueError: the cores do not partition the image, a tile is missing or too many, or one
            differs from its place in size or from the first in channels or dtype.
    """
    _check_partition([place.core for place in places], width, height)
    remaining = iter(tiles)
    first = next(remaining, None)
    if first is None:
        raise ValueError(f"no tiles for {len(places)} places")
    stitched = np.empty((height * scale, width * scale, *first.shape[2:]), dtype=first.dtype)
    _paste(first, places[0].core, scale, stitched)
    del first
    for index, place in enumerate(places[1:], start=1):
        tile = next(remaining, None)
        if tile is None:
            raise ValueError(f"{index} tiles for {len(places)} places")
        _paste(tile, place.core, scale, stitched)
    if next(remaining, None) is not None:
        raise ValueError(f"more tiles than the {len(places)} places")
    return stitched


def _paste(tile: NDArray[Pixel], core: Box, scale: int, into: NDArray[Pixel]) -> None:
    _check_size(tile, core, scale)
    if tile.shape[2:] != into.shape[2:] or tile.dtype != into.dtype:
        raise ValueError(
            f"a tile is {tile.dtype} with channels {tile.shape[2:]}, "
            f"the first is {into.dtype} with channels {into.shape[2:]}"
        )
    _view(into, core, scale)[...] = tile


def _view(pixels: NDArray[Pixel], box: Box, scale: int) -> NDArray[Pixel]:
    rows = slice(box.top * scale, box.bottom * scale)
    columns = slice(box.left * scale, box.right * scale)
    return pixels[rows, columns]


def _check_size(tile: NDArray[Any], box: Box, scale: int) -> None:
    expected = (box.height * scale, box.width * scale)
    if tile.shape[:2] != expected:
        raise ValueError(
            f"a tile has height and width {tile.shape[:2]}; its place of {box.height} x "
            f"{box.width} at scale {scale} needs {expected}"
        )


def _check_partition(cores: Iterable[Box], width: int, height: int) -> None:
    """Checks that the cores cover the image once.

    Rectangles partition an image exactly if their areas sum to its area and their corners cancel
    in pairs but for the image's own four.
    """
    area = 0
    corners: Counter[tuple[int, int]] = Counter()
    for core in cores:
        area += core.area
        corners.update(product((core.left, core.right), (core.top, core.bottom)))
    unpaired = {corner for corner, count in corners.items() if count % 2}
    if area != width * height or unpaired != set(product((0, width), (0, height))):
        raise ValueError(
            f"the places' cores, {area:,} px in all, do not cover each of the "
            f"{width * height:,} px of {width} x {height} once"
        )


def _even_cuts(side: int, count: int) -> Iterator[tuple[int, int]]:
    start = 0
    for size in spread(side, [side] * count):
        yield start, size
        start += size


def _longest_extended(side: int, count: int, halo: int) -> int:
    """Returns the extended length of the longest of `count` even parts, rounded up, in pixels."""
    halos = min(2, count - 1)
    return min(side, -(-side // count) + halos * halo)


def _total_extended(side: int, count: int, halo: int) -> int:
    return side + 2 * halo * (count - 1)


def _fewest_cuts(side: int, max_extended: int, counts: range, halo: int) -> int | None:
    """Returns the smallest of `counts`, starting at 1, whose parts fit, or None if none does."""
    for count in (1, 2):
        if count in counts and _longest_extended(side, count, halo) <= max_extended:
            return count
    core = max_extended - 2 * halo
    if core < 1:
        return None
    count = max(3, -(-side // core))
    return count if count in counts else None
