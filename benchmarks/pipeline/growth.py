"""Seconds and memory as the number of images grows, and as one image grows.

Images are upscaled by repeating pixels. One that is larger than its engine takes is cut into tiles
that overlap, so that what is computed is more than its pixels: `x` is that, in megapixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beam_upscale.planning.engines import get_engine
from beam_upscale.planning.plan import plan
from beam_upscale.planning.plan_options import Oversize, PlanOptions
from benchmarks.pipeline import inputs, participants, stopwatch, throughput
from benchmarks.pipeline.inputs import PNG_64
from benchmarks.pipeline.participants import Participant

PART = "growth"
_ENGINE = "esrgan-v1-x2plus"


def measure(
    folder: Path, counts: Sequence[int], megapixels: Sequence[float], repeats: int
) -> Iterator[dict[str, Any]]:
    """Yields a row for each number of images, then for each size of one image.

    Args:
        folder: for inputs and outputs.
        counts: numbers of images of 64 x 64.
        megapixels: sizes of an image.
        repeats: of everything.
    """
    output = folder / "output"
    sources = throughput.write_sources(folder / "images", PNG_64, counts)
    command = participants.ours()
    for repeat in range(repeats):
        for count in counts[:: -1 if repeat % 2 else 1]:
            row = {"part": PART, "axis": "images", "x": count, "repeat": repeat}
            yield {**row, **_run_once(command, sources[count], output, count)}
    command = participants.ours("--oversize", "tile")
    sizes = {each: _write(folder, each) for each in megapixels}
    for repeat in range(repeats):
        for each in megapixels[:: -1 if repeat % 2 else 1]:
            source, computed = sizes[each]
            row = {"part": PART, "axis": "megapixels", "x": computed, "repeat": repeat}
            yield {**row, "megapixels": each, **_run_once(command, source, output, 1)}


def _write(folder: Path, megapixels: float) -> tuple[Path, float]:
    """A folder with one image of a size, and the megapixels that are computed for it."""
    source = folder / f"{megapixels:g} megapixels"
    width, height = inputs.write_large(source / "large.png", megapixels)
    return source, computed_megapixels(width, height)


def computed_megapixels(width: int, height: int) -> float:
    """Megapixels of all tiles of an image, their halos included."""
    options = PlanOptions(oversize=Oversize.TILE)
    tiles = plan(get_engine(_ENGINE), width, height, options).tiles
    return sum(tile.extended.area for tile in tiles) / 1e6


def _run_once(command: Participant, source: Path, output: Path, images: int) -> dict[str, Any]:
    participants.clear(output)
    measured = stopwatch.measure(command.command(source, output), env=command.env, memory=True)
    png_bytes = command.png_bytes(output, images)
    participants.clear(output)
    return {"command": command.name, **asdict(measured), "png_bytes": png_bytes}
