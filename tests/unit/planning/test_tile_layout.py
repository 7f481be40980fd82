import math
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_upscale.planning.engines import ENGINES, Engine, Network, PriceTier, get_engine
from beam_upscale.planning.tile_layout import Box, TilePlace, cheapest_tiles, spread, whole

Expense = tuple[Decimal, int]
IMPOSSIBLE: Expense = (Decimal("Infinity"), 0)

ESRGAN = get_engine("esrgan-v1-x2plus")
LATENT = get_engine("stable-diffusion-x4-latent-upscaler")


def small_engine(limit: int, *prices: PriceTier) -> Engine:
    return Engine(
        name="small",
        description="",
        scale=1,
        input_limit=limit,
        output_limit=limit,
        prices=prices or (PriceTier(None, Decimal("0.2")),),
        parameters=frozenset(),
        network=Network.ESRGAN,
        default_weights="",
        halo=0,
    )


@st.composite
def small_engines(draw: st.DrawFn) -> Engine:
    limit = draw(st.integers(4, 40))
    sizes = draw(st.lists(st.integers(1, limit), max_size=2, unique=True).map(sorted))
    prices = sorted(
        draw(st.lists(st.integers(0, 9), min_size=len(sizes) + 1, max_size=len(sizes) + 1))
    )
    tiers = zip([*sizes, None], prices, strict=True)
    return small_engine(limit, *(PriceTier(size, Decimal(price) / 10) for size, price in tiers))


def expense(engine: Engine, tiles: Iterable[TilePlace]) -> Expense:
    boxes = [tile.extended for tile in tiles]
    return sum((engine.credits(b.width, b.height) for b in boxes), Decimal(0)), len(boxes)


def cheapest_cuts(side: int, part: Callable[[int, int], Expense]) -> Expense:
    """The least expense of cutting a side into parts [start, end), by trying every cut."""
    ends = [(Decimal(0), 0)]
    for end in range(1, side + 1):
        options = [(ends[start], part(start, end)) for start in range(end)]
        ends.append(min((a[0] + b[0], a[1] + b[1]) for a, b in options))
    return ends[side]


def brute_force(engine: Engine, width: int, height: int, halo: int) -> Expense:
    """The least expense of all rows of columns, from positions and clipped boxes."""

    @cache
    def row(extended_height: int) -> Expense:
        def column(left: int, right: int) -> Expense:
            extended_width = min(width, right + halo) - max(0, left - halo)
            if extended_width * extended_height > engine.call_limit:
                return IMPOSSIBLE
            return engine.credits(extended_width, extended_height), 1

        return cheapest_cuts(width, column)

    return cheapest_cuts(
        height, lambda top, bottom: row(min(height, bottom + halo) - max(0, top - halo))
    )


def even_grid(width: int, height: int, columns: int, rows: int, halo: int) -> list[TilePlace]:
    lefts = [width * index // columns for index in range(columns + 1)]
    tops = [height * index // rows for index in range(rows + 1)]
    return [
        TilePlace.around(Box(left, top, right - left, bottom - top), halo, width, height)
        for (left, right), (top, bottom) in product(pairwise(lefts), pairwise(tops))
    ]


def assert_partition(tiles: Iterable[TilePlace], width: int, height: int) -> None:
    covered = [[0] * width for _ in range(height)]
    for core in (tile.core for tile in tiles):
        for y, x in product(range(core.top, core.bottom), range(core.left, core.right)):
            covered[y][x] += 1
    assert covered == [[1] * width] * height


def test_a_piece_extends_its_core_up_to_the_border() -> None:
    tile = TilePlace.around(Box(left=2, top=5, width=10, height=5), halo=4, width=20, height=10)

    assert tile.extended == Box(left=0, top=1, width=16, height=9)


def test_whole_is_one_tile() -> None:
    assert whole(3, 2) == (TilePlace(Box(0, 0, 3, 2), Box(0, 0, 3, 2)),)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.data())
def test_spread_is_as_equal_as_limits_allow(limits: list[int], data: st.DataObject) -> None:
    length = data.draw(st.integers(0, sum(limits)))

    sizes = spread(length, limits)

    assert sum(sizes) == length
    assert all(size <= limit for size, limit in zip(sizes, limits, strict=True))
    below_limit = [size for size, limit in zip(sizes, limits, strict=True) if size < limit]
    assert not below_limit or max(sizes) - min(below_limit) <= 1


@settings(deadline=None)
@given(small_engines(), st.integers(1, 14), st.integers(1, 14), st.integers(0, 2))
def test_pieces_are_the_cheapest_and_fewest(
    engine: Engine, width: int, height: int, halo: int
) -> None:
    expected = min(
        brute_force(engine, width, height, halo), brute_force(engine, height, width, halo)
    )

    tiles = cheapest_tiles(engine, width, height, halo)

    if tiles is None:
        assert expected[0].is_infinite()
    else:
        assert expense(engine, tiles) == expected
        assert_partition(tiles, width, height)
        assert all(tile.extended.area <= engine.call_limit for tile in tiles)
        assert all(
            tile == TilePlace.around(tile.core, halo, width, height) and tile.core.area > 0
            for tile in tiles
        )


@settings(deadline=None, max_examples=30)
@given(st.integers(41, 150), st.integers(0, 1))
def test_long_sides_are_covered_at_least_cost(side: int, halo: int) -> None:
    engine = small_engine(40, PriceTier(14, Decimal(8)), PriceTier(None, Decimal(20)))
    expected = min(brute_force(engine, side, 3, halo), brute_force(engine, 3, side, halo))

    tiles = cheapest_tiles(engine, side, 3, halo)

    assert tiles is not None
    assert expense(engine, tiles) == expected


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@settings(deadline=None, max_examples=20)
@given(width=st.integers(600, 9000), height=st.integers(600, 9000), halo=st.sampled_from([0, 32]))
def test_pieces_cost_no_more_than_any_even_grid(
    engine: Engine, width: int, height: int, halo: int
) -> None:
    tiles = cheapest_tiles(engine, width, height, halo)
    assert tiles is not None
    least = math.isqrt(width * height // engine.call_limit)
    near = range(max(1, least - 1), least + 4)
    grids = [even_grid(width, height, columns, rows, halo) for columns, rows in product(near, near)]
    fitting = [tiles for tiles in grids if all(p.extended.area <= engine.call_limit for p in tiles)]

    assert all(expense(engine, tiles) <= expense(engine, grid) for grid in fitting)


@pytest.mark.parametrize(
    ("engine", "width", "height", "calls", "price"),
    [
        (ESRGAN, 1025, 1024, 2, "0.4"),
        (ESRGAN, 2048, 2048, 6, "1.2"),
        (ESRGAN, 8000, 6000, 66, "13.2"),
        (ESRGAN, 30_000, 30_000, 1284, "256.8"),
        (LATENT, 1025, 1024, 4, "44"),
        (LATENT, 8000, 6000, 186, "2232"),
    ],
)
def test_known_prices(engine: Engine, width: int, height: int, calls: int, price: str) -> None:
    tiles = cheapest_tiles(engine, width, height, engine.halo)

    assert tiles is not None
    assert expense(engine, tiles) == (Decimal(price), calls)
    assert sum(tile.core.area for tile in tiles) == width * height
    assert all(tile.extended.area <= engine.call_limit for tile in tiles)


def test_rows_may_have_different_numbers_of_columns() -> None:
    tiles = cheapest_tiles(small_engine(6), 4, 7, halo=0)

    assert tiles is not None
    columns = Counter(tile.core.top for tile in tiles)
    assert sorted(columns.values()) == [1, 2, 2]  # an even grid takes 6


def test_cores_are_even() -> None:
    tiles = cheapest_tiles(ESRGAN, 3000, 300, ESRGAN.halo)

    assert tiles is not None
    assert [tile.core.width for tile in tiles] == [3000]
    tiles = cheapest_tiles(ESRGAN, 9000, 300, ESRGAN.halo)
    assert tiles is not None
    assert [tile.core.width for tile in tiles] == [3000, 3000, 3000]


def test_a_halo_beyond_the_limit_leaves_no_tiles() -> None:
    assert cheapest_tiles(small_engine(24), 100, 100, halo=2) is None


def test_a_narrow_image_may_fit_in_one_direction_only() -> None:
    engine = small_engine(20)

    tall = cheapest_tiles(engine, 2, 100, halo=3)
    wide = cheapest_tiles(engine, 100, 2, halo=3)

    assert tall is not None
    assert wide is not None
    assert len(tall) == len(wide)
