"""Makes local copies of inputs, for libraries that have to map a file into memory."""

import atexit
import contextlib
import dataclasses
import hashlib
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import BinaryIO

from beam_upscale.sources.locations import parquet_cells
from beam_upscale.sources.locations.file_parts import (
    Cell,
    Extent,
    Missing,
    OnDisk,
    Part,
    changed,
    checked,
)
from beam_upscale.storage import files

_CHUNK_BYTES = 16 << 20


def ranges(extent: Extent) -> Iterator[Extent]:
    """Cuts an extent into smaller ones that are held in memory one by one."""
    end = extent.offset + extent.size
    for offset in range(extent.offset, end, _CHUNK_BYTES):
        yield Extent(offset, min(_CHUNK_BYTES, end - offset))


# Copies of inputs that a process keeps while nothing reads them.
_MOST_COPIES = 2


@dataclasses.dataclass
class _Copy:
    """A copy of an input on this machine.

    Attributes:
        lock: held while the copy is made; other threads that need it wait.
        path: the path of the copy; None until it is made.
        users: the number of its present readers.
    """

    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    path: Path | None = None
    users: int = 0


class Copies:
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


def _chunks(uri: str, part: Part | None) -> Iterator[bytes]:
    """Yields all bytes, in chunks except for a cell; errors are those of `read`."""
    match part:
        case None:
            yield from _file_chunks(uri)
        case Extent():
            for extent in ranges(part):
                yield checked(files.read_range(uri, extent.offset, extent.size), uri, extent)
        case Cell():
            yield parquet_cells.cells.read(uri, part)
        case Missing():
            raise part.error()


def _file_chunks(uri: str) -> Iterator[bytes]:
    with files.open_read(uri) as file:
        while data := _next_chunk(file, uri):
            yield data


def _next_chunk(file: BinaryIO, uri: str) -> bytes:
    try:
        return file.read(_CHUNK_BYTES)
    except Exception as error:
        # The clients of object stores raise errors of their own.
        raise files.read_error(uri, error) from error
