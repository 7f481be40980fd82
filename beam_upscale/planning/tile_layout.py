"""Tiles of an image, with their halos, and the cheapest way to cut one.

A tile is a core, the part of the result that it stands for, and the extended box that is handed to
the engine: the core with a halo on each side, clipped at the image's border.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, reduce
from typing import NamedTuple

from beam_upscale.planning.engines import Engine


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column to the right of the box."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.top + self.height

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class TilePlace:
    """A part of an image that is upscaled on its own.

    Attributes:
        core: the part of the image that the tile stands for; cores partition the image.
        extended: the box given to the engine: the core and its halo, clipped at the border.
    """

    core: Box
    extended: Box

    @classmethod
    def around(cls, core: Box, halo: int, width: int, height: int) -> "TilePlace":
        """Returns the tile of a `width` x `height` image with this core and a halo in pixels."""
        left, top = max(0, core.left - halo), max(0, core.top - halo)
        right, bottom = min(width, core.right + halo), min(height, core.bottom + halo)
        return cls(core, Box(left, top, right - left, bottom - top))


def whole(width: int, height: int) -> tuple[TilePlace, ...]:
    """Returns the one tile that is the whole image."""
    box = Box(0, 0, width, height)
    return (TilePlace(box, box),)


@lru_cache(maxsize=128)
def cheapest_tiles(
    engine: Engine, width: int, height: int, halo: int
) -> tuple[TilePlace, ...] | None:
    """Returns the cheapest tiles of a `width` x `height` image that each fit one call.

    Each tile is priced as a call for its extended box. The search is exact over all rows of
    columns, where each row has columns of its own number and price, and all columns of rows:
    the cheapest, and the fewest tiles among the cheapest. Where the best rows and the best columns
    tie, those with fewer extended pixels (less repeated work) are taken, then the rows. Cores are
    as equal as limits and prices allow. The last 128 answers are kept.

    Returns None if no tile fits because the halo alone is beyond the limit.
    """
    rows = _rows_of_columns(engine, width, height, halo)
    columns = _rows_of_columns(engine, height, width, halo)
    if rows is None or columns is None:
        return None
    transposed = tuple(TilePlace(_transpose(p.core), _transpose(p.extended)) for p in columns)
    # `min` keeps the first of equals.
    return min(rows, transposed, key=lambda tiles: _expense(engine, tiles))


def spread(length: int, limits: Sequence[int]) -> list[int]:
    """Returns sizes that sum to `length`, each within its limit, as equal as the limits allow.

    `limits` must sum to at least `length`.
    """
    sizes = [0] * len(limits)
    remaining = length
    smallest_first = sorted(range(len(limits)), key=limits.__getitem__)
    for done, index in enumerate(smallest_first):
        sizes[index] = min(limits[index], remaining // (len(limits) - done))
        remaining -= sizes[index]
    return sizes


class _Strip(NamedTuple):
    """A section of a side: a row of an image's height, or a column of a row's width.

    Attributes:
        extended: largest size with the halo, in pixels.
        advance: the pixels that the strip adds to the covered side, see `_strip`.
        cost: the cost of its tiles, see `_tile_costs`.
    """

    extended: int
    advance: int
    cost: int


_PRICE_WEIGHT = 1 << 32
"""One unit of price, in a cost: more than the number of tiles of any image."""


def _rows_of_columns(
    engine: Engine, width: int, height: int, halo: int
) -> tuple[TilePlace, ...] | None:
    """Returns the cheapest tiles in rows of columns, or None if none fits."""
    tiers = _tile_costs(engine)
    rows = _cheapest_cover(_need(height, halo), list(_rows(tiers, width, height, halo)))
    if rows is None:
        return None
    tiles: list[TilePlace] = []
    for top, row_height in _cores(height, rows, halo):
        row = TilePlace.around(Box(0, top, width, row_height), halo, width, height)
        # An even row is no taller than the one chosen, whose cost was the least: it costs the same.
        columns = _cheapest_columns(tiers, width, row.extended.height, halo) or ()
        tiles.extend(
            TilePlace.around(Box(left, top, column_width, row_height), halo, width, height)
            for left, column_width in _cores(width, columns, halo)
        )
    return tuple(tiles)


def _tile_costs(engine: Engine) -> tuple[tuple[int, int], ...]:
    """Returns (most extended pixels, cost) of one tile for each price tier.

    A cost is one whole number that orders by price first and by number of tiles second:
    `_PRICE_WEIGHT` for each unit of price, the largest unit that makes all prices whole, and 1
    for each tile.
    """
    denominator = math.lcm(*(tier.credits.as_integer_ratio()[1] for tier in engine.prices))
    prices = [int(tier.credits * denominator) for tier in engine.prices]
    unit = math.gcd(*prices) or 1
    limit = engine.call_limit
    return tuple(
        (min(tier.up_to_pixels or limit, limit), price // unit * _PRICE_WEIGHT + 1)
        for tier, price in zip(engine.prices, prices, strict=True)
    )


def _rows(tiers: Sequence[tuple[int, int]], width: int, height: int, halo: int) -> Iterator[_Strip]:
    """Yields the tallest row of each cost worth trying, shortest first."""

    def cost(extended: int) -> float:
        columns = _cheapest_columns(tiers, width, extended, halo)
        return math.inf if columns is None else sum(column.cost for column in columns)

    need = _need(height, halo)
    heights = range(min(2 * halo + 1, height), height + 1)
    next_index = 0
    known_cover = math.inf
    # A row that costs as much as all rows of a known layout is of no use, nor is a taller one.
    while next_index < len(heights) and (row_cost := cost(heights[next_index])) < known_cover:
        # A taller row never costs less, so the last of this cost is found by bisection.
        next_index = bisect_right(heights, row_cost, lo=next_index, key=cost)
        row = _strip(heights[next_index - 1], height, halo, int(row_cost))
        yield row
        known_cover = min(known_cover, -(-need // row.advance) * row.cost)


def _cheapest_columns(
    tiers: Sequence[tuple[int, int]], width: int, row_height: int, halo: int
) -> tuple[_Strip, ...] | None:
    """Returns the cheapest columns of a row of this extended height, or None if none fits."""
    columns = [_strip(pixels // row_height, width, halo, cost) for pixels, cost in tiers]
    return _cheapest_cover(_need(width, halo), columns)


def _need(side: int, halo: int) -> int:
    """Returns the sum of advances in pixels that covers a side.

    n strips on a side have n - 1 cuts with a halo to both sides of each, so that their extended
    sizes sum to side + 2 halo (n - 1): the sizes, less two halos each, must reach side - 2 halo.
    Clipping at the border does not enter: a strip that ends within a halo of the border lies within
    its neighbor's extended box, so that the layout without it is cheaper.
    """
    return max(1, side - 2 * halo)


def _strip(extended: int, side: int, halo: int, cost: int) -> _Strip:
    advance = _need(side, halo) if extended >= side else extended - 2 * halo
    return _Strip(extended, advance, cost)


def _cheapest_cover(need: int, strips: Sequence[_Strip]) -> tuple[_Strip, ...] | None:
    """Returns the multiset of strips with the least cost whose advances sum to at least `need`.

    An unbounded covering knapsack. Nearly all of a long side is covered by repeats of the base, the
    strip with the least cost per pixel; searched are the few strips beside them. With the excess
    of a strip = cost * base.advance - advance * base.cost, which is never negative,

        cost of a cover * base.advance = need * base.cost + waste
        waste = sum of excesses + overshoot * base.cost

    so paths are extended in order of their excess until it reaches the least waste found. Of
    paths that differ by whole repeats of the base, only the shorter is extended. Where covers cost
    the same, the one of repeats alone is taken.

    Returns the largest strips first, or None if no strip advances.
    """
    advancing = [strip for strip in strips if strip.advance > 0]
    if not advancing:
        return None
    base = reduce(_more_efficient, advancing)
    others = sorted(
        (strip.cost * base.advance - strip.advance * base.cost, strip)
        for strip in advancing
        if strip != base
    )
    beside: tuple[_Strip, ...] = ()
    waste = -need % base.advance * base.cost
    least_waste = _least_cost(need, advancing) * base.advance - need * base.cost
    shortest: dict[int, int] = {}
    frontier: list[tuple[int, int, tuple[_Strip, ...]]] = [(0, 0, ())]
    while frontier and waste > least_waste:
        excess, advance, path = heapq.heappop(frontier)
        if excess >= waste:
            break
        remainder = advance % base.advance
        if advance >= shortest.get(remainder, need):
            continue
        shortest[remainder] = advance
        for strip_excess, strip in others:
            longer_excess, longer_advance = excess + strip_excess, advance + strip.advance
            if longer_excess >= waste:
                break
            longer = (*path, strip)
            heapq.heappush(frontier, (longer_excess, longer_advance, longer))
            overshoot = _overshoot(need, longer_advance, base)
            if longer_excess + overshoot * base.cost < waste:
                waste, beside = longer_excess + overshoot * base.cost, longer

    missing = need - sum(strip.advance for strip in beside)
    repeats = max(0, -(-missing // base.advance))
    return tuple(sorted((*beside, *(base,) * repeats), reverse=True))


def _more_efficient(first: _Strip, second: _Strip) -> _Strip:
    """Returns the strip with the smaller cost per pixel of advance, the first of equals."""
    return second if second.cost * first.advance < first.cost * second.advance else first


def _least_cost(need: int, strips: Sequence[_Strip]) -> int:
    """Returns a lower bound of a cover's cost: whole units of price, whole tiles."""
    costs = [(*divmod(strip.cost, _PRICE_WEIGHT), strip.advance) for strip in strips]
    price = min(-(-need * price // advance) for price, _, advance in costs)
    tiles = min(-(-need * tiles // advance) for _, tiles, advance in costs)
    return price * _PRICE_WEIGHT + tiles


def _overshoot(need: int, advance: int, base: _Strip) -> int:
    """Returns the pixels beyond `need` once `advance` is completed by repeats of the base."""
    return advance - need if advance >= need else (advance - need) % base.advance


def _cores(side: int, strips: Sequence[_Strip], halo: int) -> Iterator[tuple[int, int]]:
    """Yields (start, size) of the core of each strip along a side, as equal as the strips allow."""
    last = len(strips) - 1
    limits = [
        strip.extended - halo * ((index > 0) + (index < last)) for index, strip in enumerate(strips)
    ]
    start = 0
    for size in spread(side, limits):
        yield start, size
        start += size


def _transpose(box: Box) -> Box:
    return Box(box.top, box.left, box.height, box.width)


def _expense(engine: Engine, tiles: Sequence[TilePlace]) -> tuple[Decimal, int, int]:
    """Returns the sort key of a layout: credits, then tiles, then extended pixels."""
    extended = [tile.extended for tile in tiles]
    price = sum((engine.credits(box.width, box.height) for box in extended), Decimal(0))
    return price, len(tiles), sum(box.area for box in extended)
