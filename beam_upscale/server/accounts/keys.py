"""API keys: a file of JSON lines that holds their SHA-256 and never the keys themselves."""

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

from filelock import FileLock

from beam_upscale.errors import SettingsError, reason
from beam_upscale.server.accounts.key_file import (
    Key,
    KeyEntry,
    credits_of,
    invalid,
    key_entry,
    read_keys,
    sha256_of,
    valid_keys,
)

_PREFIX = "bu_"
# Random bytes of a key: so many that a hash without salt gives nothing away.
_RANDOM_BYTES = 32

_logger = logging.getLogger(__name__)


class Keys:
    """The keys of a file, read again whenever it changes. Thread-safe.

    If a changed file cannot be read, the keys stay those that were read last.

    Args:
        path: the path of the file.

    Raises:
        SettingsError: INVALID_OPTION, the file cannot be read or holds a line that is no key.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._version = self._version_now()
        self._by_sha256 = valid_keys(read_keys(self._path))

    def find(self, token: str) -> Key | None:
        """Returns the key that a caller's token stands for; None if it is unknown or revoked."""
        with self._lock:
            self._reload_if_changed()
            by_sha256 = self._by_sha256
        return by_sha256.get(sha256_of(token))

    def _reload_if_changed(self) -> None:
        version = self._version_now()
        if version == self._version:
            return
        # Set even if reading fails, so that a broken file is logged once.
        self._version = version
        try:
            self._by_sha256 = valid_keys(read_keys(self._path))
        except SettingsError as error:
            _logger.error("The keys stay those of before: %s", error.message)
        else:
            _logger.info("The keys were read again: %d are valid.", len(self._by_sha256))

    def _version_now(self) -> tuple[int, int, int] | None:
        """Returns a value that changes when the file is replaced or written; None without one."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def add_key(
    path: Path | str,
    name: str,
    *,
    granted: Decimal | None = None,
    max_in_flight: int | None = None,
    requests_per_second: float | None = None,
) -> str:
    """Makes a key and adds it to a file, which is made if there is none.

    Args:
        path: the path of the file.
        name: 1 to 64 letters, digits, dots, hyphens and underscores; not the name of another key of
            the file, revoked ones included.
        granted: as `Key.credits`.
        max_in_flight: as `Key.max_in_flight`.
        requests_per_second: as `Key.requests_per_second`.

    Returns:
        The key itself, which is stored nowhere.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    token = f"{_PREFIX}{secrets.token_urlsafe(_RANDOM_BYTES)}"
    created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    values = {
        "name": name,
        "sha256": sha256_of(token),
        "created_at": created_at,
        "credits": granted,
        "max_in_flight": max_in_flight,
        "requests_per_second": requests_per_second,
    }
    try:
        entry = key_entry(values)
    except ValueError as error:
        raise invalid(f"a key {name!r} cannot be added: {error}") from error

    def added(entries: Sequence[KeyEntry]) -> list[KeyEntry]:
        for other in entries:
            if other.key.name == name:
                state = "was revoked" if other.revoked else "is there"
                raise invalid(f"a key {name!r} {state} in {path}; take another name")
        return [*entries, entry]

    _change(path, added, make=True)
    return token


def revoke_key(path: Path | str, name: str) -> None:
    """Makes a key invalid for good.

    Raises:
        SettingsError: INVALID_OPTION, there is no key of that name.
    """

    def revoked(entry: KeyEntry) -> KeyEntry:
        return dataclasses.replace(entry, revoked=True)

    _change_one(path, name, revoked)


def credit_key(path: Path | str, name: str, added: Decimal) -> Decimal:
    """Grants a key more credits.

    Args:
        path: the path of the file.
        name: the name of the key.
        added: credits, 0 or more, a multiple of 1/10,000.

    Returns:
        The credits that the key is granted in total.

    Raises:
        SettingsError: INVALID_OPTION, there is no such key, it is revoked or has no limit, or the
            amount is invalid.
    """
    granted = Decimal(0)

    def credited(entry: KeyEntry) -> KeyEntry:
        nonlocal granted
        if entry.revoked:
            raise invalid(f"the key {name!r} is revoked")
        if entry.key.credits is None:
            raise invalid(f"the key {name!r} has no limit of credits that could be raised")
        try:
            granted = credits_of(entry.key.credits + credits_of(added))
        except ValueError as error:
            raise invalid(f"the key {name!r} cannot be credited: {error}") from error
        return dataclasses.replace(entry, key=dataclasses.replace(entry.key, credits=granted))

    _change_one(path, name, credited)
    return granted


def _change_one(path: Path | str, name: str, change: Callable[[KeyEntry], KeyEntry]) -> None:
    def changed(entries: Sequence[KeyEntry]) -> list[KeyEntry]:
        if all(entry.key.name != name for entry in entries):
            raise invalid(f"there is no key {name!r} in {path}")
        return [change(entry) if entry.key.name == name else entry for entry in entries]

    _change(path, changed)


def _change(
    path: Path | str,
    change: Callable[[Sequence[KeyEntry]], Sequence[KeyEntry]],
    make: bool = False,
) -> None:
    """Replaces the file; other processes that change it at the same time wait."""
    # A link stays, and the file that it leads to is replaced.
    target = Path(os.path.realpath(path))
    try:
        # Check before taking the lock, which would make files and folders.
        with contextlib.suppress(FileNotFoundError):
            Path(path).stat()
        if target.exists() and not target.is_file():
            raise invalid(f"the keys {path} are not a file")
        if make and not target.parent.is_dir():
            raise invalid(f"the keys {path} cannot be made: {target.parent} is not a folder")
        if not make and not target.exists():
            raise invalid(f"the keys {path} cannot be changed: {target} does not exist")
        with FileLock(f"{target}.lock", mode=0o600):
            entries = () if make and not target.exists() else read_keys(target)
            text = "".join(_line(entry) for entry in change(entries))
            _replace(target, text.encode())
    except OSError as error:
        raise invalid(f"the keys {path} cannot be written: {reason(error, of=path)}") from error


def _line(entry: KeyEntry) -> str:
    key = entry.key
    values = {
        "name": key.name,
        "sha256": entry.sha256,
        "created_at": entry.created_at,
        "credits": None if key.credits is None else f"{key.credits:f}",
        "max_in_flight": key.max_in_flight,
        "requests_per_second": key.requests_per_second,
        "revoked": entry.revoked,
    }
    return f"{json.dumps(values)}\n"


def _replace(target: Path, data: bytes) -> None:
    # mkstemp makes a file that its owner alone may read.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
