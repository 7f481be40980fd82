"""Tables whose rows are inputs: JSON lines, comma- or tab-separated values, Parquet.

One column names the image, or holds it (Parquet only): as bytes, or as Hugging Face's struct of
`bytes` and `path`, whose path names the image if there are no bytes. A row without an image is
still an input, but one that cannot be read. A table that cannot be read at all stops the run before
it begins.
"""

from collections.abc import Iterator
from typing import BinaryIO

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.sources.formats.csv import csv_lines
from beam_upscale.sources.formats.input_format import InputFormat
from beam_upscale.sources.formats.jsonl import json_lines
from beam_upscale.sources.formats.parquet import parquet_rows
from beam_upscale.sources.locations import locations
from beam_upscale.sources.parsing.table_rows import (
    Line,
    TableRow,
    faulty,
    find_image_column,
    invalid,
    named,
)
from beam_upscale.storage import files


def read_table(uri: str, form: InputFormat, image_column: str | None = None) -> Iterator[TableRow]:
    """Yields the rows of a table.

    Args:
        uri: the table, on any of Beam's file systems or a web server.
        form: the format of the table.
        image_column: the column with images; None takes the first of `IMAGE_COLUMNS`.

    Yields:
        Every row, in order. Relative paths are relative to the table's folder; a row without an
        image, or with something that names none, has a `Missing` part of the code INVALID_ROW.

    Raises:
        SettingsError: INVALID_TABLE, the table is not of this format, or cannot be read;
            INVALID_OPTION, no column is the one with images.
    """
    locations.forget(uri)
    try:
        with files.open_read(uri) as file:
            if form is InputFormat.PARQUET:
                yield from parquet_rows(uri, file, image_column)
                return
            yield from _text_rows(uri, form, file, image_column)
    except ImageError as error:
        raise SettingsError(
            ErrorCode.INVALID_TABLE, f"the table cannot be read: {error.message}"
        ) from error
    except OSError as error:
        raise invalid(uri, f"it cannot be read: {error}") from error


# Texts


def _text_rows(
    uri: str, form: InputFormat, file: BinaryIO, asked: str | None
) -> Iterator[TableRow]:
    """Yields the rows of a text, read twice, since only the last line may have a column."""
    names: dict[str, None] = {}
    is_empty = True
    for line in _lines(uri, form, file):
        names.update(dict.fromkeys(line.columns))
        is_empty = False
    if is_empty:
        return
    # If no line is sound, each line has its own message, and a missing column is no error.
    column = find_image_column(uri, asked, names, ", ".join(names)) if names else None
    file.seek(0)
    for number, line in enumerate(_lines(uri, form, file)):
        if line.problem or column is None:
            problem = line.problem or "it has no columns"
            yield faulty(uri, number, line.columns, f"{line.place}: {problem}")
        else:
            yield named(uri, number, line.columns, column, line.place)


def _lines(uri: str, form: InputFormat, file: BinaryIO) -> Iterator[Line]:
    return json_lines(file) if form is InputFormat.JSONL else csv_lines(uri, file)
