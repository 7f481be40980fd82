"""A run's hold on its output: one output has one run at a time.

A hold is a numbered file below `.staging/hold`, created only if it does not exist: `000001.json`
names the run that holds the output, and the next run that takes it over creates `000002.json`. The
run with the highest number has the output; every other run finds that out before its next commit or
deletion.

There are two ways to find out whether a run is still alive:

- `LOCK`, for a run in this process on a local disk: a lock of the operating system, which ends with
  the process. Another run is refused at once, and a killed run's output is taken over at once.
- `LEASE`, for everything else: each process of the run writes a sign of life every few seconds, to
  its own file in `000001/`. A run without any sign for `lease_seconds` is gone. The run that takes
  over checks the signs once more after it has created its number, and a process writes its sign of
  life before it looks for a higher number: whichever of the two is later sees the other.

A process relies on its last look for a while. So a run that gives the output up first marks its
number `released`. Another run gets the output only when every process with a sign of life has found
the mark and removed its sign, or no longer relies on its last look.

Clocks of different machines are never compared: a watching run waits for a change, by its own
clock.
"""

import contextlib
import dataclasses
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator

from beam_upscale.dataset.hold.owners import Folder, Kind, ended
from beam_upscale.dataset.hold.state import State, states
from beam_upscale.dataset.hold.taking import Taking
from beam_upscale.dataset.hold.terms import Terms
from beam_upscale.errors import SettingsError, reason
from beam_upscale.storage.stores import store_of

_logger = logging.getLogger(__name__)

_MOST_TRIES = 5


@dataclasses.dataclass(frozen=True)
class Hold(Terms):
    """One run's hold on one output; workers have copies of it."""

    def acquire(self, on_wait: Callable[[str], None] = _logger.warning) -> None:
        """Takes the output for this run.

        Until `release`, this process shows signs of life of the run.

        Args:
            on_wait: called with a message before waiting for another run.

        Raises:
            SettingsError: OUTPUT_HELD, another run has the output; OUTPUT_UNAVAILABLE, the output
                cannot be written.
        """
        state = _begin(self, on_wait)
        state.show(+1)

    def release(self, *, is_at_once: bool = False) -> None:
        """Gives the output up, if this process has it; finished work stays.

        Args:
            is_at_once: True returns without waiting, for a process that is about to end. A lock is
                released after the last writer, and a lease ends by its missing signs of life.
        """
        state = states.pop((self.root, self.token), None)
        if state is not None:
            state.release(is_at_once=is_at_once)

    def leave(self) -> None:
        """Leaves the output to the run's other processes, which continue without this one."""
        state = states.pop((self.root, self.token), None)
        if state is not None:
            state.leave()

    def end(self) -> None:
        """Removes all files of holds; the run is complete, or was refused before it began."""
        state = states.get((self.root, self.token))
        if state is not None:
            state.end()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Allows a file of the output to be replaced or removed, within this context.

        Raises:
            HoldLostError: another run has the output, or this one has ended.
        """
        with self._state().guarded():
            yield

    def check(self) -> None:
        """Raises a HoldLostError if another run has the output, or this one has ended."""
        with self.guard():
            pass

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows signs of life of the run within this context, in any of its processes."""
        state = self._state()
        state.show(+1)
        try:
            yield
        finally:
            state.show(-1)

    @property
    def number(self) -> int:
        """The number of the hold; a run that takes the output over has a greater one.

        Raises:
            HoldLostError: another run has the output, or this one has ended.
        """
        return self._state().number

    def _state(self) -> State:
        state = states.get((self.root, self.token))
        if state is None:
            if self.kind is Kind.LOCK:
                raise ended(self.root)
            state = _join(self)
        return state


def new_token() -> str:
    """Creates a unique token for a run."""
    return uuid.uuid4().hex


_begins = threading.Lock()


def _forget_in_child() -> None:
    # A child has no part in a hold. If it outlives the run, it must not keep the lock either.
    global _begins
    _begins = threading.Lock()
    for state in states.values():
        if state.lock is not None:
            state.lock.forget()
    states.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def _begin(hold: Hold, on_wait: Callable[[str], None] = _logger.warning) -> State:
    store = store_of(hold.root)
    store.check_folder(hold.root)
    try:
        for _ in range(_MOST_TRIES):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                # A run that ends removes its empty folders, perhaps between two steps of this one,
                # even inside `Path.mkdir`: the folder exists, and then it does not.
                return Taking(hold, on_wait).state()
        return Taking(hold, on_wait).state()
    except SettingsError:
        raise
    except Exception as error:  # The clients of object stores raise errors of their own.
        raise store.unavailable(hold.root, f"cannot be written: {reason(error)}") from error


def _join(hold: Hold) -> State:
    """Returns the state of a process that has none yet, i.e. of a worker."""
    with _begins:
        found = states.get((hold.root, hold.token))
        if found is not None:
            return found
        if hold.is_taken_by_workers:
            return _begin(hold)
        owner = Folder(hold.root).look().owner
        if owner is None or owner.token != hold.token or owner.released:
            raise ended(hold.root)
        return states.setdefault((hold.root, hold.token), State(hold, owner.number, None))
