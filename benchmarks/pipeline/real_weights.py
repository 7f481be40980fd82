"""Photographs of 128 x 128 with the real weights, beside the network alone with the same settings.

Start-up is left out by the slope between two numbers of images, of both. The bare network is loaded
in a process of its own, as a run's is; what it decodes and what it would encode is not counted.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pipeline import participants, throughput
from benchmarks.pipeline.inputs import PHOTOGRAPH_128
from benchmarks.pipeline.participants import BEAM_UPSCALE, OURS, Participant

PART = "real weights"
BARE = "bare network"


def measure(folder: Path, counts: tuple[int, int], repeats: int) -> Iterator[dict[str, Any]]:
    """Yields a row for each number of images, of the command and of the bare network."""
    sources = throughput.write_sources(folder / "photographs", PHOTOGRAPH_128, counts)
    words = ("--layout", "parquet", "--quiet")
    command = Participant(OURS, (str(BEAM_UPSCALE), "run"), words)
    for repeat in range(repeats):
        row = {"part": PART, "repeat": repeat}
        turns = [_ours(command, sources, folder / "output"), _bare(sources)]
        # Nothing is run before it is iterated over.
        for turn in turns[:: -1 if repeat % 2 else 1]:
            for found in turn:
                yield {**row, **found}


def _ours(command: Participant, sources: dict[int, Path], output: Path) -> Iterator[dict[str, Any]]:
    for count, source in sources.items():
        yield {"images": count, **throughput.run_once(command, source, output, count)}


def _bare(sources: dict[int, Path]) -> Iterator[dict[str, Any]]:
    """Seconds of the network in one process, after each number of images."""
    most = sources[max(sources)]
    module = "benchmarks.pipeline.bare_network"
    words = [sys.executable, "-m", module, str(most), *map(str, sources)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=participants.ROOT)
    for count, seconds in json.loads(done.stdout.splitlines()[-1]).items():
        yield {"images": int(count), "command": BARE, "seconds": seconds}
