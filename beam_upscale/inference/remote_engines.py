"""Engines behind the gRPC API, pinned at submission with all that a worker needs to call one."""

import dataclasses
import ipaddress
from typing import Any

from beam_upscale.errors import ErrorCode, SettingsError

API_KEY_VARIABLE = "BEAM_UPSCALE_API_KEY"
"""The environment variable that holds the API key if no file does."""

# The difference that the clocks of two machines may have.
_CLOCK_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class RemoteModel:
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
    max_in_flight: int = 64
    requests_per_second: float | None = None
    deadline_seconds: float = 300.0
    retry_seconds: float = 600.0
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
    def place(self) -> str:
        """The engine and its endpoint, as people read them."""
        return f"{self.engine} at {self.endpoint}"

    def description(self) -> dict[str, Any]:
        """Returns the manifest's columns on the network; all None, as the service does not tell."""
        return dict.fromkeys(
            ("model", "weights_sha256", "device_type", "precision", "network_backend")
        )
