"""Describes why reading from a web server failed, in words of this package.

An address in a table may belong to something other than a web server. Its answer may be a secret,
and messages are published. So neither the answer nor a library's text about it is quoted.
"""

import errno
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import requests
import urllib3.exceptions

_NO_HTTP = "the answer is not HTTP"
_NO_ANSWER = "no answer came in time"
_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})

_CONNECTION_WORDS = {
    errno.ECONNREFUSED: "the connection is refused",
    errno.ECONNRESET: "the server broke off the connection",
    errno.ECONNABORTED: "the server broke off the connection",
    errno.EPIPE: "the server broke off the connection",
    errno.ETIMEDOUT: _NO_ANSWER,
    errno.EHOSTUNREACH: "there is no route to its host",
    errno.ENETUNREACH: "there is no route to its host",
}


def _received(error: Any) -> str:
    partial = error.partial if isinstance(error.partial, int) else len(error.partial)
    if not isinstance(error.expected, int):
        return f"it broke off after {partial:,} bytes"
    return f"it ended after {partial:,} of {partial + error.expected:,} bytes"


def _of_certificate(error: Any) -> str:
    # OpenSSL's own words, which quote nothing but the host's name.
    return f"the server's certificate is not accepted: {error.verify_message}"


def _of_connecting(error: Any) -> str:
    is_timeout = not isinstance(error, urllib3.exceptions.NewConnectionError)
    return "no connection was made in time" if is_timeout else ""


def _of_system(error: Any) -> str:
    return _CONNECTION_WORDS.get(error.errno, "")


# The first entry that matches and has words is used, so a class stands before its base classes.
_WORDS: tuple[tuple[tuple[type[BaseException], ...], str | Callable[[Any], str]], ...] = (
    (
        (urllib3.exceptions.ProxyError, requests.exceptions.ProxyError),
        "the proxy gives no connection",
    ),
    ((urllib3.exceptions.NameResolutionError, socket.gaierror), "its host has no address"),
    ((ssl.SSLCertVerificationError,), _of_certificate),
    (
        (urllib3.exceptions.SSLError, requests.exceptions.SSLError, ssl.SSLError),
        "the server does not encrypt as https requires",
    ),
    ((http.client.RemoteDisconnected,), "the server closed the connection without an answer"),
    ((urllib3.exceptions.InvalidChunkLength,), "the answer's chunks are not HTTP"),
    ((http.client.IncompleteRead,), _received),
    ((http.client.LineTooLong,), "a line of the answer is too long for HTTP"),
    ((http.client.BadStatusLine, http.client.UnknownProtocol), _NO_HTTP),
    ((urllib3.exceptions.InvalidHeader,), "the answer's headers contradict each other"),
    # Only for more than 100 headers is the base class itself raised.
    ((http.client.HTTPException,), "the answer has too many headers"),
    ((urllib3.exceptions.ConnectTimeoutError,), _of_connecting),
    ((urllib3.exceptions.LocationParseError, UnicodeError), "its host is not a valid name"),
    ((requests.exceptions.InvalidURL,), "it is not a URL that can be requested"),
    (
        (urllib3.exceptions.ReadTimeoutError, requests.exceptions.ReadTimeout, TimeoutError),
        _NO_ANSWER,
    ),
    ((OSError,), _of_system),
    ((urllib3.exceptions.ProtocolError,), "the connection broke off"),
    ((ValueError,), _NO_HTTP),
)


def words(error: BaseException) -> str:
    """Returns why a request failed, judged by the classes of an error and of its causes."""
    causes = list(_causes(error))
    for kinds, found in _WORDS:
        for each in causes:
            if isinstance(each, kinds):
                text = found if isinstance(found, str) else found(each)
                if text:
                    return text
    return "the connection failed"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and the errors that it wraps, outermost first."""
    ahead, seen = [error], set[int]()
    while ahead:
        found = ahead.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = (getattr(found, "reason", None), *found.args, found.__cause__)
        ahead += [each for each in inner if isinstance(each, BaseException)]


def status(number: int) -> str:
    """Describes a server's status by its number and standard phrase, not by the server's words."""
    try:
        return f"the server answers {number} {HTTPStatus(number).phrase}"
    except ValueError:
        return f"the server answers {number}"


def encoding(sent: str) -> str:
    """Describes the fault of a file that is sent in an encoding that was not requested."""
    shown = f"as {sent}" if sent in _ENCODINGS else "in an encoding"
    return f"it is sent {shown}, which was not requested"
