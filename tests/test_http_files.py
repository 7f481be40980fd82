"""Files of a web server that fails, stalls, leads elsewhere and lies."""

import contextlib
import dataclasses
import email.utils
import hashlib
import itertools
import socket
import ssl
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from ports import closed_port
from web_server import (
    Handler,
    Reply,
    WebServer,
    chunked,
    file,
    first,
    hang_up,
    send,
    serving,
    status,
    without_length,
)

from beam_upscale import http_files, storage, urls, web_access
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.web_access import WebAccess

DATA = bytes(range(256)) * 400


@pytest.fixture
def web() -> Iterator[WebServer]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Little patience; a test may ask for less or more of it."""
    hurry = http_files.Patience(
        connect_seconds=20, silence_seconds=20, attempts=3, first_pause_seconds=0.01
    )

    def set_patience(**changes: float) -> None:
        monkeypatch.setattr(http_files, "PATIENCE", dataclasses.replace(hurry, **changes))

    set_patience()
    return set_patience


def code_of(act: Callable[[], object]) -> ErrorCode:
    with pytest.raises(ImageError) as caught:
        act()
    return caught.value.code


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

    assert storage.read_at_most(url, len(DATA)) == storage.read(url) == DATA
    assert storage.read(url, limit=10) == DATA[:10]
    assert storage.read_range(url, 300, 500) == DATA[300:800]
    assert storage.sha256(url) == hashlib.sha256(DATA).hexdigest()
    assert storage.exists(url)
    with storage.open_read(url) as opened:
        opened.seek(-3, 2)
        assert opened.read() == DATA[-3:]


def test_only_what_is_wanted_is_asked_for(web: WebServer) -> None:
    web.replies["/a.png"] = file(DATA)
    url = f"{web.url}/a.png"

    assert storage.read(url, limit=100) == DATA[:100]
    assert storage.read_range(url, len(DATA) - 5, 100) == DATA[-5:]
    assert storage.read_range(url, len(DATA) + 5, 100) == b""
    assert storage.size(url) == len(DATA)
    assert [asked for _, asked in web.ranges] == [
        "bytes=0-99",
        f"bytes={len(DATA) - 5}-{len(DATA) + 94}",
        f"bytes={len(DATA) + 5}-{len(DATA) + 104}",
        "bytes=0-0",
    ]


def test_an_empty_file_has_no_bytes(web: WebServer) -> None:
    web.replies["/empty"] = file(b"")

    assert storage.read_at_most(f"{web.url}/empty", 10) == b""
    assert storage.read(f"{web.url}/empty", limit=10) == b""
    assert storage.size(f"{web.url}/empty") == 0


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
        assert code_of(lambda url=url: storage.read_at_most(url, 1000)) is ErrorCode.FILE_TOO_LARGE
    assert set(web.asked.values()) == {1}
    assert storage.read_at_most(f"{web.url}/length", len(DATA)) == DATA


def test_what_is_hashed_or_opened_has_a_limit_too(
    web: WebServer, patience: Callable[..., None]
) -> None:
    patience(most_bytes=1000)
    web.replies["/a"] = file(DATA)

    assert code_of(lambda: storage.sha256(f"{web.url}/a")) is ErrorCode.FILE_TOO_LARGE
    assert code_of(lambda: storage.open_read(f"{web.url}/a")) is ErrorCode.FILE_TOO_LARGE


@pytest.mark.parametrize(
    ("answer", "code", "attempts"),
    [
        (404, ErrorCode.NOT_FOUND, 1),
        (410, ErrorCode.NOT_FOUND, 1),
        (401, ErrorCode.PERMISSION_DENIED, 1),
        (403, ErrorCode.PERMISSION_DENIED, 1),
        (400, ErrorCode.READ_ERROR, 1),
        (204, ErrorCode.READ_ERROR, 1),
        (304, ErrorCode.READ_ERROR, 1),
        (416, ErrorCode.READ_ERROR, 1),
        (206, ErrorCode.READ_ERROR, 1),
        (429, ErrorCode.READ_ERROR, 3),
        (500, ErrorCode.READ_ERROR, 3),
        (503, ErrorCode.READ_ERROR, 3),
    ],
)
def test_answers_have_stable_codes_and_only_some_are_asked_for_again(
    web: WebServer, answer: int, code: ErrorCode, attempts: int
) -> None:
    web.replies["/a"] = status(answer)

    assert code_of(lambda: storage.read_at_most(f"{web.url}/a", 10)) is code
    assert web.asked["/a"] == attempts
    assert storage.size(f"{web.url}/a") is None


@pytest.mark.parametrize(
    "trouble",
    [
        status(429),
        status(503, {"Retry-After": "0"}),
        hang_up,
        lambda handler: send(handler, 200, DATA[:10], {"Content-Length": str(len(DATA))}),
        chunked([DATA[:100]], is_whole=False),
    ],
    ids=["429", "503", "hangs up", "short of its length", "broken chunks"],
)
def test_what_passes_is_tried_again(web: WebServer, trouble: Reply) -> None:
    web.replies["/a"] = first(trouble, file(DATA))

    assert storage.read_at_most(f"{web.url}/a", len(DATA)) == DATA
    assert web.asked["/a"] == 2


def test_a_server_that_is_silent_is_asked_again(
    web: WebServer, patience: Callable[..., None]
) -> None:
    patience(silence_seconds=0.5, attempts=50)
    stop = threading.Event()
    web.replies["/a"] = first(lambda handler: stop.wait(20), file(DATA))  # type: ignore[arg-type]

    assert storage.read_at_most(f"{web.url}/a", len(DATA)) == DATA
    assert web.asked["/a"] >= 2
    stop.set()


def test_a_server_that_lies_to_the_end_is_an_error(web: WebServer) -> None:
    web.replies["/a"] = status(200, {"Content-Length": "5000"}, DATA[:10])

    with pytest.raises(ImageError, match=r"ended after 10 of 5,000 bytes \(3 attempts") as caught:
        storage.read_at_most(f"{web.url}/a", 10**6)

    assert caught.value.code is ErrorCode.READ_ERROR


def test_a_server_that_drips_is_given_up(web: WebServer, patience: Callable[..., None]) -> None:
    patience(answer_seconds=0.3, attempts=1)
    stop = threading.Event()

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b"x")

    web.replies["/a"] = drip

    assert code_of(lambda: storage.read_at_most(f"{web.url}/a", 10**6)) is ErrorCode.READ_ERROR
    stop.set()


def test_a_port_without_a_server_is_an_error() -> None:
    with closed_port() as port:
        url = f"http://127.0.0.1:{port}/a.png"

        assert code_of(lambda: storage.read_at_most(url, 10)) is ErrorCode.READ_ERROR


def test_why_there_is_no_connection_is_said_in_plain_words(
    connections: list[str], secure: WebServer, patience: Callable[..., None]
) -> None:
    patience(attempts=1)
    with closed_port() as port:
        for url, found in {
            f"http://127.0.0.1:{port}/": "the connection is refused",
            "http://nowhere.example/": "its host has no address",
            secure.url.replace(
                "localhost", "127.0.0.1"
            ): "the server's certificate is not accepted",
            secure.url.replace("https", "http"): "the server closed the connection|broke off",
        }.items():
            with pytest.raises(ImageError, match=f"could not be read: {found}") as caught:
                storage.read_at_most(url, 10)
            assert "Error" not in caught.value.message, url


def test_redirects_are_followed_to_a_point(web: WebServer) -> None:
    web.replies |= {
        "/a": status(302, {"Location": "/b"}, b"x" * 1000),
        "/b": status(307, {"Location": f"{web.url}/c"}),
        "/c": file(DATA),
        "/round": status(301, {"Location": "/round"}),
        "/out": status(302, {"Location": "file:///etc/hostname"}),
        "/nowhere": status(302, {"Location": "http://[/"}),
        "/unsaid": status(302),
        "/empty": status(302, {"Location": ""}),
        "/secret": status(302, {"Location": f"http://user:SECRET@{web.url[7:]}/c"}),
    }

    assert storage.read_at_most(f"{web.url}/a", len(DATA)) == DATA
    assert storage.read_range(f"{web.url}/a", 5, 5) == DATA[5:10]
    for path in ("/round", "/out", "/nowhere", "/unsaid", "/empty", "/secret"):
        url = f"{web.url}{path}"
        assert code_of(lambda url=url: storage.read_at_most(url, 10)) is ErrorCode.READ_ERROR
    assert web.asked["/round"] == 6


def moved(*locations: bytes) -> Reply:
    """A redirect with these bytes as its places."""

    def reply(handler: Handler) -> None:
        lines = b"".join(b"Location: " + each + b"\r\n" for each in locations)
        handler.wfile.write(b"HTTP/1.1 302 Found\r\n" + lines + b"Content-Length: 0\r\n\r\n")

    return reply


def test_places_are_read_as_browsers_read_them(web: WebServer) -> None:
    web.replies |= {
        "/caf%C3%A9/%E7%8C%AB.png": file(DATA),
        "/%E9.png": file(DATA),
        "/utf-8": moved("/café/猫.png".encode()),
        "/latin-1": moved(b"/\xe9.png"),
        "/dots": moved(b" ..\\x/../caf%C3%A9/%E7%8C%AB.png#part "),
        "/twice": moved(b"/%E9.png", b"/%E9.png"),
        "/either": moved(b"/%E9.png", b"/other"),
    }

    for path in ("/utf-8", "/latin-1", "/dots", "/twice", "/café/猫.png"):
        assert storage.read_at_most(f" {web.url}{path}\n", len(DATA)) == DATA, path
    assert code_of(lambda: storage.read_at_most(f"{web.url}/either", 9)) is ErrorCode.READ_ERROR


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A web server that speaks TLS, whose certificate this process trusts."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with serving(context) as server:
        yield server


def test_https_leads_to_https_only(web: WebServer, secure: WebServer) -> None:
    web.replies |= {"/a": file(DATA), "/up": status(302, {"Location": f"{secure.url}/a"})}
    secure.replies |= {
        "/a": file(DATA),
        "/here": status(302, {"Location": "//" + secure.url.partition("//")[2] + "/a"}),
        "/down": status(302, {"Location": f"{web.url}/a?token=SECRET"}),
    }

    assert storage.read_at_most(f"{web.url}/up", len(DATA)) == DATA
    assert storage.read_at_most(f"{secure.url}/here", len(DATA)) == DATA
    with pytest.raises(ImageError, match=r"^[^S]* leads from https to [^S]*$") as caught:
        storage.read_at_most(f"{secure.url}/down", len(DATA))
    assert caught.value.code is ErrorCode.READ_ERROR
    assert web.asked["/a"] == 0


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
        assert storage.read_at_most(f"{web.url}{path}", len(DATA)) == DATA

    assert sent == [(None, None)] * 3
    assert requests.utils.get_netrc_auth(web.url) == ("user", "SECRET")


def test_what_is_secret_stands_in_no_message(
    web: WebServer,
    connections: list[str],
    patience: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    patience(attempts=1)
    bad_header = b"HTTP/1.1 200 OK\r\nbad header\r\nContent-Length: 0\r\n\r\n"
    web.replies |= {
        "/hangs": hang_up,
        "/gone": status(404),
        "/bad": lambda handler: (handler.wfile.write(bad_header), hang_up(handler)),
        "/round": status(302, {"Location": "/round?token=SECRET"}),
        "/odd": status(302, {"Location": "ftp://user:SECRET@h/"}),
    }
    with closed_port() as port:
        silent = f"http://127.0.0.1:{port}/a"
        starts = [silent, "http://nowhere.example/a", "http://user:SECRET@127.0.0.1/a"]
        for url in [*starts, *(f"{web.url}{path}" for path in web.replies)]:
            with contextlib.suppress(ImageError):
                storage.read_at_most(f"{url}?token=SECRET", 0)
                assert url.endswith("/bad")
            with pytest.raises(ImageError) as caught:
                storage.read_at_most(f"{url}?x=1&sig=SECRET", -1)
            error: BaseException | None = caught.value
            while error is not None:
                assert "SECRET" not in f"{error}", url
                error = None if error.__suppress_context__ else error.__context__
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"SSH-2.0-OpenSSH_8.9 SECRET\r\n", "the answer is no HTTP"),
        (b"-ERR unknown command SECRET\r\n", "the answer is no HTTP"),
        (b"SECRET" * 20_000, "a line of the answer is too long for HTTP"),
        (b"HTTP/1.1 404 SECRET\r\n\r\n", "the server answers 404 Not Found"),
        (b"HTTP/1.1 599 SECRET\r\n\r\n", "the server answers 599 (1 attempt)"),
        (b"HTTP/1.1 SECRET OK\r\n\r\n", "the answer is no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"SECRET: 1\r\n" * 200, "the answer has too many headers"),
        (
            b"HTTP/1.1 200 OK\r\nSECRET: " + b"SECRET" * 20_000,
            "a line of the answer is too long for HTTP",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "the answer's headers contradict each other",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
            "it broke off after 0 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: SECRET\r\n\r\nabc",
            "it is sent in an encoding, which was not asked for",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: GZIP\r\n\r\nabc",
            "it is sent as gzip, which was not asked for",
        ),
        (b"", "the server closed the connection without an answer"),
        (
            b"HTTP/1.1 302 x\r\nLocation: ftp://me:SECRET@h/x?token=SECRET\r\n\r\n",
            "it leads to what is no address of a web server: ftp: is no scheme of a web server",
        ),
        (
            b"HTTP/1.1 302 x\r\nLocation: data:image/png;base64,SECRET\r\n\r\n",
            "it leads to what is no address of a web server: data: is no scheme of a web server",
        ),
        (
            b"HTTP/1.1 302 x\r\nLocation: http://h:99999/SECRET\r\n\r\n",
            "it leads to what is no address of a web server: its port is no number of at most",
        ),
        (
            b"HTTP/1.1 302 x\r\nLocation: http://169.254.169.254/SECRET\r\n\r\n",
            "http://169.254.169.254 is not read",
        ),
    ],
)
def test_nothing_of_an_answer_is_quoted(
    patience: Callable[..., None], said: bytes, found: str
) -> None:
    patience(attempts=1)

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        with pytest.raises(ImageError) as caught:
            storage.read_at_most(f"http://127.0.0.1:{listener.getsockname()[1]}/a", 1000)
        thread.join()

    assert found in caught.value.message
    assert "SECRET" not in caught.value.message
    # Nor a library's error as Python writes it.
    assert "Error" not in caught.value.message


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


LEADS = {
    "nowhere.example": itertools.repeat([]),
    "inside.example": itertools.repeat(["169.254.169.254"]),
    "both.example": itertools.repeat(["169.254.169.254", "127.0.0.1"]),
    "rebinding.example": itertools.chain(
        [["127.0.0.1"]], itertools.repeat(["::ffff:169.254.169.254"])
    ),
}


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
        assert code_of(lambda url=url: storage.read_at_most(url, 9)) is ErrorCode.PERMISSION_DENIED
    assert set(connections) == {"127.0.0.1"}

    assert storage.read_at_most(f"http://both.example:{port}/a", len(DATA)) == DATA
    assert storage.read_at_most(f"http://rebinding.example:{port}/a", len(DATA)) == DATA
    again = f"http://rebinding.example:{port}/a"
    assert code_of(lambda: storage.read_at_most(again, len(DATA))) is ErrorCode.PERMISSION_DENIED
    assert set(connections) == {"127.0.0.1"}


def test_what_may_be_connected_to_is_asked_anew(
    web: WebServer, connections: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    web.replies["/a"] = file(DATA)
    assert storage.read_at_most(f"{web.url}/a", len(DATA)) == DATA

    # The connection is open still.
    monkeypatch.setattr(web_access, "access", lambda: WebAccess(denies_private=True))
    port = web.url.rpartition(":")[2]
    for host in ("127.0.0.1", "both.example", "localhost"):
        url = f"http://{host}:{port}/a"
        assert code_of(lambda url=url: storage.read_at_most(url, 9)) is ErrorCode.PERMISSION_DENIED

    monkeypatch.setattr(web_access, "access", lambda: WebAccess(allows_link_local=True))
    assert code_of(lambda: storage.read_at_most("http://169.254.1.1/", 9)) is ErrorCode.READ_ERROR
    assert connections.count("169.254.1.1") == http_files.PATIENCE.attempts


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

    assert storage.read_at_most("http://host.example/a", len(DATA)) == DATA
    for host in ("localhost", "10.0.0.1", "169.254.169.254", "metadata.google.internal"):
        url = f"http://{host}/a"
        assert code_of(lambda url=url: storage.read_at_most(url, 9)) is ErrorCode.PERMISSION_DENIED
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
        storage.read_at_most("http://host.example/a", 10)

    assert caught.value.code is ErrorCode.READ_ERROR
    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a..b/", "http://:x/", "https://\udcff/"]
)
def test_what_is_no_address_is_an_error_at_once(url: str, patience: Callable[..., None]) -> None:
    patience(attempts=1)

    assert code_of(lambda: storage.read_at_most(url, 10)) is ErrorCode.READ_ERROR
    assert isinstance(urls.path_of(url), str)


def test_bytes_that_are_packed_unasked_are_refused(web: WebServer) -> None:
    web.replies["/a"] = status(200, {"Content-Encoding": "gzip"}, b"whatever")

    assert code_of(lambda: storage.read_at_most(f"{web.url}/a", 10)) is ErrorCode.READ_ERROR


def test_a_range_that_was_not_asked_for_is_refused(web: WebServer) -> None:
    web.replies["/a"] = status(206, {"Content-Range": "bytes 10-19/100"}, DATA[10:20])

    assert code_of(lambda: storage.read_range(f"{web.url}/a", 5, 5)) is ErrorCode.READ_ERROR


def test_a_server_is_given_the_time_it_asks_for(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    now = time.time()
    # For this module only: threads that other tests have left may sleep meanwhile.
    clock = types.SimpleNamespace(sleep=pauses.append, time=lambda: now, monotonic=time.monotonic)
    monkeypatch.setattr(http_files, "time", clock)
    later = email.utils.formatdate(now + 30, usegmt=True)
    web.replies |= {
        "/seconds": first(status(503, {"Retry-After": "7"}), file(DATA)),
        "/date": first(status(429, {"Retry-After": later}), file(DATA)),
        "/nonsense": first(status(429, {"Retry-After": "soon"}), file(DATA)),
        "/never": status(503, {"Retry-After": "86400"}),
    }

    for path in ("/seconds", "/date", "/nonsense"):
        assert storage.read_at_most(f"{web.url}{path}", len(DATA)) == DATA
    assert code_of(lambda: storage.read_at_most(f"{web.url}/never", 10)) is ErrorCode.READ_ERROR

    assert pauses[0] == 7
    assert 20 < pauses[1] <= 30
    assert pauses[2] <= 0.01
    assert len(pauses) == 3
    assert web.asked["/never"] == 1


def test_pauses_double_and_are_spread(web: WebServer, patience: Callable[..., None]) -> None:
    patience(attempts=4, total_seconds=0.01, first_pause_seconds=10)
    web.replies["/a"] = status(500)

    assert code_of(lambda: storage.read_at_most(f"{web.url}/a", 10)) is ErrorCode.READ_ERROR
    # Another attempt would come too late.
    assert web.asked["/a"] == 1
    for attempt, most in [(1, 10.0), (2, 20.0), (3, 40.0), (9, 60.0)]:
        found = {http_files._pause(attempt, None) for _ in range(20)}
        assert len(found) > 1
        assert all(pause is not None and most / 2 <= pause <= most for pause in found)


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
    assert urls.path_of(url) == path
