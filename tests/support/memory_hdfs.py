"""An HDFS in this process's memory, below Beam's own file system for HDFS."""

import contextlib
import io
import json
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from apache_beam.io import hadoopfilesystem

from beam_upscale.storage import files

OPTIONS = ("--hdfs_host=namenode", "--hdfs_port=9870", "--hdfs_user=me")
"""Of Beam, which has no HDFS without them."""


class HdfsError(Exception):
    """As that of the package `hdfs`: with the name that the server gives an error."""

    def __init__(self, message: str, exception: str | None = None) -> None:
        super().__init__(message)
        self.exception = exception


class _Answer:
    def __init__(self, content: object = None) -> None:
        self.content = b"" if content is None else json.dumps(content).encode()

    def json(self) -> Any:
        return json.loads(self.content)


class MemoryHdfs:
    """The client of the package `hdfs`, as far as Beam and this package call it.

    It does what the NameNode of Hadoop 3.4 was seen to do: a file is there while it is written,
    folders stay when they are empty, and nothing is renamed into a folder that is missing. A look
    at it fails by nothing that another thread writes or deletes meanwhile.

    Attributes:
        files: what it holds, by path.
        folders: that were made, or are left of files.
        step: called before and after each change, with what it is and the path.
        replaces: whether it knows the option of a rename to do so.
    """

    files: ClassVar[dict[str, bytes]] = {}
    folders: ClassVar[set[str]] = set()
    step: ClassVar[Callable[[str, str], None]] = lambda *_: None
    replaces: ClassVar[bool] = True

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def status(self, path: str, strict: bool = True) -> dict[str, Any] | None:
        data = self.files.get(path)
        if data is not None:
            return {"type": "FILE", "length": len(data), "modificationTime": 0, "fileId": id(data)}
        if self._is_folder(path):
            return {"type": "DIRECTORY", "length": 0, "modificationTime": 0, "fileId": 0}
        if strict:
            raise _missing(path)
        return None

    def _is_folder(self, path: str) -> bool:
        return any(f"{each}/".startswith(f"{path}/") for each in self.folders | self._parents())

    def _parents(self) -> set[str]:
        return {path.rpartition("/")[0] for path in list(self.files)}

    def _list_status(self, path: str) -> _Answer:
        self.status(path)
        names = {""} if path in self.files else self._names(f"{path}/")
        states = [
            (name, self.status(f"{path}/{name}".rstrip("/"), strict=False))
            for name in sorted(names)
        ]
        found = [{"pathSuffix": name, **state} for name, state in states if state is not None]
        return _Answer({"FileStatuses": {"FileStatus": found}})

    def _names(self, folder: str) -> set[str]:
        paths = self.folders | set(self.files)
        below = (path.removeprefix(folder) for path in paths if path.startswith(folder))
        return {path.partition("/")[0] for path in below}

    @contextlib.contextmanager
    def read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[io.BytesIO]:
        end = None if length is None else offset + length
        yield io.BytesIO(self.files[path][offset:end])

    def write(self, path: str) -> "_Writer":
        self.makedirs(path.rpartition("/")[0])
        return _Writer(path)

    def makedirs(self, path: str) -> None:
        self.folders.add(path)

    def delete(self, path: str, recursive: bool = False) -> bool:
        is_there = self.status(path, strict=False) is not None
        MemoryHdfs.step("delete", path)
        for held in (self.files, self.folders):
            for each in [each for each in list(held) if f"{each}/".startswith(f"{path}/")]:
                held.pop(each, None) if isinstance(held, dict) else held.discard(each)
        return is_there

    def _rename(self, path: str, destination: str, renameoptions: str | None = None) -> _Answer:
        if path not in self.files:
            raise _missing(path)
        if not self._is_folder(destination.rpartition("/")[0]):
            raise HdfsError("rename destination parent not found", "FileNotFoundException")
        is_replaced = renameoptions == "OVERWRITE" and self.replaces
        if destination in self.files and not is_replaced:
            return _Answer({"boolean": False})
        MemoryHdfs.step("rename", destination)
        self.files[destination] = self.files.pop(path)
        MemoryHdfs.step("renamed", destination)
        return _Answer() if is_replaced else _Answer({"boolean": True})


class _Writer:
    """A file that is there as far as it is written."""

    def __init__(self, path: str) -> None:
        self._path = path
        MemoryHdfs.files[path] = b""

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: bytes) -> None:
        MemoryHdfs.files[self._path] += data[: len(data) // 2]
        MemoryHdfs.step("write", self._path)
        MemoryHdfs.files[self._path] += data[len(data) // 2 :]


def _missing(path: str) -> HdfsError:
    return HdfsError(f"File does not exist: {path}", "FileNotFoundException")


@contextlib.contextmanager
def hdfs() -> Iterator[dict[str, bytes]]:
    """HDFS for a while, and empty; gives its files by path: `/b/a` for `hdfs://b/a`."""
    module, found = hadoopfilesystem, hadoopfilesystem.hdfs
    module.hdfs = types.SimpleNamespace(InsecureClient=MemoryHdfs, HdfsError=HdfsError)
    files.configure(OPTIONS)
    try:
        yield MemoryHdfs.files
    finally:
        module.hdfs = found
        files.configure(())
        MemoryHdfs.files.clear()
        MemoryHdfs.folders.clear()
