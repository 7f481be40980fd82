"""Images a second, CPU seconds and sizes of PNGs, by the slope between two numbers of images.

A slope leaves out what a command takes once: its imports, its listing, its last commit. Every
command is run with both numbers of images in each repeat; every other repeat turns the order of
the commands around, and that of the numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.pipeline import inputs, participants, stopwatch
from benchmarks.pipeline.inputs import Kind
from benchmarks.pipeline.participants import Participant

PART = "throughput"


def measure(
    folder: Path,
    kinds: Sequence[Kind],
    commands: Sequence[Participant],
    counts: tuple[int, int],
    repeats: int,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each run of each command.

    Args:
        folder: for inputs and outputs.
        kinds: the kinds of images.
        commands: they are run one after another.
        counts: the lesser and the greater number of images.
        repeats: of everything.
    """
    for kind in kinds:
        sources = write_sources(folder / kind.name, kind, counts)
        for repeat in range(repeats):
            turned = -1 if repeat % 2 else 1
            for command in commands[::turned]:
                for count in counts[::turned]:
                    row = {"part": PART, "kind": kind.name, "repeat": repeat, "images": count}
                    yield {**row, **run_once(command, sources[count], folder / "output", count)}


def write_sources(folder: Path, kind: Kind, counts: Sequence[int]) -> dict[int, Path]:
    """Folders with the first images of a kind, by their number."""
    everything = folder / "all"
    inputs.write_images(everything, kind, max(counts))
    return {count: inputs.link_first(folder / str(count), everything, count) for count in counts}


def run_once(command: Participant, source: Path, output: Path, images: int) -> dict[str, Any]:
    """The time and memory of one run of a command, and the bytes of its PNGs."""
    participants.clear(output)
    words = command.command(source, output)
    measured = stopwatch.measure(words, env=command.env)
    png_bytes = command.png_bytes(output, images)
    participants.clear(output)
    return {"command": command.name, **asdict(measured), "png_bytes": png_bytes}
