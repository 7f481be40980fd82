"""The admission of calls: callers are identified by their keys and held to their limits."""

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from urllib.parse import unquote

import grpc
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from beam_upscale.grpc_api.status import Reason, Refusal
from beam_upscale.server.accounts.key_file import ANONYMOUS, Key
from beam_upscale.server.accounts.keys import Keys
from beam_upscale.server.refusals import RefusedError, exhausted

_SCHEME = "bearer "
_FORWARDED = "x-forwarded-for"

# The pause that a refusal asks for, since a call of the same caller may end at any time.
_RETRY_SECONDS = 1.0

# Rates above 1 are counted in windows of whole seconds, at most this many.
_LONGEST_WINDOW = 10


@dataclasses.dataclass(frozen=True)
class Caller:
    """The caller of a request.

    Attributes:
        key: the caller's key; `ANONYMOUS` if there are no keys.
        counted_as: name by which the caller's calls are counted: that of the key, or an address if
            there are no keys.
    """

    key: Key
    counted_as: str


class Admission:
    """Identifies callers by their keys and holds them to their limits.

    The limits belong to one event loop: only `identify` is thread-safe.

    Args:
        keys: the valid keys; None lets everybody call.
        max_in_flight: most calls at a time of a caller whose key sets no limit.
        requests_per_second: most calls that such a caller begins in a second; None sets no limit.
    """

    def __init__(
        self, keys: Keys | None, max_in_flight: int, requests_per_second: float | None
    ) -> None:
        self._keys = keys
        self._max_in_flight = max_in_flight
        self._requests_per_second = requests_per_second
        self._in_flight: Counter[str] = Counter()
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def identify(self, metadata: Mapping[str, str], peer: str) -> Caller:
        """Identifies the caller of a request.

        Args:
            metadata: the metadata of the call.
            peer: address that the call comes from, as gRPC gives it.

        Raises:
            RefusedError: UNAUTHENTICATED.
        """
        if self._keys is None:
            return Caller(ANONYMOUS, address(metadata, peer))
        given = metadata.get("authorization", "")
        token = given[len(_SCHEME) :].strip() if given.lower().startswith(_SCHEME) else ""
        if not token:
            raise _unauthenticated(
                "the call has no API key; send it as metadata: authorization: Bearer KEY"
            )
        key = self._keys.find(token)
        if key is None:
            raise _unauthenticated("the API key is unknown or revoked")
        return Caller(key, f"key {key.name}")

    @contextlib.contextmanager
    def permit(self, caller: Caller) -> Iterator[None]:
        """Counts a call of this caller as in flight while the context lasts.

        Raises:
            RefusedError: RESOURCE_EXHAUSTED, the caller has too many calls in flight, or has begun
                too many of late.
        """
        most = caller.key.max_in_flight or self._max_in_flight
        with self.place(caller.counted_as, most):
            self._count_request(caller)
            yield

    @contextlib.contextmanager
    def place(self, counted_as: str, most: int) -> Iterator[None]:
        """Takes one of `most` places while the context lasts.

        Raises:
            RefusedError: RESOURCE_EXHAUSTED.
        """
        if self._in_flight[counted_as] >= most:
            raise exhausted(
                Reason.TOO_MANY_CALLS,
                f"{most:,} calls are in flight, as many as are allowed at a time",
                _RETRY_SECONDS,
            )
        self._in_flight[counted_as] += 1
        try:
            yield
        finally:
            self._in_flight[counted_as] -= 1
            if not self._in_flight[counted_as]:
                del self._in_flight[counted_as]

    def _count_request(self, caller: Caller) -> None:
        rate = caller.key.requests_per_second or self._requests_per_second
        if rate is None:
            return
        window = _window(rate)
        if self._limiter.hit(window, caller.counted_as):
            return
        free_at = self._limiter.get_window_stats(window, caller.counted_as).reset_time
        raise exhausted(
            Reason.RATE_LIMITED,
            f"{rate:g} calls in a second are allowed",
            max(0.0, free_at - time.time()),
        )


def address(metadata: Mapping[str, str], peer: str) -> str:
    """Returns the address that a call comes from.

    Only this server's gRPC-Web bridge calls over a Unix socket. It gives the original caller's
    address in the metadata.
    """
    scheme, _, rest = peer.partition(":")
    if scheme == "unix":
        return metadata.get(_FORWARDED, "").rpartition(",")[2].strip() or "unix"
    return unquote(rest).rpartition(":")[0].strip("[]")


def _window(rate: float) -> RateLimitItemPerSecond:
    """Expresses a rate as whole calls in whole seconds, as near to it as possible and not above."""
    if rate < 1:
        return RateLimitItemPerSecond(1, math.ceil(1 / rate))
    found = Fraction(rate).limit_denominator(_LONGEST_WINDOW)
    if found > rate:
        found = Fraction(math.floor(rate * _LONGEST_WINDOW), _LONGEST_WINDOW)
    return RateLimitItemPerSecond(found.numerator, found.denominator)


def _unauthenticated(message: str) -> RefusedError:
    return RefusedError(Refusal(grpc.StatusCode.UNAUTHENTICATED, message))
