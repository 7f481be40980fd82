"""What is connected to, and through which proxy."""

from collections.abc import Callable

import pytest
from web_answers import DATA, code_of
from web_server import Handler, WebServer, file, send, status

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage import files
from beam_upscale.storage.http import attempts, web_access
from beam_upscale.storage.http.web_access import WebAccess


def test_link_local_addresses_are_connected_to_by_no_way(
    web: WebServer, connections: list[str], patience: Callable[..., None]
) -> None:
    patience(attempts=1)
    port = web.url.rpartition(":")[2]
    web.replies |= {
        # No second request comes by the first one's connection: each looks its name up.
        "/a": status(200, {"Connection": "close"}, DATA),
        "/moved": status(302, {"Location": "http://0xa9fea9fe/"}),
        "/named": status(307, {"Location": "//inside.example/"}),
    }
    for url in (
        *("http://169.254.169.254/", "http://2852039166/", "http://0251.0376.0251.0376/"),
        *("http://[fe80::1]/", "http://[::ffff:169.254.169.254]/", "http://[64:ff9b::a9fe:a9fe]/"),
        *("http://inside.example/", f"{web.url}/moved", f"{web.url}/named"),
    ):
        assert code_of(lambda url=url: files.read_at_most(url, 9)) is ErrorCode.PERMISSION_DENIED
    assert set(connections) == {"127.0.0.1"}

    assert files.read_at_most(f"http://both.example:{port}/a", len(DATA)) == DATA
    assert files.read_at_most(f"http://rebinding.example:{port}/a", len(DATA)) == DATA
    again = f"http://rebinding.example:{port}/a"
    assert code_of(lambda: files.read_at_most(again, len(DATA))) is ErrorCode.PERMISSION_DENIED
    assert set(connections) == {"127.0.0.1"}


def test_what_may_be_connected_to_is_asked_anew(
    web: WebServer, connections: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    web.replies["/a"] = file(DATA)
    assert files.read_at_most(f"{web.url}/a", len(DATA)) == DATA

    # The connection is open still.
    monkeypatch.setattr(web_access, "access", lambda: WebAccess(denies_private=True))
    port = web.url.rpartition(":")[2]
    for host in ("127.0.0.1", "both.example", "localhost"):
        url = f"http://{host}:{port}/a"
        assert code_of(lambda url=url: files.read_at_most(url, 9)) is ErrorCode.PERMISSION_DENIED

    monkeypatch.setattr(web_access, "access", lambda: WebAccess(allows_link_local=True))
    assert code_of(lambda: files.read_at_most("http://169.254.1.1/", 9)) is ErrorCode.READ_ERROR
    assert connections.count("169.254.1.1") == attempts.PATIENCE.attempts


def test_a_proxy_may_be_anywhere_and_is_asked_for_no_denied_host(
    web: WebServer, connections: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", web.url.replace("//", "//me:proxy@"))
    monkeypatch.setattr(web_access, "access", lambda: WebAccess(denies_private=True))
    asked: list[tuple[str, str | None]] = []

    def proxied(handler: Handler) -> None:
        asked.append((handler.path, handler.headers.get("Proxy-Authorization")))
        send(handler, 200, DATA)

    web.replies["http://host.example/a"] = proxied

    assert files.read_at_most("http://host.example/a", len(DATA)) == DATA
    for host in ("localhost", "10.0.0.1", "169.254.169.254", "metadata.google.internal"):
        url = f"http://{host}/a"
        assert code_of(lambda url=url: files.read_at_most(url, 9)) is ErrorCode.PERMISSION_DENIED
    assert asked == [("http://host.example/a", "Basic bWU6cHJveHk=")]


@pytest.mark.parametrize("place", ["http://me:SECRET@[::1", "http://me:SECRET@127.0.0.1:1"])
def test_a_password_of_a_proxy_stands_in_no_message(
    monkeypatch: pytest.MonkeyPatch, patience: Callable[..., None], place: str
) -> None:
    patience(attempts=1)
    monkeypatch.setenv("http_proxy", place)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    with pytest.raises(ImageError) as caught:
        files.read_at_most("http://host.example/a", 10)

    assert caught.value.code is ErrorCode.READ_ERROR
    assert "SECRET" not in caught.value.message
