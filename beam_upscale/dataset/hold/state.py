"""A process's part in a run's hold: signs of life, and the check before each write."""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from beam_upscale.dataset.hold import owners
from beam_upscale.dataset.hold.file_lock import FileLock, Writers
from beam_upscale.dataset.hold.owners import BEAT, TRUSTED, Folder, ended
from beam_upscale.dataset.hold.terms import Terms
from beam_upscale.errors import ErrorCode, HoldLostError

_logger = logging.getLogger(__name__)

# A local lock is held for the moment of a rename.
_SECONDS_BETWEEN_TRIES = 0.01


class State:
    """The part of this process in a run's hold.

    Args:
        terms: the terms of the hold.
        number: the number of the hold.
        lock: the lock that is kept until the run ends; None for the kind LEASE.
        made: the folders that were created for the hold, the inner ones first.
    """

    def __init__(
        self, terms: Terms, number: int, lock: FileLock | None, made: Sequence[Path] = ()
    ) -> None:
        self._terms = terms
        self.number = number
        self.lock = lock
        self._made = made
        self._folder = Folder(terms.root)
        self._content = self._folder.content(number)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._over: HoldLostError | None = None
        self._writers = Writers()
        self._turn = threading.RLock()
        self._count = 0
        self._confirmed = -float("inf")
        self._shown = 0
        self._idle_since = owners.clock()
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Raises a HoldLostError if the output is no longer this run's."""
        if self._over is not None:
            raise self._over
        if self.lock is not None:
            if not self.lock.is_in_place():
                self._lose(f"the lock of {self._terms.root} was removed by hand")
            return
        if owners.clock() - self._confirmed >= TRUSTED * self._terms.lease_seconds:
            self._confirm()

    def _confirm(self) -> None:
        """Writes a sign of life, and then checks that no other run has taken the output."""
        with self._turn:
            if self._over is not None:
                raise self._over
            # Checked before too: an output that is lost already must not be written to.
            self._require_ours()
            begun = owners.clock()
            self._count += 1
            self._folder.write_sign(self.number, self._name, self._count)
            self._require_ours()
            self._confirmed = begun

    def _require_ours(self) -> None:
        owner = self._folder.look().owner
        if owner is not None and owner.token == self._terms.token and not owner.released:
            return
        if self._count:
            with contextlib.suppress(Exception):
                self._folder.delete_sign(self.number, self._name)
        if owner is None or owner.token == self._terms.token:
            self._over = ended(self._terms.root)
            raise self._over
        taker = f"{owner.who} has it since {owner.since}"
        self._lose(f"another run has taken {self._terms.root} over: {taker}")

    def _lose(self, message: str) -> NoReturn:
        self._over = HoldLostError(
            ErrorCode.HOLD_LOST, f"{message}; this run commits and deletes nothing more"
        )
        raise self._over

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Checks the hold, and keeps the output from being given up within this context.

        On a local disk, other runs are also kept from taking it over.
        """
        path = self._folder.lock_path
        with self._writers:
            if self.lock is not None or path is None:
                self.check()
                yield
                return
            lock = self._shared(path)
            try:
                if not self._is_untouched():
                    self._require_ours()
                self.check()
                yield
            finally:
                lock.release()

    def _is_untouched(self) -> bool:
        """Checks by two small files whether this run certainly still has the output."""
        found, next_one = map(self._folder.content, (self.number, self.number + 1))
        return found is not None and found == self._content and next_one is None

    def _shared(self, path: str) -> FileLock:
        """Shares the lock that another run would need alone to take the output over."""
        lock = FileLock(path)
        end = owners.clock() + owners.WATCHED * self._terms.lease_seconds
        while self._over is None:
            try:
                if lock.share():
                    return lock
            except FileNotFoundError:
                self._over = ended(self._terms.root)
                break
            # The process that has the lock is just looking at the hold, or has taken the output.
            self._require_ours()
            if owners.clock() >= end:
                raise TimeoutError(f"another process has the lock {path} and does not go on")
            time.sleep(_SECONDS_BETWEEN_TRIES)
        raise self._over

    def show(self, change: int) -> None:
        """Starts (+1) or ends (-1) one request for signs of life; without requests they stop."""
        if self.lock is not None:
            return
        with self._turn:
            self._shown += change
            self._idle_since = owners.clock()
            if self._shown > 0 and self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="hold", daemon=True)
                self._thread.start()

    def _beat(self) -> None:
        pause = BEAT * self._terms.lease_seconds
        while True:
            time.sleep(pause)
            with self._turn:
                if self._shown <= 0 or self._over is not None:
                    self._withdraw_sign()
                    self._thread = None
                    return
            try:
                self._confirm()
            except HoldLostError:
                continue
            except Exception as error:  # A store may fail for a while; the next beat tries again.
                _logger.debug("no sign of life was written: %s", error)

    def _withdraw_sign(self) -> None:
        """Stops relying on the last sign of life and removes it, so that no run waits for it."""
        with self._turn:
            self._confirmed = -float("inf")
            if self._count:
                with contextlib.suppress(Exception):
                    self._folder.delete_sign(self.number, self._name)

    def give_way(self) -> bool:
        """Gives an idle output up to another run of this process; returns True if it is free.

        So a pipeline need not wait for an earlier one that broke. If the earlier one continues all
        the same, in a later bundle, it finds that it has lost the output.
        """
        with self._turn:
            is_idle = (
                self._shown <= 0 and owners.clock() - self._idle_since >= owners.SECONDS_TO_SAY_WHO
            )
            if not is_idle or self._folder.names_of_living(self.number) - {self._name}:
                return False
            if self._over is None:
                message = f"another run of this process has taken {self._terms.root} over"
                self._over = HoldLostError(ErrorCode.HOLD_LOST, message)
        return self._writers.have_finished()

    def leave(self) -> None:
        """Leaves the output to other processes of the run."""
        self._over = self._over or ended(self._terms.root)
        self._withdraw_sign()

    def release(self, *, is_at_once: bool = False) -> None:
        """Gives the output up; see `Hold.release`."""
        was_ours = self._over is None
        self._over = self._over or ended(self._terms.root)
        if self.lock is not None:
            if not is_at_once:
                self._writers.have_finished()
            self._writers.when_finished(self.lock.release)
            return
        if is_at_once or not self._writers.have_finished():
            return
        if was_ours:
            with self._turn, contextlib.suppress(Exception):
                owner = self._folder.look().owner
                if owner is not None and owner.token == self._terms.token:
                    self._folder.mark_released(owner)
            self._withdraw_sign()

    def end(self) -> None:
        """Removes all files of holds.

        Raises:
            HoldLostError: another run has the output.
        """
        with self._turn:
            if self._over is not None:
                raise self._over
            if self.lock is None:
                self._confirm()
            else:
                self.check()
            self._over = ended(self._terms.root)
        if not self._writers.have_finished():
            return
        if self._folder.lock_path is None:
            # On a local disk, other processes look before each write.
            self._wait_for_others()
        with self._alone():
            owner = self._folder.look().owner
            if owner is None or owner.token == self._terms.token:
                self._folder.delete(self.number)
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _wait_for_others(self) -> None:
        """Waits until the run's other processes have found, or must find, that the run is over."""
        owner = self._folder.look().owner
        if owner is not None and owner.token == self._terms.token:
            self._folder.mark_released(owner)
            self._folder.wait_for_silence(owner, but_for={self._name})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes from looking at an output on a local disk within this context."""
        path = self._folder.lock_path
        if self.lock is not None or path is None:
            yield
            return
        lock = FileLock(path)
        end = owners.clock() + owners.WATCHED * self._terms.lease_seconds
        while not lock.take():
            if owners.clock() >= end:
                raise TimeoutError(f"another process has the lock {path} and does not go on")
            time.sleep(_SECONDS_BETWEEN_TRIES)
        try:
            yield
        finally:
            lock.release()


states: dict[tuple[str, str], State] = {}
