"""A run's progress and its stop requests, for use outside of its workers.

Both are small files in the dataset's staging folder. They work on any runner whose workers share
the output folder with the process that started the run.
"""

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal

import apache_beam as beam

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ImageError, SettingsError
from beam_upscale.inference import progress
from beam_upscale.pipeline.run_state.input_state import state_of, with_state
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

_SECONDS_BETWEEN_LOOKS = 1.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run, or of one of its workers.

    Attributes:
        images: the number of inputs with a row, those of earlier runs included.
        earlier: the number of inputs whose row an earlier run made.
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
        if time.monotonic() - self._written_at >= _SECONDS_BETWEEN_LOOKS:
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
    with _files_lock:
        return _files.setdefault((dataset.root, run_id), ProgressFile(dataset, run_id))


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


# By output: the monotonic time at which this process last knew of a stop request.
_stopped: dict[str, float] = {}


def request_stop(dataset: DatasetFolder, reason: str) -> None:
    """Asks all workers to finish the inputs they have begun and to begin no more."""
    # This process need not wait until it looks for the file again.
    _stopped[dataset.root] = time.monotonic()
    dataset.write(dataset.stop_file, reason.encode())


def stop_after_failures(dataset: DatasetFolder, failures: int, most: int | None) -> None:
    """Requests a stop once `most` inputs of a run have failed; None sets no limit."""
    if most is not None and failures >= most and not is_stopped(dataset):
        request_stop(dataset, f"{failures} inputs failed (--max-failures)")


def stop_after_error(dataset: DatasetFolder, error: SettingsError | None) -> None:
    """Requests a stop for an error that concerns all inputs; None requests none."""
    if error is not None and not is_stopped(dataset):
        request_stop(dataset, str(error))


def is_stopped(dataset: DatasetFolder) -> bool:
    """Checks whether this process knows of a stop request.

    At most once a second it checks that the stop file still exists: a later run may have withdrawn
    the request, perhaps in another process.
    """
    known_at = _stopped.get(dataset.root)
    if known_at is None:
        return False
    if time.monotonic() - known_at < _SECONDS_BETWEEN_LOOKS:
        return True
    if files.exists(dataset.stop_file):
        _stopped[dataset.root] = time.monotonic()
        return True
    _stopped.pop(dataset.root, None)
    return False


def stop_reason(dataset: DatasetFolder) -> str | None:
    """Reads the reason for which the run was asked to stop; None if it was not."""
    return files.read(dataset.stop_file).decode() if files.exists(dataset.stop_file) else None


def clear_stop(dataset: DatasetFolder) -> None:
    """Withdraws an earlier stop request: forgets it and deletes its file."""
    forget_stop(dataset)
    dataset.delete(dataset.stop_file)


def forget_stop(dataset: DatasetFolder) -> None:
    """Forgets a stop request in this process; leaves its file, which others may still need."""
    _stopped.pop(dataset.root, None)


class PostponeAfterStop(beam.DoFn):
    """The DoFn that postpones inputs after a stop request: without a row, for a later run."""

    def __init__(self, dataset: DatasetFolder) -> None:
        self._dataset = dataset
        self._looked_at = 0.0
        self._found = False

    def start_bundle(self) -> None:
        """Resets the check, as a later bundle may belong to a later run."""
        self._looked_at = 0.0
        self._found = False

    def process(self, source: SourceImage) -> Iterator[SourceImage]:
        """Marks the input as postponed if a stop is requested; looks at most once a second."""
        now = time.monotonic()
        if not self._found and now - self._looked_at >= _SECONDS_BETWEEN_LOOKS:
            self._found = files.exists(self._dataset.stop_file)
            self._looked_at = now
        stopped = self._found or is_stopped(self._dataset)
        if stopped:
            source = with_state(source, dataclasses.replace(state_of(source), is_postponed=True))
        yield source
