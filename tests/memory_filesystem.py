"""A file system of Beam's own kind whose files are in this process's memory."""

import io
import posixpath
from collections.abc import Iterator
from typing import ClassVar

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem


class MemoryFileSystem(FileSystem):
    """An object store under `mem://`: a file appears when it is closed, folders do not exist.

    Attributes:
        files: what it holds, by URI.
    """

    files: ClassVar[dict[str, bytes]] = {}

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
        for uri in sorted(self.files):
            if uri.startswith(dir_or_prefix):
                yield self.metadata(uri)

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
