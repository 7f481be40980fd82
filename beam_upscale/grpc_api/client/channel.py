"""How the connection to the service is made."""

from typing import Any

import grpc
import grpc.aio

from beam_upscale.grpc_api import contract
from beam_upscale.remote_models import RemoteModel

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", contract.MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", contract.MAX_MESSAGE_BYTES),
    # A call is repeated by whoever counts its attempts, and by no one else.
    ("grpc.enable_retries", 0),
    # A connection that is dead without a word is noticed while calls wait on it. Servers may end
    # one that asks more often than every 5 minutes, and the calls on it with it.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 10_000),
    # Windows with other keys have connections of their own.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(model: RemoteModel, library: Any = grpc.aio) -> Any:
    """A channel to the service; it connects when it is first used.

    Args:
        model: how the service is called.
        library: `grpc.aio`, called on its event loop; or `grpc`.
    """
    # A proxy of the environment is no way to this machine itself.
    options = [*_OPTIONS, ("grpc.enable_http_proxy", int(not model.is_loopback))]
    if model.is_plaintext:
        return library.insecure_channel(model.endpoint, options=options)
    ca = None if model.ca is None else model.ca.encode()
    credentials = grpc.ssl_channel_credentials(root_certificates=ca)
    return library.secure_channel(model.endpoint, credentials, options=options)
