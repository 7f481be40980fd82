"""Engines behind the gRPC API as they are pinned at submission: what a worker needs to call one."""

import dataclasses
import ipaddress
from typing import Any

from beam_upscale.errors import ErrorCode, SettingsError

API_KEY_VARIABLE = "BEAM_UPSCALE_API_KEY"
"""The environment variable that holds the API key, where no file does."""

# Between machines whose clocks do not agree.
_CLOCK_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class RemoteModel:
    """An engine that is called over gRPC.

    The key is not part of it: each worker reads it from its environment or from a file.

    Attributes:
        engine: its id on the service.
        endpoint: HOST:PORT; an IPv6 address stands in brackets.
        api_key_file: where a worker reads the key, on any of Beam's file systems; None where the
            environment holds it (`API_KEY_VARIABLE`), or where none is needed.
        insecure: plaintext, also to other machines; to this one it is plaintext without a `ca`.
        ca: PEM of the certificate authorities to trust; None trusts those of the system.
        max_in_flight: calls at a time of one process, at least 1.
        requests_per_second: calls begun in a second by one process, repeated ones included; None
            sets no limit.
        deadline_seconds: how long one attempt may take.
        retry_seconds: how long after its first attempt a call may still be repeated.
        ledger: what the service says tells its ledger and this key from any others: a repeat of a
            request is charged once there. None where a service says nothing of the kind.
        replay_seconds: how long that ledger remembers a request.

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
        """Whether the service is on this machine."""
        host = self.endpoint.rpartition(":")[0]
        try:
            return ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return host.lower() == "localhost"

    @property
    def is_plaintext(self) -> bool:
        """Whether it is called without TLS."""
        return self.insecure or (self.is_loopback and self.ca is None)

    @property
    def repeat_seconds(self) -> float:
        """Seconds after the first sending in which a repeat may begin that is charged once.

        Its last attempt is over by the time the service forgets. 0 where nothing is remembered.
        """
        if self.ledger is None:
            return 0.0
        lasts = self.retry_seconds + self.deadline_seconds + _CLOCK_SECONDS
        return max(0.0, self.replay_seconds - lasts)

    def charges_once_after(self, seconds: float) -> bool:
        """Whether a repeat so long after a call was first sent is charged together with it.

        What was sent later than now by more than clocks differ has a time that is not to be relied
        on.
        """
        return self.repeat_seconds > 0 and -_CLOCK_SECONDS <= seconds <= self.repeat_seconds

    @property
    def place(self) -> str:
        """What upscales and where, for people."""
        return f"{self.engine} at {self.endpoint}"

    def description(self) -> dict[str, Any]:
        """The columns of a manifest that say what upscales; the service does not tell."""
        return dict.fromkeys(
            ("model", "weights_sha256", "device_type", "precision", "network_backend")
        )

    def to_dict(self) -> dict[str, Any]:
        """What results depend on and can be known: where the service stands may change."""
        return {"engine": self.engine}
