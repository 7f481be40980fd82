"""Files of a web server that fails, stalls, leads elsewhere and lies."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from web_answers import DATA, code_of
from web_server import Handler, Reply, WebServer, chunked, file, send, status, without_length

from beam_upscale.errors import ErrorCode
from beam_upscale.storage import files
from beam_upscale.storage.uris import secrets, urls


@pytest.mark.parametrize(
    "reply",
    [
        file(DATA),
        without_length([DATA[:1000], DATA[1000:]]),
        chunked([DATA[:70_000], DATA[70_000:]]),
    ],
    ids=["length", "no length", "chunks"],
)
def test_a_file_is_read_whole_in_part_and_hashed(web: WebServer, reply: Reply) -> None:
    web.replies["/a.png"] = reply
    url = f"{web.url}/a.png"

    assert files.read_at_most(url, len(DATA)) == files.read(url) == DATA
    assert files.read(url, limit=10) == DATA[:10]
    assert files.read_range(url, 300, 500) == DATA[300:800]
    assert files.sha256(url) == hashlib.sha256(DATA).hexdigest()
    assert files.exists(url)
    with files.open_read(url) as opened:
        opened.seek(-3, 2)
        assert opened.read() == DATA[-3:]


def test_only_what_is_wanted_is_asked_for(web: WebServer) -> None:
    web.replies["/a.png"] = file(DATA)
    url = f"{web.url}/a.png"

    assert files.read(url, limit=100) == DATA[:100]
    assert files.read_range(url, len(DATA) - 5, 100) == DATA[-5:]
    assert files.read_range(url, len(DATA) + 5, 100) == b""
    assert files.size(url) == len(DATA)
    assert [asked for _, asked in web.ranges] == [
        "bytes=0-99",
        f"bytes={len(DATA) - 5}-{len(DATA) + 94}",
        f"bytes={len(DATA) + 5}-{len(DATA) + 104}",
        "bytes=0-0",
    ]


def test_an_empty_file_has_no_bytes(web: WebServer) -> None:
    web.replies["/empty"] = file(b"")

    assert files.read_at_most(f"{web.url}/empty", 10) == b""
    assert files.read(f"{web.url}/empty", limit=10) == b""
    assert files.size(f"{web.url}/empty") == 0


def test_a_file_that_is_too_large_is_left_at_that(web: WebServer) -> None:
    def endless() -> Iterator[bytes]:
        return itertools.repeat(b"x" * 65536)

    def claims(handler: Handler) -> None:
        send(handler, 200, b"", {"Content-Length": str(10**15)})

    web.replies |= {
        "/length": file(DATA),
        "/claims": claims,
        "/endless": lambda handler: without_length(endless())(handler),
    }

    for path in web.replies:
        url = f"{web.url}{path}"
        assert code_of(lambda url=url: files.read_at_most(url, 1000)) is ErrorCode.FILE_TOO_LARGE
    assert set(web.asked.values()) == {1}
    assert files.read_at_most(f"{web.url}/length", len(DATA)) == DATA


def test_what_is_hashed_or_opened_has_a_limit_too(
    web: WebServer, patience: Callable[..., None]
) -> None:
    patience(most_bytes=1000)
    web.replies["/a"] = file(DATA)

    assert code_of(lambda: files.sha256(f"{web.url}/a")) is ErrorCode.FILE_TOO_LARGE
    assert code_of(lambda: files.open_read(f"{web.url}/a")) is ErrorCode.FILE_TOO_LARGE


def test_no_credentials_are_sent(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password SECRET\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    sent: list[object] = []

    def noted(handler: Handler) -> None:
        sent.append((handler.headers.get("Authorization"), handler.headers.get("Cookie")))
        send(handler, 200, DATA, {"Set-Cookie": "session=1"})

    web.replies |= {"/a": noted, "/moved": status(302, {"Location": "/a", "Set-Cookie": "s=1"})}

    for path in ("/a", "/a", "/moved"):
        assert files.read_at_most(f"{web.url}{path}", len(DATA)) == DATA

    assert sent == [(None, None)] * 3
    assert requests.utils.get_netrc_auth(web.url) == ("user", "SECRET")


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a..b/", "http://:x/", "https://\udcff/"]
)
def test_what_is_no_address_is_an_error_at_once(url: str, patience: Callable[..., None]) -> None:
    patience(attempts=1)

    assert code_of(lambda: files.read_at_most(url, 10)) is ErrorCode.READ_ERROR
    assert isinstance(secrets.path_of(url), str)


def test_bytes_that_are_packed_unasked_are_refused(web: WebServer) -> None:
    web.replies["/a"] = status(200, {"Content-Encoding": "gzip"}, b"whatever")

    assert code_of(lambda: files.read_at_most(f"{web.url}/a", 10)) is ErrorCode.READ_ERROR


def test_a_range_that_was_not_asked_for_is_refused(web: WebServer) -> None:
    web.replies["/a"] = status(206, {"Content-Range": "bytes 10-19/100"}, DATA[10:20])

    assert code_of(lambda: files.read_range(f"{web.url}/a", 5, 5)) is ErrorCode.READ_ERROR


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://host.example:8443/a/b%20c.jpg?x=1#y", "host.example/a/b c.jpg"),
        ("HTTP://user:secret@host.example/", "host.example"),
        ("http://host.example//a", "host.example/a"),
    ],
)
def test_a_url_gives_a_name_without_its_query(url: str, path: str) -> None:
    assert urls.is_web(url)
    assert secrets.path_of(url) == path
