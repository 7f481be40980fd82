"""Draws plots of the rows as SVG; the same rows always give the same bytes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from benchmarks.pipeline.figures import Row, distinct, geometric_mean, rates, select

# Without a salt, ids in an SVG are random; texts as texts do not depend on the fonts of a machine.
_STYLE: Any = {
    "svg.hashsalt": "beam-upscale",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_INCHES = (9.0, 3.4)


def write(rows: Sequence[Row], stem: Path) -> list[Path]:
    """Writes a plot of each part that the rows have, and returns their paths.

    Args:
        rows: of any parts.
        stem: the beginning of the files' names.
    """
    written = []
    for name, draw in _PLOTS.items():
        if figure := _drawn(draw, rows):
            path = stem.with_name(f"{stem.name}-{name}.svg")
            with mpl.rc_context(_STYLE):
                figure.savefig(path, format="svg", metadata={"Date": None})
            written.append(path)
    return written


_Draw = Callable[[Figure, Sequence[Row]], bool]


def _drawn(draw: _Draw, rows: Sequence[Row]) -> Figure | None:
    """A figure; None if the rows have nothing for it."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        return figure if draw(figure, rows) else None


def _draw_throughput(figure: Figure, rows: Sequence[Row]) -> bool:
    """Bars of images a second, one panel for each kind of images."""
    rows = select(rows, part="throughput")
    kinds = distinct(rows, "kind")
    for axes, kind in zip(_panels(figure, len(kinds)), kinds, strict=True):
        of_kind = select(rows, kind=kind)
        names = distinct(of_kind, "command")
        means = [geometric_mean(rates(select(of_kind, command=name))) for name in names]
        bars = axes.barh(names, means, color=["C1", *["C0"] * (len(names) - 1)])
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.set(title=kind, xlabel="images a second")
    return bool(kinds)


def _draw_service(figure: Figure, rows: Sequence[Row]) -> bool:
    """Images a second by workers, with the line that they would keep to."""
    rows = select(rows, part="service")
    if not rows:
        return False
    [axes] = _panels(figure, 1)
    most = max(row["workers"] for row in rows)
    ideal = [1, most], [1 / rows[0]["latency"], most / rows[0]["latency"]]
    axes.plot(*ideal, color="gray", linestyle="dashed", label="calls without pause")
    for setting in distinct(rows, "setting"):
        of_setting = select(rows, setting=setting)
        workers = sorted(distinct(of_setting, "workers"))
        means = [geometric_mean(rates(select(of_setting, workers=each))) for each in workers]
        axes.plot(workers, means, marker="o", label=setting)
    axes.set(xlabel="workers", ylabel="images a second")
    axes.legend()
    return True


def _draw_images(figure: Figure, rows: Sequence[Row]) -> bool:
    return _draw_growth(figure, select(rows, axis="images"), "images", flat_memory=True)


def _draw_megapixels(figure: Figure, rows: Sequence[Row]) -> bool:
    return _draw_growth(figure, select(rows, axis="megapixels"), "megapixels computed, one image")


def _draw_growth(
    figure: Figure, rows: Sequence[Row], label: str, flat_memory: bool = False
) -> bool:
    """Seconds and memory by x, every run a point, beside a line through the first and the last.

    Scales are logarithmic, on which a straight line is bent by what a run takes once.
    """
    rows = select(rows, part="growth")
    if not rows:
        return False
    seconds, memory = _panels(figure, 2)
    _draw_points(seconds, rows, "seconds")
    _draw_line(seconds, rows, "seconds")
    seconds.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds")
    _draw_points(memory, rows, "peak_mib")
    memory.set(xscale="log", xlabel=label, ylabel="memory at most, MiB")
    if flat_memory:
        memory.set_ylim(0, 1.2 * max(row["peak_mib"] for row in rows))
    else:
        _draw_line(memory, rows, "peak_mib")
        memory.set_yscale("log")
    for axis in (seconds.xaxis, seconds.yaxis, memory.xaxis, memory.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.set_minor_formatter(NullFormatter())
    seconds.legend()
    return True


def _draw_points(axes: Any, rows: Sequence[Row], field: str) -> None:
    for repeat in sorted(distinct(rows, "repeat")):
        points = sorted((row["x"], row[field]) for row in select(rows, repeat=repeat))
        axes.plot(*zip(*points, strict=True), "o", label=f"repeat {repeat + 1}", alpha=0.7)


def _draw_line(axes: Any, rows: Sequence[Row], field: str) -> None:
    """The line through the means of the least and the greatest x."""
    xs = sorted(distinct(rows, "x"))
    ends = [geometric_mean(row[field] for row in select(rows, x=x)) for x in (xs[0], xs[-1])]
    each = (ends[1] - ends[0]) / (xs[-1] - xs[0]) if len(xs) > 1 else 0.0
    along = [xs[0] * (xs[-1] / xs[0]) ** (step / 50) for step in range(51)]
    values = [ends[0] + each * (x - xs[0]) for x in along]
    axes.plot(along, values, color="gray", linestyle="dashed", label="linear")


_PLOTS: Mapping[str, _Draw] = {
    "throughput": _draw_throughput,
    "service": _draw_service,
    "images": _draw_images,
    "megapixels": _draw_megapixels,
}


def _panels(figure: Figure, count: int) -> Iterator[Any]:
    if count:
        yield from figure.subplots(1, count, squeeze=False)[0]
