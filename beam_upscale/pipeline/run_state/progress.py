"""The progress of a run, which its workers write down and the process that started it reads.

Each worker has a small file in the staging folder of the dataset. So this works on any runner whose
workers share the output folder with the process that started the run.
"""

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from decimal import Decimal

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ImageError
from beam_upscale.inference import progress
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

_SECONDS_BETWEEN_WRITES = 1.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run, or of one of its workers.

    Attributes:
        images: the number of inputs with a row, those of earlier runs included.
        earlier: the number of inputs whose row an earlier run or pipeline made.
        pixels: input pixels upscaled by this run.
        failures: rows with the status `failed`, made by this run.
        credits: the price of the images upscaled by this run, by the price list.
        step: network passes done in the computation that is in progress.
        steps: all passes of that computation; 0 if none with more than one pass is in progress.
    """

    images: int = 0
    earlier: int = 0
    pixels: int = 0
    failures: int = 0
    credits: Decimal = Decimal(0)
    step: int = 0
    steps: int = 0

    def __add__(self, other: "Progress") -> "Progress":
        return Progress(
            self.images + other.images,
            self.earlier + other.earlier,
            self.pixels + other.pixels,
            self.failures + other.failures,
            self.credits + other.credits,
            self.step + other.step,
            self.steps + other.steps,
        )


def progress_of(record: Record, earlier: bool) -> Progress:
    """Returns one input's share in a run's progress; `earlier`: an earlier run made its row."""
    row = record.row
    if earlier:
        return Progress(images=1, earlier=1)
    if row.status is not Status.UPSCALED:
        return Progress(images=1, failures=int(row.status is Status.FAILED))
    pixels = (row.input_width or 0) * (row.input_height or 0)
    return Progress(images=1, pixels=pixels, credits=row.credits)


class ProgressFile:
    """The progress of this process in one run, written at most once a second.

    Args:
        dataset: the output.
        run_id: the run's id; keeps its files apart from those of an interrupted run.
    """

    def __init__(self, dataset: DatasetFolder, run_id: str) -> None:
        name = f"{run_id}-{socket.gethostname()}-{os.getpid()}.json"
        self._uri = uris.join(dataset.progress, name)
        self._dataset = dataset
        self._lock = threading.Lock()
        self._total = Progress()
        self._written_at = 0.0

    def add(self, done: Progress) -> Progress:
        """Adds progress, and returns the total of this process."""
        with self._lock:
            self._total += done
            self._write_if_due()
            return self._total

    @property
    def total(self) -> Progress:
        """The total progress of this process in the run."""
        with self._lock:
            return self._total

    def listen(self) -> Callable[[], None]:
        """Starts to follow the network passes that this process computes.

        Returns:
            A function that ends this. Call it before the run completes: the folder of progress
            files is deleted then, and a later write would create it again.
        """
        return progress.listen(self._follow)

    def _follow(self, done: int, total: int) -> None:
        step, of = (done, total) if done < total else (0, 0)
        with self._lock:
            self._total = dataclasses.replace(self._total, step=step, steps=of)
            self._write_if_due()

    def flush(self) -> None:
        """Writes the progress file now."""
        with self._lock:
            self._write()

    def _write_if_due(self) -> None:
        if time.monotonic() - self._written_at >= _SECONDS_BETWEEN_WRITES:
            self._write()

    def _write(self) -> None:
        values = {**dataclasses.asdict(self._total), "credits": str(self._total.credits)}
        self._dataset.write(self._uri, json.dumps(values).encode())
        self._written_at = time.monotonic()


def read_progress(dataset: DatasetFolder, run_id: str) -> Progress:
    """Adds up the progress of all workers of a run."""
    total = Progress()
    for entry in list(files.list_below(dataset.progress)):
        if entry.name.startswith(run_id):
            try:
                values = json.loads(files.read(entry.uri))
            except (ImageError, ValueError):
                # The run ended after the files were listed; or the file was replaced by a longer
                # one after the object store had reported its size.
                continue
            total += Progress(**{**values, "credits": Decimal(values["credits"])})
    return total


_files: dict[tuple[str, str], ProgressFile] = {}
_files_lock = threading.Lock()


def progress_file(dataset: DatasetFolder, run_id: str) -> ProgressFile:
    """Returns this process's `ProgressFile` for a run; all its threads share it."""
    key = dataset.root, run_id
    with _files_lock:
        if key not in _files:
            _files[key] = ProgressFile(dataset, run_id)
        return _files[key]


def final_progress(dataset: DatasetFolder, run_id: str, heard: Progress) -> Progress:
    """Returns the progress of a run that has ended; its files may be gone.

    Args:
        dataset: the output.
        run_id: the run's id.
        heard: the progress last read from the files; returned if the workers are other processes.
    """
    with _files_lock:
        own = _files.pop((dataset.root, run_id), None)
    return heard if own is None else own.total
