"""Fuzzes what is read of strangers: images, tables, tars and addresses: `make fuzz`.

    python tests/support/fuzz_inputs.py [--inputs N] [--seconds S] [--seed N] [--only KIND]
        [--keep FOLDER]

Each input is a valid one that was damaged, or changed so that it stays sound. It goes the way that
a run's inputs go, images through decoder processes, and gives a result or an error of an expected
code, soon and in little memory; whatever else happens is a fault. Input `n` of a seed is always the
same. Counts by kind and outcome are printed at the end, with what the worst input took; the exit
status is 0 unless a fault was found. Offending inputs are kept in a folder if one is named.
"""

import argparse
import dataclasses
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fuzzed_images
import fuzzed_tables
from fuzzed import Attempt, Part

_PARTS: dict[str, Callable[[Path], Part]] = {
    "images": fuzzed_images.Images,
    "tables": fuzzed_tables.Tables,
    "tars": fuzzed_tables.Tars,
    "addresses": fuzzed_tables.Addresses,
}

# Of so many inputs in a row, images are the most.
_TURNS = ("images",) * 16 + ("tables",) * 2 + ("tars", "addresses")


@dataclasses.dataclass
class Report:
    """What came of a campaign.

    Attributes:
        counts: inputs by kind, what was done with them, and outcome.
        faults: what should not have happened, by the input's number.
        worst: the most that an input took, by measure, and that input's number.
        seconds: the time it took.
    """

    counts: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)
    faults: dict[int, str] = dataclasses.field(default_factory=dict)
    worst: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def add(self, number: int, attempt: Attempt) -> None:
        """Counts an input."""
        self.counts[attempt.kind, attempt.action, attempt.outcome] += 1
        if attempt.fault is not None:
            self.faults[number] = attempt.fault
        for measure, value in attempt.took.items():
            self.worst[measure] = max(self.worst.get(measure, (0.0, -1)), (value, number))

    def of(self, kind: str, action: str) -> Counter[str]:
        """How many inputs of a kind came to what."""
        return Counter({o: n for (k, a, o), n in self.counts.items() if (k, a) == (kind, action)})

    def lines(self) -> Iterator[str]:
        """The report as text."""
        for kind, action in sorted({(k, a) for k, a, _ in self.counts}):
            found = self.of(kind, action)
            outcomes = ", ".join(f"{outcome} {n}" for outcome, n in found.most_common())
            yield f"{kind:>8} {action:<8} {found.total():>7}: {outcomes}"
        for measure, (value, number) in sorted(self.worst.items()):
            yield f"most {measure}: {value:.4g} (input {number})"
        total = self.counts.total()
        yield f"{total} inputs in {self.seconds:.0f} s, {len(self.faults)} faults"


def campaign(
    inputs: int,
    *,
    seed: int = 0,
    first: int = 0,
    seconds: float | None = None,
    only: Sequence[str] = (),
    keep: Path | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Report:
    """Tries inputs one after the other.

    Args:
        inputs: how many.
        seed: of all of them.
        first: number of the first.
        seconds: after which no further one is tried.
        only: kinds that are tried; none for all.
        keep: folder for inputs that are at fault.
        tell: is given each fault as it is found.
    """
    report, started = Report(), time.monotonic()
    turns = [turn for turn in _TURNS if not only or turn in only]
    with tempfile.TemporaryDirectory(prefix="fuzz-inputs-") as folder:
        parts = {name: _PARTS[name](Path(folder)) for name in dict.fromkeys(turns)}
        try:
            for number in range(first, first + inputs):
                if seconds is not None and time.monotonic() - started > seconds:
                    break
                attempt = _attempt(parts[turns[number % len(turns)]], number, seed)
                report.add(number, attempt)
                if attempt.fault is not None:
                    tell(f"input {number}, {attempt.kind}, {attempt.action}: {attempt.fault}\n")
                    _keep(keep, number, attempt)
        finally:
            for part in parts.values():
                part.close()
    report.seconds = time.monotonic() - started
    return report


def _attempt(part: Part, number: int, seed: int) -> Attempt:
    chance = random.Random(f"{seed}-{number}")
    try:
        return part.attempt(number // len(_TURNS), chance)
    except Exception:
        return Attempt(type(part).__name__.lower(), "?", "fault", b"", traceback.format_exc())


def _keep(folder: Path | None, number: int, attempt: Attempt) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}-{attempt.action}.{attempt.kind}").write_bytes(attempt.data)
    (folder / f"{number}-{attempt.action}.txt").write_text(attempt.fault or "")


def main(arguments: Sequence[str]) -> int:
    """Runs a campaign; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, help="the longest it may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", nargs="*", default=(), choices=sorted(_PARTS))
    parser.add_argument("--keep", type=Path, help="folder for inputs that are at fault")
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    # A decoder that crashes leaves no core behind.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    report = campaign(given.pop("inputs"), tell=sys.stdout.write, **given)
    sys.stdout.writelines(f"{line}\n" for line in report.lines())
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
