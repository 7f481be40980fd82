"""Pins engines behind the gRPC API at submission, with all that a worker needs to call one."""

import dataclasses
import ipaddress
from typing import Any

from beam_upscale.errors import ErrorCode, ImageError, SettingsError, reason
from beam_upscale.inference.service_options import ServiceOptions
from beam_upscale.planning.engines import Engine
from beam_upscale.storage import files

# The difference that the clocks of two machines may have.
_CLOCK_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class RemoteEngine:
    """An engine that is called over gRPC.

    The key is not part of it: each worker reads it from its environment or from a file.

    Attributes:
        engine: its id on the service.
        endpoint: HOST:PORT; an IPv6 address stands in brackets.
        api_key_file: file from which a worker reads the key, on any of Beam's file systems; None if
            the environment holds the key (`API_KEY_VARIABLE`), or if none is needed.
        insecure: True calls the service in plaintext, also on another machine. A service on this
            machine is called in plaintext unless there is a `ca`.
        ca: PEM of the certificate authorities to trust; None trusts those of the system.
        max_in_flight: most calls at a time of one process, at least 1.
        requests_per_second: most calls that one process begins in a second, repeated ones included;
            None sets no limit.
        deadline_seconds: time that one attempt may take.
        retry_seconds: time after its first attempt in which a call may still be repeated.
        ledger: id of the service's ledger and of this key in it, as the service gives it. There, a
            repeat of a request is charged once. None if the service gives no such id.
        replay_seconds: time for which that ledger remembers a request.

    Raises:
        SettingsError: INVALID_OPTION, the endpoint is not HOST:PORT.
    """

    engine: str
    endpoint: str
    api_key_file: str | None = None
    insecure: bool = False
    ca: str | None = None
    max_in_flight: int = ServiceOptions.max_in_flight
    requests_per_second: float | None = None
    deadline_seconds: float = ServiceOptions.deadline_seconds
    retry_seconds: float = ServiceOptions.retry_seconds
    ledger: str | None = None
    replay_seconds: float = 0.0

    def __post_init__(self) -> None:
        host, _, port = self.endpoint.rpartition(":")
        is_bracketed = host.startswith("[") and host.endswith("]")
        is_host = host != "" and "/" not in host and (":" not in host or is_bracketed)
        if not (is_host and port.isdecimal() and 0 < int(port) < 2**16):
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"the endpoint is {self.endpoint!r}; it must be HOST:PORT, such as localhost:50051",
            )

    @property
    def is_loopback(self) -> bool:
        """True if the service is on this machine."""
        host = self.endpoint.rpartition(":")[0]
        try:
            return ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return host.lower() == "localhost"

    @property
    def is_plaintext(self) -> bool:
        """True if the service is called without TLS."""
        return self.insecure or (self.is_loopback and self.ca is None)

    @property
    def repeat_seconds(self) -> float:
        """The seconds after a call's first sending in which a repeat may begin to be charged once.

        The repeat's last attempt is over by the time the service forgets the request. 0 if the
        service remembers nothing.
        """
        if self.ledger is None:
            return 0.0
        lasts = self.retry_seconds + self.deadline_seconds + _CLOCK_SECONDS
        return max(0.0, self.replay_seconds - lasts)

    def charges_once_after(self, seconds: float) -> bool:
        """Checks whether a repeat, `seconds` after a call was first sent, is charged only once.

        A first sending in the future, beyond the difference that clocks may have, is not relied on.
        """
        return self.repeat_seconds > 0 and -_CLOCK_SECONDS <= seconds <= self.repeat_seconds

    @property
    def in_words(self) -> str:
        """The engine and its endpoint, as people read them."""
        return f"{self.engine} at {self.endpoint}"

    def description(self) -> dict[str, Any]:
        """Returns the manifest's columns on the network; all None, as the service states none."""
        return dict.fromkeys(
            ("model", "weights_sha256", "device_type", "precision", "network_backend")
        )


def pin(engine: Engine, options: ServiceOptions) -> RemoteEngine:
    """Pins an engine of a service, with all that a worker needs to call it; calls nothing yet.

    Raises:
        SettingsError: INVALID_OPTION, the endpoint is missing or invalid, certificates cannot be
            read, or options contradict each other.
    """
    if options.endpoint is None:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            "the backend grpc needs an endpoint: HOST:PORT of the service (--endpoint)",
        )
    if options.insecure and options.ca_file is not None:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            "insecure and ca_file are both given: the one is plaintext, the other is for TLS",
        )
    key_file = options.api_key_file
    return RemoteEngine(
        engine=engine.name,
        endpoint=options.endpoint,
        api_key_file=None if key_file is None else files.absolute(key_file),
        insecure=options.insecure,
        ca=None if options.ca_file is None else _read_certificates("ca_file", options.ca_file),
        max_in_flight=options.max_in_flight,
        requests_per_second=_share_of_rate(options),
        deadline_seconds=options.deadline_seconds,
        retry_seconds=options.retry_seconds,
    )


def _share_of_rate(options: ServiceOptions) -> float | None:
    """Returns the calls in a second of one process; None for no limit."""
    if options.requests_per_second is None:
        return None
    if options.worker_processes is None:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"requests_per_second is {options.requests_per_second} for the whole job, and how "
            "many processes share it is not known here; say so (--worker-processes)",
        )
    return options.requests_per_second / options.worker_processes


def _read_certificates(name: str, uri: str) -> str:
    """Returns the text of a PEM file, once it is known to hold certificates."""
    import ssl

    try:
        text = files.read(files.absolute(uri)).decode()
        # gRPC would only log that such a file is invalid, and then fail to connect.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ImageError, UnicodeDecodeError) as error:
        raise SettingsError(
            ErrorCode.INVALID_OPTION, f"{name} is {uri}, which cannot be read: {reason(error)}"
        ) from None
    except (ssl.SSLError, ValueError):
        raise SettingsError(
            ErrorCode.INVALID_OPTION, f"{name} is {uri}, which holds no certificates in PEM"
        ) from None
    return text
