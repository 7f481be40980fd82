"""Rows a second and memory of whole runs, Parquet to Parquet, beside bare Beam in the same run.

    python benchmarks/parquet_rows.py --rows 20000 1000000 --output benchmarks/results

Images are tiny and no network runs (`nearest` repeats pixels), so that what is measured is
everything else: listing, decoding, encoding, records, shards. Beside it stand, with the same runner
in this process, Beam's `ReadFromParquet` into its `WriteToParquet`, which look at no image and
survive no crash, and the same with the bare codecs between. Memory is that of the process and its
children, sampled ten times a second. Rows a second are those after the listing, which has ended
when a run says that it starts, and those of the whole run.
"""

import argparse
import contextlib
import dataclasses
import datetime
import io
import json
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from beam_upscale import UpscaleSettings
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.pipeline.local_runner import new_pipeline
from beam_upscale.run import Run, run

_MIB = 2**20
_ROWS_IN_A_GROUP = 10_000
_SIDE = 8
_WORKERS = 2
_SECONDS_IN_A_STRETCH = 10

_SCHEMA = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())]
)


def png(pixels: NDArray[Any]) -> bytes:
    """Pixels as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def write_input(path: Path, rows: int) -> None:
    """A table of images of eight by eight pixels, no two groups alike."""
    rng = np.random.default_rng(rows)
    images = [png(rng.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)) for _ in range(1000)]
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for first in range(0, rows, _ROWS_IN_A_GROUP):
            numbers = range(first, min(rows, first + _ROWS_IN_A_GROUP))
            cells = [{"bytes": images[n % 1000], "path": f"{n:09}.png"} for n in numbers]
            writer.write_table(pa.table([cells, list(numbers)], schema=_SCHEMA))


def repeated(pixels: NDArray[Any]) -> NDArray[Any]:
    """(N, H, W, C) at twice the size."""
    return pixels.repeat(2, axis=1).repeat(2, axis=2)


def upscaled_by_codecs(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its image twice as large, by the codec alone."""
    with Image.open(io.BytesIO(row["image"]["bytes"])) as picture:
        pixels = np.asarray(picture)
    return {**row, "image": {**row["image"], "bytes": png(repeated(pixels[None])[0])}}


def copy(source: Path, target: Path, step: Callable[[Any], Any] | None) -> float:
    """Bare Beam: read, perhaps a step, write; it lists nothing."""
    with new_pipeline([], _WORKERS) as pipeline:
        table = pipeline | beam.io.ReadFromParquet(str(source))
        if step is not None:
            table |= beam.Map(step)
        _ = table | beam.io.WriteToParquet(str(target / "rows"), _SCHEMA)
    return 0.0


def upscale(source: Path, target: Path) -> float:
    """A whole run; the seconds of its listing."""
    begun, listed = time.perf_counter(), [0.0]

    def on_start(*_: object) -> None:
        listed[0] = time.perf_counter() - begun

    settings = UpscaleSettings.of(weights="nearest")
    request = Run(str(source), str(target), settings, layout=Layout.PARQUET, workers=_WORKERS)
    finished = run(request, on_start=on_start)
    assert finished.stopped is None
    assert finished.totals.by_status == {"upscaled": pq.read_metadata(source).num_rows}
    return listed[0]


@dataclasses.dataclass
class Measured:
    """The time and memory of an action.

    Attributes:
        seconds: of wall clock.
        peak_mib: the most memory of the process and its children.
        mib: the most in each stretch of ten seconds.
    """

    seconds: float = 0.0
    peak_mib: int = 0
    mib: list[int] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def measured() -> Iterator[Measured]:
    """Measures what is done in its block."""
    found, ended = Measured(), threading.Event()
    process = psutil.Process()
    started = time.perf_counter()

    command = process.cmdline()

    def sample() -> None:
        while not ended.wait(0.1):
            total = process.memory_info().rss // _MIB
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    # Until a child runs its own program, it shows its parent's memory.
                    if child.cmdline() != command:
                        total += child.memory_info().rss // _MIB
            found.peak_mib = max(found.peak_mib, total)
            stretch = int((time.perf_counter() - started) / _SECONDS_IN_A_STRETCH)
            found.mib += [0] * (stretch + 1 - len(found.mib))
            found.mib[stretch] = max(found.mib[stretch], total)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        found.seconds = time.perf_counter() - started
        ended.set()
        thread.join()


def measure(rows: int, folder: Path, with_peers: bool) -> Iterator[dict[str, Any]]:
    """This package, then its peers, on one table of so many rows; what is known after each."""
    source = folder / "rows.parquet"
    write_input(source, rows)
    own = "beam-upscale"
    actions: dict[str, Callable[[Path], float]] = {own: lambda target: upscale(source, target)}
    if with_peers:
        actions["bare Beam"] = lambda target: copy(source, target, None)
        actions["bare Beam and codecs"] = lambda target: copy(source, target, upscaled_by_codecs)
    results: dict[str, Any] = {"rows": rows}
    for name, action in actions.items():
        target = folder / "out"
        target.mkdir()
        with measured() as found:
            listing = action(target)
        shutil.rmtree(target)
        rate, steady = rows / found.seconds, rows / (found.seconds - listing)
        results[name] = {
            **dataclasses.asdict(found),
            "listing_seconds": listing,
            "rows_per_second": rate,
            "rows_per_second_after_listing": steady,
        }
        rates = f"{rate:>9,.0f} rows/s, {steady:,.0f} after the listing"
        line = f"{rows:>10,} rows  {name:22} {rates}  {found.peak_mib:>7,.0f} MiB"
        print(line, flush=True)
        if name != own:
            ratio = results[own]["rows_per_second"] / rate
            results[f"ratio to {name}"] = ratio
            print(f"{rows:>10,} rows  {own} at {ratio:.3f} of {name}", flush=True)
        yield results


def write_output(folder: Path, started: datetime.datetime, runs: list[dict[str, Any]]) -> None:
    """The raw numbers so far: a long measurement that is stopped keeps what it has."""
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    text = json.dumps({**machine, "cpus": psutil.cpu_count(), "runs": runs}, indent=2)
    (folder / f"parquet_rows-{started:%Y%m%dT%H%M%SZ}.json").write_text(text + "\n")


def main() -> None:
    """Measures, prints a line for each, and writes the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where files are; the system's by default")
    parser.add_argument("--without-peers", action="store_true", help="for memory alone")
    parser.add_argument("--output", type=Path, help="a folder for the raw numbers")
    arguments = parser.parse_args()
    started = datetime.datetime.now(datetime.UTC)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for results in measure(rows, Path(folder), not arguments.without_peers):
                if arguments.output is not None:
                    write_output(arguments.output, started, [*runs, results])
            runs.append(results)


if __name__ == "__main__":
    main()
