"""Tables whose rows are inputs: JSON lines, comma- or tab-separated values, Parquet.

One column names the image, or holds it (Parquet only): as bytes, or as Hugging Face's struct of
`bytes` and `path`, whose path names the image if there are no bytes. A row without an image is
still an input, but one that cannot be read. A table that cannot be read at all stops the run before
it begins.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import posixpath
import urllib.parse
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale import locations, storage, urls
from beam_upscale.arrow_values import rows_of_arrow, types_in
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.formats import InputFormat, ending
from beam_upscale.image.codecs import one_line
from beam_upscale.json_values import is_unicode, json_problem, parsed, shown_json, without_deep
from beam_upscale.literal import literal, shortened
from beam_upscale.locations import Cell, Missing, Part, only_column
from beam_upscale.metadata import name_of_two, named_columns, shown
from beam_upscale.parquet_footers import ColumnChunk, column_chunks
from beam_upscale.separated_values import MalformedError, Record, records

IMAGE_COLUMNS = (
    "image",
    "image_url",
    "image_uri",
    "image_path",
    "url",
    "uri",
    "path",
    "file_name",
    "filename",
    "file_path",
    "filepath",
    "file",
)
"""Usual names, in any case, of the column with images; the first that a table has is taken."""

# The most characters of a path or a URL.
_LONGEST_URI = 8192

# The most characters of all columns' names in a message.
_LONGEST_LIST = 1000
_LONGEST_LINE = 16 << 20

_ROWS_AT_A_TIME = 1024
_BYTES_AT_A_TIME = 64 << 20


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A row of a table: an input.

    Attributes:
        number: of the row, from 0.
        columns: its values, without the bytes of images.
        name: the image's name in the row; empty if it has none.
        uri: the file with the image: the table itself if the image is embedded or missing.
        part: of the file at `uri`; None is the whole file.
    """

    number: int
    columns: Mapping[str, Any]
    name: str
    uri: str
    part: Part | None = None

    @property
    def is_embedded(self) -> bool:
        """True if the table holds the image."""
        return isinstance(self.part, Cell)


@dataclasses.dataclass(frozen=True)
class _Line:
    """A row of a text table.

    Attributes:
        place: its position in the table, for messages.
        columns: its values.
        problem: a fault of the row as a whole; empty if there is none.
    """

    place: str
    columns: Mapping[str, Any]
    problem: str = ""


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
        with storage.open_read(uri) as file:
            if form is InputFormat.PARQUET:
                yield from _parquet_rows(uri, file, image_column)
                return
            yield from _text_rows(uri, form, file, image_column)
    except ImageError as error:
        raise SettingsError(
            ErrorCode.INVALID_TABLE, f"the table cannot be read: {error.message}"
        ) from error
    except OSError as error:
        raise _invalid(uri, f"it cannot be read: {error}") from error


def _invalid(uri: str, found: str) -> SettingsError:
    return SettingsError(ErrorCode.INVALID_TABLE, f"{storage.named(uri)}: {found}")


# The column with images


def _image_column(uri: str, asked: str | None, fitting: Collection[str], there: str) -> str:
    """Returns the name of the column with images.

    Args:
        uri: the table.
        asked: the requested column; None infers it.
        fitting: the columns that may have images.
        there: all columns, for messages.
    """
    if asked is not None:
        if asked in fitting:
            return asked
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"image_column is {asked!r}, and {storage.named(uri)} has no such column that "
            f"could name or hold images; there are: {shortened(literal(there), _LONGEST_LIST)}",
        )
    by_name = {name.casefold(): name for name in reversed(list(fitting))}
    found = next((by_name[name] for name in IMAGE_COLUMNS if name in by_name), None)
    if found is None:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{storage.named(uri)} has no column with a usual name for images "
            f"({', '.join(IMAGE_COLUMNS)}); there are: "
            f"{shortened(literal(there), _LONGEST_LIST)}; name one with --image-column",
        )
    return found


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
    column = _image_column(uri, asked, names, ", ".join(names)) if names else None
    file.seek(0)
    for number, line in enumerate(_lines(uri, form, file)):
        if line.problem or column is None:
            problem = line.problem or "it has no columns"
            yield _faulty(uri, number, line.columns, f"{line.place}: {problem}")
        else:
            yield _named(uri, number, line.columns, column, line.place)


def _lines(uri: str, form: InputFormat, file: BinaryIO) -> Iterator[_Line]:
    return _json_lines(file) if form is InputFormat.JSONL else _csv_lines(uri, file)


def _named(uri: str, number: int, columns: Mapping[str, Any], column: str, place: str) -> TableRow:
    """Makes a row that names its image, by a text or in a struct."""
    value = columns.get(column)
    if isinstance(value, Mapping) and "path" in value:
        return _named_in_struct(uri, number, columns, column, value, place)
    return _with_name(uri, number, columns, value, f"{place}: {column}")


def _named_in_struct(
    uri: str,
    number: int,
    columns: Mapping[str, Any],
    column: str,
    value: Mapping[str, Any],
    place: str,
) -> TableRow:
    """Makes a row whose struct has a path; faulty if it has bytes, which a text cannot hold."""
    if value.get("bytes"):
        found = (
            "has bytes as text, which are not read; put images into Parquet or files of their own"
        )
        return _faulty(uri, number, columns, f"{place}: {column} {found}")
    return _with_name(uri, number, columns, value["path"], f"{place}: {column}.path")


def _with_name(
    uri: str, number: int, columns: Mapping[str, Any], value: object, place: str
) -> TableRow:
    """Makes a row from the name of its image."""
    problem = _problem(value)
    if problem:
        return _faulty(uri, number, columns, f"{place} {problem}")
    assert isinstance(value, str)
    value = _without_blanks_around(uri, urls.trimmed(value))
    return TableRow(number, columns, value, resolved(uri, value))


def _without_blanks_around(table: str, value: str) -> str:
    """Removes the blanks around a name if a file exists only under the name without them."""
    bare = value.strip()
    if bare == value or not bare or urls.is_web(value):
        return value
    try:
        found = [storage.exists(resolved(table, name)) for name in (value, bare)]
    except Exception:
        # The clients of object stores raise errors of their own. Reading the image reports them.
        return value
    return bare if found == [False, True] else value


def _problem(value: object) -> str:
    """Explains why a value cannot name an image; empty if it can."""
    must = "it must be the path or the URL of an image"
    if value is None or value == "":
        return f"has no value; {must}"
    if not isinstance(value, str):
        return f"is {shown(value)}, which is no text; {must}"
    if "\0" in value:
        return f"has a NUL in it, which no path has; {must}"
    # Before the length: for a `data:` URL, which holds the image, this is the better message.
    found = _problem_of_scheme(value)
    if found:
        return found
    if len(value) > _LONGEST_URI:
        return f"has {len(value):,} characters, more than {_LONGEST_URI:,}; {must}"
    return ""


def _problem_of_scheme(value: str) -> str:
    """Explains why an address cannot be read, judged by its beginning; empty if it can."""
    scheme = storage.unread_scheme(value)
    if scheme is not None:
        return f"is an address that is not read: {storage.scheme_refusal(scheme)}"
    if urls.has_userinfo(value):
        return f"is a URL that is not read: {urls.USERINFO_REFUSAL}"
    if storage.is_windows_path(value):
        return (
            f"is {shown(value)}, a path on a drive or a server of Windows, which is none "
            "here; name a path of this machine, or one relative to the table's folder"
        )
    return ""


def _faulty(uri: str, number: int, columns: Mapping[str, Any], found: str) -> TableRow:
    missing = Missing(ErrorCode.INVALID_ROW, f"{storage.named(uri)}, {found}")
    return TableRow(number, columns, "", uri, missing)


def resolved(table: str, value: str) -> str:
    """Returns the URI that a value of a table names.

    Absolute paths and URIs stay as they are. Others are relative to the table's folder; backslashes
    of Windows become slashes. A table may name any file that can be read.
    """
    if urls.scheme_of(value) is not None or value.startswith("/"):
        return storage.absolute(value)
    relative = value.replace("\\", "/")
    if urls.is_web(table):
        # Not `urljoin` alone: a file may be called `a?b`.
        return urllib.parse.urljoin(table, urllib.parse.quote(relative, safe="/%"))
    folder = table.rpartition("/")[0]
    if storage.is_local(table):
        return os.path.normpath(storage.join(folder, relative))
    scheme, _, path = folder.partition("://")
    below = posixpath.normpath(posixpath.join("/", path, relative)).lstrip("/")
    return f"{scheme}://{below}"


def _json_lines(file: BinaryIO) -> Iterator[_Line]:
    number = 0
    while data := file.readline(_LONGEST_LINE):
        number += 1
        place = f"line {number}"
        is_whole = len(data) < _LONGEST_LINE or data.endswith(b"\n")
        if not is_whole:
            _pass_over_line(file)
            limit = f"at most {_LONGEST_LINE:,} are read; put images into files of their own"
            yield _Line(place, {}, f"it has more bytes than a row may have; {limit}")
            continue
        text = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
        if text.strip():
            yield _json_line(place, text)


def _pass_over_line(file: BinaryIO) -> None:
    while (data := file.readline(_LONGEST_LINE)) and not data.endswith(b"\n"):
        pass


def _json_line(place: str, data: bytes) -> _Line:
    must = "each line must be one JSON object"
    try:
        value = parsed(data.decode())
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start]:#04x} at {error.start:,}"
        return _Line(place, {}, f"{found} is not UTF-8; save it as UTF-8")
    except (ValueError, RecursionError) as error:
        return _Line(place, {}, f"{json_problem(error)}; {must}")
    if not isinstance(value, dict):
        return _Line(place, {}, f"{shown_json(value)} is no JSON object; {must}")
    if not is_unicode(value):
        return _Line(place, {}, "it is no valid Unicode: half of a surrogate pair is escaped in it")
    return _Line(place, without_deep(value))


def _csv_lines(uri: str, file: BinaryIO) -> Iterator[_Line]:
    header: list[str] | None = None
    for record in _csv_records(uri, file):
        cells = record.cells
        if header is None:
            if record.problem:
                raise _invalid(uri, f"{record.place}: {record.problem}")
            header = named_columns(cells)
            _require_unique(uri, header)
            continue
        values = [cell or None for cell in cells] + [None] * (len(header) - len(cells))
        columns = dict(zip(header, values, strict=False))
        problem = record.problem
        if len(cells) > len(header):
            problem = (
                f"{len(cells)} cells where the first line has {len(header)}; quote those that "
                "have the separator in them"
            )
        yield _Line(record.place, columns, problem)


def _csv_records(uri: str, file: BinaryIO) -> Iterator[Record]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        yield from _text_records(uri, text)
    finally:
        # Otherwise it would close the file, which is read again.
        text.detach()


def _text_records(uri: str, text: io.TextIOWrapper) -> Iterator[Record]:
    place = "line 1"
    try:
        for record in records(text, "\t" if ending(uri) == ".tsv" else ","):
            place = record.place
            yield record
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} after {place} is not UTF-8"
        raise _invalid(uri, f"{found}; save it as UTF-8") from None
    except MalformedError as error:
        found = f"{error.place}: {error.found}; it must be separated values"
        raise _invalid(uri, found) from None


def _require_unique(uri: str, names: list[str]) -> None:
    twice = name_of_two(names)
    if twice is not None:
        raise _invalid(uri, f"two columns are called {twice}; rename one")


# Parquet


def _parquet_rows(uri: str, opened: BinaryIO, asked: str | None) -> Iterator[TableRow]:
    with _as_invalid(uri):
        file = pq.ParquetFile(opened)
        schema = file.schema_arrow
        names = schema.names
    _require_unique(uri, names)
    there = ", ".join(f"{field.name} ({shortened(str(field.type), 200)})" for field in schema)
    fitting = [field.name for field in schema if _names(field.type) or _bytes_path(field)]
    column = _image_column(uri, asked, fitting, there)
    image = schema.field(column)
    cells = _bytes_path(image)
    read = [name for field in schema for name in _read_columns(field, image)]
    numbers = itertools.count()
    if cells is None:
        for group in range(file.num_row_groups):
            for columns in _group_rows(uri, file, group, read):
                number = next(numbers)
                yield _named(uri, number, columns, column, f"row {number}")
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
                yield _with_name(uri, number, columns, path, f"row {number}: {column}.path")


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
            raise _invalid(uri, f"it is no Parquet file that can be read: {found}; write it anew")
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
        found = f"it is no Parquet file that can be read: {one_line(error)}; write it anew"
        raise _invalid(uri, found) from error


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
    return value if isinstance(value, str) and not _problem(value) else ""


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
