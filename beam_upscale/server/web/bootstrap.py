"""Builds the configuration (bootstrap) of Envoy, which stands between web pages and the server."""

import dataclasses
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "grpc_web"
"""The name of the listener, and of its statistics."""

ANY_ORIGIN = "*"
"""The origin that stands for web pages from anywhere."""

ADMIN_PATHS = ("/drain_listeners", "/listeners", "/ready", "/stats")
"""The beginnings of all paths that can be requested of Envoy's administration."""

_SERVER = "server"
_NOBODY = "nobody"

# Headers that browsers may send, and headers of an answer that scripts may read.
_ALLOWED_HEADERS = (
    *("authorization", "content-type", "grpc-timeout", "x-grpc-web", "x-user-agent"),
    *("stability-client-id", "stability-client-version"),
)
_EXPOSED_HEADERS = ("grpc-message", "grpc-status", "grpc-status-details-bin")
_PREFLIGHT_SECONDS = 24 * 60 * 60

_HANDSHAKE_SECONDS = 10
_PING_SECONDS = 60
_HEADER_KIB = 32
# Streams of one HTTP/2 connection, and calls of all connections together.
_STREAMS = 100
_CALLS = 16384
# A page from elsewhere, opened in a browser here, must not use a server that asks for no key.
_ORIGINS_OF_THIS_MACHINE = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"

# Bytes that are read ahead of a connection or a stream and not yet sent on; messages may be larger.
_BUFFER_BYTES = 256 * 2**10
_CALLER_WINDOW_BYTES = 2**20
# Large enough for many callers to read slowly before others have to wait for them.
_SERVER_WINDOW_BYTES = 256 * 2**20
_SERVER_BUFFER_BYTES = 2**20
_HEAP_BYTES = 2 * 2**30

_TYPES = "type.googleapis.com/envoy.extensions"
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclasses.dataclass(frozen=True)
class Address:
    """An address to listen on.

    Attributes:
        ip: the IP address, in digits.
        port: the port; 0 takes a free one.
    """

    ip: str
    port: int


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """The configuration of Envoy.

    Attributes:
        addresses: the addresses to listen on, at least one.
        admin_socket: Unix socket of Envoy's administration; a user who may open it may request
            `ADMIN_PATHS`.
        upstream_socket: Unix socket that the server listens on, in plaintext.
        certificate: PEM file of the certificate chain; None serves plaintext.
        private_key: PEM file of its private key.
        origins: origins whose web pages may call; see `ANY_ORIGIN`. If none is given, pages that
            this machine serves to itself may call.
        header_seconds: the longest that the headers of a request may take to arrive.
        request_seconds: the longest that a whole request may take to arrive.
        idle_seconds: the longest that a connection may stay without a call, and a call without a
            byte.
        call_seconds: the longest that a call may take in all.
        max_connections: the most connections at a time; further ones are closed at once.
    """

    addresses: Sequence[Address]
    admin_socket: Path
    upstream_socket: Path
    certificate: Path | None
    private_key: Path | None
    origins: Sequence[str]
    header_seconds: float
    request_seconds: float
    idle_seconds: float
    call_seconds: float
    max_connections: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as JSON values, as Envoy reads it."""
        admin_address = {"pipe": {"path": str(self.admin_socket), "mode": 0o600}}
        return {
            "admin": {
                "address": admin_address,
                "allow_paths": [{"prefix": path} for path in ADMIN_PATHS],
            },
            "static_resources": {
                "listeners": [self._listener()],
                "clusters": [self._server(), {"name": _NOBODY, "type": "STATIC"}],
            },
            "overload_manager": self._overload_manager(),
        }

    def _overload_manager(self) -> dict[str, Any]:
        """Returns the limits on connections and memory, which no caller can exceed."""
        heap = "envoy.resource_monitors.fixed_heap"
        return {
            "refresh_interval": "0.25s",
            "resource_monitors": [
                _extension(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=self.max_connections,
                ),
                _extension(
                    heap,
                    "resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    max_heap_size_bytes=_HEAP_BYTES,
                ),
            ],
            "actions": [
                {
                    "name": f"envoy.overload_actions.{action}",
                    "triggers": [{"name": heap, "threshold": {"value": share}}],
                }
                for action, share in (
                    ("shrink_heap", 0.8),
                    ("disable_http_keepalive", 0.85),
                    ("stop_accepting_requests", 0.9),
                    ("stop_accepting_connections", 0.95),
                )
            ],
        }

    def _listener(self) -> dict[str, Any]:
        first, *others = [_socket_address(address) for address in self.addresses]
        chain: dict[str, Any] = {
            "filters": [self._http_connection_manager()],
            "transport_socket_connect_timeout": _duration(_HANDSHAKE_SECONDS),
        }
        if self.certificate is not None:
            chain["transport_socket"] = self._tls()
        return {
            "name": NAME,
            "address": first,
            "additional_addresses": [{"address": address} for address in others],
            # Otherwise a port that another process listens on would not be an error.
            "enable_reuse_port": False,
            "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
            "filter_chains": [chain],
        }

    def _tls(self) -> dict[str, Any]:
        certificate = {
            "certificate_chain": {"filename": str(self.certificate)},
            "private_key": {"filename": str(self.private_key)},
        }
        return _extension(
            "envoy.transport_sockets.tls",
            "transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [certificate],
            },
        )

    def _http_connection_manager(self) -> dict[str, Any]:
        return _extension(
            "envoy.filters.network.http_connection_manager",
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix=NAME,
            codec_type="AUTO",
            server_name="beam-upscale",
            generate_request_id=False,
            use_remote_address=True,
            # No caller counts as internal: x-envoy-* headers of callers change nothing in Envoy.
            internal_address_config={"unix_sockets": False, "cidr_ranges": []},
            max_request_headers_kb=_HEADER_KIB,
            request_headers_timeout=_duration(self.header_seconds),
            request_timeout=_duration(self.request_seconds),
            stream_idle_timeout=_duration(self.idle_seconds),
            common_http_protocol_options={
                "idle_timeout": _duration(self.idle_seconds),
                "max_stream_duration": _duration(self.call_seconds),
            },
            http2_protocol_options={
                "max_concurrent_streams": _STREAMS,
                "initial_stream_window_size": _BUFFER_BYTES,
                "initial_connection_window_size": _CALLER_WINDOW_BYTES,
                "connection_keepalive": {
                    "interval": _duration(_PING_SECONDS),
                    "timeout": _duration(_PING_SECONDS),
                },
            },
            http_filters=[
                _extension("envoy.filters.http.grpc_web", "filters.http.grpc_web.v3.GrpcWeb"),
                _extension("envoy.filters.http.cors", "filters.http.cors.v3.Cors"),
                _extension(
                    "envoy.filters.http.router",
                    "filters.http.router.v3.Router",
                    suppress_envoy_headers=True,
                ),
            ],
            route_config={"virtual_hosts": [self._virtual_host()]},
        )

    def _allowed_origins(self) -> list[dict[str, Any]]:
        if self.origins:
            return [{"exact": origin} for origin in self.origins]
        return [{"safe_regex": {"regex": _ORIGINS_OF_THIS_MACHINE}}]

    def _virtual_host(self) -> dict[str, Any]:
        caller = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
        return {
            "name": NAME,
            "domains": ["*"],
            "routes": [
                {
                    "match": _all_of("POST"),
                    # No time limit for the answer beside that of the whole call, and no second
                    # attempt: Envoy makes none unless it is configured.
                    "route": {"cluster": _SERVER, "timeout": "0s"},
                    "request_headers_to_add": [
                        {
                            "header": {"key": "x-forwarded-for", "value": caller},
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    ],
                },
                # The CORS filter answers these, except to a page that may not call.
                {"match": _all_of("OPTIONS"), "route": {"cluster": _NOBODY}},
                {"match": {"prefix": "/"}, "direct_response": {"status": 405}},
            ],
            "typed_per_filter_config": {
                "envoy.filters.http.cors": _typed(
                    "filters.http.cors.v3.CorsPolicy",
                    allow_origin_string_match=self._allowed_origins(),
                    allow_methods="POST",
                    allow_headers=",".join(_ALLOWED_HEADERS),
                    expose_headers=",".join(_EXPOSED_HEADERS),
                    max_age=str(_PREFLIGHT_SECONDS),
                )
            },
        }

    def _server(self) -> dict[str, Any]:
        address = {"pipe": {"path": str(self.upstream_socket)}}
        bounds = ("max_connections", "max_pending_requests", "max_requests")
        http2 = {
            "initial_stream_window_size": _BUFFER_BYTES,
            "initial_connection_window_size": _SERVER_WINDOW_BYTES,
        }
        return {
            "name": _SERVER,
            "type": "STATIC",
            "connect_timeout": _duration(_HANDSHAKE_SECONDS),
            "per_connection_buffer_limit_bytes": _SERVER_BUFFER_BYTES,
            "circuit_breakers": {"thresholds": [dict.fromkeys(bounds, _CALLS)]},
            "load_assignment": {
                "cluster_name": _SERVER,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
            "typed_extension_protocol_options": {
                _PROTOCOL_OPTIONS: _typed(
                    "upstreams.http.v3.HttpProtocolOptions",
                    explicit_http_config={"http2_protocol_options": http2},
                )
            },
        }


def _all_of(method: str) -> dict[str, Any]:
    is_method = {"name": ":method", "string_match": {"exact": method}}
    return {"prefix": "/", "headers": [is_method]}


def _socket_address(address: Address) -> Mapping[str, Any]:
    ip = ipaddress.ip_address(address.ip)
    values: dict[str, Any] = {"address": address.ip, "port_value": address.port}
    if ip.version == 6 and ip.is_unspecified:
        values["ipv4_compat"] = True
    return {"socket_address": values}


def _extension(name: str, kind: str, **values: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": _typed(kind, **values)}


def _typed(kind: str, **values: Any) -> dict[str, Any]:
    return {"@type": f"{_TYPES}.{kind}", **values}


def _duration(seconds: float) -> str:
    return f"{seconds:.3f}s"
