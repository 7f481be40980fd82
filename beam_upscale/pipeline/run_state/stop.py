"""Stop requests: asks the workers of a run to end it, and postpones what they have not begun.

A request is a small file in the staging folder of the dataset. So it reaches the workers of any
runner that share the output folder with the process that started the run.
"""

import dataclasses
import time
from collections.abc import Iterator

import apache_beam as beam

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import SettingsError
from beam_upscale.pipeline.run_state.input_state import state_of, with_state
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files

_SECONDS_BETWEEN_LOOKS = 1.0

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


def is_stop_requested(dataset: DatasetFolder) -> bool:
    """Checks whether a stop is requested of the pipeline that holds a folder; looks for it now."""
    return is_stopped(dataset) or files.exists(dataset.stop_file)


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
