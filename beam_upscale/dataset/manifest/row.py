"""The columns of the manifest, and one row of it as a value: its statuses and its JSON."""

import dataclasses
import functools
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, Self

import pyarrow as pa

from beam_upscale.dataset.manifest.json_values import OF_JSON, from_json, is_unicode, to_json
from beam_upscale.errors import LONGEST_MESSAGE, ErrorCode, shortened


class Status(StrEnum):
    """The outcome of an input."""

    UPSCALED = "upscaled"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    FAILED = "failed"
    FILTERED = "filtered"
    OVER_BUDGET = "over_budget"


# The rules refuse these; everything else that goes wrong is a failure.
_REJECTIONS = frozenset(
    {
        ErrorCode.ANIMATED,
        ErrorCode.FILE_TOO_LARGE,
        ErrorCode.INPUT_TOO_LARGE,
        ErrorCode.INVALID_CFG_SCALE,
        ErrorCode.INVALID_NOISE_LEVEL,
        ErrorCode.INVALID_PROMPT,
        ErrorCode.INVALID_SEED,
        ErrorCode.INVALID_STEPS,
        ErrorCode.OUTPUT_SIDE_TOO_LONG,
        ErrorCode.OUTPUT_TOO_LARGE,
        ErrorCode.TOO_MANY_PIXELS,
    }
)


def with_earlier_billing(row: "Row", earlier: "Row") -> "Row":
    """Adds to a row the credits that its predecessor was billed for other calls.

    So credits that were spent stay in the manifest, whatever happens to the input later. A call
    that both rows name counts once, however often it was made.

    Args:
        row: the new row.
        earlier: the replaced row of the same input; may be the new row itself, completed before.
    """
    before, now = set(earlier.request_ids), set(row.request_ids)
    if before <= now:
        return row
    billed = earlier.billed_credits
    if not now <= before:
        # The costs of single calls are not recorded: if the rows share some calls, all are counted.
        billed += row.billed_credits
    others = tuple(each for each in earlier.request_ids if each not in now)
    return row.changed(billed_credits=billed, request_ids=(*others, *row.request_ids))


def status_of(code: ErrorCode) -> Status:
    """Returns the status of an input with an error: rejected if the rules refuse it, else failed.

    Results that a service withholds, or that a user's own step leaves out, are filtered. An input
    beyond the budget is over budget.
    """
    if code in (ErrorCode.FILTERED, ErrorCode.LEFT_OUT):
        return Status.FILTERED
    if code is ErrorCode.OVER_BUDGET:
        return Status.OVER_BUDGET
    return Status.REJECTED if code in _REJECTIONS else Status.FAILED


CREDITS = pa.decimal128(18, 4)
USD = pa.decimal128(18, 6)

STAGE = pa.struct(
    [
        ("engine", pa.string()),
        ("model", pa.string()),
        ("weights_sha256", pa.string()),
        ("device_type", pa.string()),
        ("precision", pa.string()),
        ("network_backend", pa.string()),
        ("halo", pa.int32()),
        ("seed", pa.int64()),
        ("input_width", pa.int32()),
        ("input_height", pa.int32()),
        ("output_width", pa.int32()),
        ("output_height", pa.int32()),
        ("output_uri", pa.string()),
        ("output_bytes", pa.int64()),
        ("output_sha256", pa.string()),
        ("calls", pa.int32()),
        ("credits", CREDITS),
        ("request_ids", pa.list_(pa.string())),
    ]
)

# The dataset's own columns come last, as the struct `input`; their types are the dataset's.
COLUMNS = pa.schema(
    [
        ("input_id", pa.string()),
        ("source_uri", pa.string()),
        ("source_sha256", pa.string()),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("engine", pa.string()),
        ("backend", pa.string()),
        ("model", pa.string()),
        ("weights_sha256", pa.string()),
        ("device_type", pa.string()),
        ("precision", pa.string()),
        ("network_backend", pa.string()),
        ("halo", pa.int32()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("cfg_scale", pa.float64()),
        ("steps", pa.int32()),
        ("seed", pa.int64()),
        ("noise_level", pa.int32()),
        ("input_width", pa.int32()),
        ("input_height", pa.int32()),
        ("input_format", pa.string()),
        ("input_mode", pa.string()),
        ("output_uri", pa.string()),
        ("output_width", pa.int32()),
        ("output_height", pa.int32()),
        ("output_format", pa.string()),
        ("output_bytes", pa.int64()),
        ("output_sha256", pa.string()),
        ("calls", pa.int32()),
        ("credits", CREDITS),
        ("billed_credits", CREDITS),
        ("usd", USD),
        ("request_ids", pa.list_(pa.string())),
        ("stages", pa.list_(STAGE)),
    ]
)


@dataclasses.dataclass(frozen=True)
class Row:
    """The manifest's row of one input.

    Attributes:
        input_id: stable identity of the input; the order of rows and request ids derive from it.
        source_uri: the URI that the input was read from; percent-encoded if it is not UTF-8.
        source_sha256: SHA-256 of the input's bytes; None if they could not be read.
        output_uri: relative to the dataset's root, so that a dataset can be moved.
        calls: number of priced calls.
        credits: the price by the price list, 4 decimal places; 0 unless upscaled.
        billed_credits: the credits billed, also if the image failed; 0 on a local backend.
        prompt: the requested prompt. This and the five columns after it in `COLUMNS`, up to
            `noise_level`, are None if no engine takes them.
        seed: the requested or derived seed; in a chain, that of the last engine that takes one.
        stages: in a chain, the columns of each stage; `engine`, `model` and the columns that
            describe them are then those of the last stage. Empty for a single engine, and if
            nothing was upscaled. A stage's own `output_uri` is that of an intermediate that was
            kept.
        request_ids: ids of the paid calls, in order; those of rows that this one replaced come
            first.
        input: the dataset's own columns, unchanged.

    The other attributes are the columns of the same names in `COLUMNS`.
    """

    input_id: str
    source_uri: str
    status: Status
    source_sha256: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    notes: tuple[str, ...] = ()
    engine: str | None = None
    backend: str | None = None
    model: str | None = None
    weights_sha256: str | None = None
    device_type: str | None = None
    precision: str | None = None
    network_backend: str | None = None
    halo: int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    cfg_scale: float | None = None
    steps: int | None = None
    seed: int | None = None
    noise_level: int | None = None
    input_width: int | None = None
    input_height: int | None = None
    input_format: str | None = None
    input_mode: str | None = None
    output_uri: str | None = None
    output_width: int | None = None
    output_height: int | None = None
    output_format: str | None = None
    output_bytes: int | None = None
    output_sha256: str | None = None
    calls: int = 0
    credits: Decimal = Decimal(0)
    billed_credits: Decimal = Decimal(0)
    usd: Decimal = Decimal(0)
    request_ids: tuple[str, ...] = ()
    stages: tuple[Mapping[str, Any], ...] = ()
    input: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Self:
        """Makes a row of its columns; those that are not given have their defaults.

        `Row(…)` sets each column by a call of its own, and takes three times as long.

        Raises:
            TypeError: one is not a column of a row, or a column without a default is missing.
        """
        row = object.__new__(cls)
        known = vars(row)
        known.update(_DEFAULTS)
        known.update(columns)
        if known.keys() != _NAMES:
            raise TypeError(f"a row has the columns {', '.join(_FIELDS)}, not {', '.join(known)}")
        return row

    def changed(self, **columns: Any) -> Self:
        """Returns a row with other values in some columns."""
        return self.of({**vars(self), **columns})


# Interned, as the names in code are: Python finds an attribute or a keyword by the same object.
_FIELDS = tuple(map(sys.intern, (*COLUMNS.names, "input")))
_NAMES = frozenset(_FIELDS)

# A dictionary, since another one takes over its items at once, and those of no other mapping.
_DEFAULTS: Mapping[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(Row)
    if field.default is not dataclasses.MISSING
}


@functools.cache
def _whole_numbers() -> Mapping[str, int]:
    """Returns the integer columns that may be null, with the first number that is too large."""
    fields = [field for field in COLUMNS if pa.types.is_integer(field.type)]
    return {
        field.name: 1 << (field.type.bit_width - 1) for field in fields if field.name != "calls"
    }


def fitted(row: Row) -> Row:
    """Makes a row fit its columns: a number that is too large becomes None, and a note says so.

    Numbers may be claims of an untrusted file. Notes and messages may come from a library: odd
    characters are escaped, and long texts shortened.
    """
    changes, found = fitted_numbers(vars(row))
    if any(map(_is_odd, row.notes)) or found:
        changes["notes"] = tuple(map(_plain, (*row.notes, *found)))
    if row.error_message is not None and _is_odd(row.error_message):
        changes["error_message"] = _plain(row.error_message)
    return row.changed(**changes) if changes else row


def fitted_numbers(columns: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Finds the numbers that are too large for their columns.

    Returns:
        Their columns, each with None, and a note on each.
    """
    changes: dict[str, Any] = {}
    notes: list[str] = []
    for name, limit in _whole_numbers().items():
        value = columns.get(name)
        if value is not None and not -limit <= value < limit:
            changes[name] = None
            bits = limit.bit_length() - 1
            notes.append(f"{name} is {value:#x}, more than the {bits} bits of its column")
    return changes, tuple(notes)


def _is_odd(text: str) -> bool:
    return len(text) > LONGEST_MESSAGE or not (text.isascii() or is_unicode(text))


def _plain(text: str) -> str:
    return shortened(text.encode(errors="backslashreplace").decode(), LONGEST_MESSAGE)


def row_from_dict(values: Mapping[str, Any]) -> Row:
    """Makes a row from a dictionary of its columns, such as Arrow's `to_pylist` gives."""
    known = {name: values[name] for name in _FIELDS if name in values}
    known["status"] = Status(known["status"])
    for name in ("notes", "request_ids", "stages"):
        known[name] = tuple(known.get(name) or ())
    known["input"] = dict(known.get("input") or {})
    return Row.of(known)


@functools.cache
def _decimal_places() -> Mapping[str, int]:
    return {field.name: field.type.scale for field in COLUMNS if pa.types.is_decimal(field.type)}


def row_to_json(row: Row) -> dict[str, Any]:
    """Returns the row as JSON values, exactly; values of types that JSON lacks name their type.

    Columns with their default are left out: that is most of them, and there is a row for each
    image.
    """
    # An enumeration's member is a text for JSON, but takes longer.
    columns, default = {**vars(row), "status": str(row.status)}, _DEFAULTS.get
    return {
        name: value if type(value) in OF_JSON else to_json(value)
        for name in _FIELDS
        if (value := columns[name]) is not default(name)
    }


def row_from_json(values: Mapping[str, Any]) -> Row:
    """Makes a row from JSON values; the inverse of `row_to_json`."""
    return row_from_dict(from_json(values))


def without_result(row: Row, code: ErrorCode, message: str) -> Row:
    """Returns the row of an input whose result cannot be stored: an error, and the known columns.

    The billed credits stay.

    Args:
        row: the row with the result.
        code: code of the error.
        message: message of the error.
    """
    known = {
        field.name: getattr(row, field.name)
        for field in COLUMNS
        if field.name in _KNOWN_WITHOUT_RESULT and works(column, [row], field)
    }
    failed = Row(
        row.input_id,
        row.source_uri,
        status_of(code),
        error_code=str(code),
        error_message=message,
        input=row.input,
        **known,
    )
    return fitted(failed)


# The columns that are known whether an input has a result or not.
_KNOWN_WITHOUT_RESULT = frozenset(
    {
        *("source_sha256", "notes", "engine", "backend", "model", "weights_sha256"),
        *(
            "device_type",
            "precision",
            "network_backend",
            "halo",
            "prompt",
            "negative_prompt",
            "cfg_scale",
            "steps",
        ),
        *("seed", "noise_level", "input_width", "input_height", "input_format", "input_mode"),
        *("billed_credits", "request_ids"),
    }
)


def works(make: Callable[..., object], *arguments: object) -> bool:
    """Checks whether a call raises no exception."""
    try:
        make(*arguments)
    except Exception:
        return False
    return True


def column(rows: Sequence[Row], field: pa.Field) -> pa.Array:
    """Converts one field of all rows to an Arrow array of the field's type."""
    values = list(map(operator.attrgetter(field.name), rows))
    if field.name in _decimal_places():
        # Decimal(0) and Decimal("0.0000") are one value; Arrow wants the column's own scale.
        exponent = Decimal(1).scaleb(-field.type.scale)
        values = [value.quantize(exponent) for value in values]
    return pa.array(values, type=field.type)
