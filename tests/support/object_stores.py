"""Object stores on this machine, each behind a gate that answers 503 to some of its calls.

S3 is moto's server, in a thread; GCS is fake-gcs-server, which `make runners` builds.
"""

import contextlib
import dataclasses
import http.client
import json
import logging
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ports import free_port

BUCKET = "bucket"
_PATIENCE = 60

# A header that belongs to one connection, and what is told anew of a body that was read whole.
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclasses.dataclass(frozen=True)
class ObjectStore:
    """A store that runs, with an empty bucket.

    Attributes:
        root: URI of the bucket.
        options: of Beam, with which it is reached.
        variables: of the environment of a process that uses it.
        gate: what all calls pass.
    """

    root: str
    options: tuple[str, ...]
    variables: Mapping[str, str]
    gate: "Gate"


class Gate(ThreadingHTTPServer):
    """Hands calls on to a server of this machine, but answers 503 to every so many of them.

    Attributes:
        calls: that came.
        refused: of them.
        every: so manieth call is answered 503.
        closed: while this file is there, every call is answered 503.
        deletes_as_seen: whether the server compares generations before it deletes; where it does
            not, it is done here.
    """

    closed: Path | None = None
    deletes_as_seen = True

    daemon_threads = True

    def __init__(self, to_port: int, every: int, amend: Callable[[bytes], bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.calls = self.refused = 0
        self.to_port = to_port
        self.amend = amend
        self.every = every
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Says nothing of clients that went away: they are killed."""

    def refuses(self) -> bool:
        """Counts a call, and says whether it is one that is refused."""
        with self._lock:
            self.calls += 1
            is_closed = self.closed is not None and self.closed.exists()
            is_refused = is_closed or self.calls % self.every == 0
            self.refused += is_refused
            return is_refused


class _Call(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def _pass(self) -> None:
        body = self._body()
        if self.server.refuses():
            self._answer(503, {"Content-Type": "text/plain"}, b"a fault of the test")
            return
        if not self.server.deletes_as_seen and not self._may_delete():
            self._answer(412, {"Content-Type": "text/plain"}, b"another generation")
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_ONE_CONNECTION}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.to_port, timeout=_PATIENCE)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, self.server.amend(body), headers)
            answer = connection.getresponse()
            self._answer(answer.status, dict(answer.getheaders()), answer.read())

    def _may_delete(self) -> bool:
        path, _, query = self.path.partition("?")
        expected = urllib.parse.parse_qs(query).get("ifGenerationMatch")
        if self.command != "DELETE" or expected is None:
            return True
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.to_port}{path}") as answer:
                return [json.load(answer)["generation"]] == expected
        except urllib.error.HTTPError:
            # There is none, as the server will say.
            return True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _pass  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks: list[bytes] = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        kept = {k: v for k, v in headers.items() if k.lower() not in _OF_ONE_CONNECTION}
        # The answer to HEAD tells the length of what it leaves out.
        told = {k: v for k, v in headers.items() if k.lower() == "content-length"}
        length = told if self.command == "HEAD" else {"Content-Length": str(len(body))}
        for name, value in {**kept, **length}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def _gate(to_port: int, every: int, amend: Callable[[bytes], bytes] = bytes) -> Iterator[Gate]:
    with Gate(to_port, every, amend) as gate:
        thread = threading.Thread(target=gate.serve_forever, daemon=True)
        thread.start()
        yield gate
        gate.shutdown()
        thread.join()


@contextlib.contextmanager
def s3(every: int) -> Iterator[ObjectStore]:
    """S3 for a while; every so manieth call is refused."""
    import boto3
    from apache_beam.io.aws.clients.s3 import boto3_client
    from moto.server import ThreadedMotoServer

    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    # A line for each call takes longer than the call.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", b"")
        ).close()
        client.create_bucket(Bucket=BUCKET)
        with _gate(port, every) as gate, _shared(boto3_client, "Client"):
            yield ObjectStore(f"s3://{BUCKET}", (f"--s3_endpoint_url={gate.url}",), variables, gate)
    finally:
        server.stop()


@contextlib.contextmanager
def _shared(module: Any, name: str) -> Iterator[None]:
    """Has this process make one client: Beam makes one for each file that it opens."""
    make, made = getattr(module, name), {}

    def shared(options: Any) -> Any:
        if name not in made:
            made[name] = make(options)
        return made[name]

    setattr(module, name, shared)
    try:
        yield
    finally:
        setattr(module, name, make)


@contextlib.contextmanager
def gcs(program: Path, every: int) -> Iterator[ObjectStore]:
    """GCS for a while; every so manieth call is refused."""
    port = free_port()
    process = subprocess.Popen(
        [
            program,
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            str(port),
            "-backend",
            "memory",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _make_bucket(f"http://127.0.0.1:{port}/storage/v1/b?project=test")
        with _gate(port, every, _with_content_ids) as gate:
            gate.deletes_as_seen = False
            variables = {"STORAGE_EMULATOR_HOST": gate.url}
            yield ObjectStore(f"gs://{BUCKET}", (), variables, gate)
    finally:
        process.kill()
        process.wait()


def _make_bucket(url: str) -> None:
    data, headers = json.dumps({"name": BUCKET}).encode(), {"Content-Type": "application/json"}
    end = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(url, data, headers)).close()
            return
        assert time.monotonic() < end, "GCS is still not there"
        time.sleep(0.1)


def _with_content_ids(body: bytes) -> bytes:
    """Numbers the calls of a batch: GCS answers those that have no number, the fake does not."""
    parts = re.split(rb"(?m)^(?=Content-Type: application/http\b)", body)
    first, *others = parts
    numbered = (b"Content-ID: <%d>\n%s" % pair for pair in enumerate(others, start=1))
    return b"".join([first, *numbered])
