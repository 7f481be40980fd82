"""The store of files on local disks; checks that no file or dead link is in a folder's way."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, BinaryIO, ClassVar

from beam_upscale.errors import ErrorCode, SettingsError, reason
from beam_upscale.storage.local import publishing, walking
from beam_upscale.storage.protocol.store import (
    EVERYTHING,
    FileEntry,
    Guard,
    Scope,
    Store,
    check_size,
)
from beam_upscale.storage.uris import urls
from beam_upscale.storage.uris.globs import base_of, has_wildcard
from beam_upscale.storage.uris.uris import join

# A file URI of this machine (RFC 8089): without a host, or with the host localhost.
_LOCAL_FILE = re.compile(r"file:(?:/(?!/)|//(?:localhost)?(?:/|$))", re.IGNORECASE)
_OF_LOCAL_FILE = re.compile(r"file:(?://(?:localhost)?(?=/|$))?", re.IGNORECASE)


def is_local(uri: str) -> bool:
    """Checks whether a URI names a file of this machine: a plain path, or one with `file:`."""
    if ":" not in uri:
        return True
    if _LOCAL_FILE.match(uri):
        return True
    return "://" not in uri and not urls.is_web(uri)


def _path(uri: str) -> Path:
    return Path(_without_scheme(uri))


def _name(uri: str) -> str:
    """Returns the text of `_path`, which takes longer to make than its file to find."""
    path = _without_scheme(uri)
    return path.rstrip("/") or path


def _without_scheme(uri: str) -> str:
    return _OF_LOCAL_FILE.sub("", uri, count=1) if _LOCAL_FILE.match(uri) else uri


class LocalDisk(Store):
    """Files on disks of this machine; a URI is a path, with `file:` or without."""

    is_local: ClassVar[bool] = True
    has_locks: ClassVar[bool] = True
    failures: ClassVar[tuple[type[Exception], ...]] = (OSError,)

    def reads(self, scheme: str) -> bool:
        """Returns True for `file` alone: `data:…` counts as a path too."""
        return scheme == "file"

    def absolute(self, uri: str) -> str:
        """Returns the absolute path, without `file:`."""
        return os.path.abspath(_without_scheme(uri))  # noqa: PTH100 (keeps odd bytes)

    def canonical(self, uri: str) -> str:
        """Returns the path without links."""
        return os.path.realpath(uri)

    def resolve(self, uri: str, relative: str) -> str:
        """Returns the path that another one names, relative to the folder of a file."""
        return os.path.normpath(join(uri.rpartition("/")[0], relative))

    def unavailable(self, folder: str, found: str) -> SettingsError:
        """Returns the error for an output that cannot be written, with the path as it is."""
        message = f"{folder} {found}; take another output"
        return SettingsError(ErrorCode.OUTPUT_UNAVAILABLE, message)

    def open_read(self, uri: str) -> BinaryIO:
        """Opens a file, but not a pipe or a device: reading those may never end."""
        path = _name(uri)
        with self.explaining(uri):
            _refuse_endless(os.stat(path))  # noqa: PTH116 (see `_name`)
            return open(path, "rb")  # noqa: PTH123 (see `_name`)

    def read(self, uri: str) -> bytes:
        """Reads a file's bytes."""
        return self._read(uri, None)

    def read_at_most(self, uri: str, max_bytes: int) -> bytes:
        """Reads a file's bytes, unless there are more than `max_bytes`."""
        return self._read(uri, max_bytes)

    def _read(self, uri: str, max_bytes: int | None) -> bytes:
        """Looks at a file once, and reads it without a buffer, since all of it is read at once."""
        path = _name(uri)
        try:
            status = os.stat(path)  # noqa: PTH116 (see `_name`)
            if max_bytes is not None:
                check_size(status.st_size, max_bytes)
            _refuse_endless(status)
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (see `_name`)
                return file.readall()
        except self.failures as error:
            raise self.read_error(uri, error) from error

    def exists(self, uri: str) -> bool:
        """Checks whether a file exists; False for a folder.

        Raises:
            OSError: it cannot be looked up: a folder may not be read, or a name is too long.
        """
        try:
            mode = _mode(_name(uri))
        except ValueError:
            # No path has a NUL.
            return False
        return mode is not None and stat.S_ISREG(mode)

    def size(self, uri: str) -> int | None:
        """Returns a file's size in bytes; None if it cannot be looked up."""
        try:
            return _path(uri).stat().st_size
        except OSError:
            return None

    def version(self, uri: str) -> tuple[object, ...]:
        """Returns the size, times and inode of a file; () if they cannot be looked up."""
        try:
            status = _path(uri).stat()
        except OSError:
            return ()
        # The ctime cannot be set: it reveals a file that was given the times of another one.
        return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns

    def start_of_listing(self, pattern: str) -> str:
        """Returns the path at which a listing begins.

        The name of an existing file or folder is never read as a glob.
        """
        target = self.absolute(pattern)
        is_glob = has_wildcard(target) and not os.path.lexists(target)
        return (base_of(target) or "/") if is_glob else target

    def list_files(self, pattern: str, scope: Scope = EVERYTHING) -> Iterator[FileEntry]:
        """Lists the files that a path or a glob names; links lead to each folder once."""
        return walking.list_files(self.absolute(pattern), scope)

    def list_below(self, folder: str) -> Iterator[FileEntry]:
        """Yields every file below a folder, dot names included; none if it is missing."""
        for directory, _, names in os.walk(folder):
            for name in names:
                path = join(directory, name)
                yield FileEntry(path, os.path.relpath(path, folder))

    def check_folder(self, folder: str) -> None:
        """Raises if a file, or a link that leads nowhere, is where a folder should be made."""
        try:
            self._check_folders(folder)
        except OSError as error:
            found = f"cannot be a folder: {reason(error, of=folder)}"
            raise self.unavailable(folder, found) from error

    def _check_folders(self, folder: str) -> None:
        path = Path(folder)
        for each in (path, *path.parents):
            # Read once, as another run may create the folder between two reads.
            mode = _mode(each)
            if mode is not None and stat.S_ISDIR(mode):
                return
            if mode is not None:
                where = "is" if each == path else f"cannot be a folder: {each} is"
                raise self.unavailable(folder, f"{where} a file, not a folder")
            if each.is_symlink() and _mode(each) is None:
                found = f"cannot be a folder: {each} is a link that leads nowhere"
                raise self.unavailable(folder, found)

    def publish(
        self, uri: str, partial_folder: str | None = None, guard: Guard | None = None
    ) -> AbstractContextManager[IO[bytes]]:
        """Opens a file that is written and synced elsewhere, and then renamed."""
        path = _path(uri)
        folder = path.parent if partial_folder is None else _path(partial_folder)
        return publishing.publish(path, folder, guard or contextlib.nullcontext)

    def publish_all(
        self,
        contents: Sequence[tuple[str, bytes]],
        partial_folder: str | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Publishes files: writes all of them, syncs and renames them, and syncs their folders.

        Without a folder to write them in first, they are published one by one.
        """
        if not contents or partial_folder is None:
            super().publish_all(contents, partial_folder, guard)
            return
        paths = [(_without_scheme(uri), data) for uri, data in contents]
        publishing.publish_all(paths, _path(partial_folder), guard or contextlib.nullcontext)

    def create_new(self, uri: str, data: bytes, partial_folder: str) -> bool:
        """Creates a file by a hard link, which does not replace one that exists."""
        return publishing.create_new(_path(uri), _path(partial_folder), data)

    def delete(self, uri: str, guard: Guard | None = None) -> None:
        """Removes a file or a whole folder; does nothing if there is none."""
        with (guard or contextlib.nullcontext)():
            publishing.delete(_path(uri))

    def names_in(self, folder: str) -> set[str]:
        """Returns the names of a folder's entries, empty folders among them."""
        path = _path(folder)
        return set(os.listdir(path)) if path.is_dir() else set()  # noqa: PTH208


def _refuse_endless(status: os.stat_result) -> None:
    """Raises an OSError for a pipe or a device.

    A folder passes: the operating system's own error for it is better.
    """
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError("not a regular file")


def _mode(path: str | Path) -> int | None:
    """Returns the mode (type and rights) of the file at a path; None if there is none."""
    try:
        return os.stat(path).st_mode  # noqa: PTH116 (see `_name`)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


STORE = LocalDisk()
