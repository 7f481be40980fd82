"""The store of files on HDFS, by the WebHDFS client inside Beam's file system.

Beam's `HadoopFileSystem` lists only the direct entries of a folder, and subfolders as if they were
files. It reports a failing server as a missing file, and cannot rename onto an existing file. The
WebHDFS client inside it can do all of this. A file is visible while it is written, so it is written
under a temporary name and renamed.
"""

import contextlib
import io
import posixpath
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

from apache_beam.io.filesystems import FileSystems

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage.beam.beam_files import BeamFiles, copy
from beam_upscale.storage.beam.requirements import Requirement
from beam_upscale.storage.protocol.store import Guard, partial_name
from beam_upscale.storage.uris.uris import join

# The OSError classes, by the server's names of its errors.
_OS_ERRORS = {
    "FileNotFoundException": FileNotFoundError,
    "AccessControlException": PermissionError,
}


def _without_options(uri: str) -> ImageError | None:
    """Returns an error if Beam's options name no HDFS server, else None."""
    try:
        FileSystems.get_filesystem(uri)
    except ValueError:
        return ImageError(
            ErrorCode.READ_ERROR,
            "hdfs:// needs Beam's options --hdfs_host, --hdfs_port and --hdfs_user; pass them, on "
            "the command line behind --",
        )
    return None


class Hdfs(BeamFiles):
    """Files on HDFS.

    Unless stated otherwise, methods raise a FileNotFoundError, a PermissionError, or an error of
    the WebHDFS client.
    """

    def open_file(self, uri: str) -> BinaryIO:
        """Opens a file for reading."""
        with _os_errors():
            return super().open_file(uri)

    def has_file(self, uri: str) -> bool:
        """Checks whether a file exists; False for a folder."""
        try:
            return bool(_status(uri)["type"] == "FILE")
        except FileNotFoundError:
            return False

    def size_of(self, uri: str) -> int:
        """Returns a file's size in bytes."""
        return int(_status(uri)["length"])

    def version_of(self, uri: str) -> tuple[object, ...]:
        """Returns a file's size, time and number."""
        status = _status(uri)
        return status["length"], status["modificationTime"], status["fileId"]

    def uris_below(self, prefix: str) -> Iterator[str]:
        """Yields the URIs with a prefix, folder by folder; none if the folder is missing.

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

    def put(
        self, file: IO[bytes], uri: str, partial_folder: str | None, guard: Guard | None
    ) -> None:
        """Writes a file under a temporary name, and renames it within the guard."""
        temporary = join(partial_folder or uri.rpartition("/")[0], partial_name())
        try:
            copy(file, temporary)
            if guard is not None:
                # Renamed without replacing first, which detects a file that another run made
                # meanwhile.
                with guard():
                    if _rename(temporary, uri):
                        return
            with (guard or contextlib.nullcontext)():
                _replace(temporary, uri)
        except BaseException:
            with contextlib.suppress(Exception):
                self.remove([temporary])
            raise

    def create_new(self, uri: str, data: bytes, partial_folder: str) -> bool:
        """Creates a file under a temporary name, and renames it, which does not replace another."""
        self.check(uri)
        temporary = join(partial_folder, partial_name())
        with io.BytesIO(data) as file:
            copy(file, temporary)
        if _rename(temporary, uri):
            return True
        self.remove([temporary])
        return False

    def delete(self, uri: str, guard: Guard | None = None) -> None:
        """Removes a file or a folder, file by file.

        A run that lost the output while it was suspended must delete one file at most.
        """
        for path in [*self.uris_below(join(uri, "")), uri]:
            if self.exists(path):
                with (guard or contextlib.nullcontext)():
                    self.remove([path])

    def delete_below(self, folder: str, guard: Guard | None, but_for: str) -> None:
        """Removes all entries of a folder except one, each subfolder as a whole."""
        if guard is None:
            super().delete_below(folder, guard, but_for)
            return
        for name in sorted(self.names_in(folder) - {but_for}):
            with guard():
                self.remove([join(folder, name)])


def _status(uri: str) -> dict[str, Any]:
    client, path = _client(uri)
    with _os_errors():
        return cast(dict[str, Any], client.status(path))


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


def _replace(source: str, target: str) -> None:
    """Renames a file in one atomic step, also onto an existing file.

    Args:
        source: its URI.
        target: the new one; missing folders are made.

    Raises:
        OSError: the server cannot replace files, as HttpFS cannot; or the errors of `Hdfs`.
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


def _rename(source: str, target: str) -> bool:
    """Renames a file unless the target exists; returns True if it was renamed.

    Args:
        source: its URI.
        target: the new one; missing folders are made.

    Raises:
        OSError: the errors of `Hdfs`.
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


REQUIREMENT = Requirement("hdfs", "hdfs", "hdfs", _without_options)

STORE = Hdfs(REQUIREMENT)
