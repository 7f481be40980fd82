"""Operations on HDFS that Beam's file system lacks, or does not do as needed here.

Beam's `HadoopFileSystem` lists only the direct entries of a folder, and subfolders as if they were
files. It reports a failing server as a missing file, and cannot rename onto an existing file. The
WebHDFS client inside it can do all of this.
"""

import contextlib
import posixpath
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

_SCHEME = "hdfs://"

# The OSError classes, by the server's names of its errors.
_OS_ERRORS = {
    "FileNotFoundException": FileNotFoundError,
    "AccessControlException": PermissionError,
}


def is_hdfs(uri: str) -> bool:
    """Checks whether a URI is on HDFS."""
    return uri.startswith(_SCHEME)


def open_read(uri: str) -> BinaryIO:
    """Opens a file for reading.

    Raises:
        OSError: a FileNotFoundError or a PermissionError.
        Exception: an error of the WebHDFS client, for anything else.
    """
    with _os_errors():
        file = FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    return cast(BinaryIO, file)


def exists(uri: str) -> bool:
    """Checks whether a file exists; False for a folder.

    Raises:
        OSError: a PermissionError.
        Exception: an error of the WebHDFS client, for anything else.
    """
    try:
        return bool(_status(uri)["type"] == "FILE")
    except FileNotFoundError:
        return False


def size(uri: str) -> int:
    """Returns a file's size in bytes; raises the errors of `open_read`."""
    return int(_status(uri)["length"])


def version(uri: str) -> tuple[object, ...]:
    """Returns values that change when a file is replaced; raises the errors of `open_read`."""
    status = _status(uri)
    return status["length"], status["modificationTime"], status["fileId"]


def _status(uri: str) -> dict[str, Any]:
    client, path = _client(uri)
    with _os_errors():
        return cast(dict[str, Any], client.status(path))


def paths_below(prefix: str) -> Iterator[str]:
    """Yields the URIs of all files with a prefix, folder by folder; none if the folder is missing.

    Raises:
        OSError: a PermissionError, also for a folder further down.
        Exception: an error of the WebHDFS client, for anything else.
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
    """Yields (name, True for a subfolder) for each entry of a folder; none if it is missing."""
    client, path = _client(folder)
    try:
        with _os_errors():
            answer = client._list_status(path).json()
    except FileNotFoundError:
        return
    for status in answer["FileStatuses"]["FileStatus"]:
        # A file is listed as a single entry without a name.
        if status["pathSuffix"]:
            yield status["pathSuffix"], status["type"] == "DIRECTORY"


def replace(source: str, target: str) -> None:
    """Renames a file in one atomic step, also onto an existing file.

    Args:
        source: its URI.
        target: the new one; missing folders are made.

    Raises:
        OSError: the server cannot replace files, as HttpFS cannot; or the errors of `open_read`.
        Exception: an error of the WebHDFS client, for anything else.
    """
    client, path = _client(source)
    _, destination = _client(target)
    with _os_errors():
        client.makedirs(posixpath.dirname(destination))
        answer = client._rename(path, destination=destination, renameoptions="OVERWRITE")
    # A server that knows the option sends an empty answer; another sends {"boolean": renamed}.
    if answer.content and not answer.json()["boolean"]:
        raise OSError(
            f"{target} could not be replaced: this server of WebHDFS does not rename onto a file "
            "that is there. Name the NameNode itself by --hdfs_host and --hdfs_port"
        )


def rename(source: str, target: str) -> bool:
    """Renames a file unless the target exists; returns True if it was renamed.

    Args:
        source: its URI.
        target: the new one; missing folders are made.

    Raises:
        OSError: the errors of `open_read`.
        Exception: an error of the WebHDFS client, for anything else.
    """
    client, path = _client(source)
    _, destination = _client(target)
    with _os_errors():
        client.makedirs(posixpath.dirname(destination))
        return bool(client._rename(path, destination=destination).json()["boolean"])


def _client(uri: str) -> tuple[Any, str]:
    """Returns the WebHDFS client that Beam's options set up, and a URI's path on its server."""
    filesystem = FileSystems.get_filesystem(uri)
    _, path = filesystem._parse_url(uri)
    return filesystem._hdfs_client, path


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Converts the client's errors to the OSErrors of `_OS_ERRORS`; others pass unchanged."""
    try:
        yield
    except Exception as error:
        found = _OS_ERRORS.get(getattr(error, "exception", None) or "")
        if found is None:
            raise
        raise found(str(error)) from error
