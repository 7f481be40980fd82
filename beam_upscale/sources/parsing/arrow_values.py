"""Converts Arrow tables to Python values, of types that every manifest can hold.

Times are in microseconds, or text if they are finer than that; UUIDs are text. Arrow can hold
values that Python cannot: a date after the year 9999 or before the year 1, nanoseconds, a time in a
zone that this machine does not know, a text that is not UTF-8, a struct with two members of one
name. Such a value never prevents the conversion of the others.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pyarrow as pa

from beam_upscale.dataset.manifest.json_values import DEEPEST

# The exceptions that values raise which Python cannot hold; Arrow's own errors among them.
_NOT_HELD = (ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException)

_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SECONDS_PER_DAY = 24 * 60 * 60
_MILLISECONDS_PER_DAY = _SECONDS_PER_DAY * 1000

# The Gregorian calendar repeats itself after this many years, which are this many days.
_CYCLE_YEARS = 400
_CYCLE_DAYS = 146_097


def rows_of_arrow(table: pa.Table) -> list[dict[str, Any]]:
    """Converts a table to rows.

    Returns:
        A dictionary of values by column for each row, as Arrow gives them, with the exceptions
        above. A time in an unknown zone is in UTC; a date or a time that Python cannot hold is text
        in ISO 8601; a duration that it cannot hold is text with its unit; bytes in a text that are
        not UTF-8 are escaped; a struct with two members of one name is a list of pairs; a value
        that is nested too deeply is JSON as text, or None.
    """
    columns = [_values(column) for column in table.columns]
    if not columns:
        return [{} for _ in range(table.num_rows)]
    names = table.column_names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    kind = column.type
    if _depth(kind) > DEEPEST:
        return [_deep_text(value) for value in column]
    # Only pandas has a type for nanoseconds.
    plain = _microseconds(kind)
    if plain is not kind:
        try:
            column = column.cast(plain)
        except pa.ArrowInvalid:
            # A time is finer than a microsecond: all become text, so that the column has one type.
            return [_leaf_text(each) if each.is_valid else None for each in column]
    if not any(map(_is_converted, types_in(plain))):
        with contextlib.suppress(*_NOT_HELD):
            return cast(list[Any], column.to_pylist())
    return [_value(each) for each in column]


def _depth(kind: pa.DataType) -> int:
    """Counts the levels of a nested type, without recursion, which deep types would exhaust."""
    depth, level = 0, [kind]
    while level:
        depth += 1
        level = [child for each in level for child in _children(each)]
    return depth - 1


def types_in(kind: pa.DataType) -> Iterator[pa.DataType]:
    """Yields a type and the types nested in it."""
    ahead = [kind]
    while ahead:
        found = ahead.pop()
        yield found
        ahead += _children(found)


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if isinstance(kind, pa.BaseExtensionType):
        return [kind.storage_type]
    if pa.types.is_dictionary(kind):
        return [kind.value_type]
    return [kind.field(index).type for index in range(kind.num_fields)]


def _is_converted(kind: pa.DataType) -> bool:
    """Checks whether values of a type are always converted, never taken as Arrow gives them."""
    return isinstance(kind, pa.UuidType) or _microseconds(kind) is not kind


def _microseconds(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    return kind


def _value(scalar: pa.Scalar) -> Any:
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if isinstance(kind, pa.UuidType):
        return str(scalar.as_py())
    if isinstance(kind, pa.BaseExtensionType):
        return _extended(scalar)
    if pa.types.is_struct(kind):
        return _members([field.name for field in kind], (scalar[i] for i in range(len(kind))))
    if pa.types.is_map(kind):
        pairs = scalar.values
        return [(_value(k), _value(v)) for k, v in zip(pairs.field(0), pairs.field(1), strict=True)]
    if kind.num_fields:
        return [_value(each) for each in scalar.values]
    return _value(scalar.value) if pa.types.is_dictionary(kind) else _leaf(scalar)


def _extended(scalar: pa.ExtensionScalar) -> Any:
    with contextlib.suppress(*_NOT_HELD):
        return scalar.as_py()
    return _value(scalar.value)


def _members(names: list[str], values: Iterable[pa.Scalar]) -> Any:
    pairs = [[name, _value(each)] for name, each in zip(names, values, strict=True)]
    return dict(pairs) if len({*names}) == len(names) else pairs


def _leaf(scalar: pa.Scalar) -> Any:
    plain = _microseconds(scalar.type)
    if plain is not scalar.type:
        try:
            scalar = scalar.cast(plain)
        except pa.ArrowInvalid:
            return _leaf_text(scalar)
    with contextlib.suppress(*_NOT_HELD):
        return scalar.as_py()
    kind = scalar.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        with contextlib.suppress(*_NOT_HELD):
            return pa.scalar(scalar.value, pa.timestamp(kind.unit, "UTC")).as_py()
    return _leaf_text(scalar)


def _leaf_text(scalar: pa.Scalar) -> str | None:
    """Returns a value that Python cannot hold as text; None if it has no text form."""
    kind = scalar.type
    if pa.types.is_date32(kind):
        return _date_text(scalar.value)
    if pa.types.is_date64(kind):
        return _date_text(scalar.value // _MILLISECONDS_PER_DAY)
    if pa.types.is_timestamp(kind):
        return _timestamp_text(scalar.value, kind)
    if pa.types.is_time(kind) and kind.unit == "ns":
        return _clock_text(scalar.value, kind.unit)
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        return f"{scalar.value} {kind.unit}"
    if hasattr(scalar, "as_buffer"):
        return bytes(scalar.as_buffer()).decode(errors="backslashreplace")
    return None


def _timestamp_text(value: int, kind: pa.TimestampType) -> str:
    days, rest = divmod(value, _SECONDS_PER_DAY * _UNITS_PER_SECOND[kind.unit])
    # Whatever the zone, Arrow counts from an instant in UTC.
    return f"{_date_text(days)}T{_clock_text(rest, kind.unit)}{'' if kind.tz is None else 'Z'}"


def _clock_text(value: int, unit: str) -> str:
    per_second = _UNITS_PER_SECOND[unit]
    second, fraction = divmod(value, per_second)
    digits = f".{fraction:0{len(str(per_second)) - 1}}" if fraction else ""
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}{digits}"


def _date_text(days: int) -> str:
    """Formats a day, counted from 1970-01-01, in ISO 8601; years beyond four digits have a sign."""
    # As Howard Hinnant's civil_from_days: years begin in March, so that a leap day is their last.
    cycle, day = divmod(days + 719_468, _CYCLE_DAYS)
    year = (day - day // 1460 + day // 36_524 - day // (_CYCLE_DAYS - 1)) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    month = month + 3 if month < 10 else month - 9
    year += cycle * _CYCLE_YEARS + (month <= 2)
    text = f"{year:04}" if 0 <= year <= 9999 else f"{year:+05}"
    return f"{text}-{month:02}-{day + 1:02}"


def _deep_text(scalar: pa.Scalar) -> str | None:
    try:
        return json.dumps(scalar.as_py(), default=str)
    except (*_NOT_HELD, RecursionError):
        return None
