"""Attempts at a server: what is tried again, after which pauses, and what redirects lead to."""

import email.utils
import threading
import time
import types
from collections.abc import Callable

import pytest
from web_answers import DATA, code_of
from web_server import Handler, Reply, WebServer, chunked, file, first, hang_up, send, status

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage import files
from beam_upscale.storage.http import attempts


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

    assert files.read_at_most(f"{web.url}/a", len(DATA)) == DATA
    assert web.asked["/a"] == 2


def test_a_server_that_is_silent_is_asked_again(
    web: WebServer, patience: Callable[..., None]
) -> None:
    patience(silence_seconds=0.5, attempts=50)
    stop = threading.Event()
    web.replies["/a"] = first(lambda handler: stop.wait(20), file(DATA))  # type: ignore[arg-type]

    assert files.read_at_most(f"{web.url}/a", len(DATA)) == DATA
    assert web.asked["/a"] >= 2
    stop.set()


def test_a_server_that_lies_to_the_end_is_an_error(web: WebServer) -> None:
    web.replies["/a"] = status(200, {"Content-Length": "5000"}, DATA[:10])

    with pytest.raises(ImageError, match=r"ended after 10 of 5,000 bytes \(3 attempts") as caught:
        files.read_at_most(f"{web.url}/a", 10**6)

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

    assert code_of(lambda: files.read_at_most(f"{web.url}/a", 10**6)) is ErrorCode.READ_ERROR
    stop.set()


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

    assert files.read_at_most(f"{web.url}/a", len(DATA)) == DATA
    assert files.read_range(f"{web.url}/a", 5, 5) == DATA[5:10]
    for path in ("/round", "/out", "/nowhere", "/unsaid", "/empty", "/secret"):
        url = f"{web.url}{path}"
        assert code_of(lambda url=url: files.read_at_most(url, 10)) is ErrorCode.READ_ERROR
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
        assert files.read_at_most(f" {web.url}{path}\n", len(DATA)) == DATA, path
    assert code_of(lambda: files.read_at_most(f"{web.url}/either", 9)) is ErrorCode.READ_ERROR


def test_https_leads_to_https_only(web: WebServer, secure: WebServer) -> None:
    web.replies |= {"/a": file(DATA), "/up": status(302, {"Location": f"{secure.url}/a"})}
    secure.replies |= {
        "/a": file(DATA),
        "/here": status(302, {"Location": "//" + secure.url.partition("//")[2] + "/a"}),
        "/down": status(302, {"Location": f"{web.url}/a?token=SECRET"}),
    }

    assert files.read_at_most(f"{web.url}/up", len(DATA)) == DATA
    assert files.read_at_most(f"{secure.url}/here", len(DATA)) == DATA
    with pytest.raises(ImageError, match=r"^[^S]* leads from https to [^S]*$") as caught:
        files.read_at_most(f"{secure.url}/down", len(DATA))
    assert caught.value.code is ErrorCode.READ_ERROR
    assert web.asked["/a"] == 0


def test_a_server_is_given_the_time_it_asks_for(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    now = time.time()
    # For this module only: threads that other tests have left may sleep meanwhile.
    clock = types.SimpleNamespace(sleep=pauses.append, time=lambda: now, monotonic=time.monotonic)
    monkeypatch.setattr(attempts, "time", clock)
    later = email.utils.formatdate(now + 30, usegmt=True)
    web.replies |= {
        "/seconds": first(status(503, {"Retry-After": "7"}), file(DATA)),
        "/date": first(status(429, {"Retry-After": later}), file(DATA)),
        "/nonsense": first(status(429, {"Retry-After": "soon"}), file(DATA)),
        "/never": status(503, {"Retry-After": "86400"}),
    }

    for path in ("/seconds", "/date", "/nonsense"):
        assert files.read_at_most(f"{web.url}{path}", len(DATA)) == DATA
    assert code_of(lambda: files.read_at_most(f"{web.url}/never", 10)) is ErrorCode.READ_ERROR

    assert pauses[0] == 7
    assert 20 < pauses[1] <= 30
    assert pauses[2] <= 0.01
    assert len(pauses) == 3
    assert web.asked["/never"] == 1


def test_pauses_double_and_are_spread(web: WebServer, patience: Callable[..., None]) -> None:
    patience(attempts=4, total_seconds=0.01, first_pause_seconds=10)
    web.replies["/a"] = status(500)

    assert code_of(lambda: files.read_at_most(f"{web.url}/a", 10)) is ErrorCode.READ_ERROR
    # Another attempt would come too late.
    assert web.asked["/a"] == 1
    for attempt, most in [(1, 10.0), (2, 20.0), (3, 40.0), (9, 60.0)]:
        found = {attempts._pause(attempt, None) for _ in range(20)}
        assert len(found) > 1
        assert all(pause is not None and most / 2 <= pause <= most for pause in found)
