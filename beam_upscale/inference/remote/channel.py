"""Opens the connection to the service."""

from typing import Any

import grpc
import grpc.aio

from beam_upscale.grpc_api import contract
from beam_upscale.inference.remote_engines import RemoteEngine

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", contract.MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", contract.MAX_MESSAGE_BYTES),
    # Calls are repeated in `calls`, which counts the attempts, and never by gRPC itself.
    ("grpc.enable_retries", 0),
    # Pings detect a silently dead connection while calls wait on it. A server may close a
    # connection that pings more often than every 5 minutes, and end the calls on it.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 10_000),
    # Each `Window` has its own connections, since another may have another key.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(engine: RemoteEngine, library: Any = grpc.aio) -> Any:
    """Opens a channel to the service; it connects when it is first used.

    Args:
        engine: an engine of the service, with its endpoint.
        library: `grpc.aio`, called on its event loop; or `grpc`.
    """
    # A proxy from the environment cannot reach this machine's loopback interface.
    options = [*_OPTIONS, ("grpc.enable_http_proxy", int(not engine.is_loopback))]
    if engine.is_plaintext:
        return library.insecure_channel(engine.endpoint, options=options)
    ca = None if engine.ca is None else engine.ca.encode()
    credentials = grpc.ssl_channel_credentials(root_certificates=ca)
    return library.secure_channel(engine.endpoint, credentials, options=options)
