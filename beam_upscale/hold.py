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
import datetime
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import stat
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from beam_upscale import storage, stores, urls
from beam_upscale.defaults import DEFAULT_LEASE_SECONDS
from beam_upscale.errors import ErrorCode, HoldLostError, ImageError, SettingsError, reason

_logger = logging.getLogger(__name__)

# Fractions of `lease_seconds`: the time between two signs of life; the time for which a process
# relies on its last one without looking, which must be less than 1; and the longest time for which
# another run waits.
_BEAT = 1 / 6
_TRUSTED = 2 / 3
_WATCHED = 3 / 2

_SECONDS_BETWEEN_LOOKS = 0.2

# A local lock is held for the moment of a rename.
_SECONDS_BETWEEN_TRIES = 0.01

# A run that is just taking or leaving the output may have no file with its name at the moment.
_SECONDS_TO_SAY_WHO = 1.0

# The longest wait for writes in progress when the output is given up. If they take longer, the lock
# ends with the process, and the lease by its missing signs of life.
_SECONDS_TO_FINISH = 10.0

_MOST_TRIES = 5

RUN_JSON = "run.json"
"""The file, below the output, that describes the run."""

STAGING = ".staging"
"""The folder of work in progress, below the output."""

HOLDS = "hold"
"""The folder of the holds, below the folder of work in progress."""


class Kind(StrEnum):
    """The ways in which other runs find out whether a run is still alive."""

    LOCK = "lock"
    LEASE = "lease"


@dataclasses.dataclass(frozen=True)
class _Owner:
    """A run that holds an output, or held it.

    Attributes:
        number: the number of its hold.
        token: the run's token.
        kind: the way in which other runs find out whether it is still alive.
        who: its user, machine and process, for messages.
        since: the time at which it took the output, for messages.
        lease_seconds: the seconds without a sign of life after which a run of the kind LEASE is
            gone.
        released: True if it gave the output up.
    """

    number: int
    token: str
    kind: Kind
    who: str
    since: str
    lease_seconds: float
    released: bool = False

    def to_json(self) -> bytes:
        """Returns the content of its file; the number is the file's name."""
        values = dataclasses.asdict(self)
        del values["number"]
        return json.dumps(values).encode()


@dataclasses.dataclass(frozen=True)
class _Seen:
    """The holds on an output, as one look found them.

    Attributes:
        owner: the run with the highest number that is not withdrawn; None if there is none.
        last: the highest number, withdrawn ones included; 0 if there is none.
    """

    owner: _Owner | None
    last: int


class _Folder:
    """The files of the holds on one output.

    Args:
        root: the root of the output.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.uri = storage.join(root, STAGING, HOLDS)
        # A folder of its own, as the output's other partial files are removed before the hold is.
        self._partial = storage.join(self.uri, "partial")

    @property
    def lock_path(self) -> str | None:
        """The path of the file that is locked; None if the output is not on a local disk."""
        return storage.join(self.uri, "lock") if storage.is_local(self.uri) else None

    def look(self) -> _Seen:
        """Reads the holds as they are now.

        Raises:
            OSError: the store does not answer.
        """
        names = {entry.name for entry in storage.list_below(self.uri)}
        numbers = sorted(filter(None, map(_number_of, names)), reverse=True)
        for number in numbers:
            if f"{number:06}.withdrawn" in names:
                continue
            owner = self._owner(number)
            # None means that the run has ended since the files were listed.
            return _Seen(owner, numbers[0] if owner is not None else 0)
        return _Seen(None, max(numbers, default=0))

    def _owner(self, number: int) -> _Owner | None:
        found = storage.read_if_there(self._file(number, ".json"))
        if found is None:
            return None
        try:
            values = json.loads(found)
        except ValueError:
            # On a disk without hard links the file is visible while it is written.
            return _Owner(number, "", Kind.LEASE, "an unknown user", "now", DEFAULT_LEASE_SECONDS)
        return _Owner(number, **{**values, "kind": Kind(values["kind"])})

    def content(self, number: int) -> bytes | None:
        """Reads the content of a hold's file on a local disk; None if it cannot be read.

        The inode would not identify a hold: numbers start again, and disks reuse inodes.
        """
        try:
            return Path(self._file(number, ".json")).read_bytes()
        except OSError:
            return None

    def create(self, owner: _Owner) -> bool:
        """Creates the file of an owner's number; returns False if another run has the number."""
        return storage.create(self._file(owner.number, ".json"), owner.to_json(), self._partial)

    def mark_released(self, owner: _Owner) -> None:
        """Marks a hold as given up by its run, in one atomic step."""
        released = dataclasses.replace(owner, released=True)
        self._write(self._file(owner.number, ".json"), released.to_json())

    def mark_withdrawn(self, number: int) -> None:
        """Marks a hold as withdrawn: its run never began."""
        self._write(self._file(number, ".withdrawn"), b"")

    def signs_of_life(self, number: int) -> dict[str, bytes]:
        """Reads the signs of life of a lease's processes: the files' content by name."""
        signs = {}
        for entry in list(storage.list_below(self._file(number, ""))):
            found = storage.read_if_there(entry.uri)
            if found is not None:
                signs[entry.name] = found
        return signs

    def names_of_living(self, number: int) -> set[str]:
        """Lists the names of the signs of life of a lease's processes."""
        return {entry.name for entry in storage.list_below(self._file(number, ""))}

    def wait_for_silence(self, owner: _Owner, but_for: Set[str]) -> None:
        """Waits until no process can still rely on a look before the hold was released."""
        end = _clock() + _TRUSTED * owner.lease_seconds
        while self.names_of_living(owner.number) - but_for and _clock() < end:
            time.sleep(min(_SECONDS_BETWEEN_LOOKS, _BEAT * owner.lease_seconds))

    def write_sign(self, number: int, name: str, count: int) -> None:
        """Writes a sign of life."""
        self._write(self._sign(number, name), str(count).encode())

    def delete_sign(self, number: int, name: str) -> None:
        """Removes the sign of life of a process that stops showing it."""
        storage.delete(self._sign(number, name), _allowed)

    def _write(self, uri: str, data: bytes) -> None:
        storage.write(uri, data, self._partial, _allowed)

    def _sign(self, number: int, name: str) -> str:
        return storage.join(self._file(number, ""), name)

    def delete(self, number: int) -> None:
        """Deletes all files but those of later, not withdrawn holds; the number's own file last."""
        names = {entry.name for entry in storage.list_below(self.uri)}
        gone = {each for each in names if _is_up_to(number, each, names)}
        own = f"{number:06}.json"
        for name in [*sorted(gone - {own}), *gone & {own}]:
            storage.delete(storage.join(self.uri, name), _allowed)
        if storage.is_local(self.uri):
            for path in (*Path(self.uri).glob("*/"), Path(self.uri), Path(self.uri).parent):
                with contextlib.suppress(OSError):
                    path.rmdir()

    def _file(self, number: int, ending: str) -> str:
        return storage.join(self.uri, f"{number:06}{ending}")


# The guard of the holds' own files, which allows everything. With a guard, stores' own clients are
# used.
_allowed = contextlib.nullcontext


def _number_of(name: str) -> int | None:
    """Returns the number of a hold from the name of its file; None for any other file."""
    digits = name.removesuffix(".json")
    return int(digits) if digits != name and digits.isdigit() else None


def _is_up_to(number: int, name: str, names: set[str]) -> bool:
    """Checks whether a file is no longer needed once the hold of a number is over."""
    digits = name.partition("/")[0].partition(".")[0]
    return not digits.isdigit() or int(digits) <= number or f"{digits}.withdrawn" in names


class _FileLock:
    """A lock of the operating system on a file; it ends with the process.

    Args:
        path: the file's path.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._identity = 0, 0

    def take(self) -> bool:
        """Locks the file for this process alone, and creates it; returns False if it is locked.

        Raises:
            FileNotFoundError: there is no folder for the file.
            OSError: the file cannot be opened or locked.
        """
        return self._take(os.O_CREAT, fcntl.LOCK_EX)

    def share(self) -> bool:
        """Locks the file, shared with other processes; returns False if one has it alone.

        Raises:
            FileNotFoundError: there is no file.
            OSError: the file cannot be opened or locked.
        """
        return self._take(0, fcntl.LOCK_SH)

    def _take(self, flags: int, operation: int) -> bool:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            found = os.fstat(descriptor)
            self._identity = found.st_dev, found.st_ino
            if self.is_in_place():
                self._descriptor, descriptor = descriptor, -1
                return True
            # The file was removed before it was locked.
            return False
        except BlockingIOError:
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    @property
    def is_held(self) -> bool:
        """True if this process has the lock."""
        return self._descriptor is not None

    def is_in_place(self) -> bool:
        """Checks whether the locked file still has its name; else others would lock a new file."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 (quick)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def release(self) -> None:
        """Releases the lock, also for processes that were forked meanwhile."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Leaves the lock to the parent of this process, which was forked."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _Writers:
    """The writers of this process: the contexts that write or delete at the moment."""

    def __init__(self) -> None:
        self._number = 0
        self._changed = threading.Condition()
        self._act: Callable[[], None] | None = None

    def __enter__(self) -> None:
        with self._changed:
            self._number += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._number -= 1
            if self._number:
                return
            self._changed.notify_all()
            act, self._act = self._act, None
        if act is not None:
            act()

    def have_finished(self) -> bool:
        """Waits up to `_SECONDS_TO_FINISH` for all writers; returns True if none is left."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._number, _SECONDS_TO_FINISH)

    def when_finished(self, act: Callable[[], None]) -> None:
        """Calls a function after the last writer has finished; at once if there is none."""
        with self._changed:
            if self._number:
                self._act = act
                return
        act()


@dataclasses.dataclass(frozen=True)
class Hold:
    """One run's hold on one output; workers have copies of it.

    Attributes:
        root: the root of the output.
        token: the run's token.
        kind: the way in which other runs find out whether it is still alive.
        lease_seconds: the seconds without a sign of life after which a run with a lease is gone.
        begun_on: for a user's own pipeline, whose workers take the output themselves: the SHA-256
            of `run.json` when the pipeline was constructed, empty if there was none. None if
            `acquire` takes the output.
    """

    root: str
    token: str
    kind: Kind = Kind.LEASE
    lease_seconds: float = DEFAULT_LEASE_SECONDS
    begun_on: str | None = None

    @property
    def is_taken_by_workers(self) -> bool:
        """True if the workers take the output, and not the process that starts the pipeline."""
        return self.begun_on is not None

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
        state = _states.pop((self.root, self.token), None)
        if state is not None:
            state.release(is_at_once=is_at_once)

    def leave(self) -> None:
        """Leaves the output to the run's other processes, which continue without this one."""
        state = _states.pop((self.root, self.token), None)
        if state is not None:
            state.leave()

    def end(self) -> None:
        """Removes all files of holds; the run is complete, or was refused before it began."""
        state = _states.get((self.root, self.token))
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

    def _state(self) -> "_State":
        state = _states.get((self.root, self.token))
        if state is None:
            if self.kind is Kind.LOCK:
                raise _ended(self.root)
            state = _join(self)
        return state


def new_token() -> str:
    """Creates a unique token for a run."""
    return uuid.uuid4().hex


def _ended(root: str) -> HoldLostError:
    return HoldLostError(
        ErrorCode.HOLD_LOST, f"the run that had {root} has ended; nothing more is written for it"
    )


class _State:
    """The part of this process in a run's hold.

    Args:
        hold: the hold.
        number: the number of the hold.
        lock: the lock that is kept until the run ends; None for the kind LEASE.
        made: the folders that were created for the hold, the inner ones first.
    """

    def __init__(
        self, hold: Hold, number: int, lock: _FileLock | None, made: Sequence[Path] = ()
    ) -> None:
        self._hold = hold
        self._number = number
        self.lock = lock
        self._made = made
        self._folder = _Folder(hold.root)
        self._content = self._folder.content(number)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._over: HoldLostError | None = None
        self._writers = _Writers()
        self._turn = threading.RLock()
        self._count = 0
        self._confirmed = -float("inf")
        self._shown = 0
        self._idle_since = _clock()
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Raises a HoldLostError if the output is no longer this run's."""
        if self._over is not None:
            raise self._over
        if self.lock is not None:
            if not self.lock.is_in_place():
                self._lose(f"the lock of {self._hold.root} was removed by hand")
            return
        if _clock() - self._confirmed >= _TRUSTED * self._hold.lease_seconds:
            self._confirm()

    def _confirm(self) -> None:
        """Writes a sign of life, and then checks that no other run has taken the output."""
        with self._turn:
            if self._over is not None:
                raise self._over
            # Checked before too: an output that is lost already must not be written to.
            self._require_ours()
            begun = _clock()
            self._count += 1
            self._folder.write_sign(self._number, self._name, self._count)
            self._require_ours()
            self._confirmed = begun

    def _require_ours(self) -> None:
        owner = self._folder.look().owner
        if owner is not None and owner.token == self._hold.token and not owner.released:
            return
        if self._count:
            with contextlib.suppress(Exception):
                self._folder.delete_sign(self._number, self._name)
        if owner is None or owner.token == self._hold.token:
            self._over = _ended(self._hold.root)
            raise self._over
        taker = f"{owner.who} has it since {owner.since}"
        self._lose(f"another run has taken {self._hold.root} over: {taker}")

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
        found, next_one = map(self._folder.content, (self._number, self._number + 1))
        return found is not None and found == self._content and next_one is None

    def _shared(self, path: str) -> _FileLock:
        """Shares the lock that another run would need alone to take the output over."""
        lock = _FileLock(path)
        end = _clock() + _WATCHED * self._hold.lease_seconds
        while self._over is None:
            try:
                if lock.share():
                    return lock
            except FileNotFoundError:
                self._over = _ended(self._hold.root)
                break
            # The lock's holder is just looking, or has taken the output.
            self._require_ours()
            if _clock() >= end:
                raise TimeoutError(f"another process has the lock {path} and does not go on")
            time.sleep(_SECONDS_BETWEEN_TRIES)
        raise self._over

    def show(self, change: int) -> None:
        """Starts (+1) or ends (-1) one request for signs of life; without requests they stop."""
        if self.lock is not None:
            return
        with self._turn:
            self._shown += change
            self._idle_since = _clock()
            if self._shown > 0 and self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="hold", daemon=True)
                self._thread.start()

    def _beat(self) -> None:
        pause = _BEAT * self._hold.lease_seconds
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
                    self._folder.delete_sign(self._number, self._name)

    def give_way(self) -> bool:
        """Gives an idle output up to another run of this process; returns True if it is free.

        So a pipeline need not wait for an earlier one that broke. If the earlier one continues all
        the same, in a later bundle, it finds that it has lost the output.
        """
        with self._turn:
            is_idle = self._shown <= 0 and _clock() - self._idle_since >= _SECONDS_TO_SAY_WHO
            if not is_idle or self._folder.names_of_living(self._number) - {self._name}:
                return False
            if self._over is None:
                message = f"another run of this process has taken {self._hold.root} over"
                self._over = HoldLostError(ErrorCode.HOLD_LOST, message)
        return self._writers.have_finished()

    def leave(self) -> None:
        """Leaves the output to other processes of the run."""
        self._over = self._over or _ended(self._hold.root)
        self._withdraw_sign()

    def release(self, *, is_at_once: bool = False) -> None:
        """Gives the output up; see `Hold.release`."""
        was_ours = self._over is None
        self._over = self._over or _ended(self._hold.root)
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
                if owner is not None and owner.token == self._hold.token:
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
            self._over = _ended(self._hold.root)
        if not self._writers.have_finished():
            return
        if self._folder.lock_path is None:
            # On a local disk, other processes look before each write.
            self._wait_for_others()
        with self._alone():
            owner = self._folder.look().owner
            if owner is None or owner.token == self._hold.token:
                self._folder.delete(self._number)
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _wait_for_others(self) -> None:
        """Waits until the run's other processes have found, or must find, that the run is over."""
        owner = self._folder.look().owner
        if owner is not None and owner.token == self._hold.token:
            self._folder.mark_released(owner)
            self._folder.wait_for_silence(owner, but_for={self._name})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes from looking at an output on a local disk within this context."""
        path = self._folder.lock_path
        if self.lock is not None or path is None:
            yield
            return
        lock = _FileLock(path)
        end = _clock() + _WATCHED * self._hold.lease_seconds
        while not lock.take():
            if _clock() >= end:
                raise TimeoutError(f"another process has the lock {path} and does not go on")
            time.sleep(_SECONDS_BETWEEN_TRIES)
        try:
            yield
        finally:
            lock.release()


_states: dict[tuple[str, str], _State] = {}
_begins = threading.Lock()


def _forget_in_child() -> None:
    # A child has no part in a hold. If it outlives the run, it must not keep the lock either.
    global _begins
    _begins = threading.Lock()
    for state in _states.values():
        if state.lock is not None:
            state.lock.forget()
    _states.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def _clock() -> float:
    """Returns the seconds of a clock that goes on while the machine sleeps, if there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def refuse_impossible(root: str) -> None:
    """Raises if a folder cannot exist at this place, whatever rights this user has.

    Args:
        root: the URI or absolute path of the folder.

    Raises:
        SettingsError: OUTPUT_UNAVAILABLE; MISSING_PACKAGE, its store's client is not installed.
    """
    if urls.is_web(root):
        raise _unavailable(root, "is on a web server, where nothing can be written")
    if not storage.is_local(root):
        scheme = storage.unread_scheme(root)
        if scheme is not None:
            found = f"no file system of the scheme {scheme} is known"
            if scheme == "file":
                found = "it is on another machine"
            raise _unavailable(root, f"cannot be written: {found}")
        _refuse_unready(root)
        return
    try:
        for each in (Path(root), *Path(root).parents):
            # Read once, as another run may create the folder between two reads.
            mode = _mode(each)
            if mode is not None and stat.S_ISDIR(mode):
                return
            if mode is not None:
                where = "is" if each == Path(root) else f"cannot be a folder: {each} is"
                raise _unavailable(root, f"{where} a file, not a folder")
            if each.is_symlink() and _mode(each) is None:
                raise _unavailable(root, f"cannot be a folder: {each} is a link that leads nowhere")
    except OSError as error:
        raise _unavailable(root, f"cannot be a folder: {reason(error, of=root)}") from error


def _mode(path: Path) -> int | None:
    """Returns the mode (type and rights) of the file at a path; None if there is none."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _refuse_unready(root: str) -> None:
    """Raises if this process lacks a requirement of a store's client."""
    try:
        stores.check(root)
    except ImageError as error:
        found = f"cannot be written: {error.message}"
        if error.code is ErrorCode.MISSING_PACKAGE:
            raise SettingsError(error.code, f"{storage.printable(root)} {found}") from error
        raise _unavailable(root, found) from error


def _unavailable(root: str, found: str) -> SettingsError:
    name = root if storage.is_local(root) else storage.printable(root)
    return SettingsError(ErrorCode.OUTPUT_UNAVAILABLE, f"{name} {found}; take another output")


def _begin(hold: Hold, on_wait: Callable[[str], None] = _logger.warning) -> _State:
    refuse_impossible(hold.root)
    try:
        for _ in range(_MOST_TRIES):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                # A run that ends removes its empty folders, perhaps between two steps of this one,
                # even inside `Path.mkdir`: the folder exists, and then it does not.
                return _Taking(hold, on_wait).state()
        return _Taking(hold, on_wait).state()
    except SettingsError:
        raise
    except Exception as error:  # The clients of object stores raise errors of their own.
        raise _unavailable(hold.root, f"cannot be written: {reason(error)}") from error


def _join(hold: Hold) -> _State:
    """Returns the state of a process that has none yet, i.e. of a worker."""
    with _begins:
        found = _states.get((hold.root, hold.token))
        if found is not None:
            return found
        if hold.is_taken_by_workers:
            return _begin(hold)
        owner = _Folder(hold.root).look().owner
        if owner is None or owner.token != hold.token or owner.released:
            raise _ended(hold.root)
        return _states.setdefault((hold.root, hold.token), _State(hold, owner.number, None))


def _is_alive(before: Mapping[str, bytes], now: Mapping[str, bytes]) -> bool:
    """Checks whether a sign of life is new or changed; a removed sign does not count."""
    return any(before.get(name) != sign for name, sign in now.items())


class _Taking:
    """One attempt to take an output."""

    def __init__(self, hold: Hold, on_wait: Callable[[str], None]) -> None:
        self._hold = hold
        self._on_wait = on_wait
        self._folder = _Folder(hold.root)
        path = self._folder.lock_path
        self._lock = None if path is None else _FileLock(path)
        # The folders that this attempt created, the inner ones first.
        self._made: list[Path] = []
        self._begun = _clock()
        # A run that was watched and showed no sign of life: its number, and its last signs.
        self._silent: tuple[int, Mapping[str, bytes]] | None = None

    def state(self) -> _State:
        """Takes the output, and returns the state of the run, which now has it.

        Raises:
            SettingsError: OUTPUT_HELD.
            HoldLostError: the pipeline was constructed before another run began or ended.
        """
        is_kept = False
        try:
            self._make_folders()
            number = self._number()
            is_kept = self._hold.kind is Kind.LOCK
            state = _State(self._hold, number, self._lock if is_kept else None, self._made)
            _states[self._hold.root, self._hold.token] = state
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
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                continue
            seen = self._folder.look()
            owner = seen.owner
            if owner is not None and owner.token == self._hold.token:
                if owner.released:
                    raise _ended(self._hold.root)
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
        if self._hold.is_taken_by_workers:
            storage.delete(storage.join(self._folder.root, STAGING, "stop"), _allowed)

    def _refuse_if_late(self) -> None:
        """Refuses the output once the lock's holder has had time to finish."""
        owner = self._folder.look().owner
        patience = _SECONDS_TO_SAY_WHO
        if owner is not None and owner.kind is Kind.LEASE:
            # A worker holds the lock only during a commit, unless it was suspended in it.
            patience = _WATCHED * owner.lease_seconds
        if _clock() - self._begun >= patience:
            raise self._refusal(owner)

    def _is_gone(self, owner: _Owner | None) -> bool:
        if owner is None or owner.kind is Kind.LOCK:
            # The lock of such a run is now ours, so it has ended.
            return True
        if owner.released:
            if self._lock is None:
                self._folder.wait_for_silence(owner, but_for=frozenset())
            return True
        return self._silent is not None and self._silent[0] == owner.number

    def _watch(self, owner: _Owner) -> None:
        """Waits for a sign of life of another run.

        Raises:
            SettingsError: OUTPUT_HELD, there was a sign of life.
        """
        self._on_wait(
            f"{self._hold.root} was taken by {owner.who} since {owner.since}; waiting up to "
            f"{owner.lease_seconds:g} s for a sign of life of that run"
        )
        seen = self._folder.signs_of_life(owner.number)
        end = _clock() + owner.lease_seconds
        while _clock() < end:
            time.sleep(min(_SECONDS_BETWEEN_LOOKS, _BEAT * owner.lease_seconds))
            now = self._folder.look().owner
            if now is None or now.number != owner.number or now.released:
                return
            now_seen = self._folder.signs_of_life(owner.number)
            if _is_alive(seen, now_seen):
                raise self._refusal(owner)
            here = _states.get((self._hold.root, owner.token))
            if here is not None and here.give_way():
                seen = now_seen
                break
        self._silent = owner.number, seen

    def _withdraw_if_alive(self, owner: _Owner | None, number: int) -> None:
        if owner is None or self._silent is None or self._silent[0] != owner.number:
            return
        if _is_alive(self._silent[1], self._folder.signs_of_life(owner.number)):
            self._folder.mark_withdrawn(number)
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

    def _owner(self, number: int) -> _Owner:
        now = datetime.datetime.now(datetime.UTC)
        return _Owner(
            number,
            self._hold.token,
            self._hold.kind,
            who=f"{_user()}@{socket.gethostname()}, process {os.getpid()},",
            since=now.strftime("%Y-%m-%d %H:%M:%S UTC"),
            lease_seconds=self._hold.lease_seconds,
        )


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # The user of a container may have no name.
        return str(os.getuid())


def state_of_output(root: str) -> str:
    """Computes the SHA-256 of an output's `run.json`; empty if there is none."""
    uri = storage.join(root, RUN_JSON)
    return hashlib.sha256(storage.read(uri)).hexdigest() if storage.exists(uri) else ""


_of_pipelines: "weakref.WeakKeyDictionary[Any, dict[str, Hold]]" = weakref.WeakKeyDictionary()


def bind(pipeline: Any, hold: Hold) -> None:
    """Makes the transforms of a pipeline write under a hold that was acquired for it."""
    _of_pipelines.setdefault(pipeline, {})[hold.root] = hold


def of_pipeline(pipeline: Any, root: str, lease_seconds: float | None = None) -> Hold:
    """Returns the one hold of a pipeline's transforms on an output.

    If none was bound, the pipeline's workers take the output when they first write to it.

    Args:
        pipeline: the Beam pipeline.
        root: the root of the output.
        lease_seconds: the seconds that a transform requests; None takes those of an earlier
            transform, or the default.

    Raises:
        SettingsError: INVALID_OPTION, an earlier transform has requested other seconds.
    """
    holds = _of_pipelines.setdefault(pipeline, {})
    if root not in holds:
        seconds = DEFAULT_LEASE_SECONDS if lease_seconds is None else lease_seconds
        holds[root] = Hold(root, new_token(), Kind.LEASE, seconds, state_of_output(root))
    found = holds[root]
    if lease_seconds is not None and lease_seconds != found.lease_seconds:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"lease_seconds is {lease_seconds:g} here and {found.lease_seconds:g} in a transform "
            f"before, and a pipeline has one hold on {root}: give all of them the same",
        )
    return found
