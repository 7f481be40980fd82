"""Sends requests to web servers and repeats failed ones, with growing pauses and time limits."""

import contextlib
import dataclasses
import email.utils
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar, cast

import requests
import urllib3

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage.http import failures, web_access
from beam_upscale.storage.http.connections import Patience, host, session_of_thread, shown_url
from beam_upscale.storage.protocol.store import file_too_large
from beam_upscale.storage.uris import urls
from beam_upscale.storage.uris.urls import WebUrl

_CHUNK_BYTES = 1 << 16

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

T = TypeVar("T")


PATIENCE = Patience()


class _PassingError(Exception):
    """A failure that may pass; `pause` holds the seconds that the server asks for, or None."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


@dataclasses.dataclass(frozen=True)
class Answer:
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
        """Returns the body's number of bytes as the server states it; None if it does not."""
        text = self.response.headers.get("Content-Length", "")
        return int(text) if _NUMBER.fullmatch(text) else None

    def total(self) -> int | None:
        """Returns the file's number of bytes as the server states it; None if it does not."""
        if self.is_whole:
            return self.length()
        match = re.fullmatch(
            rf"bytes (?:{_DIGITS}-{_DIGITS}|\*)/({_DIGITS})",
            self.response.headers.get("Content-Range", ""),
        )
        return int(match[1]) if match else None

    def start(self) -> int | None:
        """Returns the offset of the body's first byte in the file; None if it is not stated."""
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


def at_most(answer: Answer, max_bytes: int) -> Iterator[bytes]:
    """Yields the body; raises FILE_TOO_LARGE if it has more than `max_bytes`."""
    received = answer.length() or 0
    if received > max_bytes:
        raise file_too_large(f"{received:,}", max_bytes)
    received = 0
    for chunk in answer.chunks():
        received += len(chunk)
        if received > max_bytes:
            raise file_too_large(f"more than {max_bytes:,}", max_bytes)
        yield chunk


def failed(url: str, found: str) -> ImageError:
    """Returns the error for a file that could not be read: READ_ERROR."""
    return ImageError(ErrorCode.READ_ERROR, f"{shown_url(url)} could not be read: {found}")


def ask(url: str, headers: dict[str, str], consume: Callable[[Answer], T]) -> T:
    """Requests a file; returns the result of `consume`, called again if its answer breaks off."""
    give_up_at = time.monotonic() + PATIENCE.total_seconds
    for attempt in range(1, PATIENCE.attempts + 1):
        try:
            with _get(url, headers) as answer:
                _check_status(answer)
                return consume(answer)
        # Not `from error`: a library's error may show the URL with its secrets.
        except _FINAL_ERRORS as error:
            raise failed(url, failures.words(error)) from None
        except _PassingError as error:
            pause = _pause(attempt, error.pause)
            if attempt == PATIENCE.attempts or pause is None:
                raise _given_up(url, str(error), attempt) from None
        except _PASSING_ERRORS as error:
            pause = _pause(attempt, None)
            if attempt == PATIENCE.attempts or pause is None:
                raise _given_up(url, failures.words(error), attempt) from None
        if time.monotonic() + pause > give_up_at:
            raise failed(url, f"no answer within {PATIENCE.total_seconds:g} s")
        time.sleep(pause)
    raise AssertionError("there is at least one attempt")


def _given_up(url: str, found: str, attempts: int) -> ImageError:
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return failed(url, f"{found} ({tries})")


def _pause(attempt: int, asked: float | None) -> float | None:
    """Returns the seconds before the next attempt; None if the server asks for too many."""
    if asked is not None and asked > PATIENCE.longest_pause_seconds:
        return None
    grown = PATIENCE.first_pause_seconds * 2.0 ** (attempt - 1)
    # At random, so that workers that failed together do not come back together.
    pause = min(grown, PATIENCE.longest_pause_seconds) * random.uniform(0.5, 1)
    return max(pause, asked or 0)


@contextlib.contextmanager
def _get(url: str, headers: dict[str, str]) -> Iterator[Answer]:
    """Asks for a file and follows redirects, whose own bodies are not read."""
    started = time.monotonic()
    at = _parsed(url)
    for _ in range(PATIENCE.redirects + 1):
        with contextlib.closing(_asked(at, headers)) as response:
            target = _target(response)
            if target is None:
                yield Answer(url, response, started)
                return
        at = _next(url, at, target)
    raise failed(url, f"it is redirected more than {PATIENCE.redirects} times, last to {host(at)}")


def _parsed(url: str) -> WebUrl:
    try:
        return urls.parse(url)
    except ValueError as error:
        raise failed(url, _no_url(error)) from None


def _no_url(error: ValueError) -> str:
    # A UnicodeError of the library that reads host names quotes them.
    return "its host is not a valid name" if isinstance(error, UnicodeError) else str(error)


def _asked(at: WebUrl, headers: dict[str, str]) -> requests.Response:
    """Sends one request and returns its response; a redirect is not followed."""
    refusal = web_access.access().refusal_of_host(at.host)
    if refusal is not None:
        raise ImageError(ErrorCode.PERMISSION_DENIED, f"{host(at)} is not read: {refusal}")
    session = session_of_thread()
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
        raise failed(url, f"it leads to a URL that is not read: {error}") from None
    except ValueError as error:
        reason = f"it leads to no web server: {_no_url(error)}"
        raise failed(url, reason) from None
    if at.scheme == "https" and found.scheme != "https":
        raise failed(
            url,
            f"it leads from https to {host(found)}, which anybody on the way could replace; name "
            "the file's own https URL",
        )
    return found


def _check_status(answer: Answer) -> None:
    status = answer.response.status_code
    asked_for_range = "Range" in answer.response.request.headers
    if status == 200 or (status in (206, 416) and asked_for_range):
        encoding = answer.response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise failed(answer.url, failures.encoding(encoding))
        return
    _refuse(answer, status)


def _refuse(answer: Answer, status: int) -> NoReturn:
    found = failures.status(status)
    if status in _MAY_CHANGE or status >= 500:
        raise _PassingError(found, _retry_after(answer.response.headers.get("Retry-After")))
    if status in _CODES:
        raise ImageError(_CODES[status], f"{shown_url(answer.url)}: {found}")
    raise failed(answer.url, found)


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
