"""Watches a running pipeline: reports progress, stops it on Ctrl-C or after many failures."""

import contextlib
import threading
from collections.abc import Callable

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import HoldLostError
from beam_upscale.pipeline.run_state.progress import Progress, read_progress
from beam_upscale.pipeline.run_state.stop import request_stop, stop_after_failures
from beam_upscale.pipeline.termination import INTERRUPTED, TerminatedError, Termination

_SECONDS_BETWEEN_LOOKS = 0.5


class Execution(threading.Thread):
    """A thread that runs a pipeline, while the main thread watches it.

    Attributes:
        ended: set at its end. A thread's own `join` cannot be used to wait for it: before Python
            3.13, a `join` that is interrupted takes a running thread for ended.
        error: the exception that ended it; None if there was none.
    """

    def __init__(self, finish: Callable[[], object]) -> None:
        super().__init__(name="pipeline", daemon=True)
        self._finish = finish
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Runs the pipeline; an error is kept for the caller of `watch`."""
        try:
            self._finish()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


def ask_to_stop(dataset: DatasetFolder, reason: str) -> None:
    """Asks the run to stop, unless it has ended by itself a moment ago."""
    with contextlib.suppress(HoldLostError):
        request_stop(dataset, reason)


def watch(
    execution: Execution,
    dataset: DatasetFolder,
    run_id: str,
    most_failures: int | None,
    on_progress: Callable[[Progress], None],
    termination: Termination | None = None,
) -> Progress:
    """Waits for a pipeline, and asks it to stop if need be; returns its last progress."""
    execution.start()
    interrupted, done = False, Progress()
    while not execution.ended.is_set():
        try:
            # Progress is not read after the end: a completed run has deleted its progress files.
            while not execution.ended.wait(_SECONDS_BETWEEN_LOOKS):
                done = read_progress(dataset, run_id)
                on_progress(done)
                with contextlib.suppress(HoldLostError):
                    stop_after_failures(dataset, done.failures, most_failures)
        except KeyboardInterrupt:
            if termination is not None and termination.is_asked:
                raise TerminatedError from None
            if interrupted:
                raise
            interrupted = True
            ask_to_stop(dataset, INTERRUPTED)
    if execution.error is not None:
        raise execution.error
    return done
