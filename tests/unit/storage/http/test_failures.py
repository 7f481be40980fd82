"""What is said of a file that a server does not give."""

import contextlib
import socket
import threading
from collections.abc import Callable

import pytest
from ports import closed_port
from web_answers import code_of
from web_server import WebServer, hang_up, status

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage import files


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

    assert code_of(lambda: files.read_at_most(f"{web.url}/a", 10)) is code
    assert web.asked["/a"] == attempts
    assert files.size(f"{web.url}/a") is None


def test_a_port_without_a_server_is_an_error() -> None:
    with closed_port() as port:
        url = f"http://127.0.0.1:{port}/a.png"

        assert code_of(lambda: files.read_at_most(url, 10)) is ErrorCode.READ_ERROR


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
                files.read_at_most(url, 10)
            assert "Error" not in caught.value.message, url


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
                files.read_at_most(f"{url}?token=SECRET", 0)
                assert url.endswith("/bad")
            with pytest.raises(ImageError) as caught:
                files.read_at_most(f"{url}?x=1&sig=SECRET", -1)
            error: BaseException | None = caught.value
            while error is not None:
                assert "SECRET" not in f"{error}", url
                error = None if error.__suppress_context__ else error.__context__
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"SSH-2.0-OpenSSH_8.9 SECRET\r\n", "the answer is not HTTP"),
        (b"-ERR unknown command SECRET\r\n", "the answer is not HTTP"),
        (b"SECRET" * 20_000, "a line of the answer is too long for HTTP"),
        (b"HTTP/1.1 404 SECRET\r\n\r\n", "the server answers 404 Not Found"),
        (b"HTTP/1.1 599 SECRET\r\n\r\n", "the server answers 599 (1 attempt)"),
        (b"HTTP/1.1 SECRET OK\r\n\r\n", "the answer is not HTTP"),
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
            "it is sent in an encoding, which was not requested",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: GZIP\r\n\r\nabc",
            "it is sent as gzip, which was not requested",
        ),
        (b"", "the server closed the connection without an answer"),
        (
            b"HTTP/1.1 302 x\r\nLocation: ftp://me:SECRET@h/x?token=SECRET\r\n\r\n",
            "it leads to no web server: ftp: is not a scheme of a web server",
        ),
        (
            b"HTTP/1.1 302 x\r\nLocation: data:image/png;base64,SECRET\r\n\r\n",
            "it leads to no web server: data: is not a scheme of a web server",
        ),
        (
            b"HTTP/1.1 302 x\r\nLocation: http://h:99999/SECRET\r\n\r\n",
            "it leads to no web server: its port is not a number of at most",
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
            files.read_at_most(f"http://127.0.0.1:{listener.getsockname()[1]}/a", 1000)
        thread.join()

    assert found in caught.value.message
    assert "SECRET" not in caught.value.message
    # Nor a library's error as Python writes it.
    assert "Error" not in caught.value.message
