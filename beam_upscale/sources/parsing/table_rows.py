"""Makes an input of a table's row: finds its image, its name and its columns."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from beam_upscale.errors import ErrorCode, SettingsError, literal, shortened
from beam_upscale.sources.locations.file_parts import Missing, Part
from beam_upscale.sources.parsing.metadata_files import name_of_two, shown
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import secrets, uris, urls

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
"""Usual names, in any letter case, of the column with images; a table's first one is used."""

# The most characters of a path or a URL.
_LONGEST_URI = 8192

# The most characters of all columns' names in a message.
_LONGEST_LIST = 1000

LONGEST_LINE_BYTES = 16 << 20
"""The most bytes of a line that is one row, in a table of such lines."""


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A row of a table: an input.

    Attributes:
        number: the number of the row, from 0.
        columns: its values, without the bytes of images.
        name: the image's name in the row; empty if it has none.
        uri: the file with the image: the table itself if the image is embedded or missing.
        part: the part of the file at `uri`; None is the whole file.
    """

    number: int
    columns: Mapping[str, Any]
    name: str
    uri: str
    part: Part | None = None


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a text table.

    Attributes:
        place: its position in the table, for messages.
        columns: its values.
        problem: a fault of the row as a whole; empty if there is none.
    """

    place: str
    columns: Mapping[str, Any]
    problem: str = ""


def invalid(uri: str, found: str) -> SettingsError:
    """Returns the error for a table that cannot be listed: INVALID_TABLE."""
    return SettingsError(ErrorCode.INVALID_TABLE, f"{uris.named(uri)}: {found}")


# The column with images


def find_image_column(uri: str, asked: str | None, fitting: Collection[str], there: str) -> str:
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
            f"image_column is {asked!r}, but {uris.named(uri)} has no column of that name that "
            f"could name or hold images; there are: {shortened(literal(there), _LONGEST_LIST)}",
        )
    by_name = {name.casefold(): name for name in reversed(list(fitting))}
    found = next((by_name[name] for name in IMAGE_COLUMNS if name in by_name), None)
    if found is None:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{uris.named(uri)} has no column with a usual name for images "
            f"({', '.join(IMAGE_COLUMNS)}); there are: "
            f"{shortened(literal(there), _LONGEST_LIST)}; name one with --image-column",
        )
    return found


def named(uri: str, number: int, columns: Mapping[str, Any], column: str, place: str) -> TableRow:
    """Makes a row that names its image, by a text or in a struct."""
    value = columns.get(column)
    if isinstance(value, Mapping) and "path" in value:
        return _named_in_struct(uri, number, columns, column, value, place)
    return with_name(uri, number, columns, value, f"{place}: {column}")


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
        return faulty(uri, number, columns, f"{place}: {column} {found}")
    return with_name(uri, number, columns, value["path"], f"{place}: {column}.path")


def with_name(
    uri: str, number: int, columns: Mapping[str, Any], value: object, place: str
) -> TableRow:
    """Makes a row from the name of its image."""
    problem = problem_of(value)
    if problem:
        return faulty(uri, number, columns, f"{place} {problem}")
    assert isinstance(value, str)
    value = _without_blanks_around(uri, urls.trimmed(value))
    return TableRow(number, columns, value, resolved(uri, value))


def _without_blanks_around(table: str, value: str) -> str:
    """Removes the blanks around a name if a file exists only under the name without them."""
    bare = value.strip()
    # A URL was stripped of ASCII blanks before; blanks of other alphabets are part of it.
    if bare == value or not bare or urls.is_web(value):
        return value
    try:
        found = [files.exists(resolved(table, name)) for name in (value, bare)]
    except Exception:
        # The clients of object stores raise errors of their own. Reading the image reports them.
        return value
    return bare if found == [False, True] else value


def problem_of(value: object) -> str:
    """Explains why a value cannot name an image; empty if it can."""
    must = "it must be the path or the URL of an image"
    if value is None or value == "":
        return f"has no value; {must}"
    if not isinstance(value, str):
        return f"is {shown(value)}, which is not text; {must}"
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
    scheme = store_of(value).unread_scheme(value)
    if scheme is not None:
        return f"is an address that is not read: {uris.scheme_refusal(scheme)}"
    if secrets.has_userinfo(value):
        return f"is a URL that is not read: {urls.USERINFO_REFUSAL}"
    if uris.is_windows_path(value):
        return (
            f"is {shown(value)}, a path on a drive or a server of Windows, which is not "
            "here; name a path of this machine, or one relative to the table's folder"
        )
    return ""


def faulty(uri: str, number: int, columns: Mapping[str, Any], found: str) -> TableRow:
    """Returns a row that cannot be read, to be one input that fails: INVALID_ROW."""
    missing = Missing(ErrorCode.INVALID_ROW, f"{uris.named(uri)}, {found}")
    return TableRow(number, columns, "", uri, missing)


def resolved(table: str, value: str) -> str:
    """Returns the URI that a value of a table names.

    Absolute paths and URIs stay as they are. Others are relative to the table's folder; backslashes
    of Windows become slashes. A table may name any file that can be read.
    """
    if urls.scheme_of(value) is not None or value.startswith("/"):
        return files.absolute(value)
    return store_of(table).resolve(table, value.replace("\\", "/"))


def require_unique(uri: str, names: list[str]) -> None:
    """Raises an error if two columns have one name.

    Raises:
        SettingsError: INVALID_TABLE.
    """
    twice = name_of_two(names)
    if twice is not None:
        raise invalid(uri, f"two columns are called {twice}; rename one")
