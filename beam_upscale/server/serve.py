"""`beam-upscale serve`: the parts of a server put together, from its settings to its end."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import resource
import signal
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
from prometheus_client import start_http_server

from beam_upscale.errors import BrokenProcessError, ErrorCode, SettingsError, reason
from beam_upscale.grpc_api.contract import MAX_MESSAGE_BYTES
from beam_upscale.server import leash
from beam_upscale.server.admission import Admission
from beam_upscale.server.aio_server import AioServer
from beam_upscale.server.calls import Calls
from beam_upscale.server.keys import Keys, read_keys
from beam_upscale.server.ledger import Ledger, require_ledger_place
from beam_upscale.server.logs import log_as_json
from beam_upscale.server.metrics import Metrics
from beam_upscale.server.service import Service
from beam_upscale.server.settings import ServeSettings
from beam_upscale.server.web import WebBridge
from beam_upscale.server.worker import Worker

_LOOPBACK = "127.0.0.1"

# A connection may take this long until its first call can come.
_HANDSHAKE_MILLISECONDS = 10_000
# Connections at a time; more are closed at once.
_MOST_CONNECTIONS = 12_000
# Streams of one connection; clients that have more wait or open another.
_STREAMS_OF_CONNECTION = 256
# Calls of all connections that have arrived at once and were not looked at; beyond the first number
# gRPC cancels some by chance, beyond the second all.
_CALLS_AT_ONCE = 16_384
_MOST_CALLS_AT_ONCE = 2 * _CALLS_AT_ONCE
_KEEPALIVE_MILLISECONDS = 60_000
_KEEPALIVE_TIMEOUT_MILLISECONDS = 20_000
# Clients may ask as often whether a connection is alive.
_LEAST_PING_MILLISECONDS = 10_000
# Clients open connections anew now and then, and so find another server behind the same name.
_CONNECTION_AGE_MILLISECONDS = 60 * 60_000
_CONNECTION_GRACE_MILLISECONDS = 30 * 60_000

# What has been answered may still be on its way.
_LAST_WORDS_SECONDS = 2.0

EXIT_BROKEN = 75
"""The exit code of a server that can do no call any more until it is started anew.

EX_TEMPFAIL of sysexits.h.
"""

# How often it is seen whether what serves gRPC-Web still runs.
_LOOK_SECONDS = 1.0

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Where a server listens.

    Attributes:
        grpc: HOST:PORT.
        web: URL for gRPC-Web; None where it is not served.
        metrics: URL for Prometheus; None where there are none.
    """

    grpc: str
    web: str | None = None
    metrics: str | None = None


def serve(
    settings: ServeSettings, on_ready: Callable[[Addresses, tuple[str, ...]], None] | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what has begun. Belongs to the main thread.

    Where the device is lost, or no decoder can be started any more, it ends too, and its process
    with it, with `EXIT_BROKEN`: whatever supervises it starts it anew.

    Args:
        settings: what to serve, and where.
        on_ready: told where the server listens and what its engines run on, once it does; None
            prints it in one line.

    Raises:
        SettingsError: what is asked for cannot be had.
    """
    log_as_json()
    leash.allow_many_files()
    _require_files(settings)
    try:
        worker = Worker.load(settings.upscale, settings.decode_seconds)
        try:
            finished = asyncio.run(run(settings, worker, on_ready or _print_ready))
        finally:
            worker.close()
    except BrokenProcessError as error:
        _logger.critical("The server ends, to be started anew: %s", error)
        _exit_at_once(EXIT_BROKEN)
    if not finished:
        _exit_at_once(0)


def _require_files(settings: ServeSettings) -> None:
    """Looks at the files that are named, before networks are loaded, which takes long.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    _credentials(settings)
    if settings.keys is not None:
        read_keys(settings.keys)
    if settings.ledger is not None:
        require_ledger_place(settings.ledger)


def _exit_at_once(code: int) -> NoReturn:
    """Networks do not stop half-way, and this process is not to wait for them."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _print_ready(addresses: Addresses, places: tuple[str, ...]) -> None:
    where = [f"gRPC on {addresses.grpc}"]
    if addresses.web is not None:
        where.append(f"gRPC-Web on {addresses.web}")
    if addresses.metrics is not None:
        where.append(f"metrics on {addresses.metrics}")
    sys.stdout.write(f"{' and '.join(places)}: {', '.join(where)}\n")
    sys.stdout.flush()


async def run(
    settings: ServeSettings,
    worker: Worker,
    on_ready: Callable[[Addresses, tuple[str, ...]], None],
) -> bool:
    """What `serve` does once networks are loaded.

    Args:
        settings: where to serve.
        worker: what upscales; the caller closes it.
        on_ready: as `serve` has it.

    Returns:
        Whether all calls had ended in time. Threads of those that had not go on.

    Raises:
        SettingsError: what is asked for cannot be had.
        BrokenProcessError: this process could do no call any more.
        RuntimeError: what serves gRPC-Web ended by itself.
    """
    stop = _stop_signals()
    async with listening(settings, worker) as server:
        server.calls.when_broken(stop.give_up)
        if settings.keys is None:
            _logger.warning(
                "No keys are asked for: every program of this machine may call (--keys)."
            )
        on_ready(server.addresses, worker.places)
        await _until_stopped(stop, server.web)
        _logger.info("The server is about to stop.")
        server.service.drain()
        finished = await _finish(server.service, settings.drain_seconds, stop)
    if not finished:
        _logger.warning("Calls were cut off: they took longer than the server may drain.")
    if stop.broken is not None:
        raise stop.broken
    if not stop.is_asked:
        raise RuntimeError("what serves gRPC-Web ended by itself; see the log")
    return finished


@dataclasses.dataclass(frozen=True)
class Listening:
    """A server that listens.

    Attributes:
        addresses: where.
        service: what answers.
        calls: that are in progress.
        web: what serves gRPC-Web; None where it is not served.
    """

    addresses: Addresses
    service: Service
    calls: Calls
    web: WebBridge | None


@contextlib.asynccontextmanager
async def listening(settings: ServeSettings, worker: Worker) -> AsyncIterator[Listening]:
    """A server within it; after it, calls are cut off.

    Raises:
        SettingsError: what is asked for cannot be had.
    """
    metrics = Metrics.create()
    async with contextlib.AsyncExitStack() as stack:
        ledger = None if settings.ledger is None else stack.enter_context(Ledger(settings.ledger))
        calls = Calls(worker, ledger, settings.max_queue, metrics)
        stack.callback(calls.close)
        service = _service(settings, worker, calls, ledger, metrics)
        server = AioServer(service.handlers(), _options(settings))
        port = _listen(server, settings)
        web = None if settings.web_port is None else _web(settings, server, stack)
        stack.push_async_callback(server.stop, _LAST_WORDS_SECONDS)
        await server.start()
        addresses = Addresses(
            grpc=_host_and_port(settings.host, port),
            web=None if web is None else await _start_web(web, settings, stack),
            metrics=_serve_metrics(settings, metrics, stack),
        )
        yield Listening(addresses, service, calls, web)


def _stop_signals() -> "_Stop":
    stop = _Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask)
    return stop


class _Stop:
    """The wish that the server ends: at the first signal in order, at the second at once.

    Attributes:
        broken: why it has to end, where that is no signal.
    """

    def __init__(self) -> None:
        self.broken: BrokenProcessError | None = None
        self._asked = asyncio.Event()
        self._asked_again = asyncio.Event()

    def ask(self) -> None:
        if self._asked.is_set():
            self._asked_again.set()
        self._asked.set()

    def give_up(self, error: BrokenProcessError) -> None:
        self.broken = error
        self._asked.set()

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    async def wait(self) -> None:
        await self._asked.wait()

    async def wait_again(self) -> None:
        await self._asked_again.wait()


async def _until_stopped(stop: _Stop, web: WebBridge | None) -> None:
    """Waits for a signal, a broken process, or the end of what serves gRPC-Web."""
    while not stop.is_asked and (web is None or web.is_running):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if web is None else _LOOK_SECONDS):
                await stop.wait()


async def _finish(service: Service, seconds: float, stop: _Stop) -> bool:
    """Waits for calls in progress, as long as they may take or until a second signal."""
    impatient = asyncio.create_task(stop.wait_again())
    finishing = asyncio.create_task(service.finish(seconds))
    await asyncio.wait({impatient, finishing}, return_when=asyncio.FIRST_COMPLETED)
    impatient.cancel()
    if finishing.done():
        return finishing.result()
    finishing.cancel()
    return await service.finish(0)


def _service(
    settings: ServeSettings,
    worker: Worker,
    calls: Calls,
    ledger: Ledger | None,
    metrics: Metrics,
) -> Service:
    keys = None if settings.keys is None else Keys(settings.keys)
    return Service(
        Admission(keys, settings.max_in_flight_per_key, settings.requests_per_second_per_key),
        calls,
        ledger,
        worker.engines,
        metrics,
        request_timeout_seconds=settings.request_timeout_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
    )


def _options(settings: ServeSettings) -> list[tuple[str, Any]]:
    """What ends connections and messages that cost more than they bring."""
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_allowed_incoming_connections", _most_connections()),
        ("grpc.max_concurrent_streams", _STREAMS_OF_CONNECTION),
        ("grpc.server.max_pending_requests", _CALLS_AT_ONCE),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_CALLS_AT_ONCE),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MILLISECONDS),
        ("grpc.max_connection_idle_ms", round(settings.idle_seconds * 1000)),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MILLISECONDS),
        ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_MILLISECONDS),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MILLISECONDS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MILLISECONDS),
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_MILLISECONDS),
        # Another server on this port is a mistake to be told of.
        ("grpc.so_reuseport", 0),
    ]


def _most_connections() -> int:
    """Some files stay for all that this process opens besides."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, most * 3 // 4)


def _listen(server: Any, settings: ServeSettings) -> int:
    """Opens the port; which one it is.

    Raises:
        SettingsError: INVALID_OPTION, it cannot be had, or the certificate is none.
    """
    wanted = _host_and_port(settings.host, settings.port)
    return _add_port(server, wanted, _credentials(settings))


def _add_port(server: Any, wanted: str, credentials: Any) -> int:
    try:
        if credentials is None:
            return int(server.add_insecure_port(wanted))
        return int(server.add_secure_port(wanted, credentials))
    except RuntimeError as error:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{wanted} cannot be listened on: {str(error).splitlines()[0]}",
        ) from None


def _web(settings: ServeSettings, server: Any, stack: contextlib.AsyncExitStack) -> WebBridge:
    """What serves gRPC-Web: it reaches the server over a socket that is nobody else's."""
    assert settings.web_port is not None
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="beam-upscale-"))
    path = Path(folder, "grpc.sock")
    _add_port(server, f"unix:{path}", None)
    return WebBridge(
        host=settings.host,
        port=settings.web_port,
        upstream_socket=path,
        certificate=settings.tls_cert,
        private_key=settings.tls_key,
        origins=settings.cors_origins,
        request_seconds=settings.request_timeout_seconds,
        # A call that waits is no idle one: the server says a word in time.
        idle_seconds=max(settings.idle_seconds, 2 * settings.keep_alive_seconds),
    )


async def _start_web(
    web: WebBridge, settings: ServeSettings, stack: contextlib.AsyncExitStack
) -> str:
    """Its URL."""
    stack.push_async_callback(asyncio.to_thread, web.stop, _LAST_WORDS_SECONDS)
    port = await asyncio.to_thread(web.start)
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{_host_and_port(settings.host, port)}"


def _credentials(settings: ServeSettings) -> Any:
    """Of TLS; None for plaintext."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    pair = _read(settings.tls_key, "tls_key"), _read(settings.tls_cert, "tls_cert")
    _require_pair(settings)
    return grpc.ssl_server_credentials([pair])


def _require_pair(settings: ServeSettings) -> None:
    """Raises where files hold no certificate and its key: gRPC would blame the address."""
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None or key is None or not (certificate.is_file() and key.is_file()):
        # A pipe can be read once only.
        return
    try:
        # Without a password: none is asked for on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError):
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"tls_cert {certificate} and tls_key {key} are no certificate and its key, in PEM and "
            "without a password",
        ) from None


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{name} is {path}, which cannot be read: {reason(error, of=path)}",
        ) from None


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _serve_metrics(
    settings: ServeSettings, metrics: Metrics, stack: contextlib.AsyncExitStack
) -> str | None:
    """Their URL."""
    port = settings.metrics_port
    if port is None:
        return None
    try:
        server, thread = start_http_server(port, _LOOPBACK, metrics.registry)
    except OSError as error:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"the metrics port {port} cannot be listened on: {reason(error)}",
        ) from None
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f"http://{_LOOPBACK}:{server.server_port}/metrics"
