"""How many attempts are under way at a time, and how fast they follow each other."""

import asyncio
import contextlib
from collections import deque

from beam_upscale.errors import SettingsError


class Throttle:
    """Holds attempts to what the service bears; lives on the event loop, like all its callers.

    At most so many run at a time. Where the service says that there are too many, half as many may
    (once for all that were under way then), and with every success a little more, up to the most.
    A delay that it asks for holds all of them.

    Args:
        most: attempts at a time, at least 1.
        per_second: attempts begun in a second; None sets no limit.
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
        """Why nothing more is to be sent; None where it may be."""
        return self._stop_reason

    @property
    def limit(self) -> int:
        """Attempts that may be under way now."""
        return int(self._limit)

    async def enter(self) -> int | None:
        """Waits until an attempt may begin.

        Returns:
            The round of limits that it begins in, for `overloaded`; whoever has one is to `leave`.
            None where nothing is to be sent any more.
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
        """One after the other, so that all heed a pause and none overtakes the rate."""
        async with self._gate:
            while self._stop_reason is None and (seconds := self._seconds_to_wait()) > 0:
                await self.sleep(seconds)
            # A timer that rings late does not slow the next ones down.
            earliest = asyncio.get_running_loop().time() - self._interval
            self._next_at = max(self._next_at, earliest) + self._interval

    def _seconds_to_wait(self) -> float:
        return max(self._next_at, self._paused_until) - asyncio.get_running_loop().time()

    def leave(self) -> None:
        """Gives the place of an attempt back."""
        self._under_way -= 1
        self._grant()

    def _grant(self) -> None:
        # After a stop they are let in to be told so.
        while self._waiting and (self._stop_reason or self._under_way < self.limit):
            self._under_way += 1
            self._waiting.popleft().set_result(None)

    def succeeded(self) -> None:
        """The service bore an attempt."""
        self._limit = min(self._most, self._limit + 1 / self._limit)
        self._grant()

    def overloaded(self, begun_in: int, delay: float = 0.0) -> None:
        """The service has too much to do.

        Args:
            begun_in: the round of the attempt that was told so.
            delay: seconds for which it wants no attempt.
        """
        if begun_in == self._round:
            self._limit = max(1.0, self._limit / 2)
            self._round += 1
        until = asyncio.get_running_loop().time() + delay
        self._paused_until = max(self._paused_until, until)

    def stop(self, reason: SettingsError) -> None:
        """Lets no attempt begin any more and wakes who waits; the first reason stays."""
        self._stop_reason = self._stop_reason or reason
        self._stopped.set()
        self._grant()

    async def sleep(self, seconds: float) -> None:
        """Waits, but not beyond a stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
