"""The metadata files beside images: `metadata.jsonl`, `metadata.csv` and `metadata.parquet`.

This is Hugging Face's imagefolder format: each row names a file in `file_name`, relative to the
folder of the metadata file, and its other columns belong to that file. It is read as `datasets` 5.2
reads it (`packaged_modules/folder_based_builder`), with these differences:

- In `datasets`, rows define the dataset: an image without a row is left out, and an image with rows
  in two metadata files occurs twice. Here images define it: an image without a row has no columns,
  and of two metadata files the one in the deeper folder counts.
- Formats and columns may differ from file to file.
- A CSV cell is text, whatever it looks like. An empty cell is no value, as in `datasets`.
- `file_name` alone names a file; `*_file_name` and `file_names` are columns like any other.
"""

import io
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale.dataset.manifest.json_values import (
    is_unicode,
    json_problem,
    parsed,
    shown_json,
    without_deep,
)
from beam_upscale.errors import ErrorCode, ImageError, SettingsError, literal, shortened
from beam_upscale.images.codecs import one_line
from beam_upscale.sources.parsing.arrow_values import rows_of_arrow
from beam_upscale.sources.parsing.separated_values import MalformedError, logical_lines
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

Columns = Mapping[str, Any]

_FILE_NAME = "file_name"


def is_metadata_name(name: str) -> bool:
    """Checks whether a path ends in the name of a metadata file."""
    return name.rpartition("/")[2] in METADATA_NAMES


def read_metadata(uri: str) -> dict[str, Columns]:
    """Reads the columns of each file that a metadata file names.

    Args:
        uri: the metadata file, on any of Beam's file systems.

    Returns:
        The columns, without `file_name`, by the URI of the file that they belong to. Values of JSON
        and Parquet are unchanged; values of CSV are text or None. None of these formats can hold a
        file name that is not UTF-8.

    Raises:
        SettingsError: INVALID_METADATA, the file cannot be read, or is not in the format of its
            name, or a row names no file, a file outside the folder, or a file of another row.
    """
    parse = METADATA_NAMES[uri.rpartition("/")[2]]
    folder = uri.rpartition("/")[0]
    found: dict[str, Columns] = {}
    places: dict[str, str] = {}
    for place, row in parse(uri, _read(uri)):
        name = _relative(uri, place, row)
        target = uris.join(folder, name)
        if target in found:
            raise _invalid(
                uri,
                place,
                f"names {shortened(name, 400)}, which {places[target]} does too; keep one of them",
            )
        found[target] = {column: row[column] for column in row if column != _FILE_NAME}
        places[target] = place
    return found


def nearest(found: Mapping[str, Mapping[str, Columns]]) -> dict[str, Columns]:
    """Picks one row for each file, from the metadata file in the deepest folder.

    Args:
        found: the results of `read_metadata`, by the URI of the metadata file.

    Raises:
        SettingsError: INVALID_METADATA, two metadata files in one folder name one file.
    """
    chosen: dict[str, Columns] = {}
    owners: dict[str, str] = {}
    for uri in sorted(found, key=lambda uri: (uri.count("/"), uri)):
        for target, columns in found[uri].items():
            other = owners.get(target)
            if other is not None and other.rpartition("/")[0] == uri.rpartition("/")[0]:
                raise SettingsError(
                    ErrorCode.INVALID_METADATA,
                    f"{uris.named(other)} and {uris.named(uri)} both name "
                    f"{uris.named(target)}; keep one of them, or one row",
                )
            chosen[target], owners[target] = columns, uri
    return chosen


def _read(uri: str) -> bytes:
    try:
        return files.read(uri)
    except ImageError as error:
        raise SettingsError(
            ErrorCode.INVALID_METADATA,
            f"the metadata cannot be read: {error.message}; make it readable, or take it away",
        ) from error


def _invalid(uri: str, place: str, found: str) -> SettingsError:
    return SettingsError(ErrorCode.INVALID_METADATA, f"{uris.named(uri)}, {place}: {found}")


def _relative(uri: str, place: str, row: Columns) -> str:
    """Returns the path, relative to the metadata file's folder, that a row names."""
    if _FILE_NAME not in row:
        raise _without_file_name(uri, place, row)
    name = row[_FILE_NAME]
    if not isinstance(name, str) or not name:
        raise _invalid(
            uri, place, f"{_FILE_NAME} is {shown(name)}; it must be the path of an image"
        )
    # A path written on Windows has backslashes.
    path = posixpath.normpath(name.replace("\\", "/"))
    if "://" in name or path.startswith("/") or path.split("/")[0] == "..":
        raise _invalid(
            uri,
            place,
            f"{_FILE_NAME} is {shown(name)}; it must be a path below the folder of the metadata "
            "file",
        )
    return path


def _without_file_name(uri: str, place: str, columns: Iterable[str]) -> SettingsError:
    return _invalid(
        uri,
        place,
        f"there is no {_FILE_NAME}, only "
        f"{shortened(literal(', '.join(columns)), 1000) or 'nothing'}; name "
        "the images in it, or call this file something else if it is not about images",
    )


def _text(uri: str, data: bytes) -> str:
    """Decodes a UTF-8 text file, without its byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise _invalid(
            uri, f"line {line}", f"byte {data[error.start]:#04x} is not UTF-8; save it as UTF-8"
        ) from None


def _json_lines(uri: str, data: bytes) -> Iterator[tuple[str, Columns]]:
    # Not splitlines: JSON strings may hold other line separators, such as U+2028.
    for number, line in enumerate(_text(uri, data).split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _json_object(uri, f"line {number}", line)


def _json_object(uri: str, place: str, line: str) -> Columns:
    must = f"each line must be one JSON object, with {_FILE_NAME}"
    try:
        value = parsed(line)
    except (ValueError, RecursionError) as error:
        raise _invalid(uri, place, f"{json_problem(error)}; {must}") from None
    if not isinstance(value, dict):
        raise _invalid(uri, place, f"{shown_json(value)} is not a JSON object; {must}")
    if not is_unicode(value):
        # An escaped lone surrogate; no store accepts it.
        raise _invalid(uri, place, f"{shown(line)} is not valid Unicode")
    return without_deep(value)


def shown(value: object) -> str:
    """Formats a value for a message, cut after 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _csv(uri: str, data: bytes) -> Iterator[tuple[str, Columns]]:
    header: list[str] | None = None
    for place, cells in _csv_lines(uri, _text(uri, data)):
        if header is None:
            header = _csv_header(uri, cells)
            continue
        if len(cells) > len(header):
            raise _invalid(
                uri,
                place,
                f"{len(cells)} cells where the first line has {len(header)}; quote those with a "
                "comma in them",
            )
        values = [cell or None for cell in cells] + [None] * (len(header) - len(cells))
        yield place, dict(zip(header, values, strict=True))
    if header is None:
        raise _without_file_name(uri, "line 1", ())


def _csv_lines(uri: str, text: str) -> Iterator[tuple[str, list[str]]]:
    try:
        for line in logical_lines(io.StringIO(text, newline="")):
            if line.problem:
                raise _invalid(uri, line.place, line.problem)
            yield line.place, line.cells
    except MalformedError as error:
        found = f"{error.found}; it must be comma-separated values"
        raise _invalid(uri, error.place, found) from None


def _csv_header(uri: str, cells: list[str]) -> list[str]:
    header = named_columns(cells)
    twice = name_of_two(header)
    if twice is not None:
        raise _invalid(uri, "line 1", f"two columns are called {twice}; rename one")
    if _FILE_NAME not in header:
        raise _without_file_name(uri, "line 1", header)
    return header


def named_columns(cells: list[str]) -> list[str]:
    """Returns the column names that the first line of separated values gives."""
    # An index column written by pandas has no name; pandas reads it under this name.
    return [cell or f"Unnamed: {position}" for position, cell in enumerate(cells)]


def name_of_two(names: list[str]) -> str | None:
    """Returns the first name that several columns share; None if all names differ."""
    several = Counter(names)
    return next((name for name in names if several[name] > 1), None)


def _parquet(uri: str, data: bytes) -> Iterator[tuple[str, Columns]]:
    try:
        table = pq.read_table(pa.BufferReader(data))
        rows = rows_of_arrow(table)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SettingsError(
            ErrorCode.INVALID_METADATA,
            f"{uris.named(uri)} is not a Parquet file that can be read: {one_line(error)}; "
            "write it again",
        ) from error
    if _FILE_NAME not in table.column_names:
        raise _without_file_name(uri, "schema", table.column_names)
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


_Parser = Callable[[str, bytes], Iterable[tuple[str, Columns]]]

METADATA_NAMES: Mapping[str, _Parser] = MappingProxyType(
    {
        "metadata.csv": _csv,
        "metadata.jsonl": _json_lines,
        "metadata.parquet": _parquet,
    }
)
"""The parsers by the name of the metadata file; each yields (place in the file, row) pairs."""
