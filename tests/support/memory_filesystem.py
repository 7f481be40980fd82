"""A file system of Beam's own kind whose files are in this process's memory."""

import contextlib
import hashlib
import io
import posixpath
import threading
from collections.abc import Iterator
from typing import IO, Any, ClassVar

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem

from beam_upscale.storage.beam.object_store import ObjectStore
from beam_upscale.storage.stores import STORES, Entry


class MemoryFileSystem(FileSystem):
    """An object store under `mem://`: a file appears when it is closed, folders do not exist.

    Attributes:
        files: what it holds, by URI.
    """

    files: ClassVar[dict[str, bytes]] = {}

    def __init__(self, pipeline_options: Any) -> None:
        super().__init__(pipeline_options)
        self._pipeline_options = pipeline_options

    @classmethod
    def scheme(cls) -> str:
        return "mem"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        return posixpath.split(path)

    def mkdirs(self, path: str) -> None:
        pass

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        # As of one moment: other threads may write and delete meanwhile.
        for uri, data in sorted(self.files.copy().items()):
            if uri.startswith(dir_or_prefix):
                yield FileMetadata(uri, len(data), 0.0)

    def create(
        self,
        path: str,
        mime_type: str = "application/octet-stream",
        compression_type: str = CompressionTypes.AUTO,
    ) -> "Upload":
        return Upload(self.files, path)

    def open(
        self,
        path: str,
        mime_type: str = "application/octet-stream",
        compression_type: str = CompressionTypes.AUTO,
    ) -> io.BytesIO:
        if path not in self.files:
            raise FileNotFoundError(path)
        return io.BytesIO(self.files[path])

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            self.files[destination] = self.files[source]

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            self.files[destination] = self.files.pop(source)

    def exists(self, path: str) -> bool:
        return path in self.files

    def size(self, path: str) -> int:
        return int(self.metadata(path).size_in_bytes)

    def last_updated(self, path: str) -> float:
        return 0.0

    def metadata(self, path: str) -> FileMetadata:
        if path not in self.files:
            raise BeamIOError(f"there is no {path}")
        return FileMetadata(path, len(self.files[path]), 0.0)

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            del self.files[path]


class Upload(io.BytesIO):
    """A file that is stored when it is closed, by whomever: Python closes forgotten files too."""

    def __init__(self, files: dict[str, bytes], uri: str) -> None:
        super().__init__()
        self._files = files
        self._uri = uri

    def close(self) -> None:
        if not self.closed:
            self._files[self._uri] = self.getvalue()
        super().close()


class ConditionalMemory:
    """The conditions of S3 for those files, by their MD5."""

    _turn: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, _: object = None) -> None:
        self._files = MemoryFileSystem.files

    def version(self, uri: str) -> str | None:
        data = self._files.get(uri)
        return None if data is None else hashlib.md5(data).hexdigest()

    def read(self, uri: str) -> bytes | None:
        return self._files.get(uri)

    def versions_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        with self._turn:
            found = sorted(uri for uri in list(self._files) if uri.startswith(prefix))
        for uri in found:
            if (version := self.version(uri)) is not None:
                yield uri, version

    def write(self, uri: str, file: IO[bytes], expected: str | None) -> bool:
        file.seek(0)
        with self._turn:
            if self.version(uri) != expected:
                return False
            self._files[uri] = file.read()
            return True

    def delete(self, uri: str, expected: str) -> bool:
        with self._turn:
            found = self.version(uri)
            if found == expected:
                del self._files[uri]
            return found in (expected, None)


STORE = ObjectStore(ConditionalMemory)


@contextlib.contextmanager
def conditional_memory() -> Iterator[str]:
    """Those files as an object store with conditions, empty, for a while; gives a root."""
    entry = Entry(lambda uri: uri.startswith("mem://"), __name__, ("mem",))
    STORES.insert(0, entry)
    MemoryFileSystem.files.clear()
    try:
        yield "mem://bucket"
    finally:
        STORES.remove(entry)
        MemoryFileSystem.files.clear()
