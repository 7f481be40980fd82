"""Files of web servers: read only, with limits on time and size, and repeated where that may help.

A server may be slow, overloaded, or lie about what it sends. An answer that can change (no
connection, 408, 425, 429, 5xx, a body that ends early) is asked for again, after a pause that
doubles and is spread at random, or that the server names in `Retry-After`. All other answers are
final.
"""

import contextlib
import dataclasses
import email.utils
import hashlib
import random
import re
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, NoReturn, TypeVar, cast

import requests
import urllib3

from beam_upscale.errors import ErrorCode, ImageError

_SCHEMES = ("http://", "https://")
_CHUNK_BYTES = 1 << 16

# A file that is opened waits in memory up to this size, beyond it on the local disk.
_BYTES_IN_MEMORY = 32 << 20

_HEADERS = {
    # The bytes are wanted as they are stored: their hash is the input's.
    "Accept-Encoding": "identity",
    # Some hosts refuse clients without a name.
    "User-Agent": "beam-upscale",
}

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CODES = {
    401: ErrorCode.PERMISSION_DENIED,
    403: ErrorCode.PERMISSION_DENIED,
    404: ErrorCode.NOT_FOUND,
    410: ErrorCode.NOT_FOUND,
}
_MAY_CHANGE = frozenset({408, 425, 429})

# Asking again would give the same.
_FINAL_ERRORS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.SSLError,
    urllib3.exceptions.LocationParseError,
    # Addresses that are none: of what passes by, nothing is one.
    ValueError,
)
_PASSING_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        connect_seconds: for a connection.
        silence_seconds: without a byte of an answer.
        answer_seconds: for one whole answer, and longer where it brings `least_rate`.
        least_rate: bytes in a second of an answer that may take longer.
        total_seconds: after which nothing is asked for again.
        attempts: requests for one file, at least 1.
        first_pause_seconds: before the second attempt; it doubles before each further one.
        longest_pause_seconds: a server that wants more is not waited for.
        redirects: that are followed in one attempt.
        most_bytes: of a file that is opened or hashed as a whole, which takes no limit of its own.
    """

    connect_seconds: float = 10
    silence_seconds: float = 30
    answer_seconds: float = 300
    least_rate: float = 100_000
    total_seconds: float = 600
    attempts: int = 5
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 60
    redirects: int = 5
    most_bytes: int = 64 << 30


PATIENCE = Patience()


class _PassingError(Exception):
    """What may be otherwise the next time; `pause` holds the seconds that the server asks for."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


@dataclasses.dataclass(frozen=True)
class _Answer:
    """The answer to a request, its body unread.

    Attributes:
        url: that was asked for; redirects may have led elsewhere.
        response: of the library.
        started: when it was asked for, on the monotonic clock.
    """

    url: str
    response: requests.Response
    started: float

    @property
    def is_whole(self) -> bool:
        """Whether it holds the whole file and not a range of it, or word that there is none."""
        return self.response.status_code == 200

    def length(self) -> int | None:
        """Bytes that the body is said to have."""
        text = self.response.headers.get("Content-Length", "")
        return int(text) if text.isdecimal() and text.isascii() else None

    def total(self) -> int | None:
        """Bytes that the whole file is said to have."""
        if self.is_whole:
            return self.length()
        match = re.fullmatch(
            r"bytes (?:\d+-\d+|\*)/(\d+)", self.response.headers.get("Content-Range", "")
        )
        return int(match[1]) if match else None

    def start(self) -> int | None:
        """Offset of the body's first byte in the file."""
        if self.is_whole:
            return 0
        match = re.match(r"bytes (\d+)-", self.response.headers.get("Content-Range", ""))
        return int(match[1]) if match else None

    def chunks(self) -> Iterator[bytes]:
        """The body; a passing error where it ends before its length or takes too long."""
        received = 0
        while chunk := self._next_chunk(received):
            received += len(chunk)
            yield chunk
        expected = self.length()
        if expected is not None and received < expected:
            raise _PassingError(f"it ended after {received:,} of {expected:,} bytes")

    def _next_chunk(self, received: int) -> bytes:
        allowed = PATIENCE.answer_seconds + received / PATIENCE.least_rate
        if time.monotonic() - self.started > allowed:
            raise _PassingError(f"it sent {received:,} bytes in more than {allowed:g} s")
        # One read of the connection: a server that drips would hold a larger one up for good.
        return cast(bytes, self.response.raw.read1(_CHUNK_BYTES, decode_content=False))


_local = threading.local()


def is_http(uri: str) -> bool:
    """Whether a URI is one of a web server."""
    return uri[:8].lower().startswith(_SCHEMES)


def path_of(url: str) -> str:
    """Host and path of a URL, without what stands after them, percent-decoded."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        # Brackets that are no address: its reader says so.
        return url.partition("://")[2]
    return f"{host}/{urllib.parse.unquote(parts.path).lstrip('/')}".rstrip("/")


def read(url: str, max_bytes: int) -> bytes:
    """A whole file.

    Args:
        url: of the file.
        max_bytes: of a larger one no more is read, whatever length it claims.

    Raises:
        ImageError: FILE_TOO_LARGE, NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
    """

    def consume(answer: _Answer) -> bytes:
        data = bytearray()
        for chunk in _within(answer, max_bytes):
            data += chunk
        return bytes(data)

    return _ask(url, {}, consume)


def read_range(url: str, offset: int, size: int) -> bytes:
    """A part of a file; less where the file ends before.

    A server that knows no ranges sends the whole file, of which what comes before is passed over.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
    """
    if size <= 0:
        return b""

    def consume(answer: _Answer) -> bytes:
        if answer.response.status_code == 416:
            return b""
        start = answer.start()
        if start is None or start > offset:
            raise _failed(url, f"it answered with the wrong range, from {start}")
        data, position = bytearray(), start
        for chunk in answer.chunks():
            data += chunk[max(0, offset - position) :]
            position += len(chunk)
            if len(data) >= size:
                break
        return bytes(data[:size])

    return _ask(url, {"Range": f"bytes={offset}-{offset + size - 1}"}, consume)


def size(url: str) -> int | None:
    """A file's size in bytes, None where the server does not say.

    Raises:
        ImageError: as `read_range`.
    """

    def consume(answer: _Answer) -> int | None:
        return answer.total()

    # Not HEAD: links that are signed for GET, and quite a few servers, refuse it.
    return _ask(url, {"Range": "bytes=0-0"}, consume)


def exists(url: str) -> bool:
    """Whether a file is there and may be read.

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
    """The SHA-256 of a file's bytes, in hexadecimal; the file is not held in memory.

    Raises:
        ImageError: as `read`.
    """

    def consume(answer: _Answer) -> str:
        digest = hashlib.sha256()
        for chunk in _within(answer, PATIENCE.most_bytes):
            digest.update(chunk)
        return digest.hexdigest()

    return _ask(url, {}, consume)


def open_read(url: str) -> BinaryIO:
    """A whole file, brought here first, opened for reading; any part of it can be sought.

    Raises:
        ImageError: as `read`.
    """

    def consume(answer: _Answer) -> IO[bytes]:
        # Closed by whoever opens it.
        file = tempfile.SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY)  # noqa: SIM115
        try:
            for chunk in _within(answer, PATIENCE.most_bytes):
                file.write(chunk)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return cast(IO[bytes], file)

    return cast(BinaryIO, _ask(url, {}, consume))


def _within(answer: _Answer, max_bytes: int) -> Iterator[bytes]:
    """The body, as far as it has no more bytes than are allowed."""
    received = answer.length() or 0
    if received > max_bytes:
        raise _too_large(f"{received:,}", max_bytes)
    received = 0
    for chunk in answer.chunks():
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(f"more than {max_bytes:,}", max_bytes)
        yield chunk


def _too_large(found: str, max_bytes: int) -> ImageError:
    return ImageError(
        ErrorCode.FILE_TOO_LARGE,
        f"the file has {found} bytes; at most {max_bytes:,} are read (--max-input-bytes)",
    )


def _failed(url: str, found: str) -> ImageError:
    return ImageError(ErrorCode.READ_ERROR, f"{url} could not be read: {found}")


def _ask(url: str, headers: dict[str, str], consume: Callable[[_Answer], T]) -> T:
    """What `consume` makes of the answer; it is called anew where its answer breaks off."""
    give_up_at = time.monotonic() + PATIENCE.total_seconds
    for attempt in range(1, PATIENCE.attempts + 1):
        try:
            with _get(url, headers) as answer:
                _check_status(answer)
                return consume(answer)
        except _FINAL_ERRORS as error:
            raise _failed(url, str(error)) from error
        except _PassingError as error:
            pause = _pause(attempt, error.pause)
            if attempt == PATIENCE.attempts or pause is None:
                raise _given_up(url, error, attempt) from error
        except _PASSING_ERRORS as error:
            pause = _pause(attempt, None)
            if attempt == PATIENCE.attempts or pause is None:
                raise _given_up(url, error, attempt) from error
        if time.monotonic() + pause > give_up_at:
            raise _failed(url, f"no answer within {PATIENCE.total_seconds:g} s")
        time.sleep(pause)
    raise AssertionError("there is at least one attempt")


def _given_up(url: str, error: Exception, attempts: int) -> ImageError:
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return _failed(url, f"{error} ({tries})")


def _pause(attempt: int, asked: float | None) -> float | None:
    """Seconds before the next attempt; None where the server asks for too many."""
    if asked is not None and asked > PATIENCE.longest_pause_seconds:
        return None
    grown = PATIENCE.first_pause_seconds * 2.0 ** (attempt - 1)
    # At random, so that workers that failed together do not come back together.
    pause = min(grown, PATIENCE.longest_pause_seconds) * random.uniform(0.5, 1)
    return max(pause, asked or 0)


@contextlib.contextmanager
def _get(url: str, headers: dict[str, str]) -> Iterator[_Answer]:
    """Asks for a file and follows redirects, whose own bodies are not read."""
    started = time.monotonic()
    at = url
    for _ in range(PATIENCE.redirects + 1):
        response = _session().get(
            at,
            headers={**_HEADERS, **headers},
            stream=True,
            allow_redirects=False,
            timeout=(PATIENCE.connect_seconds, PATIENCE.silence_seconds),
        )
        with contextlib.closing(response):
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or target is None:
                yield _Answer(url, response, started)
                return
        at = urllib.parse.urljoin(at, target)
        if not is_http(at):
            raise _failed(url, f"it leads to {at!r}, which is no address of a web server")
    raise _failed(url, f"it is redirected more than {PATIENCE.redirects} times, last to {at}")


def _session() -> requests.Session:
    """Connections are kept, by thread: a session is not made for several."""
    session = getattr(_local, "session", None)
    if session is None:
        session = _local.session = requests.Session()
    return cast(requests.Session, session)


def _check_status(answer: _Answer) -> None:
    status = answer.response.status_code
    asked_for_range = "Range" in answer.response.request.headers
    if status == 200 or (status in (206, 416) and asked_for_range):
        encoding = answer.response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise _failed(answer.url, f"it is sent as {encoding}, which was not asked for")
        return
    _refuse(answer, status)


def _refuse(answer: _Answer, status: int) -> NoReturn:
    found = f"the server answers {status} {answer.response.reason or ''}".rstrip()
    if status in _MAY_CHANGE or status >= 500:
        raise _PassingError(found, _retry_after(answer.response.headers.get("Retry-After")))
    if status in _CODES:
        raise ImageError(_CODES[status], f"{answer.url}: {found}")
    raise _failed(answer.url, found)


def _retry_after(value: str | None) -> float | None:
    """Seconds that `Retry-After` names, as a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    text = value.strip()
    if text.isdecimal() and text.isascii():
        # Whatever its length, it is too long.
        return float(text) if len(text) < 10 else float("inf")
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())
