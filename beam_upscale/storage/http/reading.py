"""Files of web servers: read only, with limits on time and size, and retries where these may help.

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
from typing import IO, BinaryIO, cast

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage.http import attempts as http_attempts
from beam_upscale.storage.http.attempts import Answer, ask, failed, within
from beam_upscale.storage.http.connections import without_query

# An opened file is kept in memory up to this size, and beyond it on the local disk.
_BYTES_IN_MEMORY = 32 << 20


def read(url: str, max_bytes: int) -> bytes:
    """Reads a whole file.

    Args:
        url: URL of the file.
        max_bytes: the largest size allowed; no more is read, whatever length the server claims.

    Raises:
        ImageError: FILE_TOO_LARGE, NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
    """

    def consume(answer: Answer) -> bytes:
        data = bytearray()
        for chunk in within(answer, max_bytes):
            data += chunk
        return bytes(data)

    return ask(url, {}, consume)


def read_range(url: str, offset: int, size: int) -> bytes:
    """Reads a part of a file; fewer bytes if the file ends before.

    A server that knows no ranges sends the whole file; the bytes before `offset` are skipped.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
    """
    if size <= 0:
        return b""

    def consume(answer: Answer) -> bytes:
        if answer.response.status_code == 416:
            return b""
        start = answer.start()
        if start is None or start > offset:
            raise failed(url, f"it answered with the wrong range, from {start}")
        data, position = bytearray(), start
        for chunk in answer.chunks():
            data += chunk[max(0, offset - position) :]
            position += len(chunk)
            if len(data) >= size:
                break
        return bytes(data[:size])

    return ask(url, {"Range": f"bytes={offset}-{offset + size - 1}"}, consume)


def size(url: str) -> int | None:
    """Returns a file's size in bytes; None if the server does not say.

    Raises:
        ImageError: as `read_range`.
    """

    def consume(answer: Answer) -> int | None:
        return answer.total()

    # Not HEAD: links that are signed for GET, and quite a few servers, refuse it.
    return ask(url, {"Range": "bytes=0-0"}, consume)


def version(url: str) -> tuple[object, ...]:
    """Returns a file's size, ETag and date, by which a changed file can be noticed.

    Few servers state all three. Where only the size is stated, another file may have the same.

    Raises:
        ImageError: as `read_range`.
    """

    def consume(answer: Answer) -> tuple[object, ...]:
        headers = answer.response.headers
        return answer.total(), headers.get("ETag"), headers.get("Last-Modified")

    return ask(url, {"Range": "bytes=0-0"}, consume)


def exists(url: str) -> bool:
    """Checks whether a file exists and may be read.

    Raises:
        ImageError: READ_ERROR, the server does not say.
    """
    try:
        size(url)
    except ImageError as error:
        if error.code is ErrorCode.READ_ERROR:
            raise
        return False
    return True


def sha256(url: str) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal; the file is not held in memory.

    Raises:
        ImageError: as `read`.
    """

    def consume(answer: Answer) -> str:
        digest = hashlib.sha256()
        for chunk in within(answer, http_attempts.PATIENCE.most_bytes):
            digest.update(chunk)
        return digest.hexdigest()

    return ask(url, {}, consume)


def open_read(url: str) -> BinaryIO:
    """Downloads a whole file and opens it for reading; the opened file is seekable.

    Raises:
        ImageError: as `read`.
    """

    def consume(answer: Answer) -> IO[bytes]:
        # The caller closes it.
        file = tempfile.SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY)  # noqa: SIM115
        try:
            for chunk in within(answer, http_attempts.PATIENCE.most_bytes):
                file.write(chunk)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return cast(IO[bytes], file)

    return cast(BinaryIO, ask(url, {}, consume))


for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(without_query)
