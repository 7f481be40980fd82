"""gRPC-Web through a real Envoy, by hand as browsers and hostile peers speak it."""

import base64
import contextlib
import http.client
import os
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import trustme
from ports import free_port

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.grpc_api.contract import MAX_MESSAGE_BYTES
from beam_upscale.images.processes.environment import plain_environment
from beam_upscale.server.web.bridge import WebBridge

PATIENCE = 60.0
BINARY = "application/grpc-web+proto"
TEXT = "application/grpc-web-text"
ORIGIN = "https://pages.example"


class Server(grpc.GenericRpcHandler):
    """A gRPC server on a Unix socket; its messages are plain bytes."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "server.sock"
        self.go_on = threading.Event()
        self.metadata: dict[str, list[str]] = {}
        size = MAX_MESSAGE_BYTES
        self._server = grpc.server(
            ThreadPoolExecutor(64),
            options=[
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", size),
            ],
        )
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()

    def close(self) -> None:
        self.go_on.set()
        self._server.stop(0).wait(PATIENCE)

    def service(self, details: Any) -> Any:
        behaviours: dict[str, Callable[..., Any]] = {
            "/test.Calls/Echo": self._echo,
            "/test.Calls/Refuse": self._refuse,
            "/test.Calls/Wait": self._wait,
            "/test.Calls/Size": self._size,
        }
        if details.method == "/test.Calls/Listen":
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: requests)
        behaviour = behaviours.get(details.method)
        return None if behaviour is None else grpc.unary_stream_rpc_method_handler(behaviour)

    def _echo(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.metadata = {}
        for name, value in context.invocation_metadata():
            self.metadata.setdefault(name, []).append(value)
        yield request

    def _refuse(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x03details"),))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "1,049,600 are more than 1,048,576")
        yield b""

    def _wait(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield b"first"
        assert self.go_on.wait(PATIENCE)
        yield request

    def _size(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield bytes(int(request))


@pytest.fixture
def server() -> Iterator[Server]:
    # Names of sockets are short: those of test folders are not.
    with tempfile.TemporaryDirectory() as folder:
        running = Server(Path(folder))
        yield running
        running.close()


class Serve:
    """Starts bridges and stops what is left of them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.bridges: list[WebBridge] = []

    def __call__(self, **options: Any) -> int:
        values = {
            "host": "127.0.0.1",
            "port": 0,
            "upstream_socket": self._server.socket,
            "request_seconds": 30.0,
            "idle_seconds": 60.0,
            **options,
        }
        bridge = WebBridge(**values)
        self.bridges.append(bridge)
        return bridge.start()

    @property
    def bridge(self) -> WebBridge:
        return self.bridges[-1]


@pytest.fixture
def serve(server: Server) -> Iterator[Serve]:
    starts = Serve(server)
    yield starts
    for bridge in starts.bridges:
        bridge.stop(0)


def frame(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def read_frames(body: bytes) -> tuple[list[bytes], dict[str, str]]:
    """The messages of an answer, and its trailers."""
    messages: list[bytes] = []
    trailers: dict[str, str] = {}
    while body:
        flags, size = struct.unpack(">BI", body[:5])
        content, body = body[5 : 5 + size], body[5 + size :]
        assert len(content) == size
        if flags & 0x80:
            lines = [line.partition(":") for line in content.decode().split("\r\n") if line]
            trailers = {name: value.strip() for name, _, value in lines}
        else:
            messages.append(content)
    return messages, trailers


def connect(port: int, context: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    if context is not None:
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context)
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def call(
    port: int,
    method: str = "Echo",
    message: bytes = b"hello",
    context: ssl.SSLContext | None = None,
    **headers: str,
) -> tuple[list[bytes], dict[str, str], http.client.HTTPResponse]:
    """A call as a browser makes it."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(connect(port, context)) as connection:
        connection.request(
            *("POST", f"/test.Calls/{method}", frame(message)),
            {"content-type": BINARY, "x-grpc-web": "1", **sent},
        )
        answer = connection.getresponse()
        messages, trailers = read_frames(answer.read())
    return messages, trailers, answer


def test_a_call_in_binary(serve: Serve) -> None:
    messages, trailers, answer = call(serve())

    assert messages == [b"hello"]
    assert trailers["grpc-status"] == "0"
    assert answer.status == 200
    assert answer.getheader("content-type") == BINARY


def test_a_call_in_text(serve: Serve) -> None:
    with contextlib.closing(connect(serve())) as connection:
        connection.request(
            *("POST", "/test.Calls/Echo", base64.b64encode(frame(b"hello"))),
            {"content-type": TEXT, "accept": TEXT, "x-grpc-web": "1"},
        )
        answer = connection.getresponse()
        encoded = answer.read()
    # Each part of the answer may end in padding of its own.
    parts = [part + b"=" * (-len(part) % 4) for part in encoded.replace(b"=", b" ").split()]
    messages, trailers = read_frames(b"".join(base64.b64decode(part) for part in parts))

    assert messages == [b"hello"]
    assert trailers["grpc-status"] == "0"


def test_messages_arrive_when_they_are_sent(serve: Serve, server: Server) -> None:
    with contextlib.closing(connect(serve())) as connection:
        connection.request("POST", "/test.Calls/Wait", frame(b"second"), {"content-type": BINARY})
        answer = connection.getresponse()
        first = answer.read(len(frame(b"first")))
        server.go_on.set()
        messages, trailers = read_frames(first + answer.read())

    assert messages == [b"first", b"second"]
    assert trailers["grpc-status"] == "0"


def test_an_error_arrives_with_its_details(serve: Serve) -> None:
    messages, trailers, answer = call(serve(origins=[ORIGIN]), "Refuse", origin=ORIGIN)
    said = {**dict(answer.getheaders()), **trailers}

    assert messages == []
    assert said["grpc-status"] == str(grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert said["grpc-message"] == "1,049,600 are more than 1,048,576"
    assert base64.b64decode(said["grpc-status-details-bin"] + "==") == b"\x08\x03details"


def test_an_unknown_method_is_unimplemented(serve: Serve) -> None:
    _, trailers, answer = call(serve(), "Nothing")

    code = trailers.get("grpc-status", answer.getheader("grpc-status"))
    assert code == str(grpc.StatusCode.UNIMPLEMENTED.value[0])


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "CONNECT", "BREW"])
def test_what_is_no_call_never_reaches_the_server(serve: Serve, method: str) -> None:
    with contextlib.closing(connect(serve())) as connection:
        connection.request(method, "/test.Calls/Echo")
        answer = connection.getresponse()
        answer.read()

    assert answer.status in (400, 405, 503)


def preflight(port: int, origin: str) -> dict[str, str]:
    """What a browser is told before a call."""
    with contextlib.closing(connect(port)) as connection:
        connection.request(
            *("OPTIONS", "/test.Calls/Echo", None),
            {
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type,x-grpc-web",
            },
        )
        answer = connection.getresponse()
        answer.read()
    return {name.lower(): value for name, value in answer.getheaders()}


def test_pages_of_allowed_origins_may_call_and_read_the_answer(serve: Serve) -> None:
    port = serve(origins=["https://other.example", ORIGIN])

    allowed = preflight(port, ORIGIN)
    messages, _, answer = call(port, origin=ORIGIN)

    assert allowed["access-control-allow-origin"] == ORIGIN
    assert "POST" in allowed["access-control-allow-methods"]
    headers = set(allowed["access-control-allow-headers"].split(","))
    assert headers >= {"authorization", "content-type", "x-grpc-web", "x-user-agent"}
    assert "grpc-timeout" in headers
    assert messages == [b"hello"]
    assert answer.getheader("access-control-allow-origin") == ORIGIN
    exposed = answer.getheader("access-control-expose-headers", "")
    assert set(exposed.split(",")) == {"grpc-status", "grpc-message", "grpc-status-details-bin"}


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{ORIGIN}.evil.example", "http://pages.example", "null"]
)
def test_pages_of_other_origins_may_not(serve: Serve, origin: str) -> None:
    port = serve(origins=[ORIGIN])

    assert "access-control-allow-origin" not in preflight(port, origin)
    assert call(port, origin=origin)[2].getheader("access-control-allow-origin") is None


def test_without_origins_pages_of_this_machine_may_call(serve: Serve) -> None:
    for port in (serve(), serve(host="0.0.0.0")):
        for origin in ("http://localhost:3000", "https://127.0.0.1", "http://[::1]:8000"):
            assert preflight(port, origin)["access-control-allow-origin"] == origin
        for origin in (ORIGIN, "http://localhost.evil.example", "http://evil.example:3000"):
            assert "access-control-allow-origin" not in preflight(port, origin)


def test_all_pages_may_call_where_that_is_said(serve: Serve) -> None:
    chosen = serve(host="0.0.0.0", origins=["*"])

    assert preflight(chosen, ORIGIN)["access-control-allow-origin"] == ORIGIN


def test_the_server_learns_who_calls_whatever_the_caller_says(serve: Serve, server: Server) -> None:
    messages, trailers, _ = call(
        serve(),
        x_forwarded_for="203.0.113.7, 203.0.113.8",
        x_envoy_external_address="203.0.113.9",
        x_envoy_upstream_rq_timeout_ms="1",
        x_envoy_retry_on="5xx",
        authorization="Bearer key",
    )

    assert messages == [b"hello"]
    assert trailers["grpc-status"] == "0"
    assert server.metadata["x-forwarded-for"] == ["127.0.0.1"]
    assert server.metadata["authorization"] == ["Bearer key"]
    assert "203.0.113" not in str(server.metadata)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return chain, key


def test_tls(serve: Serve, authority: trustme.CA, certificate: tuple[Path, Path]) -> None:
    chain, key = certificate
    port = serve(certificate=chain, private_key=key)
    context = ssl.create_default_context()

    with pytest.raises(ssl.SSLCertVerificationError):
        call(port, context=context)
    authority.configure_trust(context)
    assert call(port, context=context)[0] == [b"hello"]
    with pytest.raises((OSError, http.client.HTTPException)):
        call(port)


def echo_over_http2(channel: Any, message: bytes = b"hello") -> bytes:
    return b"".join(channel.unary_stream("/test.Calls/Echo")(message, timeout=PATIENCE))


def test_http2_in_plaintext_and_over_tls(
    serve: Serve, authority: trustme.CA, certificate: tuple[Path, Path]
) -> None:
    chain, key = certificate
    plain, secure = serve(), serve(certificate=chain, private_key=key)
    trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())

    with grpc.insecure_channel(f"127.0.0.1:{plain}") as channel:
        assert echo_over_http2(channel) == b"hello"
    with grpc.secure_channel(f"127.0.0.1:{secure}", trusted) as channel:
        assert echo_over_http2(channel) == b"hello"


def test_the_largest_messages_pass_both_ways(serve: Serve) -> None:
    port = serve()
    large = os.urandom(2**20) * (MAX_MESSAGE_BYTES // 2**20)

    messages, trailers, _ = call(port, message=large)

    assert trailers["grpc-status"] == "0"
    assert messages == [large]


def test_a_message_that_is_too_large_is_refused_by_the_server(serve: Serve) -> None:
    port = serve()
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            echo_over_http2(channel, bytes(200 * 10**6))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    assert call(port)[0] == [b"hello"]


def send_nothing() -> Iterator[bytes]:
    while True:
        yield b""


def send_headers_slowly() -> Iterator[bytes]:
    yield b"POST /test.Calls/Echo HTTP/1.1\r\nhost: localhost\r\nx-long: "
    while True:
        yield b"x"


def send_headers_slowly_from_the_first_byte() -> Iterator[bytes]:
    for byte in b"POST /test.Calls/Echo HTTP/1.1\r\n":
        yield bytes([byte])
    while True:
        yield b"x"


def send_body_slowly() -> Iterator[bytes]:
    yield b"POST /test.Calls/Echo HTTP/1.1\r\nhost: localhost\r\n"
    yield b"content-type: application/grpc-web+proto\r\ncontent-length: 1000005\r\n\r\n"
    yield struct.pack(">BI", 0, 1_000_000)
    while True:
        yield b"x"


def send_empty_lines() -> Iterator[bytes]:
    while True:
        yield b"\r\n"


def send_http2_preface_slowly() -> Iterator[bytes]:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    for byte in preface[:20]:
        yield bytes([byte])
    while True:
        yield b""


def is_closed_while_sending(port: int, parts: Iterator[bytes]) -> bool:
    """Sends a part every tenth of a second until the other side closes the connection."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.settimeout(0.1)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                connection.sendall(next(parts))
                if not connection.recv(65536):
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
    return False


SLOW: Sequence[Callable[[], Iterator[bytes]]] = (
    send_nothing,
    send_headers_slowly,
    send_headers_slowly_from_the_first_byte,
    send_body_slowly,
    send_empty_lines,
    send_http2_preface_slowly,
)


def test_peers_that_send_slowly_are_closed_and_others_are_served(serve: Serve) -> None:
    # Those that are not slow may have to wait for a core in the middle of a request.
    port = serve(header_seconds=1.5, request_seconds=2.5, idle_seconds=3.5)

    with ThreadPoolExecutor(len(SLOW)) as executor:
        closed = [executor.submit(is_closed_while_sending, port, parts()) for parts in SLOW]
        while not all(future.done() for future in closed):
            assert call(port)[0] == [b"hello"]
            time.sleep(0.2)

    assert {
        parts.__name__: future.result() for parts, future in zip(SLOW, closed, strict=True)
    } == {parts.__name__: True for parts in SLOW}


def test_half_open_streams_are_closed(serve: Serve) -> None:
    port = serve(request_seconds=1.0)
    never = threading.Event()

    def requests() -> Iterator[bytes]:
        never.wait(PATIENCE)
        yield from ()

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [channel.stream_stream("/test.Calls/Listen")(requests()) for _ in range(50)]
        for each in calls:
            with pytest.raises(grpc.RpcError):
                next(each)
        never.set()
    assert call(port)[0] == [b"hello"]


def test_a_call_without_a_word_from_either_side_is_ended(serve: Serve) -> None:
    port = serve(idle_seconds=2)

    with pytest.raises(http.client.IncompleteRead):
        call(port, "Wait")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answers = channel.unary_stream("/test.Calls/Wait")(b"last", timeout=PATIENCE)
        assert next(answers) == b"first"
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
    assert caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED


def test_answers_that_nobody_reads_hold_up_nobody_else(serve: Serve) -> None:
    port = serve()
    size = 16 * 2**20
    with contextlib.ExitStack() as stack:
        late = [stack.enter_context(contextlib.closing(connect(port))) for _ in range(48)]
        for connection in late:
            connection.request(
                "POST", "/test.Calls/Size", frame(str(size).encode()), {"content-type": BINARY}
            )
        answers = [connection.getresponse() for connection in late]
        for _ in range(20):
            assert call(port)[0] == [b"hello"]
        messages, _ = read_frames(answers[-1].read())

    assert len(messages[0]) == size


def test_connections_are_bounded_and_give_way_when_they_end(serve: Serve) -> None:
    port = serve(max_connections=5)
    connections = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(20)]
    for connection in connections:
        connection.settimeout(PATIENCE)

    def is_closed(connection: socket.socket) -> bool:
        connection.setblocking(False)
        try:
            return connection.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    until = time.monotonic() + PATIENCE
    while sum(map(is_closed, connections)) < 15 and time.monotonic() < until:
        time.sleep(0.02)
    assert sum(map(is_closed, connections)) == 15

    for connection in connections:
        connection.close()
    while time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert call(port)[0] == [b"hello"]
            return
    pytest.fail("no call was served once there was room")


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except OSError:
        return True
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def stop_elsewhere(bridge: WebBridge, seconds: float) -> Future[None]:
    done: Future[None] = Future()

    def stop() -> None:
        bridge.stop(seconds)
        done.set_result(None)

    threading.Thread(target=stop).start()
    return done


def test_a_stop_lets_calls_finish_and_takes_no_more(serve: Serve, server: Server) -> None:
    port = serve()
    with contextlib.closing(connect(port)) as connection:
        connection.request("POST", "/test.Calls/Wait", frame(b"last"), {"content-type": BINARY})
        answer = connection.getresponse()
        stopped = stop_elsewhere(serve.bridge, PATIENCE)
        wait_until(lambda: is_refused(port))
        assert not stopped.done()
        server.go_on.set()
        messages, trailers = read_frames(answer.read())

    stopped.result(PATIENCE)
    assert messages == [b"first", b"last"]
    assert trailers["grpc-status"] == "0"
    assert not serve.bridge.is_running


def test_a_stop_lets_answers_reach_a_client_that_reads_late(serve: Serve) -> None:
    port = serve()
    size = 16 * 2**20
    with contextlib.closing(connect(port)) as connection:
        connection.request(
            "POST", "/test.Calls/Size", frame(str(size).encode()), {"content-type": BINARY}
        )
        answer = connection.getresponse()
        stopped = stop_elsewhere(serve.bridge, PATIENCE)
        wait_until(lambda: is_refused(port))
        messages, trailers = read_frames(answer.read())

    stopped.result(PATIENCE)
    assert [len(message) for message in messages] == [size]
    assert trailers["grpc-status"] == "0"


def test_a_stop_ends_calls_that_take_too_long(serve: Serve) -> None:
    port = serve()
    with contextlib.closing(connect(port)) as connection:
        connection.request("POST", "/test.Calls/Wait", frame(b"last"), {"content-type": BINARY})
        answer = connection.getresponse()
        serve.bridge.stop(0.1)
        with pytest.raises((OSError, http.client.HTTPException)):
            answer.read()

    assert not serve.bridge.is_running
    serve.bridge.stop(0.1)
    assert is_refused(port)


def test_an_interrupt_from_a_terminal_is_not_for_envoy(serve: Serve) -> None:
    serve()

    assert serve.bridge._envoy is not None
    assert os.getpgid(serve.bridge._envoy._process.pid) != os.getpgid(0)
    environment = psutil.Process(serve.bridge._envoy._process.pid).environ()
    assert set(environment) <= set(plain_environment())


def test_an_end_of_envoy_shows(serve: Serve) -> None:
    port = serve()
    assert serve.bridge.is_running

    assert serve.bridge._envoy is not None
    serve.bridge._envoy._process.kill()

    wait_until(lambda: not serve.bridge.is_running)
    assert is_refused(port)
    serve.bridge.stop(PATIENCE)


def bridge_folders(temporary: Path) -> list[Path]:
    return list(temporary.glob("beam-upscale-*"))


def test_nobody_else_administers_it_and_nothing_is_left(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        serve()
        (folder,) = bridge_folders(Path(temporary))

        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "admin.sock").stat().st_mode) == 0o600
        assert serve.bridge._envoy is not None
        for path in ("/quitquitquit", "/config_dump", "/logging?level=trace", "/"):
            with pytest.raises(http.client.HTTPException, match="403"):
                serve.bridge._envoy._ask("POST", path)

        serve.bridge.stop(0)
        assert bridge_folders(Path(temporary)) == []


def test_it_starts_once(serve: Serve) -> None:
    serve()

    with pytest.raises(RuntimeError):
        serve.bridge.start()


def test_a_port_that_is_taken_is_a_clear_error(serve: Serve, server: Server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"{port}.*Address already in use") as caught:
            serve(port=port)
    assert caught.value.code is ErrorCode.INVALID_OPTION
    assert not serve.bridge.is_running

    other = serve()
    with pytest.raises(SettingsError, match="Address already in use"):
        serve(port=other)
    assert call(other)[0] == [b"hello"]


def test_a_certificate_that_cannot_be_used_is_a_clear_error(
    serve: Serve, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    chain, key = certificate
    text = tmp_path / "notes.pem"
    text.write_text("no certificate")

    with pytest.raises(SettingsError, match=r"notes\.pem"):
        serve(certificate=text, private_key=key)
    with pytest.raises(SettingsError, match=r"nowhere\.pem"):
        serve(certificate=chain, private_key=tmp_path / "nowhere.pem")


def test_settings_that_cannot_be_are_clear_errors(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for origin in ("pages.example", "https://pages.example/", "https://", "https://a b", "null"):
        with pytest.raises(SettingsError, match="is not an origin"):
            serve(origins=[origin])
    with pytest.raises(SettingsError, match=r"'192\.0\.2\.1' is not an address of this machine"):
        serve(host="192.0.2.1")
    with pytest.raises(SettingsError, match="has no address"):
        serve(host="nowhere.invalid")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "x" / ("y" * 100)))
    (tmp_path / "x" / ("y" * 100)).mkdir(parents=True)
    with pytest.raises(SettingsError, match="too long"):
        serve()
    assert bridge_folders(tmp_path / "x" / ("y" * 100)) == []
    monkeypatch.setitem(sys.modules, "envoy", None)
    with pytest.raises(SettingsError, match=r"beam-upscale\[serve\]"):
        serve()


def test_a_name_is_served_at_all_its_addresses(serve: Serve) -> None:
    port = free_port()

    assert serve(host="localhost", port=port) == port
    assert call(port)[0] == [b"hello"]


STARTS_A_BRIDGE = """
import os, sys, threading
from beam_upscale.server.web.bridge import WebBridge
bridge = WebBridge(
    host="127.0.0.1", port=0, upstream_socket=sys.argv[1], request_seconds=30, idle_seconds=60
)
# By a thread that ends: Envoy stays with the process, not with the thread.
ports = []
thread = threading.Thread(target=lambda: ports.append(bridge.start()))
thread.start()
thread.join()
print(*ports, flush=True)
sys.stdin.read()
"""


def end_by_kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)


def end_by_itself(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize("end", [end_by_kill, end_by_itself])
def test_envoy_ends_with_the_process_that_started_it(
    server: Server, end: Callable[[subprocess.Popen[str]], None]
) -> None:
    with (
        tempfile.TemporaryDirectory() as temporary,
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(STARTS_A_BRIDGE), server.socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": temporary},
        ) as process,
    ):
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert call(port)[0] == [b"hello"]

        end(process)
        process.wait(PATIENCE)

    wait_until(lambda: is_refused(port))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the signal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_envoy_does_not_end_by_a_signal_for_the_process_that_started_it(
    server: Server, number: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STARTS_A_BRIDGE), server.socket],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        (envoy,) = psutil.Process(process.pid).children()

        envoy.send_signal(number)
        # Long enough for one that takes the signal to end by it.
        with pytest.raises(psutil.TimeoutExpired):
            envoy.wait(0.5)
        answer = call(port)[0]
        end_by_itself(process)

    assert answer == [b"hello"]
