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

A process relies on its last look for a while. So a run that gives the output up marks its number
`released` first, and others have it only when each process with a sign of life has found that, and
removed the sign, or no longer relies on what it saw.

No clocks of different machines are compared: who watches waits for a change, by its own clock.
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

# Parts of `lease_seconds`: between two signs of life; how long a process relies on its last one
# without looking, which must be less than the whole; and how long at most another run watches.
_BEAT = 1 / 6
_TRUSTED = 2 / 3
_WATCHED = 3 / 2

_SECONDS_BETWEEN_LOOKS = 0.2

# A local lock is held for the moment of a rename.
_SECONDS_BETWEEN_TRIES = 0.01

# A run that is just taking the output, or leaving it, has not said who it is, or no more.
_SECONDS_TO_SAY_WHO = 1.0

# What is being written when the output is given up is waited for. Where it takes longer, the lock
# ends with the process, and the lease for want of signs of life.
_SECONDS_TO_FINISH = 10.0

_MOST_TRIES = 5

RUN_JSON = "run.json"
"""The file, below the output, in which a run says what it is."""

STAGING = ".staging"
"""The folder of work in progress, below the output."""

HOLDS = "hold"
"""The folder of the holds, below that of work in progress."""


class Kind(StrEnum):
    """The ways in which other runs find out whether a run is still alive."""

    LOCK = "lock"
    LEASE = "lease"


@dataclasses.dataclass(frozen=True)
class _Owner:
    """A run that holds an output, or did.

    Attributes:
        number: of its hold.
        token: of the run.
        kind: how other runs find out whether it is still alive.
        who: user, machine and process, for people.
        since: when it took the output, for people.
        lease_seconds: without a sign of life after which it is gone, of the kind LEASE.
        released: whether it gave the output up.
    """

    number: int
    token: str
    kind: Kind
    who: str
    since: str
    lease_seconds: float
    released: bool = False

    def to_json(self) -> bytes:
        """The content of its file; the number is the file's name."""
        values = dataclasses.asdict(self)
        del values["number"]
        return json.dumps(values).encode()


@dataclasses.dataclass(frozen=True)
class _Seen:
    """The holds on an output, as they were seen.

    Attributes:
        owner: the run with the highest number that did not withdraw; None where there is none.
        last: the highest number, of those that withdrew too; 0 where there is none.
    """

    owner: _Owner | None
    last: int


class _Folder:
    """The files of the holds on one output.

    Args:
        root: of the output.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.uri = storage.join(root, STAGING, HOLDS)
        # Its own: what is left in that of the output's other files is removed before the hold.
        self._partial = storage.join(self.uri, "partial")

    @property
    def lock_path(self) -> str | None:
        """The file that is locked; None where the output is on no local disk."""
        return storage.join(self.uri, "lock") if storage.is_local(self.uri) else None

    def look(self) -> _Seen:
        """The holds as they are now.

        Raises:
            OSError: the store does not answer.
        """
        names = {entry.name for entry in storage.list_below(self.uri)}
        numbers = sorted(filter(None, map(_number_of, names)), reverse=True)
        for number in numbers:
            if f"{number:06}.withdrawn" in names:
                continue
            owner = self._owner(number)
            # Where it is None, it has ended between the listing and now.
            return _Seen(owner, numbers[0] if owner is not None else 0)
        return _Seen(None, max(numbers, default=0))

    def _owner(self, number: int) -> _Owner | None:
        found = storage.read_if_there(self._file(number, ".json"))
        if found is None:
            return None
        try:
            values = json.loads(found)
        except ValueError:
            # A disk without hard links shows it while it is written.
            return _Owner(number, "", Kind.LEASE, "an unknown user", "now", DEFAULT_LEASE_SECONDS)
        return _Owner(number, **{**values, "kind": Kind(values["kind"])})

    def content(self, number: int) -> bytes | None:
        """The content of a hold's file on a local disk; None where there is none.

        Its inode would not do: numbers begin anew, and disks use inodes again.
        """
        try:
            return Path(self._file(number, ".json")).read_bytes()
        except OSError:
            return None

    def create(self, owner: _Owner) -> bool:
        """Takes a number; whether no other run has it."""
        return storage.create(self._file(owner.number, ".json"), owner.to_json(), self._partial)

    def mark_released(self, owner: _Owner) -> None:
        """Says of a hold that its run gave it up, in one step."""
        released = dataclasses.replace(owner, released=True)
        self._write(self._file(owner.number, ".json"), released.to_json())

    def mark_withdrawn(self, number: int) -> None:
        """Says of a hold that its run was never begun."""
        self._write(self._file(number, ".withdrawn"), b"")

    def signs_of_life(self, number: int) -> dict[str, bytes]:
        """The content of every file of a lease's processes, by name."""
        signs = {}
        for entry in list(storage.list_below(self._file(number, ""))):
            found = storage.read_if_there(entry.uri)
            if found is not None:
                signs[entry.name] = found
        return signs

    def names_of_living(self, number: int) -> set[str]:
        """The names of the files of a lease's processes."""
        return {entry.name for entry in storage.list_below(self._file(number, ""))}

    def wait_for_silence(self, owner: _Owner, but_for: Set[str]) -> None:
        """Waits until no process can rely any more on having seen a hold that is released."""
        end = _clock() + _TRUSTED * owner.lease_seconds
        while self.names_of_living(owner.number) - but_for and _clock() < end:
            time.sleep(min(_SECONDS_BETWEEN_LOOKS, _BEAT * owner.lease_seconds))

    def write_sign(self, number: int, name: str, count: int) -> None:
        """Writes a sign of life."""
        self._write(self._sign(number, name), str(count).encode())

    def delete_sign(self, number: int, name: str) -> None:
        """Removes the signs of life of a process that shows none any more."""
        storage.delete(self._sign(number, name), _allowed)

    def _write(self, uri: str, data: bytes) -> None:
        storage.write(uri, data, self._partial, _allowed)

    def _sign(self, number: int, name: str) -> str:
        return storage.join(self._file(number, ""), name)

    def delete(self, number: int) -> None:
        """Deletes what holds up to a number left, and those that withdrew; its own file last."""
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


# Stores' own clients are used for what is guarded; what others' holds are about is always allowed.
_allowed = contextlib.nullcontext


def _number_of(name: str) -> int | None:
    """The number of a hold, by the name of its file; None for any other file."""
    digits = name.removesuffix(".json")
    return int(digits) if digits != name and digits.isdigit() else None


def _is_up_to(number: int, name: str, names: set[str]) -> bool:
    """Whether a file is of a hold that is over once that of a number is."""
    digits = name.partition("/")[0].partition(".")[0]
    return not digits.isdigit() or int(digits) <= number or f"{digits}.withdrawn" in names


class _FileLock:
    """A lock of the operating system on a file; it ends with the process.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._identity = 0, 0

    def take(self) -> bool:
        """Takes it for this process alone, where no one has it; makes the file.

        Raises:
            FileNotFoundError: there is no folder for the file.
            OSError: it cannot be opened or locked.
        """
        return self._take(os.O_CREAT, fcntl.LOCK_EX)

    def share(self) -> bool:
        """Takes it together with others that share it, where no one has it alone.

        Raises:
            FileNotFoundError: there is no file.
            OSError: it cannot be opened or locked.
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
            # It was removed before it was locked.
            return False
        except BlockingIOError:
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    @property
    def is_held(self) -> bool:
        """Whether this process has it."""
        return self._descriptor is not None

    def is_in_place(self) -> bool:
        """Whether the file has its name still: others would lock another one."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 (quick)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def release(self) -> None:
        """Gives it up, for a process that was forked meanwhile as well."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Has this process, which was forked, leave the lock to its parent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _Writers:
    """Those of this process that write or delete at the moment."""

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
        """Waits a while for them; whether there are none."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._number, _SECONDS_TO_FINISH)

    def when_finished(self, act: Callable[[], None]) -> None:
        """Has the last of them call this; calls it now where there are none."""
        with self._changed:
            if self._number:
                self._act = act
                return
        act()


@dataclasses.dataclass(frozen=True)
class Hold:
    """One run's hold on one output; workers have copies of it.

    Attributes:
        root: of the output.
        token: of the run.
        kind: how other runs find out whether it is still alive.
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

    def acquire(self, on_wait: Callable[[str], None] = _logger.warning) -> None:
        """Takes the output for this run, or finds that it is taken.

        Until `release` this process shows that the run is there.

        Args:
            on_wait: called with a message before waiting for another run.

        Raises:
            SettingsError: OUTPUT_HELD, another run has it; OUTPUT_UNAVAILABLE, it cannot be
                written.
        """
        state = _begin(self, on_wait)
        state.show(+1)

    def release(self, *, is_at_once: bool = False) -> None:
        """Gives the output up, if this process has it; what is done by then stays.

        Args:
            is_at_once: whether the process is to end: then nothing is waited for. A lock goes with
                the last writer, and a lease ends for want of signs of life.
        """
        state = _states.pop((self.root, self.token), None)
        if state is not None:
            state.release(is_at_once=is_at_once)

    def leave(self) -> None:
        """Leaves the output to the run's other processes, which go on without this one."""
        state = _states.pop((self.root, self.token), None)
        if state is not None:
            state.leave()

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
        with self._state().guarded():
            yield

    def check(self) -> None:
        """Raises a HoldLostError where another run has the output, or this one has ended."""
        with self.guard():
            pass

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
        made: folders that were made for the hold, the inner ones first.
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
        """Raises a HoldLostError where the output is no longer this run's."""
        if self._over is not None:
            raise self._over
        if self.lock is not None:
            if not self.lock.is_in_place():
                self._lose(f"the lock of {self._hold.root} was removed by hand")
            return
        if _clock() - self._confirmed >= _TRUSTED * self._hold.lease_seconds:
            self._confirm()

    def _confirm(self) -> None:
        """Shows that the run is there, and then looks whether another has taken the output."""
        with self._turn:
            if self._over is not None:
                raise self._over
            # What is lost already is not written to.
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
        """Checks, and keeps the output from being given up or taken over within this context.

        Others are kept from it on a local disk only.
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
        """Whether a short look tells that no run has taken the output, and this one has it."""
        found, next_one = map(self._folder.content, (self._number, self._number + 1))
        return found is not None and found == self._content and next_one is None

    def _shared(self, path: str) -> _FileLock:
        """Shares the lock that a run must hold alone to take the output over."""
        lock = _FileLock(path)
        end = _clock() + _WATCHED * self._hold.lease_seconds
        while self._over is None:
            try:
                if lock.share():
                    return lock
            except FileNotFoundError:
                self._over = _ended(self._hold.root)
                break
            # Its holder is just looking, or has taken the output.
            self._require_ours()
            if _clock() >= end:
                raise TimeoutError(f"another process has the lock {path} and does not go on")
            time.sleep(_SECONDS_BETWEEN_TRIES)
        raise self._over

    def show(self, change: int) -> None:
        """Begins to show that the run is there, or ends it when nothing asks for it any more."""
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
            except Exception as error:  # A store may fail for a while; the next look tells more.
                _logger.debug("no sign of life was written: %s", error)

    def _withdraw_sign(self) -> None:
        """No longer relies on the last sign of life, and removes it: no one has to wait for it."""
        with self._turn:
            self._confirmed = -float("inf")
            if self._count:
                with contextlib.suppress(Exception):
                    self._folder.delete_sign(self._number, self._name)

    def give_way(self) -> bool:
        """Gives the output up to a run of this process, where nothing is done with it any more.

        So a pipeline that broke need not be waited for by the next one. Where the first goes on
        all the same, in a bundle that begins later, it finds that it has lost the output.
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
        """Removes all traces of holds.

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
            # On a local disk they look each time.
            self._wait_for_others()
        with self._alone():
            owner = self._folder.look().owner
            if owner is None or owner.token == self._hold.token:
                self._folder.delete(self._number)
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _wait_for_others(self) -> None:
        """Has the run's other processes, which rely on a look for a while, find that it is over."""
        owner = self._folder.look().owner
        if owner is not None and owner.token == self._hold.token:
            self._folder.mark_released(owner)
            self._folder.wait_for_silence(owner, but_for={self._name})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """On a local disk, keeps others from looking at the output within this context."""
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
    # A hold is each process's own. Where a child outlives a run, it must not keep its lock either.
    global _begins
    _begins = threading.Lock()
    for state in _states.values():
        if state.lock is not None:
            state.lock.forget()
    _states.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where there is such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def refuse_impossible(root: str) -> None:
    """Raises where a folder cannot be, whatever rights this user has.

    Args:
        root: URI or absolute path of what is to be the folder.

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
            # Asked once: between two looks another run may make the folder.
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
    """The type and rights of what a path leads to; None where there is nothing."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _refuse_unready(root: str) -> None:
    """Raises where this process lacks what a store's client needs."""
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
                # A run that ends removes its empty folders, maybe between two steps of this one:
                # also between those of `Path.mkdir`, to which a folder is there and then none.
                return _Taking(hold, on_wait).state()
        return _Taking(hold, on_wait).state()
    except SettingsError:
        raise
    except Exception as error:  # The clients of object stores raise errors of their own.
        raise _unavailable(hold.root, f"cannot be written: {reason(error)}") from error


def _join(hold: Hold) -> _State:
    """The state of a process that has none yet: of a worker."""
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
    """Whether a process has shown a sign of life since; one that has removed its own shows none."""
    return any(before.get(name) != sign for name, sign in now.items())


class _Taking:
    """One attempt to take an output."""

    def __init__(self, hold: Hold, on_wait: Callable[[str], None]) -> None:
        self._hold = hold
        self._on_wait = on_wait
        self._folder = _Folder(hold.root)
        path = self._folder.lock_path
        self._lock = None if path is None else _FileLock(path)
        # Folders that were not there, the inner ones first.
        self._made: list[Path] = []
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
        """Withdraws a request to stop that was meant for the run before; `run` does so itself."""
        if self._hold.is_taken_by_workers:
            storage.delete(storage.join(self._folder.root, STAGING, "stop"), _allowed)

    def _refuse_if_late(self) -> None:
        """Refuses the output once the lock's holder has had time to finish."""
        owner = self._folder.look().owner
        patience = _SECONDS_TO_SAY_WHO
        if owner is not None and owner.kind is Kind.LEASE:
            # A worker has it for the moment of a commit, unless it was stopped in it.
            patience = _WATCHED * owner.lease_seconds
        if _clock() - self._begun >= patience:
            raise self._refusal(owner)

    def _is_gone(self, owner: _Owner | None) -> bool:
        if owner is None or owner.kind is Kind.LOCK:
            # Its lock is ours now.
            return True
        if owner.released:
            if self._lock is None:
                self._folder.wait_for_silence(owner, but_for=frozenset())
            return True
        return self._silent is not None and self._silent[0] == owner.number

    def _watch(self, owner: _Owner) -> None:
        """Waits for a sign of life of another run.

        Raises:
            SettingsError: OUTPUT_HELD, there was one.
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
        # A container's user may have no name.
        return str(os.getuid())


def state_of_output(root: str) -> str:
    """The SHA-256 of an output's `run.json`; empty where there is none."""
    uri = storage.join(root, RUN_JSON)
    return hashlib.sha256(storage.read(uri)).hexdigest() if storage.exists(uri) else ""


_of_pipelines: "weakref.WeakKeyDictionary[Any, dict[str, Hold]]" = weakref.WeakKeyDictionary()


def bind(pipeline: Any, hold: Hold) -> None:
    """Has the transforms of a pipeline write under a hold that was acquired for it."""
    _of_pipelines.setdefault(pipeline, {})[hold.root] = hold


def of_pipeline(pipeline: Any, root: str, lease_seconds: float | None = None) -> Hold:
    """The one hold of a pipeline's transforms on an output.

    Where none was bound, the pipeline's workers take the output when they first write to it.

    Args:
        pipeline: Beam's.
        root: of the output.
        lease_seconds: that one of the transforms asks for; None takes what another one asked for
            before, or the default.

    Raises:
        SettingsError: INVALID_OPTION, another transform has asked for other seconds.
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
