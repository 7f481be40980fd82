"""Computes slopes, ratios and their means from the rows that were measured.

Printing, comparing and drawing all begin here, so that they agree. A row is a dict as the parts
yield it; nothing here looks at a clock or a file.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmarks.pipeline.participants import BEAM, DAFT, DAFT_OUR_ENCODER, OURS, RAY

Row = Mapping[str, Any]

CORES = 16
"""The number of cores that CPU seconds are projected to."""


class Better(StrEnum):
    """The direction in which a figure is better."""

    MORE = "more"
    LESS = "less"


@dataclass(frozen=True)
class Figure:
    """One figure of a part, by repeat.

    Attributes:
        name: what it is, unique in a report.
        values: of each repeat, all above 0.
        better: the better direction.
        bound: what it must reach, or stay below; None for no such demand.
        unit: of the values; empty for a ratio, which machines can be compared by.
    """

    name: str
    values: tuple[float, ...]
    better: Better = Better.MORE
    bound: float | None = None
    unit: str = ""

    @property
    def is_ratio(self) -> bool:
        """True if it compares two things of one run."""
        return not self.unit

    @property
    def mean(self) -> float:
        """The geometric mean of the values."""
        return geometric_mean(self.values)

    @property
    def holds(self) -> bool | None:
        """True if the mean keeps to the bound; None without one."""
        if self.bound is None:
            return None
        return self.mean >= self.bound if self.better is Better.MORE else self.mean <= self.bound

    def worsened(self, earlier: "Figure") -> float:
        """The share by which it is worse than an earlier one; below 0 if it is better.

        For both directions, to be twice as bad is 0.5.
        """
        ratio = self.mean / earlier.mean
        return 1 - (ratio if self.better is Better.MORE else 1 / ratio)


def geometric_mean(values: Iterable[float]) -> float:
    """The mean of ratios: that of their inverses is its inverse.

    Raises:
        ValueError: there are no values, or one is 0 or less, as slopes of too few images may be.
    """
    found = list(values)
    if not found or min(found) <= 0:
        raise ValueError(f"a mean of ratios needs values above 0, not {found}")
    return math.exp(sum(map(math.log, found)) / len(found))


def slope(points: Iterable[tuple[float, float]]) -> float:
    """The slope of the line through (x, y) with the least squares; exact for two points.

    Raises:
        ValueError: all x are the same.
    """
    pairs = list(points)
    middle_x = sum(x for x, _ in pairs) / max(1, len(pairs))
    middle_y = sum(y for _, y in pairs) / max(1, len(pairs))
    spread = sum((x - middle_x) ** 2 for x, _ in pairs)
    if not spread:
        raise ValueError(f"a slope needs two different x, not {[x for x, _ in pairs]}")
    return sum((x - middle_x) * (y - middle_y) for x, y in pairs) / spread


def projected(main_cpu: float, all_cpu: float, cores: int = CORES) -> float:
    """Images a second that so many cores would give, by the CPU seconds of one image.

    The lesser of `cores / all_cpu`, since no core does two things at a time, and `1 / main_cpu`,
    since the process that drives the device is one, and Python lets one of its threads run at a
    time. The latter is cautious: a part of that time is spent without the interpreter's lock.
    """
    return min(cores / all_cpu, 1 / main_cpu)


def select(rows: Iterable[Row], **fields: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]


def distinct(rows: Iterable[Row], field: str) -> list[Any]:
    """The values of a field, in their first order."""
    return list(dict.fromkeys(row[field] for row in rows))


def slopes(rows: Sequence[Row], of: str, by: str = "images") -> tuple[float, ...]:
    """The slope of each repeat, in the order of their numbers."""
    repeats = sorted(distinct(rows, "repeat"))
    return tuple(
        slope((row[by], row[of]) for row in select(rows, repeat=repeat)) for repeat in repeats
    )


def rates(rows: Sequence[Row]) -> tuple[float, ...]:
    """Images a second of each repeat, by the slope of seconds."""
    return tuple(1 / seconds for seconds in slopes(rows, "seconds"))


def figures(rows: Sequence[Row]) -> list[Figure]:
    """All figures of the rows of any parts, in a fixed order."""
    return [figure for part in _PARTS for figure in part(rows)]


def _divided(of: Iterable[float], by: Iterable[float]) -> tuple[float, ...]:
    return tuple(one / other for one, other in zip(of, by, strict=True))


# What must hold of images a second, by peer; Ray Data's are printed only.
_LEAST = {DAFT: 1.0, DAFT_OUR_ENCODER: 0.4, BEAM: 1.7, RAY: None}
_MOST_PNG_BYTES = 1.15
_MOST_MAIN_MILLISECONDS = 1.0


def _throughput(rows: Sequence[Row]) -> Iterator[Figure]:
    rows = select(rows, part="throughput")
    for kind in distinct(rows, "kind"):
        of_kind = select(rows, kind=kind)
        ours = select(of_kind, command=OURS)
        yield from _rate_figures(kind, of_kind, ours)
        yield from _cpu_figures(kind, of_kind, ours)


def _rate_figures(kind: str, rows: Sequence[Row], ours: Sequence[Row]) -> Iterator[Figure]:
    for name, least in _LEAST.items():
        if peer := select(rows, command=name):
            values = _divided(rates(ours), rates(peer))
            yield Figure(f"{kind}: images a second, to {name}", values, bound=least)
    if peer := select(rows, command=DAFT):
        sizes = _divided(slopes(ours, "png_bytes"), slopes(peer, "png_bytes"))
        name = f"{kind}: bytes of a PNG, to Pillow's default"
        yield Figure(name, sizes, Better.LESS, _MOST_PNG_BYTES)


def _cpu_figures(kind: str, rows: Sequence[Row], ours: Sequence[Row]) -> Iterator[Figure]:
    main, everything = slopes(ours, "main_cpu"), slopes(ours, "all_cpu")
    if peer := select(rows, command=BEAM):
        to_beam = _divided(main, slopes(peer, "all_cpu"))
        name = f"{kind}: CPU of the process that drives the device, to all of bare Beam's"
        yield Figure(name, to_beam, Better.LESS)
        to_beam = _divided(everything, slopes(peer, "all_cpu"))
        yield Figure(f"{kind}: CPU of all processes, to bare Beam's", to_beam, Better.LESS)
    milliseconds = tuple(1000 * seconds for seconds in main)
    name = f"{kind}: CPU of the process that drives the device"
    yield Figure(name, milliseconds, Better.LESS, _MOST_MAIN_MILLISECONDS, "ms an image")
    milliseconds = tuple(1000 * seconds for seconds in everything)
    yield Figure(f"{kind}: CPU of all processes", milliseconds, Better.LESS, unit="ms an image")
    wide = tuple(projected(*pair) for pair in zip(main, everything, strict=True))
    yield Figure(f"{kind}: {CORES} cores would give", wide, unit="images/s")


_LEAST_TO_NETWORK = 0.95


def _real_weights(rows: Sequence[Row]) -> Iterator[Figure]:
    rows = select(rows, part="real weights")
    if rows:
        ours, bare = (select(rows, command=name) for name in (OURS, "bare network"))
        ratios = _divided(rates(ours), rates(bare))
        name = "real weights: images a second, to the bare network"
        yield Figure(name, ratios, bound=_LEAST_TO_NETWORK)


_LEAST_TO_LINEAR = 0.9


def _service(rows: Sequence[Row]) -> Iterator[Figure]:
    """The speed of several workers, to so many times that of the fewest of their setting."""
    rows = select(rows, part="service")
    for setting in distinct(rows, "setting"):
        of_setting = select(rows, setting=setting)
        least = min(distinct(of_setting, "workers"))
        alone = rates(select(of_setting, workers=least))
        for workers in sorted(distinct(of_setting, "workers")):
            some = rates(select(of_setting, workers=workers))
            if workers > least:
                linear = _divided(some, [rate * workers / least for rate in alone])
                name = f"service, {setting}, workers {workers}: to linear"
                yield Figure(name, linear, bound=_LEAST_TO_LINEAR)
            possible = _divided(some, [workers / of_setting[0]["latency"]] * len(some))
            name = f"service, {setting}, workers {workers}: to calls without pause"
            yield Figure(name, possible)


def _growth(rows: Sequence[Row]) -> Iterator[Figure]:
    """The growth of seconds and memory: 1 is along a line, and flat memory is a ratio of 1."""
    for axis in ("images", "megapixels"):
        of_axis = select(rows, part="growth", axis=axis)
        xs = sorted(distinct(of_axis, "x"))
        if len(xs) < 3:
            continue
        name = f"growth by {axis}: seconds of one more, last step to the one before"
        yield Figure(name, _steepening(of_axis, xs[-3:], "seconds"), Better.LESS)
        if axis == "megapixels":
            name = f"growth by {axis}: memory of one more, last step to the one before"
            yield Figure(name, _steepening(of_axis, xs[-3:], "peak_mib"), Better.LESS)
            continue
        last, before = (select(of_axis, x=x) for x in (xs[-1], xs[-2]))
        peaks = _divided(_in_order(last, "peak_mib"), _in_order(before, "peak_mib"))
        yield Figure(f"growth by {axis}: memory of {xs[-1]} to {xs[-2]}", peaks, Better.LESS)


def _steepening(rows: Sequence[Row], xs: Sequence[float], of: str) -> tuple[float, ...]:
    """The slope between the last two of three x, to that between the first two; 1 is linear."""
    first, second, third = xs
    early = slopes([row for row in rows if row["x"] in (first, second)], of, "x")
    late = slopes([row for row in rows if row["x"] in (second, third)], of, "x")
    return _divided(late, early)


def _in_order(rows: Sequence[Row], field: str) -> list[float]:
    return [row[field] for row in sorted(rows, key=lambda row: row["repeat"])]


_PARTS: Sequence[Callable[[Sequence[Row]], Iterator[Figure]]] = (
    _throughput,
    _real_weights,
    _service,
    _growth,
)
