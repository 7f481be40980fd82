"""The formats of input datasets, and the layouts in which results are stored."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType

from beam_upscale.storage.uris import secrets, urls


class InputFormat(StrEnum):
    """The format in which an input dataset is read.

    FOLDER is image files without a table; JSONL, CSV and PARQUET are tables with a row for each
    image; WEBDATASET is tars with a few members for each image.
    """

    FOLDER = "folder"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    WEBDATASET = "webdataset"

    @property
    def is_table(self) -> bool:
        """True if each image is a row of a table."""
        return self in (InputFormat.JSONL, InputFormat.CSV, InputFormat.PARQUET)


_ENDINGS = MappingProxyType(
    {
        ".jsonl": InputFormat.JSONL,
        ".ndjson": InputFormat.JSONL,
        ".csv": InputFormat.CSV,
        ".tsv": InputFormat.CSV,
        ".parquet": InputFormat.PARQUET,
        ".tar": InputFormat.WEBDATASET,
    }
)


def ending(uri: str) -> str:
    """Returns the extension of a file's name, with its dot and in lower case; empty for none."""
    path = secrets.path_of(uri) if urls.is_web(uri) else uri
    return PurePosixPath(path.rpartition("/")[2]).suffix.lower()


def format_of(uri: str) -> InputFormat | None:
    """Returns the format of a table or a tar by its name; None for any other file."""
    return _ENDINGS.get(ending(uri))


def inferred(uris: Iterable[str]) -> InputFormat:
    """Returns the format that all files have; FOLDER if they have several, or there are none."""
    found = {format_of(uri) for uri in uris}
    return (found.pop() if len(found) == 1 else None) or InputFormat.FOLDER
