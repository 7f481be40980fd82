"""The files of the books: open entries, and closed ones in batches."""

import itertools
import re
import time
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale.dataset.book_entries import SCHEMA, CallKey, Entry, entry_from_json, entry_of
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.paths.output_files import BOOKS
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

READERS = 32
_CLOSED_TOGETHER = 50_000

# Programs that browse or copy the output may leave their own files among these.
OPEN_NAME = re.compile(r"([0-9a-f]{64}\.[0-9]+|row-[0-9a-f]{64})\.json")
CLOSED_NAME = re.compile(r"[^.].*\.parquet")

# Seconds before a file is read again: without hard links, it appears before it is fully written.
_PAUSES = (0.05, 0.2, 0.5)


def folder_of(dataset: DatasetFolder, *parts: str) -> str:
    """Returns the URI of a file or folder of the books."""
    return uris.join(dataset.root, BOOKS, *parts)


def open_uri(dataset: DatasetFolder, key: CallKey, n: int) -> str:
    """Returns the URI of a call's open entry with the number `n`."""
    return folder_of(dataset, "open", f"{key.path}.{n}.json")


def closed(dataset: DatasetFolder, uris: Set[str] | None = None) -> Iterator[list[Entry]]:
    """Yields the entries of all closed files, or of the given ones, in batches."""
    for batch in closed_batches(dataset, uris):
        yield [entry_of(values) for values in batch.to_pylist()]


def closed_batches(
    dataset: DatasetFolder, uris: Set[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yields the closed entries as Arrow record batches with a column for each attribute.

    Args:
        dataset: the output.
        uris: the files to read, if they exist; None reads all.

    Raises:
        SettingsError: BOOKS_DAMAGED.
    """
    for uri in list(named(folder_of(dataset, "closed"), CLOSED_NAME)):
        if uris is not None and uri not in uris:
            continue
        with files.open_read(uri) as file:
            try:
                yield from pq.ParquetFile(file).iter_batches(columns=SCHEMA.names)
            except pa.ArrowException as error:
                raise _damaged(uri, error) from error
            except OSError as error:
                # Arrow's own errors have no number.
                if error.errno is not None:
                    raise
                raise _damaged(uri, error) from error


def named(folder: str, name: re.Pattern[str]) -> Iterator[str]:
    """Yields the URIs of the files below a folder whose base names match a pattern."""
    for found in files.list_below(folder):
        if name.fullmatch(found.name.rpartition("/")[2]):
            yield found.uri


def _damaged(uri: str, error: Exception) -> SettingsError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return SettingsError(
        ErrorCode.BOOKS_DAMAGED,
        f"{uri} is damaged, so that the credits spent are not known: restore it from a copy, or "
        f"start the output over with --overwrite ({type(error).__name__}: {reason})",
    )


def check(dataset: DatasetFolder) -> None:
    """Reads all books of an output.

    Raises:
        SettingsError: BOOKS_DAMAGED, with the file that cannot be parsed.
    """
    for _ in itertools.chain(closed(dataset), open_entries(dataset)):
        pass


def open_entries(dataset: DatasetFolder) -> Iterator[list[Entry]]:
    """Yields the open entries in batches."""
    for found in open_files(dataset):
        yield [entry for _, entry in found]


def open_files(dataset: DatasetFolder) -> Iterator[list[tuple[str, Entry]]]:
    """Yields the URIs of open entries with the entries themselves, in batches."""
    uris = named(folder_of(dataset, "open"), OPEN_NAME)
    with ThreadPoolExecutor(READERS) as readers:
        while some := list(itertools.islice(uris, _CLOSED_TOGETHER)):
            entries = readers.map(read_entry, some)
            pairs = zip(some, entries, strict=True)
            yield [(uri, entry) for uri, entry in pairs if entry is not None]


def read_entry(uri: str) -> Entry | None:
    """Reads the entry in a file; None if the file is gone.

    Raises:
        SettingsError: BOOKS_DAMAGED.
        OSError: it cannot be read.
    """
    for pause in (*_PAUSES, None):
        data = files.read_if_there(uri)
        if data is None:
            return None
        try:
            return entry_from_json(data)
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            if pause is None:
                raise _damaged(uri, error) from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")
