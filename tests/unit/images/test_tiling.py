import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from beam_upscale.images.tiling import crop_halo, grid, split, stitch
from beam_upscale.planning.tile_layout import Box, TilePlace, whole

DTYPES = [np.uint8, np.uint16, np.float32]


@st.composite
def images(draw: st.DrawFn) -> NDArray[Any]:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    channels = draw(st.sampled_from([(), (1,), (3,), (4,)]))
    pixels = np.arange(height * width * int(np.prod(channels)), dtype=np.uint32) * 2_654_435_761
    return (pixels % 65_521).astype(draw(st.sampled_from(DTYPES))).reshape(height, width, *channels)


def enlarge(pixels: NDArray[Any], scale: int) -> NDArray[Any]:
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


@settings(deadline=None)
@given(images(), st.integers(1, 400), st.integers(0, 12), st.integers(1, 4))
def test_stitching_upscaled_pieces_is_upscaling_the_whole(
    image: NDArray[Any], max_pixels: int, halo: int, scale: int
) -> None:
    height, width = image.shape[:2]
    places = grid(width, height, max_pixels, halo)

    tiles = (
        crop_halo(enlarge(tile, scale), place, scale)
        for tile, place in zip(split(image, places), places, strict=True)
    )
    stitched = stitch(tiles, places, scale, width, height)

    assert stitched.dtype == image.dtype
    np.testing.assert_array_equal(stitched, enlarge(image, scale))


def even_parts(side: int, halo: int) -> list[tuple[int, int]]:
    """(longest part, sum of parts), extended, for each number of parts not below the halo."""
    counts = [count for count in range(1, side + 1) if side // count >= halo] or [1]
    return [
        (min(side, math.ceil(side / n) + halo * min(2, n - 1)), side + 2 * halo * (n - 1))
        for n in counts
    ]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 900), st.integers(0, 8))
def test_grid_fits_with_the_least_work_or_is_as_small_as_the_halo_allows(
    width: int, height: int, max_pixels: int, halo: int
) -> None:
    grids = [
        (row * column, rows * columns)
        for (row, rows), (column, columns) in product(
            even_parts(height, halo), even_parts(width, halo)
        )
    ]

    places = grid(width, height, max_pixels, halo)

    assert all(place == TilePlace.around(place.core, halo, width, height) for place in places)
    fitting = [total for largest, total in grids if largest <= max_pixels]
    if fitting:
        assert max(place.extended.area for place in places) <= max_pixels
        assert sum(place.extended.area for place in places) == min(fitting)
    else:
        assert max(place.extended.area for place in places) <= min(grids)[0]


def test_grid_takes_the_whole_image_where_it_fits() -> None:
    assert grid(30, 20, max_pixels=600, halo=8) == whole(30, 20)


def test_grid_repeats_as_little_work_as_possible() -> None:
    places = grid(400, 100, max_pixels=12_000, halo=10)

    assert [place.core for place in places] == [
        Box(left, 0, 100, 100) for left in (0, 100, 200, 300)
    ]


def test_grid_of_a_very_long_image() -> None:
    places = grid(3, 83_000_000, max_pixels=1_000_000, halo=0)

    assert len(places) == 249
    assert max(place.extended.area for place in places) <= 1_000_000


def test_tiles_are_views() -> None:
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    places = grid(30, 20, max_pixels=200, halo=2)

    tiles = split(image, places)

    assert all(np.shares_memory(tile, image) for tile in tiles)
    assert np.shares_memory(crop_halo(tiles[0], places[0], scale=1), image)
    assert [tile.shape[:2] for tile in tiles] == [
        (place.extended.height, place.extended.width) for place in places
    ]


def test_a_tile_of_another_scale_is_refused() -> None:
    (place,) = whole(4, 3)

    with pytest.raises(ValueError, match=r"\(3, 4\).*3 x 4 at scale 2 needs \(6, 8\)"):
        crop_halo(np.zeros((3, 4)), place, scale=2)


LEFT = TilePlace(Box(0, 0, 2, 2), Box(0, 0, 2, 2))
RIGHT = TilePlace(Box(2, 0, 2, 2), Box(2, 0, 2, 2))
SQUARE = np.zeros((2, 2), dtype=np.uint8)


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ([], "no tiles for 2 places"),
        ([SQUARE], "1 tiles for 2 places"),
        ([SQUARE] * 3, "more tiles than the 2 places"),
        ([SQUARE, SQUARE[:1]], "height and width"),
        ([SQUARE, SQUARE.astype(np.uint16)], "the first is uint8"),
        ([SQUARE, SQUARE[..., np.newaxis]], "channels"),
    ],
)
def test_tiles_that_do_not_match_are_refused(tiles: list[NDArray[Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stitch(tiles, [LEFT, RIGHT], scale=1, width=4, height=2)


@pytest.mark.parametrize("places", [[], [LEFT], [LEFT, LEFT], [LEFT, RIGHT, RIGHT]])
def test_places_that_do_not_cover_the_image_once_are_refused(places: list[TilePlace]) -> None:
    with pytest.raises(ValueError, match="do not cover each of the 8 px of 4 x 2 once"):
        stitch([SQUARE] * len(places), places, scale=1, width=4, height=2)
