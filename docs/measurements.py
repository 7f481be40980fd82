"""Writes `measurements.md` from the raw numbers in `benchmarks/results`.

`python docs/measurements.py` writes the page again; a test compares it with what it would write.
Of each part the newest complete report that has it is taken, and numbers are rounded here only.
"""

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pipeline import figures, growth, real_weights, reports, service, throughput
from benchmarks.pipeline.figures import Better, Figure, Row, distinct, geometric_mean, rates, select
from benchmarks.pipeline.participants import OURS, RAY
from benchmarks.pipeline.reports import Report

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "measurements.md"

_COLUMNS = 100

_HEAD = """# Measurements

How fast whole runs are, what they cost in CPU time and memory, and what other tools do with the
same images on the same cores. This page is written by `python docs/measurements.py` from the raw
numbers in [benchmarks/results](../benchmarks/results); each part names its file, which has the
machine, all versions, the commit and the command. Seconds say as much about a machine as about
code; ratios compare what ran in turns on one machine.

`make bench-pipeline` measures the first four parts again, in about an hour and a half on 2 cores.
`make bench-check` measures a quick part, in some minutes, and exits with 1 if a ratio is worse than
the committed one by 15 % or more. No test measures anything.
"""


def _wrapped(text: str) -> str:
    """Paragraphs with lines of equal length, however they are written here."""
    return "\n\n".join(
        textwrap.fill(
            " ".join(each.split()), _COLUMNS, break_long_words=False, break_on_hyphens=False
        )
        for each in text.split("\n\n")
    )


def page(folder: Path = reports.RESULTS) -> str:
    """Returns the text of the page by the raw numbers in a folder."""
    paths = sorted(folder.glob(f"{reports.PREFIX}*.json"), reverse=True)
    sections = [_HEAD]
    for part, section in _SECTIONS.items():
        path = reports.newest(paths, part)
        if path is not None:
            sections.append(_section(path, part, section))
    sections += filter(None, (_million_rows(folder), _network(folder), _start_up(folder)))
    return "\n".join(sections)


def _section(path: Path, part: str, write: "_Write") -> str:
    report = reports.read(path)
    rows = select(report.rows, part=part)
    lines = [*write(rows, _Plots(path)), "", *_bounds(figures.figures(rows)), _source(path, report)]
    return "\n".join(lines) + "\n"


class _Plots:
    """Links to the plots beside a report."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def link(self, name: str, text: str) -> list[str]:
        """The lines that show a plot; none if it was not drawn."""
        plot = self._path.with_name(f"{self._path.stem}-{name}.svg")
        return ["", f"![{text}]({_link(plot)})"] if plot.exists() else []


_Write = Callable[[Sequence[Row], _Plots], Iterator[str]]


def _link(path: Path) -> str:
    return f"../benchmarks/results/{path.name}"


def _source(path: Path, report: Report) -> str:
    machine = report.machine
    cores = ", ".join([machine["architecture"], *machine.get("instructions", ())])
    return (
        f"[{path.name}]({_link(path)}): {machine['cores']} cores ({cores}), "
        f"{machine['memory_gib']:g} GiB, commit `{report.commit}`."
        f"{f' {report.remark}' if report.remark else ''}"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table: text on the left in the first column, numbers on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["", *(f"| {' | '.join(line)} |" for line in lines)]


def _bounds(found: Sequence[Figure]) -> list[str]:
    """A table of what must hold, and whether it does."""
    bounded = [
        (
            figure.name,
            f"{'at least' if figure.better is Better.MORE else 'at most'} "
            f"{figure.bound:g} {figure.unit}".strip(),
            _number(figure.mean),
            " and ".join(_number(value) for value in figure.values),
            "yes" if figure.holds else "**no**",
        )
        for figure in found
        if figure.bound is not None
    ]
    if not bounded:
        return []
    return [*_table(("must hold", "bound", "mean", "repeats", "holds"), bounded)[1:], ""]


def _number(value: float) -> str:
    """A number with three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if value < 10 else 1}f}"


def _throughput(rows: Sequence[Row], plots: _Plots) -> Iterator[str]:
    counts = " and ".join(f"{count:,}" for count in sorted(distinct(rows, "images")))
    yield _wrapped(f"""## Images a second

The installed command with its defaults, decoders in their sandbox, a network that repeats pixels
(`--weights nearest`) and `--layout parquet`, beside tools that read, decode, double, encode as PNG,
hash and write Parquet, and that keep nothing when they are killed. Images a second and milliseconds
of CPU are slopes between {counts} images, so that starting counts for nothing.""")
    for kind in distinct(rows, "kind"):
        of_kind = select(rows, kind=kind)
        ours = geometric_mean(rates(select(of_kind, command=OURS)))
        cells = [
            _of_command(name, select(of_kind, command=name), ours)
            for name in distinct(of_kind, "command")
        ]
        head = (kind, "images/s", "ours to it", "CPU ms: driving process", "all", "bytes of a PNG")
        yield from _table((*head, f"images/s of {figures.CORES} cores"), cells)
    yield from plots.link("throughput", "Images a second of each tool")
    yield ""
    yield _wrapped(f"""What {figures.CORES} cores would give is the lesser of {figures.CORES} / (CPU
seconds of all processes for an image) and 1 / (CPU seconds of the driving process for an image),
since the process that drives the device is one and its Python runs in one thread at a time. That
process is the command's own; CPU seconds of the others are those that the kernel counted for every
process which the command started, whether it has ended or not; for Ray's workers it counts
none.""")


def _of_command(name: str, rows: Sequence[Row], ours: float) -> Sequence[str]:
    rate, size = geometric_mean(rates(rows)), geometric_mean(figures.slopes(rows, "png_bytes"))
    cpu = ("", "", f"{size:,.0f}", "")
    # The kernel counts the CPU seconds of Ray's workers for no one.
    if name != RAY:
        main, everything = (
            geometric_mean(figures.slopes(rows, field)) for field in ("main_cpu", "all_cpu")
        )
        wide = f"{figures.projected(main, everything):,.0f}" if name == OURS else ""
        cpu = (_number(1000 * main), _number(1000 * everything), f"{size:,.0f}", wide)
    return name, _number(rate), _number(ours / rate), *cpu


def _real_weights(rows: Sequence[Row], plots: _Plots) -> Iterator[str]:
    del plots
    yield _wrapped("""## Real weights

Photographs of 128 x 128 by the default engine and its weights, beside the network alone in a
process of its own, with the same library, precision and threads, on images that are decoded
already. Start-up is left out by slopes.""")
    cells = [
        (name, _number(geometric_mean(rates(select(rows, command=name)))))
        for name in distinct(rows, "command")
    ]
    yield from _table(("", "images/s"), cells)


def _service(rows: Sequence[Row], plots: _Plots) -> Iterator[str]:
    latency = 1000 * rows[0]["latency"]
    yield _wrapped(f"""## A service of {latency:g} ms

Images a second over our own server on this machine, with a network that waits {latency:g} ms, by
the number of workers. A worker is one call in flight: a thread in one process, or on Flink one of
the {service.WORKERS_OF_A_PROCESS} of each process. Linear is so many times the speed of the
fewest.""")
    cells = []
    for setting in distinct(rows, "setting"):
        of_setting = select(rows, setting=setting)
        workers = sorted(distinct(of_setting, "workers"))
        alone = geometric_mean(rates(select(of_setting, workers=workers[0]))) / workers[0]
        for each in workers:
            rate = geometric_mean(rates(select(of_setting, workers=each)))
            most = each * 1000 / latency
            linear = _number(rate / alone / each)
            cells.append((setting, str(each), _number(rate), linear, _number(rate / most)))
    yield from _table(("", "workers", "images/s", "to linear", "to calls without pause"), cells)
    yield from plots.link("service", "Images a second by workers")


_AXES = {
    "images": ("Many images", "images of 64 x 64", "images"),
    "megapixels": ("Large images", "megapixels computed for one image", "megapixels"),
}


def _growth(rows: Sequence[Row], plots: _Plots) -> Iterator[str]:
    yield _wrapped("""## Growth

Seconds of whole runs with `--weights nearest`, and the most memory that all their processes had
together: the sum of what each has had at most (`VmHWM`), in which memory that they share counts for
each. An image above the engine's limit is cut into tiles that overlap (`--oversize tile`); what is
computed are all of them.""")
    for axis, (title, label, plot) in _AXES.items():
        of_axis = select(rows, axis=axis)
        cells = [
            (
                f"{x:,.4g}" if axis == "megapixels" else f"{x:,}",
                _number(geometric_mean(row["seconds"] for row in select(of_axis, x=x))),
                f"{max(row['peak_mib'] for row in select(of_axis, x=x)):,}",
            )
            for x in sorted(distinct(of_axis, "x"))
        ]
        yield from ["", f"### {title}"]
        yield from _table((label, "seconds", "MiB at most"), cells)
        yield from plots.link(plot, f"Seconds and memory by {label}")


_SECTIONS: dict[str, _Write] = {
    throughput.PART: _throughput,
    real_weights.PART: _real_weights,
    service.PART: _service,
    growth.PART: _growth,
}


def _newest_json(folder: Path, prefix: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields the reports of another benchmark, the newest first."""
    for path in sorted(folder.glob(f"{prefix}-*.json"), reverse=True):
        yield path, json.loads(path.read_text())


_MILLION = 1_000_000


def _million_rows(folder: Path) -> str:
    """The newest run of a million rows; empty if there is none."""
    for path, report in _newest_json(folder, "parquet_rows"):
        for run in report["runs"]:
            if run["rows"] >= _MILLION and (ours := run.get("beam-upscale")):
                return _rows_section(path, report, run["rows"], ours)
    return ""


def _rows_section(path: Path, report: dict[str, Any], rows: int, ours: dict[str, Any]) -> str:
    cells = [("of the whole run", _number(ours["rows_per_second"]))]
    if steady := ours.get("rows_per_second_after_listing"):
        cells.insert(0, ("after the listing", _number(steady)))
    quarter = max(ours["mib"][: max(1, len(ours["mib"]) // 4)])
    text = f"""## A million rows

{rows:,} images of 8 x 8 in one Parquet table, to Parquet, with a network that repeats pixels
(`python benchmarks/parquet_rows.py`). The run and its children had at most {quarter:,} MiB of
memory in the first quarter of the time, and {ours["peak_mib"]:,} MiB in all of it."""
    head = ("", "rows a second")
    source = f"[{path.name}]({_link(path)}): {report['cpus']} cores."
    return "\n".join([_wrapped(text), *_table(head, cells), "", source]) + "\n"


def _network(folder: Path) -> str:
    """The default network beside its peers; empty if it was not measured."""
    for path, report in _newest_json(folder, "network"):
        speeds = [part for run in report["runs"] for part in run if part["part"] == "speed"]
        names = [name for name in speeds[0]["ratios"] if name != "ours"]
        cells = []
        for side in distinct(speeds, "side"):
            of_side = select(speeds, side=side)
            ratios = (geometric_mean(part["ratios"][name] for part in of_side) for name in names)
            cells.append((f"{side} x {side}", *map(_number, ratios)))
        text = """## The default network on a CPU

Seconds of other ways to run the same weights, to ours: above 1, ours is faster
(`make bench-network`)."""
        lines = [
            _wrapped(text),
            *_table(("image", *names), cells),
            "",
            f"[{path.name}]({_link(path)}): {report['threads']} threads, {report['cpu_bf16']}.",
        ]
        return "\n".join(lines) + "\n"
    return ""


def _start_up(folder: Path) -> str:
    """Seconds that commands take to start; empty if they were not measured."""
    for path, report in _newest_json(folder, "start_up"):
        cells = [
            (
                f"`{name}`",
                _number(min(run["wall"] for run in found["runs"])),
                _number(min(run["user"] + run["system"] for run in found["runs"])),
            )
            for name, found in report["commands"].items()
            if "runs" in found
        ]
        text = """## Starting

The fewest seconds of several starts; `run` is on one image of 16 x 16
(`python benchmarks/start_up.py`)."""
        lines = [
            _wrapped(text),
            *_table(("command", "seconds", "CPU seconds"), cells),
            "",
            f"[{path.name}]({_link(path)}): {report['cpus']} cores.",
        ]
        return "\n".join(lines) + "\n"
    return ""


if __name__ == "__main__":
    PAGE.write_text(page())
