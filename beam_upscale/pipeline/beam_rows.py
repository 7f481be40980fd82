"""Inputs and results as Beam rows, with fields that Beam YAML and SQL can read.

An input's row has the field `SOURCE`, the pickled input. A result's row has `RESULT`, the pickled
result, and `IMAGE`, the encoded image. The steps of this package read these fields alone. All other
fields are for users: they may be changed or dropped on the way.
"""

import dataclasses
import functools
import hashlib
import json
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Optional, TypeVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import named_fields_from_element_type

from beam_upscale.dataset.manifest.json_values import is_unicode, to_json
from beam_upscale.dataset.manifest.row import COLUMNS, Status
from beam_upscale.dataset.manifest.totals import Totals
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.input_state import state_of
from beam_upscale.sources.inputs.source_image import SourceImage

SOURCE = "source"
"""The field that carries an input to `Upscale`."""

RESULT = "result"
"""The field that carries a result, without its image, to `WriteDataset`."""

IMAGE = "image"
"""The field of the encoded image; null unless this run upscaled it, and if it is in a file."""

_COLUMNS_JSON = "columns_json"

_Carried = TypeVar("_Carried")

Fields = Sequence[tuple[str, Any]]
"""The names of a row's fields with their types."""

_INPUT_FIELDS: Fields = (
    ("input_id", str),
    ("source_uri", str),
    ("name", str),
    (_COLUMNS_JSON, str),
)

# Nullable types in the form that Beam knows; it does not know X | None.
_TYPES: Mapping[pa.DataType, Any] = MappingProxyType(
    {
        pa.string(): Optional[str],  # noqa: UP045
        pa.int32(): Optional[int],  # noqa: UP045
        pa.int64(): Optional[int],  # noqa: UP045
        pa.float64(): Optional[float],  # noqa: UP045
    }
)


@dataclasses.dataclass(frozen=True)
class RowImage(SourceImage):
    """An input that came as a row.

    Attributes:
        fields: the fields of that row that the result's row gets too.
    """

    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def input_type(columns: Mapping[str, str]) -> RowTypeConstraint:
    """Returns the type of inputs' rows.

    Args:
        columns: the inputs' columns that become fields, with their types: string, integer, number
            or boolean.

    Raises:
        SettingsError: INVALID_OPTION, a type is none of these, or a name is no identifier or taken.
    """
    taken = {name for name, _ in _INPUT_FIELDS} | {SOURCE}
    fields = list(_INPUT_FIELDS)
    for name, kind in columns.items():
        if kind not in _COLUMN_TYPES:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"the type of the column {name} is {kind!r}; it must be one of "
                f"{', '.join(_COLUMN_TYPES)}",
            )
        if name in taken or not name.isidentifier():
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"the column {name!r} cannot be a field: fields have names as Python's variables "
                f"do, and {', '.join(sorted(taken))} are taken; read it from {_COLUMNS_JSON}",
            )
        fields.append((name, _COLUMN_TYPES[kind].beam_type))
    return RowTypeConstraint.from_fields([*fields, (SOURCE, bytes)])


def input_row(source: SourceImage, columns: Mapping[str, str]) -> beam.Row:
    """Converts an input to a row of the type `input_type`; a value of another type becomes null."""
    own = {
        name: _COLUMN_TYPES[kind].convert(source.columns.get(name))
        for name, kind in columns.items()
    }
    return beam.Row(
        input_id=source.input_id,
        source_uri=source.source_uri,
        name=source.name,
        **{_COLUMNS_JSON: json.dumps(to_json(source.columns), default=str)},
        **own,
        **{SOURCE: pickle.dumps(source)},
    )


def source_of(row: Any, passed: Collection[str]) -> RowImage:
    """Unpickles the input that a row carries.

    Args:
        row: a row of the type `input_type`; fields may have been added, changed and dropped.
        passed: the names of the fields that the result's row gets too.

    Raises:
        SettingsError: INVALID_FIELD, the row does not carry an input.
    """
    source = _carried(row, SOURCE, SourceImage, "ReadImages")
    values = {field.name: getattr(source, field.name) for field in dataclasses.fields(SourceImage)}
    return RowImage(**values, fields={name: getattr(row, name) for name in passed})


def passed_fields(element_type: Any) -> Fields:
    """Returns the fields of inputs' rows that their results' rows get too.

    These are all fields except `SOURCE` and those whose names a result's row uses itself. The list
    is empty if the rows' fields are not known.
    """
    own = {name for name, _ in (*_manifest_fields(), (SOURCE, bytes), *_RESULT_FIELDS)}
    return [(name, kind) for name, kind in _fields_of(element_type) or () if name not in own]


_RESULT_FIELDS: Fields = ((IMAGE, Optional[bytes]), (RESULT, bytes))  # noqa: UP045


def result_type(passed: Fields) -> RowTypeConstraint:
    """Returns the type of results' rows: the manifest's columns and the inputs' passed fields."""
    return RowTypeConstraint.from_fields([*_manifest_fields(), *passed, *_RESULT_FIELDS])


def result_row(upscaled: UpscaledImage) -> beam.Row:
    """Converts a result of a `RowImage` to a row of the type `result_type`."""
    source = upscaled.source
    assert isinstance(source, RowImage)
    row = None if upscaled.record is None else upscaled.record.row
    known = {"input_id": source.input_id, "source_uri": source.source_uri}
    carried = dataclasses.replace(
        upscaled, source=dataclasses.replace(source, fields={}), data=None
    )
    return beam.Row(
        **{
            field.name: _value(
                known.get(field.name) if row is None else getattr(row, field.name), field.type
            )
            for field in COLUMNS
        },
        **source.fields,
        **{IMAGE: upscaled.data, RESULT: pickle.dumps(carried)},
    )


def result_of(row: Any) -> UpscaledImage:
    """Unpickles the result that a row carries, with its image.

    Args:
        row: a row of the type `result_type`; fields may have been added, changed and dropped.

    Raises:
        SettingsError: INVALID_FIELD, the row carries no result, or not the result's image.
    """
    carried = _carried(row, RESULT, UpscaledImage, "Upscale")
    data = getattr(row, IMAGE, None)
    row_then = None if carried.record is None else carried.record.row
    is_earlier = state_of(carried.source).earlier is not None
    if row_then is None or is_earlier or carried.file is not None:
        return carried
    found = None if data is None else hashlib.sha256(data).hexdigest()
    if found != row_then.output_sha256:
        state = "is missing" if data is None else "is not the one that Upscale made"
        raise SettingsError(
            ErrorCode.INVALID_FIELD,
            f"the image of {row_then.input_id} {state}: hand the field {IMAGE} on from Upscale to "
            "WriteDataset as it is",
        )
    return dataclasses.replace(carried, data=data)


def require_fields(rows: Any, names: Collection[str], step: str, origin: str) -> None:
    """Raises if the element type of a step's input lacks fields that the step needs.

    Args:
        rows: the PCollection; if its element type is unknown, nothing is raised.
        names: the names of the fields.
        step: the step's name, for the message.
        origin: the name of the step that adds the fields, for the message.

    Raises:
        SettingsError: INVALID_FIELD.
    """
    fields = _fields_of(rows.element_type)
    if fields is None:
        return
    found = [name for name, _ in fields]
    missing = sorted(set(names) - set(found))
    if missing:
        raise SettingsError(
            ErrorCode.INVALID_FIELD,
            f"{step} needs the field {' and '.join(missing)} that {origin} adds, and its input has "
            f"{', '.join(found)}; hand it on: with append: true a MapToFields keeps what it does "
            "not name",
        )


def totals_type() -> RowTypeConstraint:
    """Returns the type of totals' rows: sums, and for each status a field with its row count."""
    return RowTypeConstraint.from_fields(
        [
            ("rows", int),
            *((str(status), int) for status in Status),
            *(("calls", int), ("credits", Decimal), ("billed_credits", Decimal), ("usd", Decimal)),
            ("output_bytes", int),
        ]
    )


def totals_row(totals: Totals) -> beam.Row:
    """Converts a dataset's totals to a row of the type `totals_type`."""
    return beam.Row(
        rows=totals.rows,
        **{str(status): totals.by_status.get(status, 0) for status in Status},
        calls=totals.calls,
        credits=totals.credits,
        billed_credits=totals.billed_credits,
        usd=totals.usd,
        output_bytes=totals.output_bytes,
    )


def _fields_of(element_type: Any) -> Fields | None:
    """Returns the fields of a row type; None if elements are not known to be rows."""
    try:
        found: Fields = named_fields_from_element_type(element_type)
    except (TypeError, ValueError):
        return None
    return found


def _carried(row: Any, field: str, kind: type[_Carried], origin: str) -> _Carried:
    data = getattr(row, field, None)
    try:
        carried = pickle.loads(data)  # type: ignore[arg-type]
    except Exception:
        carried = None
    if not isinstance(carried, kind):
        state = "is missing" if data is None else f"is not what {origin} put into it"
        raise SettingsError(
            ErrorCode.INVALID_FIELD,
            f"the field {field} {state}: hand it on from {origin} as it is; with append: true a "
            "MapToFields keeps what it does not name",
        )
    return carried


@functools.cache
def _manifest_fields() -> Fields:
    return [(field.name, _beam_type(field.type)) for field in COLUMNS]


def _beam_type(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return Sequence[_beam_type(kind.value_type)]  # type: ignore[misc]
    if pa.types.is_struct(kind):
        return RowTypeConstraint.from_fields(
            [(field.name, _beam_type(field.type)) for field in kind]
        )
    if pa.types.is_decimal(kind):
        return Optional[Decimal]  # noqa: UP045
    return _TYPES[kind]


def _value(value: Any, kind: pa.DataType) -> Any:
    """Converts a value of the manifest to the value of a row's field."""
    if pa.types.is_list(kind):
        return [_value(each, kind.value_type) for each in value or ()]
    if pa.types.is_struct(kind):
        return beam.Row(**{field.name: _value(value.get(field.name), field.type) for field in kind})
    return str(value) if isinstance(value, Status) else value


def _as_string(value: Any) -> str | None:
    text = value if isinstance(value, str) else json.dumps(to_json(value), default=str)
    return text if is_unicode(text) else None


def _as_integer(value: Any) -> int | None:
    number = _as_number(value)
    if number is None or not number.is_integer():
        return None
    # Converting through a double would lose the last digits of a large number.
    whole = int(value)
    return whole if whole.bit_length() < 64 else None


def _as_number(value: Any) -> float | None:
    return None if isinstance(value, bool) else float(value)


def _as_boolean(value: Any) -> bool | None:
    known = {"true": True, "false": False}
    return value if isinstance(value, bool) else known.get(str(value).strip().lower())


@dataclasses.dataclass(frozen=True)
class _ColumnType:
    """The conversion of an input's column to a field."""

    beam_type: Any
    parse: Callable[[Any], Any]

    def convert(self, value: Any) -> Any:
        """Converts a value to the field's type; None if it is None or not of this type."""
        if hasattr(value, "tolist"):
            value = value.tolist()
        try:
            return None if value is None else self.parse(value)
        except (ArithmeticError, TypeError, ValueError):
            return None


_COLUMN_TYPES: Mapping[str, _ColumnType] = MappingProxyType(
    {
        "string": _ColumnType(Optional[str], _as_string),  # noqa: UP045
        "integer": _ColumnType(Optional[int], _as_integer),  # noqa: UP045
        "number": _ColumnType(Optional[float], _as_number),  # noqa: UP045
        "boolean": _ColumnType(Optional[bool], _as_boolean),  # noqa: UP045
    }
)
