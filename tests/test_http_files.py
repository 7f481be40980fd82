"""Files of a web server that fails, stalls, leads elsewhere and lies."""

import dataclasses
import email.utils
import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
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

from beam_upscale import http_files, storage
from beam_upscale.errors import ErrorCode, ImageError

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

    with pytest.raises(ImageError, match=r"10 of 5,000 bytes|IncompleteRead.*3 attempts") as caught:
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
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.png"

        assert code_of(lambda: storage.read_at_most(url, 10)) is ErrorCode.READ_ERROR


def test_redirects_are_followed_to_a_point(web: WebServer) -> None:
    web.replies |= {
        "/a": status(302, {"Location": "/b"}, b"x" * 1000),
        "/b": status(307, {"Location": f"{web.url}/c"}),
        "/c": file(DATA),
        "/round": status(301, {"Location": "/round"}),
        "/out": status(302, {"Location": "file:///etc/hostname"}),
        "/nowhere": status(302, {"Location": "http://[/"}),
        "/unsaid": status(302),
    }

    assert storage.read_at_most(f"{web.url}/a", len(DATA)) == DATA
    assert storage.read_range(f"{web.url}/a", 5, 5) == DATA[5:10]
    for path in ("/round", "/out", "/nowhere", "/unsaid"):
        url = f"{web.url}{path}"
        assert code_of(lambda url=url: storage.read_at_most(url, 10)) is ErrorCode.READ_ERROR
    assert web.asked["/round"] == 6


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a..b/", "http://:x/", "https://\udcff/"]
)
def test_what_is_no_address_is_an_error_at_once(url: str, patience: Callable[..., None]) -> None:
    patience(attempts=1)

    assert code_of(lambda: storage.read_at_most(url, 10)) is ErrorCode.READ_ERROR
    assert isinstance(http_files.path_of(url), str)


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
    monkeypatch.setattr(http_files.time, "sleep", pauses.append)
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
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
    assert http_files.is_http(url)
    assert http_files.path_of(url) == path
