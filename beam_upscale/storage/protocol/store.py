"""The protocol that every store of files implements.

`stores.store_of` chooses the store of a URI. A new store is a class that is derived from `Store`,
or from `remote_store.RemoteStore` where files are listed by how their names begin, and a line in
`stores.STORES`.
"""

import abc
import contextlib
import dataclasses
import hashlib
import io
import posixpath
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, BinaryIO, ClassVar

from beam_upscale.errors import ErrorCode, ImageError, SettingsError, reason, shortened
from beam_upscale.storage.uris import urls
from beam_upscale.storage.uris.uris import (
    LONGEST_NAMED,
    join,
    named,
    printable,
    scheme_refusal,
)

Guard = Callable[[], AbstractContextManager[None]]
"""A function that returns a context for writing or deleting a file, or raises to forbid it."""

CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file found by `Store.list_files`.

    Attributes:
        uri: the URI to open; a local path may hold bytes that are not UTF-8, as surrogates.
        name: the path relative to the listed folder, with `/` between parts.
        is_folder: True for a folder that cannot be listed.
    """

    uri: str
    name: str
    is_folder: bool = False


class Scope:
    """The filter by which `list_files` skips files below its start; this base skips none."""

    def enters(self, folder: str, identity: tuple[int, int]) -> bool:
        """Decides whether a local folder, with this (device, inode), is descended into."""
        return True

    def follows(self, link: str) -> bool:
        """Decides whether a local link is listed, or descended into if it leads to a folder."""
        return True

    def passes_over(self, folder: str) -> Collection[str]:
        """Returns the names in a local folder that are not listed."""
        return ()

    def sees(self, uri: str) -> bool:
        """Decides whether a remote file is listed; called also for files that no glob matches."""
        return True


EVERYTHING = Scope()


class Store(abc.ABC):
    """Files that are named, read, listed and written in one way.

    One object serves all files of its kind, in all threads of a process.

    Attributes:
        is_local: True if a file has a path on this machine, under which others can open it; its
            folders may have several names, by links and mounts.
        is_writable: True if files can be written.
        has_folders: True if the files below a folder can be listed.
        has_locks: True if the operating system can lock a file until a process ends.
        keeps_files: False if files may be withdrawn by others although their results are wanted.
        failures: the exceptions that reading may raise.
    """

    is_local: ClassVar[bool] = False
    is_writable: ClassVar[bool] = True
    has_folders: ClassVar[bool] = True
    has_locks: ClassVar[bool] = False
    keeps_files: ClassVar[bool] = True
    failures: ClassVar[tuple[type[Exception], ...]] = (Exception,)

    # Names

    def reads(self, scheme: str) -> bool:
        """Checks whether files of a scheme are read, if its client is installed."""
        return True

    def unread_scheme(self, uri: str) -> str | None:
        """Returns a URI's scheme if it is not read; None for a path or a scheme that is read."""
        scheme = urls.scheme_of(uri)
        return None if scheme is None or self.reads(scheme) else scheme

    @abc.abstractmethod
    def absolute(self, uri: str) -> str:
        """Returns a URI without its meaningless characters; a local path is made absolute."""

    def canonical(self, uri: str) -> str:
        """Returns the one name of a place that has several, as far as names alone show it."""
        scheme, _, path = uri.partition("://")
        below = posixpath.normpath(f"/{path.lstrip('/')}").lstrip("/")
        return f"{scheme.lower()}://{below}"

    def path_of(self, uri: str) -> str:
        """Returns the part of a URI that names the file, without scheme; a path stays as it is."""
        before, mark, behind = uri.partition("://")
        return behind if mark else before

    @abc.abstractmethod
    def resolve(self, uri: str, relative: str) -> str:
        """Returns the URI that a path names which is relative to the folder of the file `uri`."""

    # Errors

    def read_error(self, uri: str, error: Exception) -> ImageError:
        """Converts an exception to the error that explains why a file could not be read."""
        if isinstance(error, ImageError):
            return error
        name = named(uri)
        if isinstance(error, FileNotFoundError):
            return ImageError(ErrorCode.NOT_FOUND, f"{name} does not exist")
        if isinstance(error, PermissionError):
            return ImageError(ErrorCode.PERMISSION_DENIED, f"{name} may not be read by this user")
        if (scheme := self.unread_scheme(uri)) is not None:
            found = f"{name} is not read: {scheme_refusal(scheme)}"
            return ImageError(ErrorCode.READ_ERROR, found)
        words = shortened(reason(error, of=uri), LONGEST_NAMED)
        return ImageError(ErrorCode.READ_ERROR, f"{name} could not be read: {words}")

    @contextlib.contextmanager
    def explaining(self, uri: str) -> Iterator[None]:
        """Raises the failures of reading within this context as `read_error` converts them."""
        try:
            yield
        except self.failures as error:
            raise self.read_error(uri, error) from error

    def unavailable(self, folder: str, found: str) -> SettingsError:
        """Returns the error for an output that cannot be written; `found` gives the reason."""
        message = f"{printable(folder)} {found}; take another output"
        return SettingsError(ErrorCode.OUTPUT_UNAVAILABLE, message)

    # Reading

    @abc.abstractmethod
    def open_read(self, uri: str) -> BinaryIO:
        """Opens a file for reading.

        Raises:
            ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR, with the store's own words.
        """

    def read(self, uri: str) -> bytes:
        """Reads a file's bytes; raises the errors of `open_read`."""
        with self.open_read(uri) as file, self.explaining(uri):
            return file.read()

    def read_range(self, uri: str, offset: int, size: int) -> bytes:
        """Reads `size` bytes of a file from `offset` on; fewer if the file ends before.

        Raises:
            ImageError: as `open_read`.
        """
        with self.open_read(uri) as file, self.explaining(uri):
            return _part(file, offset, size)

    def read_at_most(self, uri: str, max_bytes: int) -> bytes:
        """Reads a file's bytes, unless there are more than `max_bytes`.

        Raises:
            ImageError: FILE_TOO_LARGE, or as `open_read`.
        """
        check_size(self.size(uri), max_bytes)
        return self.read(uri)

    def read_if_there(self, uri: str) -> bytes | None:
        """Reads a file's bytes; None if the file does not exist.

        Raises:
            OSError: the file cannot be read.
            Exception: an error of the store's client.
        """
        try:
            return self.read(uri)
        except ImageError as error:
            if error.code is ErrorCode.NOT_FOUND or not self.exists(uri):
                return None
            raise OSError(error.message) from error

    @abc.abstractmethod
    def exists(self, uri: str) -> bool:
        """Checks whether a file exists.

        Raises:
            ImageError: nothing of its store can be reached.
            Exception: an error of the store's client.
        """

    @abc.abstractmethod
    def size(self, uri: str) -> int | None:
        """Returns a file's size in bytes; None if it does not exist or its size is unknown.

        Raises:
            ImageError: the file may exist, but its store does not answer for it.
        """

    @abc.abstractmethod
    def version(self, uri: str) -> tuple[object, ...]:
        """Returns values that change when a file is replaced, without reading it; () if unknown."""

    def sha256(self, uri: str) -> str:
        """Computes the SHA-256 of a file's bytes, in hexadecimal; raises as `open_read`."""
        digest = hashlib.sha256()
        with self.open_read(uri) as file, self.explaining(uri):
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    # Listing

    @abc.abstractmethod
    def start_of_listing(self, pattern: str) -> str:
        """Returns the URI at which a listing begins: a file, a folder, or the base of a glob."""

    @abc.abstractmethod
    def list_files(self, pattern: str, scope: Scope = EVERYTHING) -> Iterator[FileEntry]:
        """Lists every file that a pattern names, in no particular order.

        Args:
            pattern: a file, a folder (descended into, through symbolic links too, into each folder
                once) or a glob (`**` crosses folders). A folder that a glob matches is descended
                into. A URL of a web server is that of one file.
            scope: the filter of files below a folder, or below the base of a glob.

        Yields:
            The files. A local folder that cannot be listed is an entry of its own, so that its
            reader's error names it. Names that begin with a dot are left out below a folder.

        Raises:
            SettingsError: a remote store cannot list them, with the codes of `open_read`.
        """

    @abc.abstractmethod
    def list_below(self, folder: str) -> Iterator[FileEntry]:
        """Yields every file below a folder of our own, dot names included; none if it is missing.

        Raises:
            Exception: an error of the store's client.
        """

    # Writing

    @abc.abstractmethod
    def check_folder(self, folder: str) -> None:
        """Raises if a folder cannot exist at a place, whatever rights this user has.

        Args:
            folder: its URI or absolute path.

        Raises:
            SettingsError: OUTPUT_UNAVAILABLE; MISSING_PACKAGE, its client is not installed.
        """

    @abc.abstractmethod
    def publish(
        self, uri: str, partial_folder: str | None = None, guard: Guard | None = None
    ) -> AbstractContextManager[IO[bytes]]:
        """Opens a file that appears under its name whole or not at all.

        A second writer of the same bytes does no harm: the writer that closes last replaces the
        file with an equal one.

        Args:
            uri: the final name; missing folders are created.
            partial_folder: the folder in which a local file, or one on HDFS, is written before it
                is renamed, on the same disk; by default the file's own folder. A killed process
                leaves its partial file there.
            guard: the context within which the file appears; if it raises, nothing appears. None
                for a file that no other process writes. See `object_store.replace` for stores that
                do not rename.

        Returns:
            A context that gives a binary file. If its block or the guard raises, nothing appears.
        """

    def publish_all(
        self,
        contents: Sequence[tuple[str, bytes]],
        partial_folder: str | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Publishes several small files; all are durable when it returns.

        Args:
            contents: the files' URIs and bytes; each file appears as in `publish`, in any order.
            partial_folder: as in `publish`.
            guard: as in `publish`; several files may appear within one context.
        """
        for uri, data in contents:
            with self.publish(uri, partial_folder, guard) as file:
                file.write(data)

    def create(self, uri: str, data: bytes, partial_folder: str | None = None) -> bool:
        """Creates a file unless it exists; it appears whole or not at all, and is durable.

        Args:
            uri: the file's URI. On file systems with neither conditions nor a rename (none that
                Beam has) its existence is checked first.
            data: its content, which must differ between callers: if the file exists with exactly
                this content, an earlier attempt of the same caller has created it.
            partial_folder: the folder in which it is written first, on a local disk and on HDFS;
                by default the file's own folder.

        Returns:
            True if the file is the caller's.

        Raises:
            OSError: the file cannot be written.
        """
        created = self.create_new(uri, data, partial_folder or uri.rpartition("/")[0])
        return created or self.read_if_there(uri) == data

    @abc.abstractmethod
    def create_new(self, uri: str, data: bytes, partial_folder: str) -> bool:
        """Creates a file, whole and durable; returns False if it exists, even if it is equal."""

    @abc.abstractmethod
    def delete(self, uri: str, guard: Guard | None = None) -> None:
        """Removes a file or a whole folder; does nothing if there is none.

        Args:
            uri: the file or the folder.
            guard: the context within which it is removed; if it raises, nothing is removed. On
                stores with conditions, only files seen before the guard was entered are removed.
        """

    def delete_below(self, folder: str, guard: Guard | None, but_for: str) -> None:
        """Removes all entries of a folder of work in progress, except one.

        Args:
            folder: the folder; it need not exist.
            guard: as in `delete`; on HDFS a whole subfolder is removed within it.
            but_for: the name of the entry that stays.
        """
        for name in sorted(self.names_in(folder) - {but_for}):
            self.delete(join(folder, name), guard)

    def names_in(self, folder: str) -> set[str]:
        """Returns the names of the direct entries of a folder; none if it is missing."""
        return {entry.name.partition("/")[0] for entry in self.list_below(folder)}


def check_size(found: int | None, max_bytes: int) -> None:
    """Raises an ImageError, FILE_TOO_LARGE, for more bytes; None, an unknown size, is allowed."""
    if found is not None and found > max_bytes:
        raise file_too_large(f"{found:,}", max_bytes)


def file_too_large(found: str, max_bytes: int) -> ImageError:
    """Returns the error for a file with more bytes than are read: FILE_TOO_LARGE.

    Args:
        found: the number of bytes, in words.
        max_bytes: the most bytes that are read.
    """
    return ImageError(
        ErrorCode.FILE_TOO_LARGE,
        f"the file has {found} bytes; at most {max_bytes:,} are read (--max-input-bytes)",
    )


def partial_name() -> str:
    """Returns the name of a file that is written before it is renamed; no listing shows it."""
    return f".{uuid.uuid4().hex}.partial"


def _part(file: BinaryIO, offset: int, size: int) -> bytes:
    # Beam's buffers for S3 and HDFS have 16 MiB and would read all of that for a smaller part.
    source = file.raw if isinstance(file, io.BufferedReader) else file
    source.seek(offset)
    parts: list[bytes] = []
    while size > 0 and (data := source.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
