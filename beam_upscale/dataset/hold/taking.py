"""Takes an output over: waits for a run that is gone, or refuses."""

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from beam_upscale.dataset.hold import owners
from beam_upscale.dataset.hold.file_lock import FileLock
from beam_upscale.dataset.hold.owners import (
    BEAT,
    Folder,
    Kind,
    Owner,
    allowed,
    ended,
    state_of_output,
)
from beam_upscale.dataset.hold.state import State, states
from beam_upscale.dataset.hold.terms import Terms
from beam_upscale.dataset.paths.output_files import STAGING, STOP
from beam_upscale.errors import ErrorCode, HoldLostError, SettingsError
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris


def _is_alive(before: Mapping[str, bytes], now: Mapping[str, bytes]) -> bool:
    """Checks whether a sign of life is new or changed; a removed sign does not count."""
    return any(before.get(name) != sign for name, sign in now.items())


class Taking:
    """One attempt to take an output."""

    def __init__(self, terms: Terms, on_wait: Callable[[str], None]) -> None:
        self._terms = terms
        self._on_wait = on_wait
        self._folder = Folder(terms.root)
        path = self._folder.lock_path
        self._lock = None if path is None else FileLock(path)
        # The folders that this attempt created, the inner ones first.
        self._made: list[Path] = []
        self._begun = owners.clock()
        # A run that was watched and showed no sign of life: its number, and its last signs.
        self._silent: tuple[int, Mapping[str, bytes]] | None = None

    def state(self) -> State:
        """Takes the output, and returns the state of the run, which now has it.

        Raises:
            SettingsError: OUTPUT_HELD.
            HoldLostError: the pipeline was constructed before another run began or ended.
        """
        is_kept = False
        try:
            self._make_folders()
            number = self._number()
            is_kept = self._terms.kind is Kind.LOCK
            state = State(self._terms, number, self._lock if is_kept else None, self._made)
            states[self._terms.root, self._terms.token] = state
            return state
        except BaseException:
            self._leave_no_trace()
            raise
        finally:
            if self._lock is not None and not is_kept:
                self._lock.release()

    def _make_folders(self) -> None:
        if self._lock is None:
            return
        folder = Path(self._folder.uri)
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            self._made.insert(0, each)

    def _leave_no_trace(self) -> None:
        with contextlib.suppress(Exception):
            if self._lock is not None and self._lock.is_held:
                seen = self._folder.look()
                if seen.owner is None:
                    self._folder.delete(seen.last)
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _number(self) -> int:
        while True:
            if self._lock is not None and not self._lock.take():
                self._refuse_if_late()
                time.sleep(owners.SECONDS_BETWEEN_LOOKS)
                continue
            seen = self._folder.look()
            owner = seen.owner
            if owner is not None and owner.token == self._terms.token:
                if owner.released:
                    raise ended(self._terms.root)
                return owner.number
            if not self._is_gone(owner):
                assert owner is not None
                if self._lock is not None:
                    self._lock.release()
                self._watch(owner)
                continue
            self._refuse_if_outdated()
            number = seen.last + 1
            if self._folder.create(self._owner(number)):
                self._withdraw_if_alive(owner, number)
                self._forget_stop()
                return number
            if self._lock is not None:
                self._lock.release()

    def _forget_stop(self) -> None:
        """Withdraws a stop request for the run before, in a user's pipeline; `run` does it too."""
        if self._terms.is_taken_by_workers:
            files.delete(uris.join(self._folder.root, STAGING, STOP), allowed)

    def _refuse_if_late(self) -> None:
        """Refuses the output once the lock's holder has had time to finish."""
        owner = self._folder.look().owner
        patience = owners.SECONDS_TO_SAY_WHO
        if owner is not None and owner.kind is Kind.LEASE:
            # A worker holds the lock only during a commit, unless it was suspended in it.
            patience = owners.WATCHED * owner.lease_seconds
        if owners.clock() - self._begun >= patience:
            raise self._refusal(owner)

    def _is_gone(self, owner: Owner | None) -> bool:
        if owner is None or owner.kind is Kind.LOCK:
            # The lock of such a run is now ours, so it has ended.
            return True
        if owner.released:
            if self._lock is None:
                self._folder.wait_for_silence(owner, but_for=frozenset())
            return True
        return self._silent is not None and self._silent[0] == owner.number

    def _watch(self, owner: Owner) -> None:
        """Waits for a sign of life of another run.

        Raises:
            SettingsError: OUTPUT_HELD, there was a sign of life.
        """
        self._on_wait(
            f"{self._terms.root} was taken by {owner.who} since {owner.since}; waiting up to "
            f"{owner.lease_seconds:g} s for a sign of life of that run"
        )
        seen = self._folder.signs_of_life(owner.number)
        end = owners.clock() + owner.lease_seconds
        while owners.clock() < end:
            time.sleep(min(owners.SECONDS_BETWEEN_LOOKS, BEAT * owner.lease_seconds))
            now = self._folder.look().owner
            if now is None or now.number != owner.number or now.released:
                return
            now_seen = self._folder.signs_of_life(owner.number)
            if _is_alive(seen, now_seen):
                raise self._refusal(owner)
            here = states.get((self._terms.root, owner.token))
            if here is not None and here.give_way():
                seen = now_seen
                break
        self._silent = owner.number, seen

    def _withdraw_if_alive(self, owner: Owner | None, number: int) -> None:
        if owner is None or self._silent is None or self._silent[0] != owner.number:
            return
        if _is_alive(self._silent[1], self._folder.signs_of_life(owner.number)):
            self._folder.mark_withdrawn(number)
            raise self._refusal(owner)

    def _refuse_if_outdated(self) -> None:
        begun_on = self._terms.begun_on
        if begun_on is None or begun_on == state_of_output(self._terms.root):
            return
        raise HoldLostError(
            ErrorCode.HOLD_LOST,
            f"another run into {self._terms.root} has begun or ended since this pipeline was put "
            "together; put it together again, so that it sees what is there",
        )

    def _refusal(self, owner: Owner | None) -> SettingsError:
        who = "another run" if owner is None else f"the run of {owner.who} since {owner.since}"
        return SettingsError(
            ErrorCode.OUTPUT_HELD,
            f"{self._terms.root} is held by {who}: one output has one run at a time. Wait for its "
            "end, stop it, or take another output",
        )

    def _owner(self, number: int) -> Owner:
        now = datetime.datetime.now(datetime.UTC)
        return Owner(
            number,
            self._terms.token,
            self._terms.kind,
            who=f"{_user()}@{socket.gethostname()}, process {os.getpid()},",
            since=now.strftime("%Y-%m-%d %H:%M:%S UTC"),
            lease_seconds=self._terms.lease_seconds,
        )


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # The user of a container may have no name.
        return str(os.getuid())
