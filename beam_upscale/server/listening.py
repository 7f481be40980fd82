"""Starts and stops listening: ports, TLS certificates and limits on connections."""

import asyncio
import contextlib
import dataclasses
import resource
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import start_http_server

from beam_upscale.errors import ErrorCode, SettingsError, reason
from beam_upscale.grpc_api.contract import MAX_MESSAGE_BYTES
from beam_upscale.server.accounts.keys import Keys
from beam_upscale.server.accounts.ledger import Ledger
from beam_upscale.server.admission import Admission
from beam_upscale.server.aio_server import AioServer
from beam_upscale.server.calls import Calls
from beam_upscale.server.monitoring.metrics import Metrics
from beam_upscale.server.service import Service
from beam_upscale.server.settings import ServeSettings
from beam_upscale.server.web.bridge import WebBridge
from beam_upscale.server.worker import Worker

_LOOPBACK = "127.0.0.1"

# The longest handshake of a connection, until its first call can come.
_HANDSHAKE_MILLISECONDS = 10_000
# The most connections at a time; further ones are closed at once.
_MOST_CONNECTIONS = 12_000
# The most streams of one connection; with more, clients wait or open another connection.
_STREAMS_OF_CONNECTION = 256
# Calls of all connections that have arrived and are not accepted yet: beyond the first number gRPC
# cancels some at random, beyond the second all.
_CALLS_AT_ONCE = 16_384
_MOST_CALLS_AT_ONCE = 2 * _CALLS_AT_ONCE
_KEEPALIVE_MILLISECONDS = 60_000
_KEEPALIVE_TIMEOUT_MILLISECONDS = 20_000
# The least time between two pings by which a client checks that a connection is alive.
_LEAST_PING_MILLISECONDS = 10_000
# Connections are closed at this age, so that clients can find another server of the same name.
_CONNECTION_AGE_MILLISECONDS = 60 * 60_000
_CONNECTION_GRACE_MILLISECONDS = 30 * 60_000

# Answers that are complete may still be on their way.
_LAST_WORDS_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Addresses:
    """The addresses that a server listens on.

    Attributes:
        grpc: HOST:PORT.
        web: the URL for gRPC-Web; None if it is not served.
        metrics: the URL for Prometheus; None if there are no metrics.
    """

    grpc: str
    web: str | None = None
    metrics: str | None = None


@dataclasses.dataclass(frozen=True)
class Listening:
    """A server that listens.

    Attributes:
        addresses: the addresses that it listens on.
        service: the service that answers calls.
        calls: the calls in progress.
        web: the gRPC-Web bridge; None if gRPC-Web is not served.
    """

    addresses: Addresses
    service: Service
    calls: Calls
    web: WebBridge | None


@contextlib.asynccontextmanager
async def listening(settings: ServeSettings, worker: Worker) -> AsyncIterator[Listening]:
    """Runs a server within this context; calls that are left at its end are cut off.

    Raises:
        SettingsError: the settings cannot be met.
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
    """Returns gRPC's options, with limits on connections, calls and messages."""
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
        # A second server on the same port must fail instead of sharing it.
        ("grpc.so_reuseport", 0),
    ]


def _most_connections() -> int:
    """Returns the most connections; leaves a quarter of the allowed files for other uses."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, most * 3 // 4)


def _listen(server: Any, settings: ServeSettings) -> int:
    """Opens the port, and returns its number.

    Raises:
        SettingsError: INVALID_OPTION, the port is not available, or the certificate is invalid.
    """
    wanted = _host_and_port(settings.host, settings.port)
    return _add_port(server, wanted, credentials_of(settings))


def _add_port(server: Any, wanted: str, credentials: Any) -> int:
    try:
        if credentials is None:
            return int(server.add_insecure_port(wanted))
        return int(server.add_secure_port(wanted, credentials))
    except RuntimeError as error:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"the server cannot listen on {wanted}: {str(error).splitlines()[0]}",
        ) from None


def _web(settings: ServeSettings, server: Any, stack: contextlib.AsyncExitStack) -> WebBridge:
    """Creates the gRPC-Web bridge, which reaches the server over a private Unix socket."""
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
        # A waiting call must not count as idle: the server sends a keep-alive answer in time.
        idle_seconds=max(settings.idle_seconds, 2 * settings.keep_alive_seconds),
    )


async def _start_web(
    web: WebBridge, settings: ServeSettings, stack: contextlib.AsyncExitStack
) -> str:
    """Starts the gRPC-Web bridge, and returns its URL."""
    stack.push_async_callback(asyncio.to_thread, web.stop, _LAST_WORDS_SECONDS)
    port = await asyncio.to_thread(web.start)
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{_host_and_port(settings.host, port)}"


def credentials_of(settings: ServeSettings) -> Any:
    """Returns the TLS credentials; None for plaintext."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    pair = _read(settings.tls_key, "tls_key"), _read(settings.tls_cert, "tls_cert")
    _require_pair(settings)
    return grpc.ssl_server_credentials([pair])


def _require_pair(settings: ServeSettings) -> None:
    """Raises if the files are no certificate with its key; gRPC would blame the address."""
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None or key is None or not (certificate.is_file() and key.is_file()):
        # A pipe can be read only once.
        return
    try:
        # An empty password, so that none is requested on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError):
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"tls_cert {certificate} and tls_key {key} must be a certificate and its key, in PEM "
            "and without a password",
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
    """Starts to serve the metrics, and returns their URL; None without a metrics port."""
    port = settings.metrics_port
    if port is None:
        return None
    try:
        server, thread = start_http_server(port, _LOOPBACK, metrics.registry)
    except OSError as error:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"the server cannot listen on the metrics port {port}: {reason(error)}",
        ) from None
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f"http://{_LOOPBACK}:{server.server_port}/metrics"
