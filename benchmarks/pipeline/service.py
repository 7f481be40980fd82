"""Images a second over a service of a fixed latency, by the number of workers.

A worker is one call in flight: so many threads, and `--max-in-flight`. In one process their number
grows from 1 to 16. On Flink processes of four grow from 1 to 4, each below a task manager of its
own, as `make runners` and the tests of runners set them up. The service is our own server, with a
network that waits: the same cores serve and call.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pipeline import participants, throughput
from benchmarks.pipeline.inputs import PNG_64
from benchmarks.pipeline.participants import BEAM_UPSCALE, OURS, ROOT, Participant

PART = "service"
LATENCY = 0.2
WORKERS = (1, 2, 4, 8, 16)
PROCESSES = (1, 2, 4)
WORKERS_OF_A_PROCESS = 4


def measure(
    folder: Path, seconds: tuple[float, float], repeats: int, processes: Sequence[int] = PROCESSES
) -> Iterator[dict[str, Any]]:
    """Yields a row for each number of workers and images.

    Args:
        folder: for inputs and outputs.
        seconds: that the lesser and the greater number of images take without a pause.
        repeats: of everything.
        processes: numbers of processes on Flink; left out where it was not fetched.
    """
    most = max(*WORKERS, *(count * WORKERS_OF_A_PROCESS for count in processes))
    counts = {workers: _images(workers, seconds) for workers in range(1, most + 1)}
    settings: list[tuple[str, int, Callable[..., Any]]] = [
        ("one process", workers, _in_process) for workers in WORKERS
    ]
    settings += [
        ("Flink", count * WORKERS_OF_A_PROCESS, _on_flink)
        for count in processes
        if _flink_is_there()
    ]
    needed = sorted({count for _, workers, _ in settings for count in counts[workers]})
    sources = throughput.write_sources(folder / PART, PNG_64, needed)
    with served(LATENCY) as address:
        for repeat in range(repeats):
            for setting, workers, runner in settings[:: -1 if repeat % 2 else 1]:
                row = {"part": PART, "setting": setting, "workers": workers, "repeat": repeat}
                with runner(workers) as options:
                    command = _command(address, options)
                    for count in counts[workers]:
                        found = throughput.run_once(
                            command, sources[count], folder / "output", count
                        )
                        yield {**row, "latency": LATENCY, "images": count, **found}


def _images(workers: int, seconds: tuple[float, float]) -> tuple[int, int]:
    """Numbers of images that so many workers call for in that time."""
    fewer, more = (max(1, round(workers * each / LATENCY)) for each in seconds)
    return fewer, max(fewer + 1, more)


@contextlib.contextmanager
def served(seconds: float) -> Iterator[str]:
    """The address of a service of this latency, which ends with the context."""
    words = [sys.executable, "-m", "benchmarks.pipeline.slow_service", str(seconds)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def _command(address: str, options: Sequence[str]) -> Participant:
    words = ("--backend", "grpc", "--endpoint", address, "--layout", "parquet", "--quiet")
    return Participant(OURS, (str(BEAM_UPSCALE), "run"), (*words, *options))


@contextlib.contextmanager
def _in_process(workers: int) -> Iterator[Sequence[str]]:
    yield ("--workers", str(workers), "--max-in-flight", str(workers))


@contextlib.contextmanager
def _on_flink(workers: int) -> Iterator[Sequence[str]]:
    """A cluster with a task manager for each process."""
    clusters = _clusters()
    with (
        tempfile.TemporaryDirectory(prefix="flink-") as folder,
        clusters.flink(Path(folder), workers // WORKERS_OF_A_PROCESS) as cluster,
    ):
        yield ("--max-in-flight", str(WORKERS_OF_A_PROCESS), "--", *cluster.options)


def _flink_is_there() -> bool:
    return bool(_clusters().fetch.FLINK_JOB_SERVER.exists())


def _clusters() -> Any:
    """The module of the tests that starts engines."""
    for folder in ("runners", "support"):
        place = str(participants.ROOT / "tests" / folder)
        if place not in sys.path:
            sys.path.append(place)
    import clusters

    return clusters
