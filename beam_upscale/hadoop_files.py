"""Files on HDFS: what Beam's file system for it does not do, or not as it is needed here.

Beam's `HadoopFileSystem` gives of a folder only what lies in it directly, folders as if they were
files; it takes a server that fails for a file that is missing, and renames onto nothing that is
there. The client of WebHDFS that it holds can do all of that.
"""

import contextlib
import posixpath
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

_SCHEME = "hdfs://"

# By the names that the server gives its errors.
_OS_ERRORS = {
    "FileNotFoundException": FileNotFoundError,
    "AccessControlException": PermissionError,
}


def is_hdfs(uri: str) -> bool:
    """Whether a URI names a file on HDFS."""
    return uri.startswith(_SCHEME)


def open_read(uri: str) -> BinaryIO:
    """A file opened for reading.

    Raises:
        OSError: a FileNotFoundError or a PermissionError.
        Exception: of the client, for anything else.
    """
    with _os_errors():
        file = FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    return cast(BinaryIO, file)


def exists(uri: str) -> bool:
    """Whether a file is there; a folder is none.

    Raises:
        OSError: a PermissionError.
        Exception: of the client, for anything else.
    """
    try:
        return bool(_status(uri)["type"] == "FILE")
    except FileNotFoundError:
        return False


def size(uri: str) -> int:
    """A file's size in bytes; raises as `open_read`."""
    return int(_status(uri)["length"])


def version(uri: str) -> tuple[object, ...]:
    """What changes when a file is replaced; raises as `open_read`."""
    status = _status(uri)
    return status["length"], status["modificationTime"], status["fileId"]


def _status(uri: str) -> dict[str, Any]:
    client, path = _client(uri)
    with _os_errors():
        return cast(dict[str, Any], client.status(path))


def paths_below(prefix: str) -> Iterator[str]:
    """The URIs of the files that begin like this, folder by folder; none where there is no folder.

    Raises:
        OSError: a PermissionError, also for a folder further down.
        Exception: of the client, for anything else.
    """
    folders = [prefix.rpartition("/")[0]]
    while folders:
        folder = folders.pop()
        for name, is_folder in _children(folder):
            uri = f"{folder}/{name}"
            if not uri.startswith(prefix):
                continue
            if is_folder:
                folders.append(uri)
            else:
                yield uri


def _children(folder: str) -> Iterator[tuple[str, bool]]:
    """The names in a folder, and whether each is that of a folder."""
    client, path = _client(folder)
    try:
        with _os_errors():
            answer = client._list_status(path).json()
    except FileNotFoundError:
        return
    for status in answer["FileStatuses"]["FileStatus"]:
        # A file is listed as one thing without a name.
        if status["pathSuffix"]:
            yield status["pathSuffix"], status["type"] == "DIRECTORY"


def replace(source: str, target: str) -> None:
    """Renames a file, also onto one that is there: in one step, at no time is there neither.

    Args:
        source: its URI.
        target: the new one; missing folders are made.

    Raises:
        OSError: the server does not replace files, as HttpFS does not; or as `open_read`.
        Exception: of the client, for anything else.
    """
    client, path = _client(source)
    _, destination = _client(target)
    with _os_errors():
        client.makedirs(posixpath.dirname(destination))
        answer = client._rename(path, destination=destination, renameoptions="OVERWRITE")
    # A server that knows the option answers nothing; one that does not tells whether it renamed.
    if answer.content and not answer.json()["boolean"]:
        raise OSError(
            f"{target} could not be replaced: this server of WebHDFS does not rename onto a file "
            "that is there. Name the NameNode itself by --hdfs_host and --hdfs_port"
        )


def rename(source: str, target: str) -> bool:
    """Renames a file, unless the new name is taken; whether it was renamed.

    Args:
        source: its URI.
        target: the new one; missing folders are made.

    Raises:
        OSError: as `open_read`.
        Exception: of the client, for anything else.
    """
    client, path = _client(source)
    _, destination = _client(target)
    with _os_errors():
        client.makedirs(posixpath.dirname(destination))
        return bool(client._rename(path, destination=destination).json()["boolean"])


def _client(uri: str) -> tuple[Any, str]:
    """The client that Beam's options set up, and a URI's path on its server."""
    filesystem = FileSystems.get_filesystem(uri)
    _, path = filesystem._parse_url(uri)
    return filesystem._hdfs_client, path


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Raises those of the client's errors that Python has a name for by that."""
    try:
        yield
    except Exception as error:
        found = _OS_ERRORS.get(getattr(error, "exception", None) or "")
        if found is None:
            raise
        raise found(str(error)) from error
