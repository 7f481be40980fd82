"""Connections to web servers that reach allowed addresses only."""

import contextlib
import dataclasses
import logging
import re
import socket
import threading
from typing import Any, TypeVar, cast

import requests
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import allowed_gai_family

from beam_upscale.errors import ErrorCode, ImageError, shortened
from beam_upscale.storage.http import web_access
from beam_upscale.storage.uris import secrets, urls
from beam_upscale.storage.uris.urls import WebUrl

# The most characters in a message.
_LONGEST_URL = 400
_LONGEST_HOST = 200

# The query of a URL, as in the library's own log messages.
_QUERY = re.compile(r"\?\S*")
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


_local = threading.local()


def shown_url(url: str) -> str:
    """Returns a URL for a message: without secrets, shortened, in characters of any terminal."""
    shown = secrets.without_secrets(urls.trimmed(url))
    return shortened(shown, _LONGEST_URL).encode(errors="backslashreplace").decode()


def host(url: WebUrl) -> str:
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
        raise urllib3.exceptions.LocationParseError("its host is not a valid name") from None
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

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        super().init_poolmanager(*arguments, **keywords)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


def without_query(record: logging.LogRecord) -> bool:
    """Removes the queries of URLs from a log record: they may hold tokens and signatures."""
    if isinstance(record.args, tuple):
        texts = (_QUERY.sub("?…", a) if isinstance(a, str) else a for a in record.args)
        record.args = tuple(texts)
    return True


def session_of_thread() -> requests.Session:
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
