"""The dataset's own columns: one Arrow type for those of all inputs, and values of that type.

Readers open the files of a dataset together and need the same columns in each. So the type covers
the values of all inputs, also in a file that holds only some of them.

A column whose values have no common type, or none that Arrow and Parquet can hold, is text: each
value as JSON, in the form of `manifest.json_values`. The field's metadata distinguishes such a
column from an ordinary text column, in Parquet too.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale.dataset.manifest.json_values import from_json, to_json

_JSON_TEXT = MappingProxyType({b"beam_upscale": b"json"})

# The input's file name is the first column.
_FIRST = "file_name"

# Values nested deeper become JSON text: readers of Parquet limit the depth.
_DEEPEST = 32

_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)
# Whole numbers that a double holds exactly.
_EXACT_IN_DOUBLE = range(-(2**53), 2**53 + 1)
_MOST_DECIMAL_DIGITS = 76


def infer_input_type(columns: Iterable[Mapping[str, Any]]) -> pa.StructType | None:
    """Infers the Arrow type that holds the columns of all inputs.

    Integers mixed with floats become doubles if all are exact as doubles; times of several zones
    become UTC; objects get the union of their members. A column without values has the type null.

    Args:
        columns: the columns of each input; their order does not change the answer. Read once, and
            not held in memory.

    Returns:
        A struct with `file_name` first and the others sorted by name; None if there is no column. A
        column whose name is not valid Unicode is left out: no store accepts it.
    """
    seen: defaultdict[str, _Seen] = defaultdict(_Seen)
    for each in columns:
        for name, value in each.items():
            if _is_field_name(name):
                seen[name].add(value)
    if not seen:
        return None
    names = sorted(seen, key=lambda name: (name != _FIRST, name))
    return pa.struct([_field(name, seen[name].arrow_type()) for name in names])


def _field(name: str, kind: pa.DataType | None) -> pa.Field:
    if kind is None:
        return pa.field(name, pa.string(), metadata=dict(_JSON_TEXT))
    return pa.field(name, kind)


class _Seen:
    """The properties of a column's values that decide on its type.

    The order in which values are added does not matter: each property is a union or an extreme.
    """

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._scalars: set[pa.DataType] = set()
        self._least_int = self._greatest_int = 0
        self._digits_before_point = self._digits_after_point = 0
        self._items: _Seen | None = None
        self._members: defaultdict[str, _Seen] | None = None
        self._has_no_type = False

    def add(self, value: Any) -> None:
        """Adds a value; None does not affect the type."""
        if hasattr(value, "tolist"):
            # NumPy's scalars and arrays.
            value = value.tolist()
        match value:
            case None:
                return
            case bool():
                self._scalars.add(pa.bool_())
            case int():
                self._scalars.add(pa.int64())
                self._least_int = min(self._least_int, value)
                self._greatest_int = max(self._greatest_int, value)
            case float():
                self._scalars.add(pa.float64())
            case str() if _is_unicode(value):
                self._scalars.add(pa.string())
            case Decimal() if value.is_finite():
                self._add_decimal(value)
            case list() | tuple() if self._depth < _DEEPEST:
                self._add_items(value)
            case Mapping() if self._depth < _DEEPEST and all(map(_is_field_name, value)):
                self._add_members(value)
            case str() | Decimal() | list() | tuple() | Mapping():
                self._has_no_type = True
            case _:
                self._add_scalar(value)

    def _add_decimal(self, value: Decimal) -> None:
        exponent = value.as_tuple().exponent
        assert isinstance(exponent, int)
        self._scalars.add(pa.decimal128(1))
        self._digits_after_point = max(self._digits_after_point, -exponent)
        if value:
            # A zero needs no digits before the point: Arrow writes it with any number of them.
            self._digits_before_point = max(self._digits_before_point, value.adjusted() + 1)

    def _add_items(self, values: Iterable[Any]) -> None:
        self._items = self._items or _Seen(self._depth + 1)
        for each in values:
            self._items.add(each)

    def _add_members(self, values: Mapping[str, Any]) -> None:
        if self._members is None:
            self._members = defaultdict(lambda: _Seen(self._depth + 1))
        for name, each in values.items():
            self._members[name].add(each)

    def _add_scalar(self, value: Any) -> None:
        try:
            scalar = pa.scalar(value)
            is_kept = scalar.as_py() == value
        except (ArithmeticError, TypeError, ValueError):
            is_kept = False
        if is_kept:
            self._scalars.add(scalar.type)
        else:
            self._has_no_type = True

    def arrow_type(self) -> pa.DataType | None:
        """Returns the type that holds all values; None if there is none."""
        is_scalar, is_list = bool(self._scalars), self._items is not None
        is_struct = self._members is not None
        if self._has_no_type or is_scalar + is_list + is_struct > 1:
            return None
        if self._items is not None:
            kind = self._items.arrow_type()
            return None if kind is None else pa.list_(kind)
        if self._members is not None:
            return _struct({name: each.arrow_type() for name, each in self._members.items()})
        return self._scalar_type() if is_scalar else pa.null()

    def _scalar_type(self) -> pa.DataType | None:
        if self._scalars == {pa.int64()}:
            return self._whole_number_type()
        if self._scalars == {pa.int64(), pa.float64()}:
            return pa.float64() if self._has_ints_within(_EXACT_IN_DOUBLE) else None
        if self._scalars == {pa.decimal128(1)}:
            return self._decimal_type()
        if len(self._scalars) == 1:
            return next(iter(self._scalars))
        in_zones = all(pa.types.is_timestamp(kind) and kind.tz for kind in self._scalars)
        return pa.timestamp("us", "UTC") if in_zones else None

    def _whole_number_type(self) -> pa.DataType | None:
        if self._has_ints_within(_INT64):
            return pa.int64()
        return pa.uint64() if self._has_ints_within(_UINT64) else None

    def _has_ints_within(self, limits: range) -> bool:
        return self._least_int in limits and self._greatest_int in limits

    def _decimal_type(self) -> pa.DataType | None:
        scale = self._digits_after_point
        precision = max(1, self._digits_before_point + scale)
        if precision > _MOST_DECIMAL_DIGITS:
            return None
        return (
            pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
        )


def _struct(members: Mapping[str, pa.DataType | None]) -> pa.StructType | None:
    # Parquet has no struct without fields.
    if not members or None in members.values():
        return None
    return pa.struct(sorted(members.items()))


def _is_unicode(text: str) -> bool:
    """Checks whether a text is valid Unicode, i.e. has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_field_name(name: object) -> bool:
    return isinstance(name, str) and _is_unicode(name)


def struct_array(
    columns: Sequence[Mapping[str, Any]], input_type: pa.StructType | None = None
) -> pa.Array:
    """Converts the inputs' columns to an array of structs, which `from_struct_array` reads.

    Args:
        columns: the columns of each input.
        input_type: the type of the array; None infers it from these inputs.

    Returns:
        An array as long as `columns`; all nulls if no input has columns.

    Raises:
        pa.ArrowException, TypeError, ValueError, OverflowError: a value is not of that type.
    """
    kind = infer_input_type(columns) if input_type is None else input_type
    if kind is None:
        return pa.nulls(len(columns))
    as_text = _json_columns(kind)
    return pa.array([_with_text(each, as_text) for each in columns], type=kind)


def _with_text(columns: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {
        name: json.dumps(to_json(value)) if name in names and value is not None else value
        for name, value in columns.items()
    }


def from_struct_array(structs: pa.Array | pa.ChunkedArray) -> Iterator[dict[str, Any]]:
    """Yields the columns of each input; None for a column in which only others have a value."""
    names = _json_columns(structs.type)
    for values in structs.to_pylist():
        found = dict(values or {})
        for name in names:
            if found.get(name) is not None:
                found[name] = from_json(json.loads(found[name]))
        yield found


def _json_columns(kind: pa.DataType) -> frozenset[str]:
    if not pa.types.is_struct(kind):
        return frozenset()
    return frozenset(
        field.name for field in kind if (field.metadata or {}).items() >= _JSON_TEXT.items()
    )


def stored_type(input_type: pa.StructType | None) -> pa.DataType:
    """Returns a type as Parquet reads it back; details such as names of list items may change."""
    kind = pa.null() if input_type is None else input_type
    file = pa.BufferOutputStream()
    pq.write_table(pa.schema([("input", kind)]).empty_table(), file)
    return pq.read_schema(pa.BufferReader(file.getvalue())).field("input").type


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type of the values that `plain_value` gives: plain JSON without type marks."""
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, plain_type(field.type)) for field in kind])
    if _is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_integer(kind):
        # Readers of JSON hold integers in at most 64 bits with a sign.
        return pa.string() if pa.types.is_uint64(kind) else kind
    return kind if pa.types.is_null(kind) or pa.types.is_boolean(kind) else pa.string()


def plain_value(value: Any, kind: pa.DataType) -> Any:
    """Converts a value, as Arrow gives it, to plain JSON.

    Values without a JSON type become text: decimals and unsigned 64-bit integers as their digits,
    dates and times in ISO 8601, durations as microseconds, bytes in base64, anything else as a JSON
    text. NaN and infinities become None.

    Args:
        value: a value of the type `kind`, or None.
        kind: its Arrow type.

    Returns:
        A value of the type `plain_type(kind)`, or None.
    """
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: plain_value(value[field.name], field.type) for field in kind}
    if _is_list(kind):
        return [plain_value(each, kind.value_type) for each in value]
    if pa.types.is_floating(kind):
        return value if math.isfinite(value) else None
    return _plain_text(value) if pa.types.is_string(plain_type(kind)) else value


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _plain_text(value: Any) -> str:
    in_json = to_json(value)
    if isinstance(in_json, str):
        return in_json
    if isinstance(in_json, Mapping) and not isinstance(value, Mapping):
        # The text without its type mark.
        (in_json,) = in_json.values()
        return str(in_json)
    return json.dumps(in_json, default=str)


def are_stored_alike(
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    input_type: pa.StructType | None = None,
) -> bool:
    """Checks whether the columns of two inputs are equal once they are stored.

    As doubles, 3 equals 3.0; as JSON text it does not. Columns that the type lacks are ignored.

    Args:
        one: the columns of an input.
        other: the columns of the other input.
        input_type: the type they are stored with; None infers one that holds both.
    """
    kind = infer_input_type([one, other]) if input_type is None else input_type
    if kind is None:
        return True
    try:
        return _stored_text(one, kind) == _stored_text(other, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # A value that does not fit the type differs from any stored value.
        return False


def _stored_text(columns: Mapping[str, Any], kind: pa.StructType) -> str:
    """Returns a text that is equal for equal values of one type; NaN equals NaN here."""
    return json.dumps(to_json(struct_array([columns], kind).to_pylist()))
