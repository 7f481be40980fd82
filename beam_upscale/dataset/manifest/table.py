"""Converts rows to the Arrow tables of manifests, and back.

Rows are values (`Row`) until a shard is committed; `table` turns a shard's rows into the Arrow
table that is stored. A row's dictionary form survives JSON exactly, decimals included, so that a
record below `.staging/` and a committed manifest hold the same values.
"""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from beam_upscale.dataset.manifest.own_columns import from_struct_array, struct_array
from beam_upscale.dataset.manifest.row import (
    COLUMNS,
    Row,
    column,
    fitted,
    row_from_dict,
    without_result,
    works,
)
from beam_upscale.errors import ErrorCode

TELEMETRY = pa.schema(
    [
        ("input_id", pa.string()),
        ("device_seconds", pa.float64()),
        ("queue_seconds", pa.float64()),
        ("attempts", pa.int32()),
        ("batch_size", pa.int32()),
        ("worker", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
    ]
)


def table(rows: Iterable[Row], input_type: pa.StructType | None = None) -> pa.Table:
    """Returns a shard's rows as an Arrow table, ordered by `input_id`.

    Args:
        rows: the rows in any order; equal rows give equal tables whatever the order.
        input_type: type of the column `input`; None infers it from the rows.

    Returns:
        A table with the columns of `COLUMNS` and, last, the struct column `input`.
    """
    ordered = sorted(rows, key=lambda row: row.input_id)
    arrays = [column(ordered, field) for field in COLUMNS]
    inputs = input_column(ordered, input_type)
    schema = COLUMNS.append(pa.field("input", inputs.type))
    return pa.Table.from_arrays([*arrays, inputs], schema=schema)


def held_table(
    rows: Iterable[Row], input_type: pa.StructType | None = None
) -> tuple[list[Row], pa.Table]:
    """Makes a table as `table` does, also if some rows have values that their columns cannot hold.

    Returns:
        The rows, and their table. A row that its columns cannot hold loses those of its own columns
        that are not of `input_type`, and if that does not suffice, its result (INTERNAL_ERROR).
    """
    ordered = list(rows)
    try:
        return ordered, table(ordered, input_type)
    except Exception:
        # Rows are tried one by one only now: it takes longer, and most tables hold all their rows.
        ordered = [_held(row, input_type) for row in ordered]
    return ordered, table(ordered, input_type)


def _held(row: Row, input_type: pa.StructType | None) -> Row:
    if works(table, [row], input_type):
        return row
    own = {
        name: value
        for name, value in row.input.items()
        if works(struct_array, [{name: value}], input_type)
    }
    notes = [
        f"the input's column {name} is left out: its value is not of the type of the others"
        for name in row.input
        if name not in own
    ]
    row = fitted(row.changed(input=own, notes=(*row.notes, *notes)))
    try:
        table([row], input_type)
    except Exception as error:
        message = f"its row cannot be stored: {type(error).__name__}: {error}"
        return without_result(row, ErrorCode.INTERNAL_ERROR, message)
    return row


def input_column(rows: Sequence[Row], input_type: pa.StructType | None = None) -> pa.Array:
    """Returns the dataset's own columns as one struct column; null for a row without any.

    Without `input_type` it is inferred from these rows, as `infer_input_type` does.
    """
    return struct_array([row.input for row in rows], input_type)


def rows_of(stored: pa.Table) -> list[Row]:
    """Returns the rows of a table that `table` made, the dataset's own columns as they were."""
    rows = stored.drop_columns("input").to_pylist()
    inputs = from_struct_array(stored.column("input"))
    return [
        row_from_dict({**values, "input": own}) for values, own in zip(rows, inputs, strict=True)
    ]


def is_of_this_version(schema: pa.Schema) -> bool:
    """Checks whether a stored manifest has exactly the columns of `COLUMNS`, beside `input`."""
    own = schema.remove(schema.get_field_index("input"))
    return bool(own.equals(COLUMNS))
