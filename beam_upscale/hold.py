"""A run's hold on its output: one output has one run at a time.

A hold is a file below `.staging/hold`, created only where there is none: `000001.json` says who
holds the output, and the next run that takes it over creates `000002.json`. The run of the highest
number has the output; every other finds that out before its next commit or deletion.

Whether a run is still there is told in one of two ways:

- `LOCK`, for a run in this process on a local disk: a lock of the operating system, which ends with
  the process. Another run is refused at once, and a killed run's output is taken over at once.
- `LEASE`, for everything else: the run's processes write a sign of life every few seconds, each a
  file of its own in `000001/`. A run without any for `lease_seconds` is gone. The one that takes
  over looks once more after it has created its number, and a process writes its sign of life before
  it looks for a higher number: whichever of the two is later sees the other.

No clocks of different machines are compared: who watches waits for a change, by its own clock.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from beam_upscale import storage
from beam_upscale.errors import ErrorCode, HoldLostError, ImageError, SettingsError

DEFAULT_LEASE_SECONDS = 30.0

_logger = logging.getLogger(__name__)

# Parts of `lease_seconds`: between two signs of life; how long a process relies on its last one
# without looking, which must be less than the whole; and how long at most another run watches.
_BEAT = 1 / 6
_TRUSTED = 2 / 3
_WATCHED = 3 / 2

_SECONDS_BETWEEN_LOOKS = 0.2

# A run that is just taking the output, or leaving it, has not said who it is, or no more.
_SECONDS_TO_SAY_WHO = 1.0

_MOST_TRIES = 5

_RUN_JSON = "run.json"


class Kind(StrEnum):
    """How it is told whether a run is still there."""

    LOCK = "lock"
    LEASE = "lease"


@dataclasses.dataclass(frozen=True)
class _Owner:
    """A run that holds an output, or did.

    Attributes:
        number: of its hold.
        token: of the run.
        kind: how it is told whether it is still there.
        who: user, machine and process, for people.
        since: when it took the output, for people.
        released: whether it gave the output up.
    """

    number: int
    token: str
    kind: Kind
    who: str
    since: str
    released: bool = False


class _Folder:
    """The files of the holds on one output.

    Args:
        root: of the output.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.uri = storage.join(root, ".staging", "hold")
        self._partial = storage.join(root, ".staging", "partial")

    @property
    def lock_path(self) -> Path | None:
        """The file that is locked; None where the output is on no local disk."""
        return Path(self.uri) / "lock" if storage.is_local(self.uri) else None

    def owner(self) -> _Owner | None:
        """The run with the highest number that did not withdraw; None where there is none."""
        names = {entry.name for entry in storage.list_below(self.uri)}
        numbers = (int(name[:-5]) for name in names if name.endswith(".json"))
        for number in sorted(numbers, reverse=True):
            if f"{number:06}.withdrawn" in names:
                continue
            try:
                values = json.loads(storage.read(self._file(number, ".json")))
            except ImageError:
                # It has ended between the listing and now.
                return None
            kind = Kind(values.pop("kind"))
            return _Owner(number, kind=kind, released=f"{number:06}.released" in names, **values)
        return None

    def create(self, number: int, values: Mapping[str, Any]) -> bool:
        """Takes a number; whether no other run has it."""
        return storage.create(
            self._file(number, ".json"), json.dumps(values).encode(), self._partial
        )

    def mark(self, number: int, word: str) -> None:
        """Says of a hold that it is `released` or `withdrawn`."""
        storage.write(self._file(number, f".{word}"), b"", self._partial)

    def signs_of_life(self, number: int) -> dict[str, bytes]:
        """The content of every file of a lease's processes, by name."""
        signs = {}
        for entry in list(storage.list_below(self._file(number, ""))):
            with contextlib.suppress(ImageError):
                signs[entry.name] = storage.read(entry.uri)
        return signs

    def sign_uri(self, number: int, name: str) -> str:
        """The file of a process's signs of life."""
        return storage.join(self._file(number, ""), name)

    def write_sign(self, number: int, name: str, count: int) -> None:
        """Writes a sign of life."""
        storage.write(self.sign_uri(number, name), str(count).encode(), self._partial)

    def delete(self) -> None:
        """Deletes all files of holds, the one of the highest number last."""
        entries = sorted(
            storage.list_below(self.uri), key=lambda entry: entry.name.endswith("json")
        )
        for entry in entries:
            storage.delete(entry.uri)
        if storage.is_local(self.uri):
            for path in (*Path(self.uri).glob("*/"), Path(self.uri), Path(self._partial)):
                with contextlib.suppress(OSError):
                    path.rmdir()
            with contextlib.suppress(OSError):
                Path(self.root, ".staging").rmdir()

    def _file(self, number: int, ending: str) -> str:
        return storage.join(self.uri, f"{number:06}{ending}")


@dataclasses.dataclass(frozen=True)
class Hold:
    """One run's hold on one output; workers have copies of it.

    Attributes:
        root: of the output.
        token: of the run.
        kind: how it is told whether the run is still there.
        lease_seconds: without a sign of life after which a run with a lease is gone.
        begun_on: the SHA-256 of `run.json` when the pipeline was put together, of a pipeline of
            one's own, whose workers take the output themselves; None where `acquire` took it.
    """

    root: str
    token: str
    kind: Kind = Kind.LEASE
    lease_seconds: float = DEFAULT_LEASE_SECONDS
    begun_on: str | None = None

    @property
    def is_taken_by_workers(self) -> bool:
        """Whether no one takes the output before the pipeline begins."""
        return self.begun_on is not None

    def acquire(self) -> None:
        """Takes the output for this run, or finds that it is taken.

        Until `release` this process shows that the run is there.

        Raises:
            SettingsError: OUTPUT_HELD, another run has it; OUTPUT_UNAVAILABLE, it cannot be
                written.
        """
        state = _begin(self)
        state.show(+1)

    def release(self) -> None:
        """Gives the output up, if this process has it; what is done by then stays."""
        state = _states.pop((self.root, self.token), None)
        if state is not None:
            state.release()

    def end(self) -> None:
        """Removes all traces of holds: the run is complete, or was refused before it began."""
        state = _states.get((self.root, self.token))
        if state is not None:
            state.end()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Allows a file of the output to be replaced or removed, within this context.

        Raises:
            HoldLostError: another run has the output, or this one has ended.
        """
        state = self._state()
        with state.guarded():
            state.check()
            yield

    def check(self) -> None:
        """Raises a HoldLostError where another run has the output, or this one has ended."""
        self._state().check()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows that the run is there while something takes long, from any process of it."""
        state = self._state()
        state.show(+1)
        try:
            yield
        finally:
            state.show(-1)

    def _state(self) -> "_State":
        state = _states.get((self.root, self.token))
        if state is None:
            if self.kind is Kind.LOCK:
                raise _ended(self.root)
            state = _join(self)
        return state


def new_token() -> str:
    """A token for a run."""
    return uuid.uuid4().hex


def _ended(root: str) -> HoldLostError:
    return HoldLostError(
        ErrorCode.HOLD_LOST, f"the run that had {root} has ended; nothing more is written for it"
    )


class _State:
    """This process's part in a run's hold.

    Args:
        hold: the hold.
        number: of it.
        lock: that is kept until the run ends, of the kind LOCK.
    """

    def __init__(self, hold: Hold, number: int, lock: FileLock | None) -> None:
        self._hold = hold
        self._number = number
        self._lock = lock
        self._folder = _Folder(hold.root)
        self._inode = None if lock is None else _inode(lock)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._process = os.getpid()
        self._over: HoldLostError | None = None
        self._turn = threading.RLock()
        self._count = 0
        self._confirmed = -float("inf")
        self._shown = 0
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Raises a HoldLostError where the output is no longer this run's."""
        if self._over is not None:
            raise self._over
        if self._lock is not None:
            if _inode(self._lock) != self._inode:
                self._lose(f"the lock of {self._hold.root} was removed by hand")
            return
        if _clock() - self._confirmed >= _TRUSTED * self._hold.lease_seconds:
            self._confirm()

    def _confirm(self) -> None:
        """Shows that the run is there, and then looks whether another has taken the output."""
        with self._turn:
            if self._over is not None:
                raise self._over
            begun = _clock()
            self._count += 1
            self._folder.write_sign(self._number, self._name, self._count)
            owner = self._folder.owner()
            if owner is None or owner.token != self._hold.token:
                storage.delete(self._folder.sign_uri(self._number, self._name))
                taker = "" if owner is None else f": {owner.who} has it since {owner.since}"
                self._lose(f"another run has taken {self._hold.root} over{taker}")
            self._confirmed = begun

    def _lose(self, message: str) -> None:
        self._over = HoldLostError(
            ErrorCode.HOLD_LOST, f"{message}; this run commits and deletes nothing more"
        )
        raise self._over

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """On a local disk, keeps others from taking the output over within this context."""
        path = self._folder.lock_path
        if self._lock is not None or path is None:
            yield
            return
        try:
            with FileLock(path, timeout=_WATCHED * self._hold.lease_seconds):
                yield
        except FileNotFoundError:
            # The run has ended, and with it the folder.
            raise _ended(self._hold.root) from None

    def show(self, change: int) -> None:
        """Begins to show that the run is there, or ends it when nothing asks for it any more."""
        if self._lock is not None:
            return
        with self._turn:
            self._shown += change
            if self._shown > 0 and self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="hold", daemon=True)
                self._thread.start()

    def _beat(self) -> None:
        pause = _BEAT * self._hold.lease_seconds
        while True:
            time.sleep(pause)
            with self._turn:
                if self._shown <= 0 or self._over is not None:
                    self._thread = None
                    return
            try:
                self._confirm()
            except HoldLostError:
                continue
            except Exception as error:  # A store may fail for a while; the next look tells more.
                _logger.debug("no sign of life was written: %s", error)

    def release(self) -> None:
        """Gives the output up."""
        was_ours = self._over is None
        self._over = self._over or _ended(self._hold.root)
        if was_ours and self._lock is None:
            with contextlib.suppress(Exception):
                self._folder.mark(self._number, "released")
        if self._lock is not None:
            self._lock.release(force=True)

    def end(self) -> None:
        """Removes all traces of holds."""
        with self._turn:
            self.check()
            self._over = _ended(self._hold.root)
            self._folder.delete()


_states: dict[tuple[str, str], _State] = {}
_begins = threading.Lock()


def _forget_in_child() -> None:
    # A lock is shared with a forked child; signs of life are each process's own.
    global _begins
    _begins = threading.Lock()
    for name in [name for name, state in _states.items() if state._lock is None]:
        del _states[name]


os.register_at_fork(after_in_child=_forget_in_child)


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where there is such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _inode(lock: FileLock) -> tuple[int, int] | None:
    try:
        found = Path(lock.lock_file).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _begin(hold: Hold) -> _State:
    try:
        for _ in range(_MOST_TRIES):
            with contextlib.suppress(FileNotFoundError):
                # A run that ends removes its empty folders, maybe between two steps of this one.
                return _Taking(hold).state()
        return _Taking(hold).state()
    except SettingsError:
        raise
    except Exception as error:  # The clients of object stores raise errors of their own.
        reason = str(error) or type(error).__name__
        raise SettingsError(
            ErrorCode.OUTPUT_UNAVAILABLE, f"{hold.root} cannot be written: {reason}"
        ) from error


def _join(hold: Hold) -> _State:
    """The state of a process that has none yet: of a worker."""
    with _begins:
        found = _states.get((hold.root, hold.token))
        if found is not None:
            return found
        if hold.is_taken_by_workers:
            return _begin(hold)
        owner = _Folder(hold.root).owner()
        if owner is None or owner.token != hold.token:
            raise _ended(hold.root)
        return _states.setdefault((hold.root, hold.token), _State(hold, owner.number, None))


class _Taking:
    """One attempt to take an output."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._folder = _Folder(hold.root)
        path = self._folder.lock_path
        self._lock = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path, blocking=False, thread_local=False)
        self._begun = _clock()
        # A run that was watched without a sign of life: its number, and its last ones.
        self._silent: tuple[int, Mapping[str, bytes]] | None = None

    def state(self) -> _State:
        """The state of the run that now has the output.

        Raises:
            SettingsError: OUTPUT_HELD.
            HoldLostError: the pipeline was put together before another run.
        """
        is_kept = False
        try:
            number = self._number()
            is_kept = self._hold.kind is Kind.LOCK
            state = _State(self._hold, number, self._lock if is_kept else None)
            _states[self._hold.root, self._hold.token] = state
            return state
        finally:
            if self._lock is not None and not is_kept:
                self._lock.release(force=True)

    def _number(self) -> int:
        while True:
            if not self._is_locked():
                self._refuse_if_late()
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                continue
            owner = self._folder.owner()
            if owner is not None and owner.token == self._hold.token:
                return owner.number
            if not self._is_gone(owner):
                assert owner is not None
                if self._lock is not None:
                    self._lock.release(force=True)
                self._watch(owner)
                continue
            self._refuse_if_outdated()
            number = 1 if owner is None else owner.number + 1
            if self._folder.create(number, self._values()):
                self._withdraw_if_alive(owner, number)
                return number

    def _is_locked(self) -> bool:
        if self._lock is None:
            return True
        try:
            self._lock.acquire()
        except Timeout:
            return False
        except FileNotFoundError:
            # The run before has just removed the folder.
            Path(self._lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            return False
        return True

    def _refuse_if_late(self) -> None:
        """Raises where whoever has the lock will keep it, as far as can be told."""
        owner = self._folder.owner()
        patience = _SECONDS_TO_SAY_WHO
        if owner is not None and owner.kind is Kind.LEASE:
            # A worker has it for the moment of a commit, unless it was stopped in it.
            patience = _WATCHED * self._hold.lease_seconds
        if _clock() - self._begun >= patience:
            raise self._refusal(owner)

    def _is_gone(self, owner: _Owner | None) -> bool:
        if owner is None or owner.released or owner.kind is Kind.LOCK:
            # Its lock is ours now.
            return True
        return self._silent is not None and self._silent[0] == owner.number

    def _watch(self, owner: _Owner) -> None:
        """Waits for a sign of life of another run.

        Raises:
            SettingsError: OUTPUT_HELD, there was one.
        """
        seen = self._folder.signs_of_life(owner.number)
        end = _clock() + self._hold.lease_seconds
        while _clock() < end:
            time.sleep(min(_SECONDS_BETWEEN_LOOKS, _BEAT * self._hold.lease_seconds))
            now = self._folder.owner()
            if now is None or now.number != owner.number or now.released:
                return
            if self._folder.signs_of_life(owner.number) != seen:
                raise self._refusal(owner)
        self._silent = owner.number, seen

    def _withdraw_if_alive(self, owner: _Owner | None, number: int) -> None:
        if owner is None or self._silent is None or self._silent[0] != owner.number:
            return
        if self._folder.signs_of_life(owner.number) != self._silent[1]:
            self._folder.mark(number, "withdrawn")
            raise self._refusal(owner)

    def _refuse_if_outdated(self) -> None:
        begun_on = self._hold.begun_on
        if begun_on is None or begun_on == state_of_output(self._hold.root):
            return
        raise HoldLostError(
            ErrorCode.HOLD_LOST,
            f"another run into {self._hold.root} has begun or ended since this pipeline was put "
            "together; put it together again, so that it sees what is there",
        )

    def _refusal(self, owner: _Owner | None) -> SettingsError:
        who = "another run" if owner is None else f"the run of {owner.who} since {owner.since}"
        return SettingsError(
            ErrorCode.OUTPUT_HELD,
            f"{self._hold.root} is held by {who}: one output has one run at a time. Wait for its "
            "end, stop it, or take another output",
        )

    def _values(self) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC)
        return {
            "token": self._hold.token,
            "kind": str(self._hold.kind),
            "who": f"{_user()}@{socket.gethostname()}, process {os.getpid()},",
            "since": now.strftime("%Y-%m-%d %H:%M:%S UTC"),
        }


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container's user may have no name.
        return str(os.getuid())


def state_of_output(root: str) -> str:
    """The SHA-256 of an output's `run.json`; empty where there is none."""
    uri = storage.join(root, _RUN_JSON)
    return hashlib.sha256(storage.read(uri)).hexdigest() if storage.exists(uri) else ""


_of_pipelines: "weakref.WeakKeyDictionary[Any, dict[str, Hold]]" = weakref.WeakKeyDictionary()


def bind(pipeline: Any, hold: Hold) -> None:
    """Has the transforms of a pipeline write under a hold that was acquired for it."""
    _of_pipelines.setdefault(pipeline, {})[hold.root] = hold


def of_pipeline(pipeline: Any, root: str, lease_seconds: float = DEFAULT_LEASE_SECONDS) -> Hold:
    """The one hold of a pipeline's transforms on an output.

    Where none was bound, the pipeline's workers take the output when they first write to it.
    """
    holds = _of_pipelines.setdefault(pipeline, {})
    if root not in holds:
        begun_on = state_of_output(root)
        holds[root] = Hold(root, new_token(), Kind.LEASE, lease_seconds, begun_on)
    return holds[root]
