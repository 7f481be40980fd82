"""The settings of `beam-upscale serve`."""

import dataclasses
import ipaddress
import math
from pathlib import Path

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.ranges import check_at_least, check_positive

DEFAULT_DECODE_SECONDS = 30.0

_ANY_PORT = 0
_LAST_PORT = 2**16 - 1

# "localhost" is the loopback interface, even if no table of hosts has it.
_LOCALHOST = "localhost"


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """The settings of a server.

    Attributes:
        upscale: the engines that are served, with their weights, devices and the options of their
            networks. Sizes and parameters come with each request.
        host: the address to listen on.
        port: for gRPC; 0 takes a free one.
        web_port: for gRPC-Web; 0 takes a free one, None serves none.
        metrics_port: for Prometheus, on the loopback interface; 0 takes a free one, None serves
            none.
        tls_cert: PEM of the certificate chain; None serves plaintext.
        tls_key: PEM of its private key.
        insecure: True allows plaintext to other machines.
        keys: file of hashed API keys; None requires no keys, on the loopback interface only.
        ledger: database of credits and results, which is made if there is none. None remembers
            nothing, and is not allowed with `keys`, since their calls are charged.
        cors_origins: origins of the web pages that may call; `*` for all.
        max_queue: most calls that wait for the device.
        max_in_flight_per_key: most calls at a time of a key, or of an address if there are no keys;
            a key's own limit replaces it.
        requests_per_second_per_key: most calls that a key or an address begins in a second; a key's
            own limit replaces it. None sets no limit.
        request_timeout_seconds: time that a request may take to arrive.
        decode_seconds: time that an image may take to be decoded.
        idle_seconds: time that a connection may stay without a call.
        keep_alive_seconds: longest time between two answers to a waiting caller.
        drain_seconds: time that calls may take to finish when the server is asked to stop.

    Raises:
        SettingsError: INVALID_OPTION.
    """

    upscale: UpscaleSettings
    host: str = "127.0.0.1"
    port: int = 50051
    web_port: int | None = None
    metrics_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    keys: Path | None = None
    ledger: Path | None = None
    cors_origins: tuple[str, ...] = ()
    max_queue: int = 256
    max_in_flight_per_key: int = 64
    requests_per_second_per_key: float | None = None
    request_timeout_seconds: float = 30.0
    decode_seconds: float = DEFAULT_DECODE_SECONDS
    idle_seconds: float = 60.0
    keep_alive_seconds: float = 10.0
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        self._check_numbers()
        engines = self.upscale.engines
        if len(set(engines)) < len(engines):
            raise _invalid(f"an engine is given twice: {', '.join(engines)}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise _invalid("TLS needs both a certificate and its key (--tls-cert and --tls-key)")
        if self.keys is not None and self.ledger is None:
            raise _invalid("calls with keys are charged; say where (--ledger FILE.sqlite)")
        if self.cors_origins and self.web_port is None:
            raise _invalid("web pages call over gRPC-Web; give it a port (--web-port)")
        if not self.is_loopback:
            self._check_exposed()

    def _check_numbers(self) -> None:
        for name in ("port", "web_port", "metrics_port"):
            port = getattr(self, name)
            if port is not None and not _ANY_PORT <= port <= _LAST_PORT:
                raise _invalid(f"{name} is {port}; it must be from {_ANY_PORT} to {_LAST_PORT}")
        check_at_least(0, max_queue=self.max_queue)
        check_at_least(1, max_in_flight_per_key=self.max_in_flight_per_key)
        check_positive(
            requests_per_second_per_key=self.requests_per_second_per_key,
            request_timeout_seconds=self.request_timeout_seconds,
            decode_seconds=self.decode_seconds,
            idle_seconds=self.idle_seconds,
            keep_alive_seconds=self.keep_alive_seconds,
        )
        if not (math.isfinite(self.drain_seconds) and self.drain_seconds >= 0):
            raise _invalid(f"drain_seconds is {self.drain_seconds}; it must be 0 or more")

    def _check_exposed(self) -> None:
        """Checks the settings that an address needs if other machines can reach it."""
        if self.keys is None:
            raise _invalid(
                f"{self.host} can be reached from other machines, and without keys everybody may "
                "call; make a file of keys (--keys), or take --host 127.0.0.1"
            )
        if self.tls_cert is None and not self.insecure:
            raise _invalid(
                f"{self.host} can be reached from other machines, and in plaintext keys can be "
                "read on the way; take --tls-cert and --tls-key, or --insecure where something "
                "else protects the connection"
            )

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach the server."""
        if self.host == _LOCALHOST:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _invalid(message: str) -> SettingsError:
    return SettingsError(ErrorCode.INVALID_OPTION, message)
