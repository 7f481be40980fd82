"""Reads and checks the file of API keys."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from beam_upscale.errors import ErrorCode, ImageError, SettingsError, reason
from beam_upscale.storage import files

CREDIT_STEP = Decimal("0.0001")
"""The smallest amount that is accounted for, in credits."""

MAX_CREDITS = Decimal(10**12)
"""The most credits that a key may be granted."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
class KeyEntry:
    """A line of the file of keys.

    Attributes:
        key: its name and limits.
        sha256: the SHA-256 of the key, in hexadecimal.
        created_at: time of its creation, in ISO 8601.
        revoked: True if it is refused for good. Its line stays, so that no other key gets its
            name, and with it its charges and results.
    """

    key: Key
    sha256: str
    created_at: str
    revoked: bool = False


def sha256_of(token: str) -> str:
    """Returns the SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path | str) -> tuple[KeyEntry, ...]:
    """Reads all keys of a file, in its order, revoked ones included.

    Raises:
        SettingsError: INVALID_OPTION, the file cannot be read or holds a line that is no key.
    """
    try:
        text = files.read(str(Path(path).absolute())).decode()
    except ImageError as error:
        raise invalid(f"the keys: {error.message}") from error
    except UnicodeDecodeError as error:
        raise invalid(f"the keys {path} cannot be read: {reason(error)}") from error
    entries: list[KeyEntry] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entries.append(key_entry(json.loads(line, parse_float=Decimal)))
        except (json.JSONDecodeError, RecursionError) as error:
            raise invalid(f"the keys {path}, line {number}, are not JSON") from error
        except ValueError as error:
            raise invalid(f"the keys {path}, line {number}: {error}") from error
    _require_unique(path, "name", [entry.key.name for entry in entries])
    _require_unique(path, "sha256", [entry.sha256 for entry in entries])
    return tuple(entries)


def valid_keys(entries: Sequence[KeyEntry]) -> Mapping[str, Key]:
    """Returns the keys that are not revoked, by their SHA-256."""
    return {entry.sha256: entry.key for entry in entries if not entry.revoked}


def key_entry(values: Any) -> KeyEntry:
    """Parses one line of the file of keys.

    Raises:
        ValueError: the line is no key; the message says why.
    """
    if not isinstance(values, Mapping):
        raise ValueError("it is not a JSON object")
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
        credits=_optional(credits_of, values.get("credits")),
        max_in_flight=_optional(_max_in_flight, values.get("max_in_flight")),
        requests_per_second=_optional(_requests_per_second, values.get("requests_per_second")),
    )
    return KeyEntry(key, sha256, str(values.get("created_at", "")), revoked)


def _optional(convert: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else convert(value)


def credits_of(value: Any) -> Decimal:
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
        raise invalid(f"the keys {path}: two lines have the {what} {twice!r}")


def invalid(message: str) -> SettingsError:
    """Returns the error for a bad name, limit or file of keys: INVALID_OPTION."""
    return SettingsError(ErrorCode.INVALID_OPTION, message)
