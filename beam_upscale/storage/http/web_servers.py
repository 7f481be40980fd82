"""The store of files of web servers: read only, with limits on time and size, and with retries.

Nothing is sent but the request itself: no cookies, no credentials of `~/.netrc`; a URL may hold no
credentials. A URL of https leads to https only, and `web_access` decides to which addresses.

A server may be slow, overloaded, or lie about what it sends. An answer that can change (no
connection, 408, 425, 429, 5xx, a body that ends early) is requested again, after a pause that
doubles and is spread at random, or that the server names in `Retry-After`. All other answers are
final.
"""

import hashlib
import logging
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, BinaryIO, ClassVar, cast

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.storage.http import attempts
from beam_upscale.storage.http.attempts import Answer, T, ask, at_most, failed
from beam_upscale.storage.http.connections import without_query
from beam_upscale.storage.protocol.store import EVERYTHING, FileEntry, Guard, Scope, Store
from beam_upscale.storage.uris import secrets, urls
from beam_upscale.storage.uris.uris import named

# An opened file is kept in memory up to this size, and beyond it on the local disk.
_BYTES_IN_MEMORY = 32 << 20


class WebServers(Store):
    """Files of web servers, each named by its URL."""

    is_writable: ClassVar[bool] = False
    has_folders: ClassVar[bool] = False
    keeps_files: ClassVar[bool] = False

    def absolute(self, uri: str) -> str:
        """Returns a URL without characters that browsers ignore; a slash at its end stays."""
        return urls.trimmed(uri)

    def path_of(self, uri: str) -> str:
        """Returns the host and the path of a URL, percent-decoded, without query and fragment."""
        return secrets.path_of(uri)

    def resolve(self, uri: str, relative: str) -> str:
        """Returns the URL of a file, named by a path relative to another one's folder."""
        # Not `urljoin` alone: a file may be called `a?b`.
        return urllib.parse.urljoin(uri, urllib.parse.quote(relative, safe="/%"))

    def open_read(self, uri: str) -> BinaryIO:
        """Downloads a whole file and opens it for reading; the opened file is seekable."""

        def consume(answer: Answer) -> IO[bytes]:
            # The caller closes it.
            file = tempfile.SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY)  # noqa: SIM115
            try:
                for chunk in at_most(answer, attempts.PATIENCE.most_bytes):
                    file.write(chunk)
            except BaseException:
                file.close()
                raise
            file.seek(0)
            return cast(IO[bytes], file)

        return cast(BinaryIO, ask(uri, {}, consume))

    def read_range(self, uri: str, offset: int, size: int) -> bytes:
        """Reads a part of a file; fewer bytes if the file ends before.

        A server that knows no ranges sends the whole file; the bytes before `offset` are skipped.
        """
        if size <= 0:
            return b""

        def consume(answer: Answer) -> bytes:
            if answer.response.status_code == 416:
                return b""
            start = answer.start()
            if start is None or start > offset:
                raise failed(uri, f"it answered with the wrong range, from {start}")
            data, position = bytearray(), start
            for chunk in answer.chunks():
                data += chunk[max(0, offset - position) :]
                position += len(chunk)
                if len(data) >= size:
                    break
            return bytes(data[:size])

        return ask(uri, {"Range": f"bytes={offset}-{offset + size - 1}"}, consume)

    def read_at_most(self, uri: str, max_bytes: int) -> bytes:
        """Reads a file in one request, as a server need not report the size beforehand.

        No more than `max_bytes` are read, whatever length the server claims.
        """

        def consume(answer: Answer) -> bytes:
            data = bytearray()
            for chunk in at_most(answer, max_bytes):
                data += chunk
            return bytes(data)

        return ask(uri, {}, consume)

    def exists(self, uri: str) -> bool:
        """Checks whether a file exists and may be read.

        Raises:
            ImageError: READ_ERROR, the server does not state it.
        """
        try:
            _total(uri)
        except ImageError as error:
            if error.code is ErrorCode.READ_ERROR:
                raise
            return False
        return True

    def size(self, uri: str) -> int | None:
        """Returns a file's size in bytes; None if the server does not state it or answer."""
        try:
            return _total(uri)
        except Exception:
            return None

    def version(self, uri: str) -> tuple[object, ...]:
        """Returns a file's size, ETag and date, by which a changed file can be noticed.

        Few servers state all three. Where only the size is stated, another file may have the same.
        """

        def consume(answer: Answer) -> tuple[object, ...]:
            headers = answer.response.headers
            return answer.total(), headers.get("ETag"), headers.get("Last-Modified")

        try:
            return _ask_for_first_byte(uri, consume)
        except Exception:
            return ()

    def sha256(self, uri: str) -> str:
        """Computes the SHA-256 of a file's bytes; the file is not held in memory."""

        def consume(answer: Answer) -> str:
            digest = hashlib.sha256()
            for chunk in at_most(answer, attempts.PATIENCE.most_bytes):
                digest.update(chunk)
            return digest.hexdigest()

        return ask(uri, {}, consume)

    def start_of_listing(self, pattern: str) -> str:
        """Returns the URL, which is no glob."""
        return self.absolute(pattern)

    def list_files(self, pattern: str, scope: Scope = EVERYTHING) -> Iterator[FileEntry]:
        """Yields the one file of the URL, whether it exists or not."""
        yield FileEntry(self.absolute(pattern), self.path_of(pattern).rpartition("/")[2])

    def list_below(self, folder: str) -> Iterator[FileEntry]:
        """Raises an ImageError, READ_ERROR: a web server lists no files."""
        found = f"{named(folder)} could not be listed: it is on a web server, which lists no files"
        raise ImageError(ErrorCode.READ_ERROR, found)

    def check_folder(self, folder: str) -> None:
        """Raises an error: nothing can be written."""
        raise self._unwritable(folder)

    def publish(
        self, uri: str, partial_folder: str | None = None, guard: Guard | None = None
    ) -> AbstractContextManager[IO[bytes]]:
        """Raises an error: nothing can be written."""
        raise self._unwritable(uri)

    def create_new(self, uri: str, data: bytes, partial_folder: str) -> bool:
        """Raises an error: nothing can be written."""
        raise self._unwritable(uri)

    def delete(self, uri: str, guard: Guard | None = None) -> None:
        """Raises an error: nothing can be removed."""
        raise self._unwritable(uri)

    def _unwritable(self, uri: str) -> SettingsError:
        return self.unavailable(uri, "is on a web server, where nothing can be written")


def _total(url: str) -> int | None:
    """Returns a file's size in bytes; None if the server does not state it."""
    return _ask_for_first_byte(url, Answer.total)


def _ask_for_first_byte(url: str, consume: Callable[[Answer], T]) -> T:
    """Requests the first byte of a file, whose answer also states the file's size and version."""
    # Not HEAD: links that are signed for GET, and quite a few servers, refuse it.
    return ask(url, {"Range": "bytes=0-0"}, consume)


for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(without_query)

STORE = WebServers()
