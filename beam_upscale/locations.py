"""The location of an input's bytes: a file, a range of one, or a cell of a Parquet file.

Workers get only the location, some hundred bytes, and read the bytes themselves.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale import storage
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.parquet_footers import column_chunks

_CHUNK_BYTES = 16 << 20

# Limits of the columns of row groups that a process keeps. A larger column is read up to the row
# and not kept. More groups are kept only if more threads read, each in a group of its own.
_MOST_KEPT_BYTES = 512 << 20
_MOST_KEPT_GROUPS = 16
_ROWS_AT_A_TIME = 16


@dataclasses.dataclass(frozen=True)
class Extent:
    """A range of a file's bytes, such as a member of a tar."""

    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value in a Parquet file.

    Attributes:
        row_group: of the file, from 0.
        row: in that group, from 0.
        column: path of a binary column, with dots between its parts.
    """

    row_group: int
    row: int
    column: str


@dataclasses.dataclass(frozen=True)
class Missing:
    """An input without bytes: the row that names it, or the file that should hold it, is faulty.

    Attributes:
        code: of the error that reading the input raises.
        message: of the same error.
    """

    code: ErrorCode
    message: str

    def error(self) -> ImageError:
        """Returns the error that reading the input raises."""
        return ImageError(self.code, self.message)


Part = Extent | Cell | Missing


def read(uri: str, part: Part | None, max_bytes: int) -> bytes:
    """Reads all bytes of a location.

    Args:
        uri: the file, on any of Beam's file systems or a web server.
        part: of the file; None is the whole file.
        max_bytes: the most bytes that are allowed.

    Raises:
        ImageError: FILE_TOO_LARGE, NOT_FOUND, PERMISSION_DENIED or READ_ERROR; TRUNCATED, the file
            ends too early; INVALID_ROW, a cell has no value; or that of a `Missing`.
    """
    match part:
        case None:
            return storage.read_at_most(uri, max_bytes)
        case Extent(offset, size):
            storage.check_size(size, max_bytes)
            return _checked(storage.read_range(uri, offset, size), uri, part)
        case Cell():
            data = _cells.read(uri, part)
            storage.check_size(len(data), max_bytes)
            return data
        case Missing():
            raise part.error()


def read_start(uri: str, part: Part | None, limit: int) -> bytes:
    """Reads the first bytes, at most `limit`; of a cell all, which cannot be read in part.

    Raises:
        ImageError: as `read`, but for its limit.
    """
    match part:
        case None:
            return storage.read(uri, limit)
        case Extent(offset, size):
            start = Extent(offset, min(size, limit))
            return _checked(storage.read_range(uri, offset, start.size), uri, start)
        case Cell():
            return _cells.read(uri, part)
        case Missing():
            raise part.error()


def size(uri: str, part: Part | None) -> int | None:
    """Returns the number of bytes; None if it cannot be told without reading them."""
    match part:
        case None:
            return storage.size(uri)
        case Extent():
            return part.size
        case Cell() | Missing():
            return None


def sha256(uri: str, part: Part | None) -> str:
    """Returns the SHA-256 of the bytes, in hexadecimal.

    Raises:
        ImageError: as `read`, but for its limit.
    """
    match part:
        case None:
            return storage.sha256(uri)
        case Extent():
            digest = hashlib.sha256()
            for piece in _pieces(part):
                data = storage.read_range(uri, piece.offset, piece.size)
                digest.update(_checked(data, uri, piece))
            return digest.hexdigest()
        case Cell():
            return hashlib.sha256(_cells.read(uri, part)).hexdigest()
        case Missing():
            raise part.error()


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """A local file that holds an input's bytes.

    Attributes:
        path: of the file.
        sha256: of the bytes, in hexadecimal; None for an input's own file, which was not read.
    """

    path: Path
    sha256: str | None


@contextlib.contextmanager
def on_disk(uri: str, part: Part | None, sha256: str | None = None) -> Iterator[OnDisk]:
    """Provides a local file that holds the bytes, for code that reads them in parts.

    An input that is not a local file of its own is copied to the temporary folder. The hash of the
    copy identifies it, since nothing else shows that a file elsewhere was not replaced. The copies
    that were used last are kept for all threads of a process, and deleted when it ends.

    Args:
        uri: as for `read`.
        part: as for `read`.
        sha256: the expected hash of the bytes; an input's own file is not hashed. None accepts the
            bytes as they are now.

    Raises:
        ImageError: as `read`, but for its limit; READ_ERROR, the bytes are not those expected.
    """
    if is_in_place(uri, part):
        # Raises the reason if it cannot be read.
        storage.open_read(uri).close()
        yield OnDisk(Path(storage.absolute(uri)), None)
        return
    with _copies.held(uri, part, sha256) as held:
        yield held


def is_in_place(uri: str, part: Part | None) -> bool:
    """Checks whether `on_disk` gives the input's own file and no copy."""
    return part is None and storage.is_local(uri)


def changed(uri: str) -> ImageError:
    """Makes the error for a file that was changed while it was read."""
    return ImageError(
        ErrorCode.READ_ERROR,
        f"{storage.printable(uri)} was changed or removed while it was read",
    )


def forget(uri: str) -> None:
    """Forgets a file's cells, to read them anew: not every store tells that a file was replaced."""
    _cells.forget(uri)


def _pieces(extent: Extent) -> Iterator[Extent]:
    """Cuts an extent into smaller ones that are held in memory one by one."""
    end = extent.offset + extent.size
    for offset in range(extent.offset, end, _CHUNK_BYTES):
        yield Extent(offset, min(_CHUNK_BYTES, end - offset))


def _checked(data: bytes, uri: str, extent: Extent) -> bytes:
    if len(data) == extent.size:
        return data
    raise ImageError(
        ErrorCode.TRUNCATED,
        f"{storage.named(uri)} has {len(data):,} bytes at {extent.offset:,}, where "
        f"{extent.size:,} should be; it was cut off, or changed since it was listed",
    )


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
        """Reads a cell's bytes; errors are those of `locations.read`."""
        # A file that was replaced has another version. Without versions, nothing is found again.
        version = storage.version(uri) or (object(),)
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
            raise storage.read_error(uri, error) from error
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


_cells = _Cells()


def _column(uri: str, cell: Cell) -> pa.ChunkedArray | None:
    """Reads a whole binary column of a row group; returns None if it is too large."""
    with storage.open_read(uri) as opened:
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
    with storage.open_read(uri) as opened:
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


# Copies of inputs that a process keeps while nothing reads them.
_MOST_COPIES = 2


@dataclasses.dataclass
class _Copy:
    """A copy of an input on this machine.

    Attributes:
        lock: held while the copy is made; other threads that need it wait.
        path: of the copy; None until it is made.
        users: the number of its present readers.
    """

    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    path: Path | None = None
    users: int = 0


class _Copies:
    """The inputs that were copied to this machine to be read in parts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copies: OrderedDict[Hashable, _Copy] = OrderedDict()
        self._folder: Path | None = None

    @contextlib.contextmanager
    def held(self, uri: str, part: Part | None, sha256: str | None) -> Iterator[OnDisk]:
        """Provides a copy that stays in place while the block runs."""
        made = self._made(uri, part) if sha256 is None else None
        expected = sha256 if made is None else made[1]
        with self._lock:
            key = uri, part, expected
            copy = self._copies.setdefault(key, _Copy())
            self._copies.move_to_end(key)
            copy.users += 1
        try:
            with copy.lock:
                if copy.path is None:
                    path, found = made or self._made(uri, part)
                    made = None
                    if found != expected:
                        path.unlink()
                        raise changed(uri)
                    copy.path = path
            yield OnDisk(copy.path, expected)
        finally:
            if made is not None:
                # There was a copy already, or an error.
                made[0].unlink()
            with self._lock:
                copy.users -= 1
                if copy.path is None and not copy.users:
                    self._copies.pop(key, None)
                self._forget_oldest()

    def _made(self, uri: str, part: Part | None) -> tuple[Path, str]:
        """Makes a new copy; returns its path and the SHA-256 of its content."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="beam-upscale-"))
                atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        path, digest = Path(name), hashlib.sha256()
        try:
            with os.fdopen(descriptor, "wb") as file:
                for data in _chunks(uri, part):
                    file.write(data)
                    digest.update(data)
        except BaseException:
            path.unlink()
            raise
        return path, digest.hexdigest()

    def _forget_oldest(self) -> None:
        unused = [key for key, copy in self._copies.items() if not copy.users]
        for key in unused[: max(0, len(self._copies) - _MOST_COPIES)]:
            path = self._copies.pop(key).path
            if path is not None:
                path.unlink(missing_ok=True)


_copies = _Copies()


def _chunks(uri: str, part: Part | None) -> Iterator[bytes]:
    """Yields all bytes, in chunks except for a cell; errors are those of `read`."""
    match part:
        case None:
            yield from _file_chunks(uri)
        case Extent():
            for piece in _pieces(part):
                yield _checked(storage.read_range(uri, piece.offset, piece.size), uri, piece)
        case Cell():
            yield _cells.read(uri, part)
        case Missing():
            raise part.error()


def _file_chunks(uri: str) -> Iterator[bytes]:
    with storage.open_read(uri) as file:
        while data := _next_chunk(file, uri):
            yield data


def _next_chunk(file: BinaryIO, uri: str) -> bytes:
    try:
        return file.read(_CHUNK_BYTES)
    except Exception as error:
        # The clients of object stores raise errors of their own.
        raise storage.read_error(uri, error) from error
