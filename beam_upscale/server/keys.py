"""API keys: a file of JSON lines that holds their SHA-256 and never the keys themselves."""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import math
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from filelock import FileLock

from beam_upscale.errors import ErrorCode, ImageError, SettingsError, reason

CREDIT_STEP = Decimal("0.0001")
"""The smallest amount that is accounted for, in credits."""

MAX_CREDITS = Decimal(10**12)
"""The most credits that a key may be granted."""

_PREFIX = "bu_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Random bytes of a key: so many that a hash without salt gives nothing away.
_RANDOM_BYTES = 32

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Key:
    """The name and the limits of an API key.

    Attributes:
        name: identifies the key in the ledger, in logs and in metrics; never the key itself.
        credits: granted in total, a multiple of 1/10,000; None sets no limit.
        max_in_flight: most calls at a time, at least 1; None takes the server's limit.
        requests_per_second: most calls begun in a second, above 0; None takes the server's limit.
    """

    name: str
    credits: Decimal | None
    max_in_flight: int | None
    requests_per_second: float | None


ANONYMOUS = Key("anonymous", None, None, None)
"""The key of every caller if a server asks for no keys."""


@dataclasses.dataclass(frozen=True)
class KeyRecord:
    """A key as it stands in the file.

    Attributes:
        key: its name and limits.
        sha256: of the key, in hexadecimal.
        created_at: time of its creation, in ISO 8601.
        revoked: True if it is refused for good. Its line stays, so that no other key gets its
            name, and with it its charges and results.
    """

    key: Key
    sha256: str
    created_at: str
    revoked: bool = False


class Keys:
    """The keys of a file, read again whenever it changes. Thread-safe.

    If a changed file cannot be read, the keys stay those that were read last.

    Args:
        path: of the file.

    Raises:
        SettingsError: INVALID_OPTION, the file cannot be read or holds a line that is no key.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._version = self._version_now()
        self._by_sha256 = _valid_keys(read_keys(self._path))

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
            self._by_sha256 = _valid_keys(read_keys(self._path))
        except SettingsError as error:
            _logger.error("The keys stay those of before: %s", error.message)
        else:
            _logger.info("The keys were read anew: %d are valid.", len(self._by_sha256))

    def _version_now(self) -> tuple[int, int, int] | None:
        """Returns a value that changes when the file is replaced or written; None without one."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def sha256_of(token: str) -> str:
    """Returns the SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path | str) -> tuple[KeyRecord, ...]:
    """Reads all keys of a file, in its order, revoked ones included.

    Raises:
        SettingsError: INVALID_OPTION, the file cannot be read or holds a line that is no key.
    """
    try:
        text = _read(Path(path).absolute()).decode()
    except ImageError as error:
        raise _invalid(f"the keys: {error.message}") from error
    except UnicodeDecodeError as error:
        raise _invalid(f"the keys {path} cannot be read: {reason(error)}") from error
    records: list[KeyRecord] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(_record(json.loads(line, parse_float=Decimal)))
        except (json.JSONDecodeError, RecursionError) as error:
            raise _invalid(f"the keys {path}, line {number}, are no JSON") from error
        except ValueError as error:
            raise _invalid(f"the keys {path}, line {number}: {error}") from error
    _require_unique(path, "name", [record.key.name for record in records])
    _require_unique(path, "sha256", [record.sha256 for record in records])
    return tuple(records)


def _read(path: Path) -> bytes:
    """Reads the bytes of a regular file.

    `storage` is imported only if that fails: its import takes longer than all else that a command
    on keys does.

    Raises:
        ImageError: as `storage.read`.
    """
    with contextlib.suppress(OSError):
        if path.is_file():
            return path.read_bytes()
    from beam_upscale import storage

    return storage.read(str(path))


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
        path: of the file.
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
        record = _record(values)
    except ValueError as error:
        raise _invalid(f"a key {name!r} cannot be: {error}") from error

    def added(records: Sequence[KeyRecord]) -> list[KeyRecord]:
        for other in records:
            if other.key.name == name:
                state = "was revoked" if other.revoked else "is there"
                raise _invalid(f"a key {name!r} {state} in {path}; take another name")
        return [*records, record]

    _change(path, added, make=True)
    return token


def revoke_key(path: Path | str, name: str) -> None:
    """Makes a key invalid for good.

    Raises:
        SettingsError: INVALID_OPTION, there is no key of that name.
    """

    def revoked(record: KeyRecord) -> KeyRecord:
        return dataclasses.replace(record, revoked=True)

    _change_one(path, name, revoked)


def credit_key(path: Path | str, name: str, added: Decimal) -> Decimal:
    """Grants a key more credits.

    Args:
        path: of the file.
        name: of the key.
        added: credits, 0 or more, a multiple of 1/10,000.

    Returns:
        The credits that the key is granted in total.

    Raises:
        SettingsError: INVALID_OPTION, there is no such key, it is revoked or has no limit, or the
            amount is invalid.
    """
    granted = Decimal(0)

    def credited(record: KeyRecord) -> KeyRecord:
        nonlocal granted
        if record.revoked:
            raise _invalid(f"the key {name!r} is revoked")
        if record.key.credits is None:
            raise _invalid(f"the key {name!r} has no limit of credits that could be raised")
        try:
            granted = _credits(record.key.credits + _credits(added))
        except ValueError as error:
            raise _invalid(f"the key {name!r} cannot be credited: {error}") from error
        return dataclasses.replace(record, key=dataclasses.replace(record.key, credits=granted))

    _change_one(path, name, credited)
    return granted


def _valid_keys(records: Sequence[KeyRecord]) -> Mapping[str, Key]:
    return {record.sha256: record.key for record in records if not record.revoked}


def _record(values: Any) -> KeyRecord:
    if not isinstance(values, Mapping):
        raise ValueError("it is no JSON object")
    known = {
        *("name", "sha256", "created_at", "credits", "max_in_flight"),
        *("requests_per_second", "revoked"),
    }
    # A limit with a misspelled name would set no limit.
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"it has {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    name, sha256 = values.get("name"), values.get("sha256")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ValueError(
            "a name is 1 to 64 letters, digits, dots, hyphens and underscores, and begins with a "
            f"letter or a digit, not {name!r}"
        )
    if name == ANONYMOUS.name:
        raise ValueError(f"the name {name!r} is that of callers without a key")
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        # The message does not quote the value, which may be a key that somebody did not hash.
        raise ValueError("sha256 must be 64 hexadecimal digits in lower case")
    revoked = values.get("revoked", False)
    if not isinstance(revoked, bool):
        raise ValueError(f"revoked must be true or false, not {revoked!r}")
    key = Key(
        name=name,
        credits=_optional(_credits, values.get("credits")),
        max_in_flight=_optional(_max_in_flight, values.get("max_in_flight")),
        requests_per_second=_optional(_requests_per_second, values.get("requests_per_second")),
    )
    return KeyRecord(key, sha256, str(values.get("created_at", "")), revoked)


def _optional(convert: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else convert(value)


def _credits(value: Any) -> Decimal:
    """Converts a string or a number of JSON to an exact amount of credits."""
    error = ValueError(
        f"credits must be a multiple of {CREDIT_STEP} from 0 to {MAX_CREDITS:,}, not {value!s}"
    )
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise error
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise error from None
    if not amount.is_finite() or not 0 <= amount <= MAX_CREDITS or amount % CREDIT_STEP:
        raise error
    return amount


def _max_in_flight(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"max_in_flight must be a whole number of 1 or more, not {value!s}")
    return value


def _requests_per_second(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"requests_per_second must be a number above 0, not {value!s}")
    rate = float(value)
    if not math.isfinite(rate) or rate <= 0:
        raise ValueError(f"requests_per_second must be a number above 0, not {value!s}")
    return rate


def _require_unique(path: Path | str, what: str, values: Sequence[str]) -> None:
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise _invalid(f"the keys {path}: two lines have the {what} {twice!r}")


def _change_one(path: Path | str, name: str, change: Callable[[KeyRecord], KeyRecord]) -> None:
    def changed(records: Sequence[KeyRecord]) -> list[KeyRecord]:
        if all(record.key.name != name for record in records):
            raise _invalid(f"there is no key {name!r} in {path}")
        return [change(record) if record.key.name == name else record for record in records]

    _change(path, changed)


def _change(
    path: Path | str,
    change: Callable[[Sequence[KeyRecord]], Sequence[KeyRecord]],
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
            raise _invalid(f"the keys {path} are no file")
        if make and not target.parent.is_dir():
            raise _invalid(f"the keys {path} cannot be made: {target.parent} is no folder")
        if not make and not target.exists():
            raise _invalid(f"the keys {path} cannot be changed: there is no {target}")
        with FileLock(f"{target}.lock", mode=0o600):
            records = () if make and not target.exists() else read_keys(target)
            text = "".join(_line(record) for record in change(records))
            _replace(target, text.encode())
    except OSError as error:
        raise _invalid(f"the keys {path} cannot be written: {reason(error, of=path)}") from error


def _line(record: KeyRecord) -> str:
    key = record.key
    values = {
        "name": key.name,
        "sha256": record.sha256,
        "created_at": record.created_at,
        "credits": None if key.credits is None else f"{key.credits:f}",
        "max_in_flight": key.max_in_flight,
        "requests_per_second": key.requests_per_second,
        "revoked": record.revoked,
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


def _invalid(message: str) -> SettingsError:
    return SettingsError(ErrorCode.INVALID_OPTION, message)
