"""Files of web servers: read only, with limits on time and size, and retries where these may help.

Nothing is sent but the request itself: no cookies, no credentials of `~/.netrc`; a URL may hold no
credentials. A URL of https leads to https only, and `web_access` decides to which addresses.

A server may be slow, overloaded, or lie about what it sends. An answer that can change (no
connection, 408, 425, 429, 5xx, a body that ends early) is requested again, after a pause that
doubles and is spread at random, or that the server names in `Retry-After`. All other answers are
final.
"""

import contextlib
import dataclasses
import email.utils
import hashlib
import logging
import random
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, NoReturn, TypeVar, cast

import requests
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import allowed_gai_family

from beam_upscale import urls, web_access, web_failures
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.literal import shortened
from beam_upscale.urls import WebUrl

_CHUNK_BYTES = 1 << 16

# An opened file is kept in memory up to this size, and beyond it on the local disk.
_BYTES_IN_MEMORY = 32 << 20

# The most characters in a message.
_LONGEST_URL = 400
_LONGEST_HOST = 200

_HEADERS = {
    # Bytes must come as they are stored: their hash is the input's.
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

# Errors that a retry would meet again.
_FINAL_ERRORS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.SSLError,
    urllib3.exceptions.LocationParseError,
    # Invalid addresses; no error that may pass is a ValueError.
    ValueError,
)
_PASSING_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)

# A number of bytes in a file. Python refuses numbers of thousands of digits.
_DIGITS = "[0-9]{1,30}"
_NUMBER = re.compile(_DIGITS)

# The query of a URL, as in the library's own log messages.
_QUERY = re.compile(r"\?\S*")

T = TypeVar("T")
_Connection = TypeVar("_Connection", bound=HTTPConnection)


@dataclasses.dataclass(frozen=True)
class Patience:
    """The limits on time, attempts and size for one file of a server.

    Attributes:
        connect_seconds: the longest wait for a connection.
        silence_seconds: the longest wait without a byte of an answer.
        answer_seconds: the longest wait for a whole answer, plus the time that its bytes so far
            take at `least_rate`.
        least_rate: bytes per second.
        total_seconds: time after which a file is not requested again.
        attempts: requests for one file, at least 1.
        first_pause_seconds: pause before the second attempt; it doubles before each further one.
        longest_pause_seconds: the longest pause; a server that asks for more is given up.
        redirects: the most redirects that are followed in one attempt.
        most_bytes: the largest file that is opened or hashed as a whole, for which the caller
            gives no limit.
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
    """A failure that may pass; `pause` holds the seconds that the server asks for, or None."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


@dataclasses.dataclass(frozen=True)
class _Answer:
    """The answer to a request, its body unread.

    Attributes:
        url: the requested URL; redirects may have led elsewhere.
        response: the library's response.
        started: time of the request, in seconds of the monotonic clock.
    """

    url: str
    response: requests.Response
    started: float

    @property
    def is_whole(self) -> bool:
        """True if the body is the whole file (200), not a range (206) or no such range (416)."""
        return self.response.status_code == 200

    def length(self) -> int | None:
        """Returns the number of bytes that the body is said to have; None if it is not said."""
        text = self.response.headers.get("Content-Length", "")
        return int(text) if _NUMBER.fullmatch(text) else None

    def total(self) -> int | None:
        """Returns the number of bytes that the file is said to have; None if it is not said."""
        if self.is_whole:
            return self.length()
        match = re.fullmatch(
            rf"bytes (?:{_DIGITS}-{_DIGITS}|\*)/({_DIGITS})",
            self.response.headers.get("Content-Range", ""),
        )
        return int(match[1]) if match else None

    def start(self) -> int | None:
        """Returns the offset of the body's first byte in the file; None if it is not said."""
        if self.is_whole:
            return 0
        match = re.match(rf"bytes ({_DIGITS})-", self.response.headers.get("Content-Range", ""))
        return int(match[1]) if match else None

    def chunks(self) -> Iterator[bytes]:
        """Yields the body; raises _PassingError if it ends before its length or takes too long."""
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
        # One read of the connection: a server that sends byte by byte would block a larger one.
        return cast(bytes, self.response.raw.read1(_CHUNK_BYTES, decode_content=False))


_local = threading.local()


def read(url: str, max_bytes: int) -> bytes:
    """Reads a whole file.

    Args:
        url: URL of the file.
        max_bytes: the largest size allowed; no more is read, whatever length the server claims.

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
    """Reads a part of a file; fewer bytes if the file ends before.

    A server that knows no ranges sends the whole file; the bytes before `offset` are skipped.

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
    """Returns a file's size in bytes; None if the server does not say.

    Raises:
        ImageError: as `read_range`.
    """

    def consume(answer: _Answer) -> int | None:
        return answer.total()

    # Not HEAD: links that are signed for GET, and quite a few servers, refuse it.
    return _ask(url, {"Range": "bytes=0-0"}, consume)


def version(url: str) -> tuple[object, ...]:
    """Returns a file's size, ETag and date, by which a changed file can be noticed.

    Few servers state all three. Where only the size is stated, another file may have the same.

    Raises:
        ImageError: as `read_range`.
    """

    def consume(answer: _Answer) -> tuple[object, ...]:
        headers = answer.response.headers
        return answer.total(), headers.get("ETag"), headers.get("Last-Modified")

    return _ask(url, {"Range": "bytes=0-0"}, consume)


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

    def consume(answer: _Answer) -> str:
        digest = hashlib.sha256()
        for chunk in _within(answer, PATIENCE.most_bytes):
            digest.update(chunk)
        return digest.hexdigest()

    return _ask(url, {}, consume)


def open_read(url: str) -> BinaryIO:
    """Downloads a whole file and opens it for reading; the opened file is seekable.

    Raises:
        ImageError: as `read`.
    """

    def consume(answer: _Answer) -> IO[bytes]:
        # The caller closes it.
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
    """Yields the body; raises FILE_TOO_LARGE if it has more than `max_bytes`."""
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
    return ImageError(ErrorCode.READ_ERROR, f"{_shown(url)} could not be read: {found}")


def _shown(url: str) -> str:
    shown = urls.without_secrets(urls.trimmed(url))
    return shortened(shown, _LONGEST_URL).encode(errors="backslashreplace").decode()


def _ask(url: str, headers: dict[str, str], consume: Callable[[_Answer], T]) -> T:
    """Requests a file; returns the result of `consume`, called again if its answer breaks off."""
    give_up_at = time.monotonic() + PATIENCE.total_seconds
    for attempt in range(1, PATIENCE.attempts + 1):
        try:
            with _get(url, headers) as answer:
                _check_status(answer)
                return consume(answer)
        # Not `from error`: a library's error may show the URL with its secrets.
        except _FINAL_ERRORS as error:
            raise _failed(url, web_failures.words(error)) from None
        except _PassingError as error:
            pause = _pause(attempt, error.pause)
            if attempt == PATIENCE.attempts or pause is None:
                raise _given_up(url, str(error), attempt) from None
        except _PASSING_ERRORS as error:
            pause = _pause(attempt, None)
            if attempt == PATIENCE.attempts or pause is None:
                raise _given_up(url, web_failures.words(error), attempt) from None
        if time.monotonic() + pause > give_up_at:
            raise _failed(url, f"no answer within {PATIENCE.total_seconds:g} s")
        time.sleep(pause)
    raise AssertionError("there is at least one attempt")


def _given_up(url: str, found: str, attempts: int) -> ImageError:
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return _failed(url, f"{found} ({tries})")


def _pause(attempt: int, asked: float | None) -> float | None:
    """Returns the seconds before the next attempt; None if the server asks for too many."""
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
    at = _parsed(url)
    for _ in range(PATIENCE.redirects + 1):
        with contextlib.closing(_asked(at, headers)) as response:
            target = _target(response)
            if target is None:
                yield _Answer(url, response, started)
                return
        at = _next(url, at, target)
    raise _failed(
        url, f"it is redirected more than {PATIENCE.redirects} times, last to {_host(at)}"
    )


def _parsed(url: str) -> WebUrl:
    try:
        return urls.parse(url)
    except ValueError as error:
        raise _failed(url, _no_url(error)) from None


def _no_url(error: ValueError) -> str:
    # A UnicodeError of the library that reads host names quotes them.
    return "its host is no name" if isinstance(error, UnicodeError) else str(error)


def _asked(at: WebUrl, headers: dict[str, str]) -> requests.Response:
    """Sends one request and returns its response; a redirect is not followed."""
    refusal = web_access.access().refusal_of_host(at.host)
    if refusal is not None:
        raise ImageError(ErrorCode.PERMISSION_DENIED, f"{_host(at)} is not read: {refusal}")
    session = _session()
    request = requests.Request("GET", str(at), headers={**_HEADERS, **headers}, auth=_no_auth)
    prepared = session.prepare_request(request)
    # The URL as it was parsed: the library would decode percent-encoded characters.
    prepared.url = str(at)
    options = session.merge_environment_settings(prepared.url, {}, True, None, None)
    # Not sent by the session, which keeps cookies, and reads the body and target of a redirect.
    return session.get_adapter(prepared.url).send(
        prepared, timeout=(PATIENCE.connect_seconds, PATIENCE.silence_seconds), **options
    )


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Adds no credentials; without this function the library looks for some in `~/.netrc`."""
    return request


def _target(response: requests.Response) -> str | None:
    """Returns the target of a redirect; None for any other response.

    None also if the redirect names several targets or none: the intended one is unknown.
    """
    if response.status_code not in _REDIRECTS:
        return None
    found = {each.strip() for each in response.raw.headers.getlist("Location")}
    if len(found) != 1 or not (location := found.pop()):
        return None
    # Bytes that are not ASCII come as Latin-1, and are mostly UTF-8; others are kept as they are.
    return str(location).encode("latin-1").decode("utf-8", "surrogateescape")


def _next(url: str, at: WebUrl, target: str) -> WebUrl:
    """Returns the URL that a redirect leads to.

    Raises:
        ImageError: READ_ERROR, a redirect may not lead there.
    """
    try:
        found = urls.parse(target, at)
    except urls.UserinfoError as error:
        raise _failed(url, f"it leads to a URL that is not read: {error}") from None
    except ValueError as error:
        reason = f"it leads to what is no address of a web server: {_no_url(error)}"
        raise _failed(url, reason) from None
    if at.scheme == "https" and found.scheme != "https":
        raise _failed(
            url,
            f"it leads from https to {_host(found)}, which anybody on the way could replace; name "
            "the file's own https URL",
        )
    return found


def _host(url: WebUrl) -> str:
    """Returns a URL's scheme and host, without the path, which an answer may fill with anything."""
    return shortened(f"{url.scheme}://{url.host}", _LONGEST_HOST)


def _guarded(kind: type[_Connection]) -> type[_Connection]:
    """Returns a subclass of a connection's class that checks each address before it connects."""

    class Guarded(kind):  # type: ignore[misc,valid-type]
        def _new_conn(self) -> socket.socket:
            name: str = self._dns_host  # type: ignore[has-type]
            addresses = _allowed_addresses(self, name, self.port)
            try:
                for address in addresses[:-1]:
                    self._dns_host = address
                    with contextlib.suppress(urllib3.exceptions.HTTPError):
                        return cast(socket.socket, super()._new_conn())
                self._dns_host = addresses[-1]
                return cast(socket.socket, super()._new_conn())
            finally:
                self._dns_host = name

    return Guarded


def _allowed_addresses(connection: HTTPConnection, name: str, port: int | None) -> list[str]:
    """Returns the addresses of a host that may be connected to.

    Raises:
        ImageError: PERMISSION_DENIED, no address may be connected to.
        urllib3.exceptions.NameResolutionError: the host has no address.
    """
    try:
        name.encode("idna")
        found = socket.getaddrinfo(name.strip("[]"), port, allowed_gai_family(), socket.SOCK_STREAM)
    except UnicodeError:
        raise urllib3.exceptions.LocationParseError("its host is no name") from None
    except socket.gaierror as error:
        raise urllib3.exceptions.NameResolutionError(name, connection, error) from error
    allowed, refusal = [], ""
    access = web_access.access()
    for *_, address in found:
        refused = access.refusal(str(address[0]))
        if refused is None:
            allowed.append(str(address[0]))
        else:
            refusal = refused
    if not allowed:
        raise ImageError(ErrorCode.PERMISSION_DENIED, f"{name} is not read from: {refusal}")
    return allowed


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _guarded(HTTPConnection)


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _guarded(HTTPSConnection)


class _GuardedAdapter(requests.adapters.HTTPAdapter):
    """Connects to hosts as `web_access` allows; to a proxy, which the user names, in any case."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


def _without_query(record: logging.LogRecord) -> bool:
    """Removes the queries of URLs from a log record: they may hold tokens and signatures."""
    if isinstance(record.args, tuple):
        texts = (_QUERY.sub("?…", a) if isinstance(a, str) else a for a in record.args)
        record.args = tuple(texts)
    return True


for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(_without_query)


def _session() -> requests.Session:
    """Returns this thread's session, which keeps its connections: sessions are not thread-safe.

    A new session begins when the allowed addresses change.
    """
    access = web_access.access()
    if getattr(_local, "access", None) != access:
        _local.access, _local.session = access, _new_session()
    return cast(requests.Session, _local.session)


def _new_session() -> requests.Session:
    session = requests.Session()
    for scheme in urls.WEB_SCHEMES:
        session.mount(f"{scheme}://", _GuardedAdapter())
    return session


def _check_status(answer: _Answer) -> None:
    status = answer.response.status_code
    asked_for_range = "Range" in answer.response.request.headers
    if status == 200 or (status in (206, 416) and asked_for_range):
        encoding = answer.response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise _failed(answer.url, web_failures.encoding(encoding))
        return
    _refuse(answer, status)


def _refuse(answer: _Answer, status: int) -> NoReturn:
    found = web_failures.status(status)
    if status in _MAY_CHANGE or status >= 500:
        raise _PassingError(found, _retry_after(answer.response.headers.get("Retry-After")))
    if status in _CODES:
        raise ImageError(_CODES[status], f"{_shown(answer.url)}: {found}")
    raise _failed(answer.url, found)


def _retry_after(value: str | None) -> float | None:
    """Returns the seconds of `Retry-After`, a number or a date (RFC 9110, 10.2.3); else None."""
    if value is None:
        return None
    text = value.strip()
    if text.isdecimal() and text.isascii():
        # A number of 10 digits or more is too long a pause.
        return float(text) if len(text) < 10 else float("inf")
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())
