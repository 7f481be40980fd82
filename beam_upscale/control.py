"""A run as seen from outside: what is done so far, and the word to stop.

Both go through small files in the dataset's staging folder, so that they work on any runner whose
workers share the output with whoever started the run.
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

from beam_upscale import steps, storage
from beam_upscale.dataset import DatasetFolder, Record
from beam_upscale.errors import ImageError
from beam_upscale.listing import SourceImage
from beam_upscale.manifest import Status

_SECONDS_BETWEEN_LOOKS = 1.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run, or one of its workers, has done.

    Attributes:
        images: inputs with a row, those of earlier runs included.
        earlier: inputs whose row an earlier run made.
        pixels: input pixels upscaled by this run.
        failures: rows `failed`, made by this run.
        credits: of images upscaled by this run, by the price list.
        step: passes of a network done of what is being computed now.
        steps: passes of it in all; 0 where nothing is computed that takes more than one.
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
    """One input's part in a run's progress."""
    row = record.row
    if earlier:
        return Progress(images=1, earlier=1)
    if row.status is not Status.UPSCALED:
        return Progress(images=1, failures=int(row.status is Status.FAILED))
    pixels = (row.input_width or 0) * (row.input_height or 0)
    return Progress(images=1, pixels=pixels, credits=row.credits)


class ProgressFile:
    """This process's progress in one run, written at most once a second.

    Args:
        dataset: the output.
        run_id: tells this run's files from those of an interrupted one.
    """

    def __init__(self, dataset: DatasetFolder, run_id: str) -> None:
        name = f"{run_id}-{socket.gethostname()}-{os.getpid()}.json"
        self._uri = storage.join(dataset.progress, name)
        self._dataset = dataset
        self._lock = threading.Lock()
        self._total = Progress()
        self._written_at = 0.0

    def add(self, done: Progress) -> Progress:
        """Counts what was done, and tells what this process has done in all."""
        with self._lock:
            self._total += done
            self._write_if_due()
            return self._total

    @property
    def total(self) -> Progress:
        """What this process has done in all."""
        with self._lock:
            return self._total

    def listen(self) -> Callable[[], None]:
        """Follows the steps of what this process computes.

        Returns:
            What ends that. It is due before the run completes: its folder of progress files is
            deleted then, and what this process computes later would bring it back.
        """
        return steps.listen(self._follow)

    def _follow(self, done: int, total: int) -> None:
        step, of = (done, total) if done < total else (0, 0)
        with self._lock:
            self._total = dataclasses.replace(self._total, step=step, steps=of)
            self._write_if_due()

    def flush(self) -> None:
        """Writes what is counted."""
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
    """The progress of all of a run's workers together."""
    total = Progress()
    for entry in list(storage.list_below(dataset.progress)):
        if entry.name.startswith(run_id):
            try:
                values = json.loads(storage.read(entry.uri))
            except (ImageError, ValueError):
                # The run has ended between the listing and now; or the file was replaced by a
                # longer one after an object store had told its size.
                continue
            total += Progress(**{**values, "credits": Decimal(values["credits"])})
    return total


_files: dict[tuple[str, str], ProgressFile] = {}
_files_lock = threading.Lock()


def progress_file(dataset: DatasetFolder, run_id: str) -> ProgressFile:
    """The one `ProgressFile` of this process for a run, shared by its threads."""
    with _files_lock:
        return _files.setdefault((dataset.root, run_id), ProgressFile(dataset, run_id))


def final_progress(dataset: DatasetFolder, run_id: str, heard: Progress) -> Progress:
    """The progress of a run that has ended, whose files may be gone.

    Args:
        dataset: the output.
        run_id: of the run.
        heard: what was last read of it, for a run whose workers are other processes.
    """
    with _files_lock:
        own = _files.pop((dataset.root, run_id), None)
    return heard if own is None else own.total


# When this process last knew of a request to stop, of the monotonic clock, by output.
_stopped: dict[str, float] = {}


def request_stop(dataset: DatasetFolder, reason: str) -> None:
    """Asks all workers to finish what they have begun and to begin nothing more."""
    # This process need not wait until it looks for the file again.
    _stopped[dataset.root] = time.monotonic()
    dataset.write(dataset.stop_file, reason.encode())


def stop_after_failures(dataset: DatasetFolder, failures: int, most: int | None) -> None:
    """Asks for a stop once a run has failed too often; no `most`, no limit."""
    if most is not None and failures >= most and not is_stopped(dataset):
        request_stop(dataset, f"{failures} inputs failed (--max-failures)")


def is_stopped(dataset: DatasetFolder) -> bool:
    """Whether this process knows of a request.

    It looks once a second whether the request still stands: a later run has withdrawn it, perhaps
    in another process.
    """
    known_at = _stopped.get(dataset.root)
    if known_at is None:
        return False
    if time.monotonic() - known_at < _SECONDS_BETWEEN_LOOKS:
        return True
    if storage.exists(dataset.stop_file):
        _stopped[dataset.root] = time.monotonic()
        return True
    _stopped.pop(dataset.root, None)
    return False


def stop_reason(dataset: DatasetFolder) -> str | None:
    """Why the run was asked to stop; None where it was not."""
    return storage.read(dataset.stop_file).decode() if storage.exists(dataset.stop_file) else None


def clear_stop(dataset: DatasetFolder) -> None:
    """Forgets an earlier request."""
    forget_stop(dataset)
    dataset.delete(dataset.stop_file)


def forget_stop(dataset: DatasetFolder) -> None:
    """Has this process forget a request; its file has gone with the run, or stays for others."""
    _stopped.pop(dataset.root, None)


class HeedStop(beam.DoFn):
    """Postpones inputs once the run is asked to stop; they have no row, a later run does them."""

    def __init__(self, dataset: DatasetFolder) -> None:
        self._dataset = dataset
        self._looked_at = 0.0
        self._found = False

    def start_bundle(self) -> None:
        """A later bundle may belong to a later run."""
        self._looked_at = 0.0
        self._found = False

    def process(self, source: SourceImage) -> Iterator[SourceImage]:
        """Looks for other processes' requests at most once a second."""
        now = time.monotonic()
        if not self._found and now - self._looked_at >= _SECONDS_BETWEEN_LOOKS:
            self._found = storage.exists(self._dataset.stop_file)
            self._looked_at = now
        stopped = self._found or is_stopped(self._dataset)
        yield dataclasses.replace(source, postponed=True) if stopped else source
