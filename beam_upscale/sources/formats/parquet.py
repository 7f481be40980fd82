"""The format parquet: a row for each image, embedded or named."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale.errors import shortened
from beam_upscale.images.codecs import one_line
from beam_upscale.sources.formats.tables import table_format
from beam_upscale.sources.locations.file_parts import Cell
from beam_upscale.sources.locations.parquet_cells import only_column
from beam_upscale.sources.locations.parquet_footers import ColumnChunk, column_chunks
from beam_upscale.sources.parsing.arrow_values import rows_of_arrow, types_in
from beam_upscale.sources.parsing.table_rows import (
    TableRow,
    find_image_column,
    invalid,
    named,
    problem_of,
    require_unique,
    with_name,
)

_ROWS_AT_A_TIME = 1024
_BYTES_AT_A_TIME = 64 << 20


def _rows(uri: str, opened: BinaryIO, image_column: str | None) -> Iterator[TableRow]:
    with _as_invalid(uri):
        file = pq.ParquetFile(opened)
        schema = file.schema_arrow
        names = schema.names
    require_unique(uri, names)
    there = ", ".join(f"{field.name} ({shortened(str(field.type), 200)})" for field in schema)
    fitting = [field.name for field in schema if _names(field.type) or _bytes_path(field)]
    column = find_image_column(uri, image_column, fitting, there)
    image = schema.field(column)
    cells = _bytes_path(image)
    read = [name for field in schema for name in _read_columns(field, image)]
    numbers = itertools.count()
    if cells is None:
        for group in range(file.num_row_groups):
            for columns in _group_rows(uri, file, group, read):
                number = next(numbers)
                yield named(uri, number, columns, column, f"row {number}")
        return
    has_paths = f"{column}.path" in read
    for group, is_held in enumerate(_held_by_groups(opened, file, cells, has_paths=has_paths)):
        rows = _group_rows(uri, file, group, read)
        held = _held(uri, file, group, cells, is_held)
        for row_in_group, (columns, is_there) in enumerate(_pairs(uri, rows, held)):
            number = next(numbers)
            path = (columns.pop(column, None) or {}).get("path")
            if is_there:
                cell = Cell(group, row_in_group, cells)
                yield TableRow(number, columns, _path(path), uri, cell)
            else:
                yield with_name(uri, number, columns, path, f"row {number}: {column}.path")


def _held_by_groups(
    opened: BinaryIO, file: pq.ParquetFile, cells: str, *, has_paths: bool
) -> list[bool | None]:
    """Returns for each row group whether its rows hold their images, as `_is_held_by_all` says.

    True if there are no paths, since the rows could then name no other image.
    """
    groups = file.num_row_groups
    if not has_paths:
        return [True] * groups
    found = [
        _is_held_by_all(chunk, file.metadata.row_group(group).num_rows)
        for group, chunk in enumerate(column_chunks(opened, cells)[:groups])
    ]
    return [*found, *[None] * (groups - len(found))]


def _pairs(
    uri: str, rows: Iterator[dict[str, Any]], held: Iterator[bool]
) -> Iterator[tuple[dict[str, Any], bool]]:
    for columns, is_there in itertools.zip_longest(rows, held):
        if columns is None or is_there is None:
            found = "a row group has columns of different lengths"
            raise invalid(
                uri, f"it is not a Parquet file that can be read: {found}; write it again"
            )
        yield columns, is_there


def _held(
    uri: str, file: pq.ParquetFile, group: int, cells: str, is_held: bool | None
) -> Iterator[bool]:
    """Yields for each row of a group whether it holds its image; reads bytes if not known."""
    if is_held is not None:
        yield from itertools.repeat(is_held, file.metadata.row_group(group).num_rows)
        return
    for values in _batches(uri, file, group, [cells]):
        yield from map(bool, only_column(values).to_pylist())


def _is_held_by_all(chunk: ColumnChunk | None, rows: int) -> bool | None:
    """Returns True if all rows of a row group hold their images, False if none; None if unknown.

    An empty value holds no image.
    """
    if chunk is None or chunk.nulls is None:
        return None
    if chunk.nulls:
        return False if chunk.nulls == rows else None
    # Writers leave out a minimum that is long, as that of images mostly is.
    return None if chunk.least == b"" else True


@contextlib.contextmanager
def _as_invalid(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        found = f"it is not a Parquet file that can be read: {one_line(error)}; write it again"
        raise invalid(uri, found) from error


def _group_rows(
    uri: str, file: pq.ParquetFile, group: int, columns: list[str]
) -> Iterator[dict[str, Any]]:
    if not columns:
        for _ in range(file.metadata.row_group(group).num_rows):
            yield {}
        return
    for values in _batches(uri, file, group, columns):
        with _as_invalid(uri):
            rows = rows_of_arrow(values)
        yield from rows


def _batches(uri: str, file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[pa.Table]:
    with _as_invalid(uri):
        together = _rows_together(file.metadata.row_group(group))
        batches = file.iter_batches(together, row_groups=[group], columns=columns)
    while True:
        with _as_invalid(uri):
            batch = next(batches, None)
            if batch is None:
                return
            found = pa.Table.from_batches([batch])
        yield found


def _rows_together(group: pq.RowGroupMetaData) -> int:
    """Returns the number of rows to hold at a time: fewer if they are large."""
    size = max(1, int(group.total_byte_size))
    return max(1, min(_ROWS_AT_A_TIME, _BYTES_AT_A_TIME * int(group.num_rows) // size))


def _path(value: object) -> str:
    """Returns the path of an embedded image if it can name the result; empty otherwise."""
    return value if isinstance(value, str) and not problem_of(value) else ""


def _read_columns(field: pa.Field, image: pa.Field) -> list[str]:
    """Lists the parts of a column that a listing reads: no bytes of inputs or other images."""
    if field.name == image.name:
        if _is_text(field.type):
            return [field.name]
        has_path = _member(field.type, "path", _is_text)
        return [f"{field.name}.path"] if has_path else []
    return [] if any(map(_is_image_struct, types_in(field.type))) else [field.name]


def _bytes_path(field: pa.Field) -> str | None:
    """Returns the path of the bytes in a column that holds images; None if it holds none."""
    if _is_binary(field.type):
        return str(field.name)
    return f"{field.name}.bytes" if _is_image_struct(field.type) else None


def _names(kind: pa.DataType) -> bool:
    """Checks whether values of a type name images and hold none."""
    return _is_text(kind) or (_member(kind, "path", _is_text) and not _is_image_struct(kind))


def _is_image_struct(kind: pa.DataType) -> bool:
    return _member(kind, "bytes", _is_binary)


def _member(kind: pa.DataType, name: str, fits: Any) -> bool:
    if not pa.types.is_struct(kind):
        return False
    index = kind.get_field_index(name)
    return index >= 0 and bool(fits(kind.field(index).type))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


DEFINITION = table_format(_rows, ".parquet")
