"""Measures the quick part again and compares its ratios with the newest committed ones.

    python -m benchmarks.pipeline.check

Prints a table of all ratios, and exits with 1 if one is worse by 15 % or more, with 2 if there is
nothing to compare with. Seconds are not compared: they say as much about the machine.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beam_upscale.images.decoding.child import usable_cores
from benchmarks.pipeline import figures, inputs, participants, reports, throughput
from benchmarks.pipeline.figures import Figure, Row

TOLERANCE = 0.15


@dataclass(frozen=True)
class Comparison:
    """A ratio of now beside the committed one."""

    now: Figure
    earlier: Figure

    @property
    def worsened(self) -> float:
        """The share by which it is worse; below 0 if it is better."""
        return self.now.worsened(self.earlier)

    @property
    def fails(self) -> bool:
        """True if it is worse by the tolerance or more."""
        # Ratios are rounded nowhere; the last bit of a division decides nothing.
        return self.worsened > TOLERANCE - 1e-9


def comparisons(now: Sequence[Row], earlier: Sequence[Row]) -> list[Comparison]:
    """The ratios that both have."""
    before = {figure.name: figure for figure in figures.figures(earlier)}
    return [
        Comparison(figure, before[figure.name])
        for figure in figures.figures(now)
        if figure.is_ratio and figure.name in before
    ]


def table(found: Sequence[Comparison]) -> str:
    """A line for each ratio, the worst first."""
    width = max((len(each.now.name) for each in found), default=0)
    head = f"{'ratio':{width}}  {'better':>6}  {'committed':>9}  {'now':>9}  {'worse by':>8}"
    lines = [
        f"{each.now.name:{width}}  {each.now.better:>6}  {each.earlier.mean:9.3f}  "
        f"{each.now.mean:9.3f}  {each.worsened:8.1%}{'  FAILS' if each.fails else ''}"
        for each in sorted(found, key=lambda each: -each.worsened)
    ]
    return "\n".join([head, *lines])


def verdict(found: Sequence[Comparison]) -> str:
    """One sentence on all of them."""
    failed = sum(each.fails for each in found)
    if failed:
        return f"{failed} of {len(found)} ratios are worse by {TOLERANCE:.0%} or more."
    return f"No ratio of {len(found)} is worse by {TOLERANCE:.0%} or more."


def measure(images: tuple[int, int], repeats: int, peers: Path) -> list[Row]:
    """Measures the quick part: PNGs of 64 x 64, beside those peers that take seconds to start."""
    wanted = {participants.OURS, participants.DAFT, participants.DAFT_OUR_ENCODER}
    commands = [participants.ours(), *participants.peers(peers.absolute(), usable_cores())]
    commands = [each for each in commands if each.name in wanted | {participants.BEAM}]
    with tempfile.TemporaryDirectory(prefix="bench-check-") as folder:
        kinds = [inputs.PNG_64]
        return list(throughput.measure(Path(folder), kinds, commands, images, repeats))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline.check")
    # Those of a whole measurement: with fewer, ours shows slower beside its peers.
    parser.add_argument("--images", type=int, nargs=2, default=[1000, 6000], metavar="N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=participants.PEERS_PYTHON)
    options = parser.parse_args()
    committed = reports.newest(reports.committed(), throughput.PART)
    if committed is None:
        sys.exit(_nothing("no report with this part is committed in benchmarks/results"))
    earlier = reports.read(committed)
    print(f"Against {committed.relative_to(reports.ROOT)}, of commit {earlier.commit}.")
    if earlier.machine != reports.machine():
        print(f"That was another machine: {earlier.machine}; here: {reports.machine()}")
    now = measure(tuple(options.images), options.repeats, options.peers)
    found = comparisons(now, earlier.rows)
    if not found:
        sys.exit(_nothing("the committed report has none of these ratios"))
    print(table(found))
    print(verdict(found))
    sys.exit(int(any(each.fails for each in found)))


def _nothing(why: str) -> int:
    print(f"There is nothing to compare with: {why}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
