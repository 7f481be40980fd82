"""The base of stores whose files have URIs and are listed by how their names begin."""

import abc
import contextlib
import itertools
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, BinaryIO

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.storage.protocol.store import EVERYTHING, FileEntry, Guard, Scope, Store
from beam_upscale.storage.uris import urls
from beam_upscale.storage.uris.globs import Glob, base_of, has_wildcard, literal_start
from beam_upscale.storage.uris.uris import join, named, printable

# The most files that are listed before they are deleted.
DELETED_TOGETHER = 1000

# A file is buffered in memory up to this size, beyond it on local disk.
_BYTES_IN_MEMORY = 32 << 20


class RemoteStore(Store):
    """Files named `scheme://…`, of which folders are only the beginnings of their names.

    A subclass defines how one file is opened, looked up, written and removed, and lists the files
    whose names begin alike. These methods may raise anything: an OSError for a file that is missing
    or may not be read, or an error of the store's client. Before the first of them `check` is
    called.
    """

    # Methods that a subclass defines

    def require(self, uri: str) -> None:
        """Raises an ImageError if no file of the store can be reached from this process."""

    @abc.abstractmethod
    def open_file(self, uri: str) -> BinaryIO:
        """Opens a file for reading."""

    @abc.abstractmethod
    def has_file(self, uri: str) -> bool:
        """Checks whether a file exists; False for a folder."""

    @abc.abstractmethod
    def size_of(self, uri: str) -> int:
        """Returns the size in bytes of a file that exists."""

    @abc.abstractmethod
    def version_of(self, uri: str) -> tuple[object, ...]:
        """Returns values that change when a file is replaced; () if it is missing."""

    @abc.abstractmethod
    def uris_below(self, prefix: str) -> Iterator[str]:
        """Yields the URIs of all files that begin with a prefix."""

    @abc.abstractmethod
    def put(
        self, file: IO[bytes], uri: str, partial_folder: str | None, guard: Guard | None
    ) -> None:
        """Writes a file whole, from the beginning of an open one; see `publish`."""

    @abc.abstractmethod
    def remove(self, uris: Sequence[str]) -> None:
        """Removes files that exist."""

    # Methods that follow from those

    def check(self, uri: str) -> None:
        """Raises an ImageError that names the file if its store cannot be reached at all."""
        try:
            self.require(uri)
        except ImageError as error:
            found = f"{named(uri)} could not be read: {error.message}"
            raise ImageError(error.code, found) from error

    def absolute(self, uri: str) -> str:
        """Returns a URI without characters that browsers ignore, and without a slash at its end."""
        return urls.trimmed(uri).rstrip("/")

    def resolve(self, uri: str, relative: str) -> str:
        """Returns the URI that a path names; `..` leads no further than to the store itself."""
        scheme, _, path = uri.rpartition("/")[0].partition("://")
        below = posixpath.normpath(posixpath.join("/", path, relative)).lstrip("/")
        return f"{scheme}://{below}"

    def open_read(self, uri: str) -> BinaryIO:
        """Opens a file, after a check that its store can be reached."""
        self.check(uri)
        with self.explaining(uri):
            return self.open_file(uri)

    def exists(self, uri: str) -> bool:
        """Checks whether a file exists, after a check that its store can be reached."""
        self.check(uri)
        return self.has_file(uri)

    def size(self, uri: str) -> int | None:
        """Returns a file's size in bytes; None only for a file that is certainly missing."""
        try:
            self.check(uri)
            return self.size_of(uri)
        except Exception as error:
            if self.unread_scheme(uri) is None and self._is_gone(uri):
                return None
            # A result that wrongly counts as missing would be made, and paid for, again.
            raise self.read_error(uri, error) from error

    def _is_gone(self, uri: str) -> bool:
        """Checks whether a file is certainly missing; False if its store does not answer."""
        try:
            return not self.exists(uri)
        except Exception:
            return False

    def version(self, uri: str) -> tuple[object, ...]:
        """Returns values that change when a file is replaced; () if the store has none."""
        try:
            self.check(uri)
            return self.version_of(uri)
        except Exception:
            return ()

    def start_of_listing(self, pattern: str) -> str:
        """Returns the URI at which a listing begins: a file, a folder, or the base of a glob."""
        target = self.absolute(pattern)
        return (base_of(target) or "/") if has_wildcard(target) else target

    def list_files(self, pattern: str, scope: Scope = EVERYTHING) -> Iterator[FileEntry]:
        """Lists the files that a URI or a glob names, as the store gives them, page by page."""
        pattern = self.absolute(pattern)
        if has_wildcard(pattern):
            yield from self._matches(pattern, scope)
            return
        # An object store has no folders to check for, so files below the name are searched first.
        below = self._shown_below(join(pattern, ""), pattern, scope)
        first = next(below, None)
        if first is not None:
            yield first
            yield from below
        elif self.exists(pattern):
            yield FileEntry(pattern, pattern.rpartition("/")[2])

    def _matches(self, pattern: str, scope: Scope) -> Iterator[FileEntry]:
        """Yields the files that a glob matches."""
        base = base_of(pattern)
        glob = Glob(pattern.removeprefix(base))
        for entry in self._shown_below(literal_start(pattern), base, scope):
            if glob.matches(entry.name):
                yield entry

    def _shown_below(self, prefix: str, base: str, scope: Scope) -> Iterator[FileEntry]:
        """Yields the files with a prefix, without hidden names and empty objects for folders."""
        for uri in self._listed_below(prefix):
            name = uri.removeprefix(base).lstrip("/")
            is_hidden = any(part.startswith(".") for part in name.split("/"))
            if not is_hidden and not uri.endswith("/") and scope.sees(uri):
                yield FileEntry(uri, name)

    def _listed_below(self, prefix: str) -> Iterator[str]:
        """Yields the URIs with a prefix, with errors for a listing of inputs.

        Raises:
            SettingsError: PERMISSION_DENIED, NOT_FOUND or READ_ERROR, with the store's own words.
        """
        try:
            self.check(prefix)
            yield from self.uris_below(prefix)
        except Exception as error:
            found = self.read_error(prefix, error)
            # The store's message names the folder, which may be a subfolder.
            is_told = found is error or found.code is ErrorCode.READ_ERROR
            words = "" if is_told else f": {error}"
            message = f"the inputs cannot be listed: {found.message}{words}"
            raise SettingsError(found.code, message) from error

    def list_below(self, folder: str) -> Iterator[FileEntry]:
        """Yields every file below a folder, dot names included; none if it is missing."""
        for uri in self.uris_below(join(folder, "")):
            yield FileEntry(uri, uri.removeprefix(folder).lstrip("/"))

    def check_folder(self, folder: str) -> None:
        """Raises if nothing can be written at a place: no scheme, no client, no way to it."""
        scheme = self.unread_scheme(folder)
        if scheme is not None:
            found = f"no file system of the scheme {scheme} is known"
            if scheme == "file":
                found = "it is on another machine"
            raise self.unavailable(folder, f"cannot be written: {found}")
        try:
            self.require(folder)
        except ImageError as error:
            found = f"cannot be written: {error.message}"
            if error.code is ErrorCode.MISSING_PACKAGE:
                raise SettingsError(error.code, f"{printable(folder)} {found}") from error
            raise self.unavailable(folder, found) from error

    @contextlib.contextmanager
    def publish(
        self, uri: str, partial_folder: str | None = None, guard: Guard | None = None
    ) -> Iterator[IO[bytes]]:
        """Opens a local buffer whose bytes are written to the store at the end of the block."""
        self.check(uri)
        with (guard or contextlib.nullcontext)():
            # Checked first: nothing is made for a run that lost the output.
            pass
        # Closing a remote file publishes it, and Python closes a file after an exception too. So
        # the file is opened only once all its bytes are in the buffer.
        with tempfile.SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY) as file:
            yield file
            file.seek(0)
            self.put(file, uri, partial_folder, guard)

    def create_new(self, uri: str, data: bytes, partial_folder: str) -> bool:
        """Creates a file; a store without conditions is asked first whether it exists."""
        if self.exists(uri):
            return False
        with self.publish(uri) as file:
            file.write(data)
        return True

    def delete(self, uri: str, guard: Guard | None = None) -> None:
        """Removes a file, or all files below a folder; does nothing if there are none."""
        with (guard or contextlib.nullcontext)():
            below = (entry.uri for entry in self.list_below(uri))
            while some := list(itertools.islice(below, DELETED_TOGETHER)):
                self.remove(some)
            if self.has_file(uri):
                self.remove([uri])
