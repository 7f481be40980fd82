"""In which form a dataset comes, and in which one its results are stored."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType

from beam_upscale import urls


class InputFormat(StrEnum):
    """What an input is read as.

    FOLDER is image files by themselves; JSONL, CSV and PARQUET are tables with a row for each
    image; WEBDATASET is tars with a few members for each image.
    """

    FOLDER = "folder"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    WEBDATASET = "webdataset"

    @property
    def is_table(self) -> bool:
        """Whether an image is a row."""
        return self in (InputFormat.JSONL, InputFormat.CSV, InputFormat.PARQUET)


class Layout(StrEnum):
    """The way images are stored: in a file each, in Parquet, or in tars for WebDataset."""

    FILES = "files"
    PARQUET = "parquet"
    WEBDATASET = "webdataset"

    @property
    def is_packed(self) -> bool:
        """Tells whether a shard's images are in one file, `data_path`, instead of one each."""
        return self is not Layout.FILES

    def data_path(self, shard: int) -> str:
        """The file of a shard's images, relative to the dataset's root, where they are packed."""
        extension = {Layout.PARQUET: ".parquet", Layout.WEBDATASET: ".tar"}[self]
        return f"data/{shard_name(shard)}{extension}"


def shard_name(shard: int) -> str:
    """The name of a shard's files without extension; shards are counted from 0."""
    return f"{shard:06d}"


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
    """What a file's name ends in, with its dot and in lower case."""
    path = urls.path_of(uri) if urls.is_web(uri) else uri
    return PurePosixPath(path.rpartition("/")[2]).suffix.lower()


def format_of(uri: str) -> InputFormat | None:
    """The format of a table or a tar by its name; None for any other file."""
    return _ENDINGS.get(ending(uri))


def inferred(uris: Iterable[str]) -> InputFormat:
    """The format that all of these files have; of files of several, or of none, FOLDER."""
    found = {format_of(uri) for uri in uris}
    return (found.pop() if len(found) == 1 else None) or InputFormat.FOLDER
