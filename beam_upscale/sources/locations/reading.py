"""Reads the bytes at an input's location: a file, a range of one, or a cell of a Parquet file.

Workers get only the location, some hundred bytes, and read the bytes themselves.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from beam_upscale.sources.locations import parquet_cells
from beam_upscale.sources.locations.file_parts import Cell, Extent, Missing, OnDisk, Part, checked
from beam_upscale.sources.locations.local_copies import Copies, ranges
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import check_size
from beam_upscale.storage.stores import store_of


def read(uri: str, part: Part | None, max_bytes: int) -> bytes:
    """Reads all bytes of a location.

    Args:
        uri: the file, on any of Beam's file systems or a web server.
        part: the part of the file; None is the whole file.
        max_bytes: the most bytes that are allowed.

    Raises:
        ImageError: FILE_TOO_LARGE, NOT_FOUND, PERMISSION_DENIED or READ_ERROR; TRUNCATED, the file
            ends too early; INVALID_ROW, a cell has no value; or that of a `Missing`.
    """
    match part:
        case None:
            return files.read_at_most(uri, max_bytes)
        case Extent(offset, size):
            check_size(size, max_bytes)
            return checked(files.read_range(uri, offset, size), uri, part)
        case Cell():
            data = parquet_cells.cells.read(uri, part)
            check_size(len(data), max_bytes)
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
            return files.read(uri, limit)
        case Extent(offset, size):
            start = Extent(offset, min(size, limit))
            return checked(files.read_range(uri, offset, start.size), uri, start)
        case Cell():
            return parquet_cells.cells.read(uri, part)
        case Missing():
            raise part.error()


def size(uri: str, part: Part | None) -> int | None:
    """Returns the number of bytes; None if it is unknown without reading them."""
    match part:
        case None:
            return files.size(uri)
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
            return files.sha256(uri)
        case Extent():
            digest = hashlib.sha256()
            for extent in ranges(part):
                data = files.read_range(uri, extent.offset, extent.size)
                digest.update(checked(data, uri, extent))
            return digest.hexdigest()
        case Cell():
            return hashlib.sha256(parquet_cells.cells.read(uri, part)).hexdigest()
        case Missing():
            raise part.error()


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
        files.open_read(uri).close()
        yield OnDisk(Path(files.absolute(uri)), None)
        return
    with _copies.held(uri, part, sha256) as held:
        yield held


def is_in_place(uri: str, part: Part | None) -> bool:
    """Checks whether `on_disk` gives the input's own file and no copy."""
    return part is None and store_of(uri).is_local


def forget(uri: str) -> None:
    """Forgets a file's cells, to read them again: not every store shows a file's replacement."""
    parquet_cells.cells.forget(uri)


_copies = Copies()
