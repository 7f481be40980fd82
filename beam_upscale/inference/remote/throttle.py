"""Limits the attempts of calls: their number at a time, and the rate at which they begin."""

import asyncio
import contextlib
from collections import deque

from beam_upscale.errors import SettingsError


class Throttle:
    """Limits attempts to the service's capacity; runs on the event loop, as all its callers do.

    At most `limit` attempts run at a time. An overloaded service halves the limit, once for all
    attempts that were under way then. Every success raises it a little, up to `most`. A delay that
    the service asks for delays all attempts.

    Args:
        most: most attempts at a time, at least 1.
        per_second: most attempts that begin in a second; None sets no limit.
    """

    def __init__(self, most: int, per_second: float | None = None) -> None:
        self._most = most
        self._limit = float(most)
        self._round = 0
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._gate = asyncio.Lock()
        self._interval = 1 / per_second if per_second else 0.0
        self._next_at = 0.0
        self._paused_until = 0.0
        self._stopped = asyncio.Event()
        self._stop_reason: SettingsError | None = None

    @property
    def stop_reason(self) -> SettingsError | None:
        """The reason for which no more attempts may begin; None if they may."""
        return self._stop_reason

    @property
    def limit(self) -> int:
        """The number of attempts that may be under way now."""
        return int(self._limit)

    async def enter(self) -> int | None:
        """Waits until an attempt may begin.

        Returns:
            The round of limits in which the attempt begins, for `overloaded`; the caller must call
            `leave` later. None if no more attempts may begin.
        """
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._grant()
        await turn
        await self._pass_gate()
        if self._stop_reason is None:
            return self._round
        self.leave()
        return None

    async def _pass_gate(self) -> None:
        """Lets attempts pass one by one, so that all keep to the pause and to the rate."""
        async with self._gate:
            while self._stop_reason is None and (seconds := self._seconds_to_wait()) > 0:
                await self.sleep(seconds)
            # A timer that fires late does not slow the next attempts down.
            earliest = asyncio.get_running_loop().time() - self._interval
            self._next_at = max(self._next_at, earliest) + self._interval

    def _seconds_to_wait(self) -> float:
        return max(self._next_at, self._paused_until) - asyncio.get_running_loop().time()

    def leave(self) -> None:
        """Frees the place of an attempt that has ended."""
        self._under_way -= 1
        self._grant()

    def _grant(self) -> None:
        # After a stop, waiting attempts are let in, to learn that they must not begin.
        while self._waiting and (self._stop_reason or self._under_way < self.limit):
            self._under_way += 1
            self._waiting.popleft().set_result(None)

    def succeeded(self) -> None:
        """Raises the limit a little, since the service has taken an attempt."""
        self._limit = min(self._most, self._limit + 1 / self._limit)
        self._grant()

    def overloaded(self, begun_in: int, delay: float = 0.0) -> None:
        """Halves the limit, since the service is overloaded; once for each round.

        Args:
            begun_in: the round in which the refused attempt began.
            delay: seconds for which the service wants no attempt.
        """
        if begun_in == self._round:
            self._limit = max(1.0, self._limit / 2)
            self._round += 1
        until = asyncio.get_running_loop().time() + delay
        self._paused_until = max(self._paused_until, until)

    def stop(self, reason: SettingsError) -> None:
        """Lets no more attempts begin and wakes the waiting ones; the first reason stays."""
        self._stop_reason = self._stop_reason or reason
        self._stopped.set()
        self._grant()

    async def sleep(self, seconds: float) -> None:
        """Waits for so many seconds, or until a stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
