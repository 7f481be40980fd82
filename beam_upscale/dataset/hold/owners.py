"""The files that name the run that holds an output, and show that it is alive."""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Set
from enum import StrEnum
from pathlib import Path

from beam_upscale.dataset.hold.defaults import DEFAULT_LEASE_SECONDS
from beam_upscale.dataset.paths.output_files import HOLDS, RUN_JSON, STAGING
from beam_upscale.errors import ErrorCode, HoldLostError
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris

# Fractions of `lease_seconds`: the time between two signs of life; the time for which a process
# relies on its last one without looking, which must be less than 1; and the longest time for which
# another run waits.
BEAT = 1 / 6
TRUSTED = 2 / 3
WATCHED = 3 / 2

SECONDS_BETWEEN_LOOKS = 0.2

# A run that is just taking or leaving the output may have no file with its name at the moment.
SECONDS_TO_SAY_WHO = 1.0


class Kind(StrEnum):
    """The ways in which other runs find out whether a run is still alive."""

    LOCK = "lock"
    LEASE = "lease"


@dataclasses.dataclass(frozen=True)
class Owner:
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

    owner: Owner | None
    last: int


class Folder:
    """The files of the holds on one output.

    Args:
        root: the root of the output.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.uri = uris.join(root, STAGING, HOLDS)
        # A folder of its own, as the output's other partial files are removed before the hold is.
        self._partial = uris.join(self.uri, "partial")

    @property
    def lock_path(self) -> str | None:
        """The path of the file that is locked; None if the output's store has no locks."""
        return uris.join(self.uri, "lock") if store_of(self.uri).has_locks else None

    def look(self) -> _Seen:
        """Reads the holds as they are now.

        Raises:
            OSError: the store does not answer.
        """
        names = {entry.name for entry in files.list_below(self.uri)}
        numbers = sorted(filter(None, map(_number_of, names)), reverse=True)
        for number in numbers:
            if f"{number:06}.withdrawn" in names:
                continue
            owner = self._owner(number)
            # None means that the run has ended since the files were listed.
            return _Seen(owner, numbers[0] if owner is not None else 0)
        return _Seen(None, max(numbers, default=0))

    def _owner(self, number: int) -> Owner | None:
        found = files.read_if_there(self._file(number, ".json"))
        if found is None:
            return None
        try:
            values = json.loads(found)
        except ValueError:
            # On a disk without hard links the file is visible while it is written.
            return Owner(number, "", Kind.LEASE, "an unknown user", "now", DEFAULT_LEASE_SECONDS)
        return Owner(number, **{**values, "kind": Kind(values["kind"])})

    def content(self, number: int) -> bytes | None:
        """Reads the content of a hold's file on a local disk; None if it cannot be read.

        The inode would not identify a hold: numbers start again, and disks reuse inodes.
        """
        try:
            return Path(self._file(number, ".json")).read_bytes()
        except OSError:
            return None

    def create(self, owner: Owner) -> bool:
        """Creates the file of an owner's number; returns False if another run has the number."""
        return files.create(self._file(owner.number, ".json"), owner.to_json(), self._partial)

    def mark_released(self, owner: Owner) -> None:
        """Marks a hold as given up by its run, in one atomic step."""
        released = dataclasses.replace(owner, released=True)
        self._write(self._file(owner.number, ".json"), released.to_json())

    def mark_withdrawn(self, number: int) -> None:
        """Marks a hold as withdrawn: its run never began."""
        self._write(self._file(number, ".withdrawn"), b"")

    def signs_of_life(self, number: int) -> dict[str, bytes]:
        """Reads the signs of life of a lease's processes: the files' content by name."""
        signs = {}
        for entry in list(files.list_below(self._file(number, ""))):
            found = files.read_if_there(entry.uri)
            if found is not None:
                signs[entry.name] = found
        return signs

    def names_of_living(self, number: int) -> set[str]:
        """Lists the names of the signs of life of a lease's processes."""
        return {entry.name for entry in files.list_below(self._file(number, ""))}

    def wait_for_silence(self, owner: Owner, but_for: Set[str]) -> None:
        """Waits until no process can still rely on a look before the hold was released."""
        end = clock() + TRUSTED * owner.lease_seconds
        while self.names_of_living(owner.number) - but_for and clock() < end:
            time.sleep(min(SECONDS_BETWEEN_LOOKS, BEAT * owner.lease_seconds))

    def write_sign(self, number: int, name: str, count: int) -> None:
        """Writes a sign of life."""
        self._write(self._sign(number, name), str(count).encode())

    def delete_sign(self, number: int, name: str) -> None:
        """Removes the sign of life of a process that stops showing it."""
        files.delete(self._sign(number, name), allowed)

    def _write(self, uri: str, data: bytes) -> None:
        files.write(uri, data, self._partial, allowed)

    def _sign(self, number: int, name: str) -> str:
        return uris.join(self._file(number, ""), name)

    def delete(self, number: int) -> None:
        """Deletes all files but those of later, not withdrawn holds; the number's own file last."""
        names = {entry.name for entry in files.list_below(self.uri)}
        gone = {each for each in names if _is_up_to(number, each, names)}
        own = f"{number:06}.json"
        for name in [*sorted(gone - {own}), *gone & {own}]:
            files.delete(uris.join(self.uri, name), allowed)
        if store_of(self.uri).is_local:
            for path in (*Path(self.uri).glob("*/"), Path(self.uri), Path(self.uri).parent):
                with contextlib.suppress(OSError):
                    path.rmdir()

    def _file(self, number: int, ending: str) -> str:
        return uris.join(self.uri, f"{number:06}{ending}")


# The guard of the holds' own files, which allows everything. With a guard, stores' own clients are
# used.
allowed = contextlib.nullcontext


def _number_of(name: str) -> int | None:
    """Returns the number of a hold from the name of its file; None for any other file."""
    digits = name.removesuffix(".json")
    return int(digits) if digits != name and digits.isdigit() else None


def _is_up_to(number: int, name: str, names: set[str]) -> bool:
    """Checks whether a file is no longer needed once the hold of a number is over."""
    digits = name.partition("/")[0].partition(".")[0]
    return not digits.isdigit() or int(digits) <= number or f"{digits}.withdrawn" in names


def ended(root: str) -> HoldLostError:
    """Returns the error for a write of a run that no longer has its output."""
    return HoldLostError(
        ErrorCode.HOLD_LOST, f"the run that had {root} has ended; nothing more is written for it"
    )


def clock() -> float:
    """Returns the seconds of a clock that goes on while the machine sleeps, if there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def state_of_output(root: str) -> str:
    """Computes the SHA-256 of an output's `run.json`; empty if there is none."""
    uri = uris.join(root, RUN_JSON)
    return hashlib.sha256(files.read(uri)).hexdigest() if files.exists(uri) else ""
