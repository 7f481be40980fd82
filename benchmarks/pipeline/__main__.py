"""Measures, prints each figure, and writes the raw numbers and their plots."""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beam_upscale.images.decoding.child import usable_cores
from benchmarks.pipeline import (
    figures,
    growth,
    inputs,
    participants,
    plots,
    real_weights,
    reports,
    service,
    throughput,
)
from benchmarks.pipeline.figures import Figure

PARTS = (throughput.PART, real_weights.PART, service.PART, growth.PART)


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kinds", nargs="+", choices=inputs.KINDS, default=list(inputs.KINDS))
    parser.add_argument("--images", type=int, nargs=2, default=[1000, 6000], metavar="N")
    parser.add_argument("--photographs", type=int, nargs=2, default=[20, 120], metavar="N")
    parser.add_argument("--service-seconds", type=float, nargs=2, default=[4, 16], metavar="S")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.1, 1, 10, 100])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--commands", nargs="+", help="only those of so many names, such as Daft")
    parser.add_argument("--remark", default="", help="such as what else the machine was doing")
    parser.add_argument("--peers", type=Path, default=participants.PEERS_PYTHON)
    parser.add_argument("--output", type=Path, default=reports.RESULTS)
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of the parts that are asked for."""
    repeats = options.repeats
    if throughput.PART in options.parts:
        kinds = [inputs.KINDS[name] for name in options.kinds]
        commands = [
            participants.ours(),
            *participants.peers(options.peers.absolute(), usable_cores()),
        ]
        if options.commands:
            wanted = {participants.OURS, *options.commands}
            commands = [command for command in commands if command.name in wanted]
        yield from throughput.measure(folder, kinds, commands, tuple(options.images), repeats)
    if real_weights.PART in options.parts:
        yield from real_weights.measure(folder, tuple(options.photographs), repeats)
    if service.PART in options.parts:
        yield from service.measure(folder, tuple(options.service_seconds), repeats)
    if growth.PART in options.parts:
        yield from growth.measure(folder, options.counts, options.megapixels, repeats)


def line(figure: Figure) -> str:
    """A figure for people: its name, mean, values by repeat, and whether it keeps to its bound."""
    values = ", ".join(f"{value:.3g}" for value in figure.values)
    text = f"{figure.name:75} {figure.mean:8.3g} {figure.unit:12} ({values})"
    if figure.holds is None:
        return text
    return f"{text}  {'holds' if figure.holds else 'DOES NOT HOLD'}: {figure.bound:g}"


def main() -> None:
    options = parse()
    # Services and clusters are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options.output.mkdir(parents=True, exist_ok=True)
    path = reports.new_path(options.output)
    report = reports.begin(options.peers, reports.words(), options.remark)
    with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as folder:
        for row in measure(options, Path(folder)):
            report.rows.append(row)
            print(json.dumps(row), flush=True)
            # A long measurement that is stopped keeps what it has.
            path.write_text(report.text())
    try:
        lines = [line(figure) for figure in figures.figures(report.rows)]
    except (ValueError, ZeroDivisionError) as error:
        sys.exit(f"{path} is not complete: {error}. Measure more images.")
    print("\n".join(lines))
    report.complete = True
    path.write_text(report.text())
    for written in [path, *plots.write(report.rows, path.with_suffix(""))]:
        print(written)


if __name__ == "__main__":
    main()
