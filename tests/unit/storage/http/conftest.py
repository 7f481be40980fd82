"""Web servers of a test's own, and little patience with them."""

import dataclasses
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from web_answers import LEADS
from web_server import WebServer, serving

from beam_upscale.storage.http import attempts
from beam_upscale.storage.http.connections import Patience


@pytest.fixture
def web() -> Iterator[WebServer]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Little patience; a test may ask for less or more of it."""
    hurry = Patience(connect_seconds=20, silence_seconds=20, attempts=3, first_pause_seconds=0.01)

    def set_patience(**changes: float) -> None:
        monkeypatch.setattr(attempts, "PATIENCE", dataclasses.replace(hurry, **changes))

    set_patience()
    return set_patience


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A web server that speaks TLS, whose certificate this process trusts."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with serving(context) as server:
        yield server


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that are connected to; those of other machines are not.

    Names lead where `LEADS` says, at each look-up to the next of its places.
    """
    tried: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo
    places = {name: iter(addresses) for name, addresses in LEADS.items()}

    def noted(self: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address[0])
        if address[0] != "127.0.0.1":
            raise ConnectionRefusedError("not tried")
        connect(self, address)

    def answered(host: str, port: int, *rest: Any, **named: Any) -> Any:
        found = next(places[host]) if host in places else [host]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return [each for name in found for each in look_up(name, port, *rest, **named)]

    monkeypatch.setattr(socket.socket, "connect", noted)
    monkeypatch.setattr(socket, "getaddrinfo", answered)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tried
