"""A web server in a thread of this process, which does to a request what a test says."""

import contextlib
import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request.

    Attributes:
        replies: what is done to a request, by its path without the query.
        asked: how often each path was asked for.
        ranges: the ranges that were asked for, by path.
    """

    protocol_version = "HTTP/1.1"
    replies: ClassVar[Mapping[str, Reply]] = {}
    asked: ClassVar[Counter[str]] = Counter()
    ranges: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked[path] += 1
        self.ranges.append((path, self.headers.get("Range")))
        reply = self.replies.get(path, status(404))
        with contextlib.suppress(ConnectionError):
            reply(self)

    def log_message(self, *arguments: object) -> None:
        pass

    @property
    def times(self) -> int:
        """How often this path was asked for, this time included."""
        return self.asked[self.path.partition("?")[0]]


class WebServer:
    """What a test sees of the server.

    Attributes:
        url: without a slash at its end.
        replies: by path; may be added to.
        asked: how often each path was asked for.
        ranges: path and `Range` of each request.
    """

    def __init__(self, url: str, handler: type[Handler]) -> None:
        self.url = url
        self.replies: dict[str, Reply] = {}
        handler.replies = self.replies
        self.asked = handler.asked
        self.ranges = handler.ranges


class QuietServer(ThreadingHTTPServer):
    """A server whose clients may go away without a word."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    """Serves on the loopback interface while the block runs, by TLS where a context is given."""
    handler = type("OwnHandler", (Handler,), {"asked": Counter(), "ranges": []})
    server = QuietServer(("127.0.0.1", 0), handler)
    start = "http://127.0.0.1"
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        start = "https://localhost"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield WebServer(f"{start}:{server.server_address[1]}", handler)
    finally:
        server.shutdown()
        server.server_close()


def file(data: bytes, ranges: bool = True) -> Reply:
    """A file, of which a range may be asked for where `ranges` says so."""

    def reply(handler: Handler) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range") or "")
        if not ranges or match is None:
            send(handler, 200, data)
            return
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        if start >= len(data):
            send(handler, 416, b"no", {"Content-Range": f"bytes */{len(data)}"})
            return
        said = f"bytes {start}-{end - 1}/{len(data)}"
        send(handler, 206, data[start:end], {"Content-Range": said})

    return reply


def status(code: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Reply:
    """An answer of this status."""
    return lambda handler: send(handler, code, body, headers or {})


def first(reply: Reply, then: Reply, times: int = 1) -> Reply:
    """One reply so many times, another ever after."""
    return lambda handler: (reply if handler.times <= times else then)(handler)


def send(
    handler: Handler, code: int, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """A whole answer; a header `Content-Length` may lie, and the connection is closed then.

    Where the connection ends, the answer says so: a client that is not told may send its next
    request there before it learns of the end, and that request fails.
    """
    handler.send_response(code)
    said = {"Content-Length": str(len(body)), **(headers or {})}
    if headers and "Content-Length" in headers:
        said["Connection"] = "close"
    for name, value in said.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def without_length(body: Iterator[bytes] | list[bytes]) -> Reply:
    """An answer that ends where the connection does."""

    def reply(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for piece in body:
            handler.wfile.write(piece)

    return reply


def chunked(pieces: list[bytes], is_whole: bool = True) -> Reply:
    """An answer in chunks, which breaks off before its end where it is not whole."""

    def reply(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if is_whole:
            handler.wfile.write(b"0\r\n\r\n")

    return reply


def hang_up(handler: Handler) -> None:
    """No answer at all."""
    handler.close_connection = True
