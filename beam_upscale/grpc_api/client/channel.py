"""How the connection to the service is made."""

import ipaddress
from typing import Any

import grpc
import grpc.aio

from beam_upscale.errors import ErrorCode, SettingsError
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


def is_loopback(endpoint: str) -> bool:
    """Whether an endpoint is on this machine.

    Args:
        endpoint: HOST:PORT; an IPv6 address stands in brackets.

    Raises:
        SettingsError: INVALID_OPTION, it is not HOST:PORT.
    """
    host, _, port = endpoint.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or not port.isdecimal() or "/" in host or (":" in host and not bracketed):
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"the endpoint is {endpoint!r}; it must be HOST:PORT, such as localhost:50051",
        )
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def open_channel(model: RemoteModel, library: Any = grpc.aio) -> Any:
    """A channel to the service; it connects when it is first used.

    Args:
        model: how the service is called.
        library: `grpc.aio`, called on its event loop; or `grpc`.

    Raises:
        SettingsError: INVALID_OPTION, the endpoint is not HOST:PORT.
    """
    is_near = is_loopback(model.endpoint)
    # A proxy of the environment is no way to this machine itself.
    options = [*_OPTIONS, ("grpc.enable_http_proxy", int(not is_near))]
    if model.insecure or (is_near and model.ca is None):
        return library.insecure_channel(model.endpoint, options=options)
    ca = None if model.ca is None else model.ca.encode()
    credentials = grpc.ssl_channel_credentials(root_certificates=ca)
    return library.secure_channel(model.endpoint, credentials, options=options)
