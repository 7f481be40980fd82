"""Reads cells of Parquet files, and caches their columns for neighboring rows."""

import dataclasses
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.locations.file_parts import Cell
from beam_upscale.sources.locations.parquet_footers import column_chunks
from beam_upscale.storage import files

# Limits of the columns of row groups that a process keeps. A larger column is read up to the row
# and not kept. More groups are kept only if more threads read, each in a group of its own.
_MOST_KEPT_BYTES = 512 << 20
_MOST_KEPT_GROUPS = 16
_ROWS_AT_A_TIME = 16


@dataclasses.dataclass
class _Kept:
    """A binary column of a row group, to be read once.

    Attributes:
        lock: held while the column is read; threads that read other rows of it wait.
        values: the column; None until it is read, or if it is too large to be kept.
    """

    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    values: pa.ChunkedArray | None = None

    @property
    def bytes(self) -> int:
        """The memory that the column takes, in bytes; 0 if it is not held."""
        return 0 if self.values is None else int(self.values.nbytes)


class _Cells:
    """A cache of Parquet files, of which nothing smaller than a row group's column can be read.

    The columns that were read last are kept for all threads of a process, since rows of one row
    group mostly come one after the other. The column that each thread read last is kept, too, while
    there is memory: otherwise many threads would drop each other's columns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Hashable, ...], _Kept] = OrderedDict()
        self._last_of: weakref.WeakKeyDictionary[threading.Thread, Hashable]
        self._last_of = weakref.WeakKeyDictionary()

    def read(self, uri: str, cell: Cell) -> bytes:
        """Reads a cell's bytes; errors are those of `reading.read`."""
        # A file that was replaced has another version. Without versions, nothing is found again.
        version = files.version(uri) or (object(),)
        key = uri, version, cell.row_group, cell.column
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            self._kept.move_to_end(key)
            self._last_of[threading.current_thread()] = key
        try:
            with kept.lock:
                if kept.values is None:
                    kept.values = _column(uri, cell)
                value = _value(uri, cell) if kept.values is None else kept.values[cell.row].as_py()
        except ImageError:
            raise
        except Exception as error:
            # Arrow's own errors, and those of the clients of object stores.
            raise files.read_error(uri, error) from error
        self._forget_oldest()
        if value is None:
            raise ImageError(
                ErrorCode.INVALID_ROW,
                f"the column {cell.column} holds nothing in this row; it must hold an image",
            )
        return bytes(value)

    def forget(self, uri: str) -> None:
        """Forgets the columns that are kept of a file."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == uri]:
                del self._kept[key]

    def _forget_oldest(self) -> None:
        with self._lock:
            total = sum(kept.bytes for kept in self._kept.values())
            while total > _MOST_KEPT_BYTES and len(self._kept) > 1:
                total -= self._kept.popitem(last=False)[1].bytes
            in_use = set(self._last_of.values())
            others = [key for key in self._kept if key not in in_use]
            for key in others[: max(0, len(self._kept) - _MOST_KEPT_GROUPS)]:
                del self._kept[key]


cells = _Cells()


def _column(uri: str, cell: Cell) -> pa.ChunkedArray | None:
    """Reads a whole binary column of a row group; returns None if it is too large."""
    with files.open_read(uri) as opened:
        file = pq.ParquetFile(opened)
        group = file.metadata.row_group(cell.row_group)
        if group.total_byte_size > _MOST_KEPT_BYTES and _is_large(opened, cell):
            return None
        return only_column(file.read_row_group(cell.row_group, columns=[cell.column]))


def _is_large(file: BinaryIO, cell: Cell) -> bool:
    """Checks whether a column of a large row group is too large to hold; True if not known."""
    chunks = column_chunks(file, cell.column)[cell.row_group : cell.row_group + 1]
    return all(chunk is None or chunk.size > _MOST_KEPT_BYTES for chunk in chunks)


def _value(uri: str, cell: Cell) -> bytes | None:
    """Reads one value of a column that is too large to hold, skipping the rows before it."""
    before = 0
    with files.open_read(uri) as opened:
        batches = pq.ParquetFile(opened).iter_batches(
            _ROWS_AT_A_TIME, row_groups=[cell.row_group], columns=[cell.column]
        )
        for batch in batches:
            if cell.row < before + batch.num_rows:
                values = only_column(pa.Table.from_batches([batch]))
                return cast(bytes | None, values[cell.row - before].as_py())
            before += batch.num_rows
    raise IndexError(f"row group {cell.row_group} has {before} rows, and no row {cell.row}")


def only_column(table: pa.Table) -> pa.ChunkedArray:
    """Returns the only column of a table, or the only member of its only column."""
    while pa.types.is_struct(table.schema.types[0]):
        table = table.flatten()
    return table.column(0)
