"""Converts values to JSON and back, exactly: types that JSON lacks are marked by name."""

import base64
import datetime as dt
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from beam_upscale.errors import shortened

# Characters of a value in a message.
_LONGEST_SHOWN = 40

# Python writes and reads whole numbers of any number of digits up to 640; beyond, a limit that can
# be set applies (sys.set_int_max_str_digits). This many bits have at most 617 digits.
_DECIMAL_INT_BITS = 2048

DEEPEST = 100
"""The deepest nesting of a value of a dataset; readers and writers of JSON are recursive."""

# Types that JSON lacks and that occur in datasets' own columns; prices are decimals too.
_MARKED: Mapping[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = MappingProxyType(
    {
        "$int": (int, hex, lambda digits: int(digits, 16)),
        "$decimal": (Decimal, str, Decimal),
        "$bytes": (bytes, lambda data: base64.b64encode(data).decode(), base64.b64decode),
        "$datetime": (dt.datetime, dt.datetime.isoformat, dt.datetime.fromisoformat),
        "$date": (dt.date, dt.date.isoformat, dt.date.fromisoformat),
        "$time": (dt.time, dt.time.isoformat, dt.time.fromisoformat),
        "$timedelta": (
            dt.timedelta,
            lambda delta: str(delta // dt.timedelta(microseconds=1)),
            lambda text: dt.timedelta(microseconds=int(text)),
        ),
    }
)
# The marks of values of exactly these types, which are found at once.
_MARK_OF = MappingProxyType(
    {kind: mark for mark, (kind, _, _) in _MARKED.items() if kind is not int}
)

# Marks a dataset's own dictionary whose only key looks like a mark.
_ESCAPE = "$escaped"

_MARKS = frozenset({*_MARKED, _ESCAPE})

OF_JSON = frozenset({str, float, bool, type(None)})
"""The types of most values, which `to_json` leaves as they are; small whole numbers stay too."""

# The same of values that were read from JSON.
_FROM_JSON = frozenset({*OF_JSON, int})

# The types of keys that `json` takes.
_KEYS = (str, int, float, type(None))


def to_json(value: Any) -> Any:
    """Converts a value to JSON's types; NumPy's scalars and arrays become Python's, tuples lists.

    A value of an unknown type becomes its text, and so does a value that is nested far more deeply
    than `DEEPEST`.
    """
    return _to_json(value, 4 * DEEPEST)


def _to_json(value: Any, deepest: int) -> Any:
    if type(value) in OF_JSON:
        return value
    if isinstance(value, int) and value.bit_length() <= _DECIMAL_INT_BITS:
        return value
    if (mark := _MARK_OF.get(type(value))) is not None:
        return {mark: _MARKED[mark][1](value)}
    if isinstance(value, Mapping):
        if not deepest:
            return _deep_text(value)
        values: dict[Any, Any] = {}
        # A comprehension would add one more call at each level of nesting.
        for name, each in value.items():
            key = name if isinstance(name, _KEYS) else str(name)
            values[key] = each if type(each) in OF_JSON else _to_json(each, deepest - 1)
        return {_ESCAPE: values} if len(values) == 1 and next(iter(values)) in _MARKS else values
    if hasattr(value, "tolist"):
        return _to_json(value.tolist(), deepest)
    if isinstance(value, list | tuple):
        if not deepest:
            return _deep_text(value)
        items: list[Any] = []
        for each in value:
            items.append(_to_json(each, deepest - 1))  # noqa: PERF401 (as above)
        return items
    for mark, (kind, encode, _) in _MARKED.items():
        if isinstance(value, kind):
            return {mark: encode(value)}
    return value if isinstance(value, str | float | None) else str(value)


def _deep_text(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except (RecursionError, TypeError, ValueError):
        return "nested too deeply"


json_text = json.JSONEncoder(check_circular=False).encode
"""Returns a result of `to_json` as `json.dumps` does, in half the time: it contains no cycle."""


def from_json(value: Any) -> Any:
    """Converts a result of `to_json` back to the value."""
    if type(value) in _FROM_JSON:
        return value
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((mark, inner),) = value.items()
        if mark in _MARKED:
            return _MARKED[mark][2](inner)
        if mark == _ESCAPE:
            value = inner
    return {
        name: each if type(each) in _FROM_JSON else from_json(each) for name, each in value.items()
    }


def parsed(text: str | bytes) -> Any:
    """Parses a JSON text; a whole number with more digits than Python reads stays a text.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested more deeply than can be read.
    """
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        return json.loads(text, parse_int=_whole_number)


def json_problem(error: ValueError | RecursionError) -> str:
    """Describes, in plain words, why `parsed` rejected a text."""
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON from column {error.colno:,} on"
    if isinstance(error, RecursionError):
        return "it is nested more deeply than can be read"
    return "it is not JSON"


def shown_json(value: object) -> str:
    """Returns a value from JSON as a JSON text for a message, cut if it is long."""
    return shortened(json.dumps(value, ensure_ascii=False), _LONGEST_SHOWN)


def _whole_number(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


def is_unicode(value: object) -> bool:
    """Checks whether all texts of a value from JSON are valid Unicode, which every store takes."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def without_deep(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turns the columns' values that are nested more deeply than `DEEPEST` into JSON texts."""
    if not any(isinstance(value, dict | list) for value in columns.values()):
        return columns
    return {
        name: json.dumps(value) if _is_deep(value) else value for name, value in columns.items()
    }


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
