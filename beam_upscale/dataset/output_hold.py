"""Opens an output under a run's hold, and shows that the run is alive."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold.hold import Hold, new_token
from beam_upscale.dataset.hold.owners import Kind
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of


@contextlib.contextmanager
def hold_output(
    output: str,
    *,
    in_this_process: bool,
    lease_seconds: float,
    on_wait: Callable[[str], None] = lambda _: None,
) -> Iterator["DatasetFolder"]:
    """Holds an output while the context lasts, so that no other run can write to it.

    Args:
        output: URI or path.
        in_this_process: True if everything that is written there comes from this process.
        lease_seconds: lease of the hold, if it is not a lock of the operating system.
        on_wait: called with a message before waiting for another run.

    Raises:
        SettingsError: OUTPUT_HELD, another run has it; OUTPUT_UNAVAILABLE, it cannot be written.
    """
    root = files.absolute(output)
    kind = Kind.LOCK if in_this_process and store_of(root).has_locks else Kind.LEASE
    hold = Hold(root, new_token(), kind, lease_seconds)
    hold.acquire(on_wait)
    try:
        yield DatasetFolder(root, hold)
    except (KeyboardInterrupt, SystemExit):
        hold.release(is_at_once=True)
        raise
    except BaseException:
        if in_this_process:
            hold.release()
        else:
            # The job may go on, although this process can no longer observe it.
            hold.leave()
        raise
    hold.release()


@contextlib.contextmanager
def untouched_on_failure(dataset: "DatasetFolder") -> Iterator[None]:
    """Removes all traces of the hold on an error, so that the output is as it was before."""
    try:
        yield
    except BaseException:
        if dataset.hold is not None:
            # The user must see the error that ended the run, not one of this cleanup.
            with contextlib.suppress(Exception):
                dataset.hold.end()
        raise


class ShownBundle:
    """Shows other runs that this run is alive while a step has a bundle; see `Hold.shown`.

    Args:
        dataset: the output.
    """

    def __init__(self, dataset: DatasetFolder) -> None:
        self._dataset = dataset
        self._context: AbstractContextManager[None] | None = None

    def begin(self) -> None:
        """Begins a bundle, and ends the one before, which may have failed."""
        self.end()
        context = self._dataset.shown()
        context.__enter__()
        self._context = context

    def end(self) -> None:
        """Ends the bundle, if there is one."""
        if self._context is not None:
            context, self._context = self._context, None
            context.__exit__(None, None, None)
