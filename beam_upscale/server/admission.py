"""Who may call, and how much at a time."""

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
from beam_upscale.server.keys import ANONYMOUS, Key, Keys
from beam_upscale.server.refusals import RefusedError, exhausted

_SCHEME = "bearer "
_FORWARDED = "x-forwarded-for"

# A call of the same caller may end at any time.
_RETRY_SECONDS = 1.0

# Rates above 1 are counted in windows of whole seconds, at most this many.
_LONGEST_WINDOW = 10


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        key: whose key it is.
        counted_as: what its calls are counted by: the key's name, or an address where there are no
            keys.
    """

    key: Key
    counted_as: str


class Admission:
    """Knows callers by their keys and holds them to their limits.

    The limits are those of one event loop: nothing here is thread-safe but `identify`.

    Args:
        keys: that are valid; None lets everybody call.
        max_in_flight: calls at a time of a caller whose key does not say otherwise.
        requests_per_second: calls begun in a second, likewise; None sets no limit.
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
        """Who calls.

        Args:
            metadata: of the call.
            peer: where it comes from, as gRPC says it.

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
        """Within it, a call of this caller is in flight.

        Raises:
            RefusedError: RESOURCE_EXHAUSTED, it has too many, or has begun too many of late.
        """
        most = caller.key.max_in_flight or self._max_in_flight
        with self.place(caller.counted_as, most):
            self._count_request(caller)
            yield

    @contextlib.contextmanager
    def place(self, counted_as: str, most: int) -> Iterator[None]:
        """Within it, one of at most so many places is taken.

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
    """The address that a call comes from.

    Only what speaks gRPC-Web for others comes over a socket of this machine's file system: it says
    who they are.
    """
    scheme, _, rest = peer.partition(":")
    if scheme == "unix":
        return metadata.get(_FORWARDED, "").rpartition(",")[2].strip() or "unix"
    return unquote(rest).rpartition(":")[0].strip("[]")


def _window(rate: float) -> RateLimitItemPerSecond:
    """So many calls in so many seconds, as near to a rate as whole numbers come, and not above."""
    if rate < 1:
        return RateLimitItemPerSecond(1, math.ceil(1 / rate))
    found = Fraction(rate).limit_denominator(_LONGEST_WINDOW)
    if found > rate:
        found = Fraction(math.floor(rate * _LONGEST_WINDOW), _LONGEST_WINDOW)
    return RateLimitItemPerSecond(found.numerator, found.denominator)


def _unauthenticated(message: str) -> RefusedError:
    return RefusedError(Refusal(grpc.StatusCode.UNAUTHENTICATED, message))
