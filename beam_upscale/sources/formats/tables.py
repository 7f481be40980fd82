"""The code that all table formats share: each row becomes an input.

One column names the image, or holds it (Parquet only): as bytes, or as Hugging Face's struct of
`bytes` and `path`, whose path names the image if there are no bytes. A row without an image is
still an input, but one that cannot be read. A table that cannot be read at all stops the run before
it begins.
"""

import functools
from collections.abc import Callable, Iterator
from typing import BinaryIO

from beam_upscale.dataset.names import stem
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.sources.formats.definition import FormatDefinition, FoundFiles
from beam_upscale.sources.inputs.found_inputs import Inputs, Listing
from beam_upscale.sources.inputs.source_image import SourceImage, id_of, source_image
from beam_upscale.sources.locations import reading
from beam_upscale.sources.parsing.table_rows import (
    Line,
    TableRow,
    faulty,
    find_image_column,
    invalid,
    named,
)
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import FileEntry
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris

# Digits of a row's number in an id: more than any table needs. So ids sort as rows do, and do not
# change when a table grows.
_ROW_DIGITS = 12

RowReader = Callable[[str, BinaryIO, str | None], Iterator[TableRow]]
"""Yields the rows of a table, in order: of its URI, its content and the column with images.

The column is None if the reader has to find it. The content can be read from its beginning again.
"""

LineReader = Callable[[str, BinaryIO], Iterator[Line]]
"""Yields the lines of a text table, in order: of its URI and its content."""


def table_format(read_rows: RowReader, *endings: str) -> FormatDefinition:
    """Defines a format of tables.

    Args:
        read_rows: reads the rows of one table. A row without an image, or with something that names
            none, has a `Missing` part of the code INVALID_ROW.
        endings: the endings of the names of such tables.
    """
    return FormatDefinition(
        functools.partial(_list_tables, read_rows),
        without_inputs="a table without rows",
        endings=endings,
        has_image_column=True,
    )


def text_table_format(read_lines: LineReader, *endings: str) -> FormatDefinition:
    """Defines a format of tables that are texts, whose columns name images and hold none.

    Args:
        read_lines: reads the lines of one table.
        endings: the endings of the names of such tables.
    """
    return table_format(functools.partial(_text_rows, read_lines), *endings)


def _list_tables(read_rows: RowReader, found: FoundFiles) -> Listing:
    """Lists the rows of tables.

    Raises:
        SettingsError: INVALID_TABLE, a table is not of the format, or cannot be read;
            INVALID_OPTION, no column is the one with images; INPUT_IN_OUTPUT, a row names a file in
            the output.
    """
    sources = (
        _row_source(table, row)
        for table in found.entries
        for row in _rows(table.uri, read_rows, found)
    )
    return Listing(Inputs(sources), ignored=0)


def _rows(table: str, read_rows: RowReader, found: FoundFiles) -> Iterator[TableRow]:
    """Yields the rows of a table; rejects one that names a file in the output."""
    for row in _read_table(table, read_rows, found.image_column):
        if row.uri != table:
            row_of = f"{uris.named(table)}, row {row.number}"
            found.scope.refuse_in_output(f"{row_of}: the image is", row.uri)
        yield row


def _read_table(uri: str, read_rows: RowReader, image_column: str | None) -> Iterator[TableRow]:
    reading.forget(uri)
    try:
        with files.open_read(uri) as file:
            yield from read_rows(uri, file, image_column)
    except ImageError as error:
        raise SettingsError(
            ErrorCode.INVALID_TABLE, f"the table cannot be read: {error.message}"
        ) from error
    except OSError as error:
        raise invalid(uri, f"it cannot be read: {error}") from error


def _row_source(table: FileEntry, row: TableRow) -> SourceImage:
    """Makes the input of a table's row."""
    number = f"{row.number:0{_ROW_DIGITS}}"
    name = row.name or f"row-{number}"
    if row.uri == table.uri:
        # Rows of several tables may use the same names.
        name = uris.join(stem(table.name), name)
    elif (path := store_of(name).path_of(name)) != name:
        name = path
    elif not name.startswith("/"):
        name = uris.join(table.name.rpartition("/")[0], name.replace("\\", "/"))
    return source_image(
        row.uri,
        name,
        input_id=id_of(table.uri, number),
        part=row.part,
        columns=row.columns,
    )


def _text_rows(
    read_lines: LineReader, uri: str, file: BinaryIO, image_column: str | None
) -> Iterator[TableRow]:
    """Yields the rows of a text, read twice, since only the last line may have a column."""
    names: dict[str, None] = {}
    is_empty = True
    for line in read_lines(uri, file):
        names.update(dict.fromkeys(line.columns))
        is_empty = False
    if is_empty:
        return
    # If no line is sound, each line has its own message, and a missing column is no error.
    column = find_image_column(uri, image_column, names, ", ".join(names)) if names else None
    file.seek(0)
    for number, line in enumerate(read_lines(uri, file)):
        if line.problem or column is None:
            problem = line.problem or "it has no columns"
            yield faulty(uri, number, line.columns, f"{line.place}: {problem}")
        else:
            yield named(uri, number, line.columns, column, line.place)
