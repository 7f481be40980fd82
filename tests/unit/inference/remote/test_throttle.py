import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.remote.throttle import Throttle

REFUSED = SettingsError(ErrorCode.API_KEY_REFUSED, "no")


class SkippingSelector(selectors.DefaultSelector):
    """Waits for nothing: time passes at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock shows what its timers say."""

    def __init__(self) -> None:
        self._clock = SkippingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()


async def settled() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_at_most_so_many_attempts_are_under_way_and_they_come_in_order() -> None:
    async def work() -> None:
        throttle, entered = Throttle(2), []

        async def attempt(number: int) -> None:
            await throttle.enter()
            entered.append(number)

        tasks = [asyncio.create_task(attempt(number)) for number in range(5)]
        await settled()
        assert entered == [0, 1]
        throttle.leave()
        await settled()
        assert entered == [0, 1, 2]
        throttle.leave()
        throttle.leave()
        await asyncio.gather(*tasks)
        assert entered == [0, 1, 2, 3, 4]

    run(work())


def test_a_busy_service_halves_the_limit_once_for_all_that_were_under_way() -> None:
    async def work() -> None:
        throttle = Throttle(16)
        limits = [await throttle.enter() for _ in range(16)]
        assert None not in limits
        for each in limits:
            throttle.overloaded(each or 0)
            throttle.leave()
        assert throttle.limit == 8

        later = await throttle.enter()
        assert later is not None
        throttle.overloaded(later)
        assert throttle.limit == 4
        throttle.overloaded(limits[0] or 0)
        assert throttle.limit == 4

    run(work())


def test_the_limit_never_falls_below_one_and_grows_back_by_one_a_round() -> None:
    async def work() -> None:
        throttle = Throttle(8)
        for _ in range(10):
            limits = await throttle.enter()
            assert limits is not None
            throttle.overloaded(limits)
            throttle.leave()
        assert throttle.limit == 1
        grown = []
        for _ in range(100):
            throttle.succeeded()
            grown.append(throttle.limit)
        assert grown[0] == 2
        # About as many successes as the limit raise it by one.
        assert 3 <= grown.index(4) <= 8
        assert grown[-1] == 8

    run(work())


def test_what_is_under_way_beyond_a_lower_limit_ends_before_more_begins() -> None:
    async def work() -> None:
        throttle = Throttle(4)
        limits = [await throttle.enter() for _ in range(4)]
        throttle.overloaded(limits[0] or 0)
        waiting = asyncio.create_task(throttle.enter())
        throttle.leave()
        throttle.leave()
        await settled()
        assert not waiting.done()
        throttle.leave()
        await settled()
        assert waiting.done()

    run(work())


def test_a_pause_that_the_service_asks_for_holds_all() -> None:
    async def work() -> None:
        throttle = Throttle(8)
        limits = await throttle.enter()
        throttle.overloaded(limits or 0, delay=30)
        throttle.overloaded(limits or 0, delay=10)
        await asyncio.gather(throttle.enter(), throttle.enter())
        assert now() == pytest.approx(30)
        await throttle.enter()
        assert now() == pytest.approx(30)

    run(work())


def test_a_rate_is_kept_whoever_asks() -> None:
    async def work() -> None:
        throttle, begun = Throttle(64, per_second=50), []

        async def attempt() -> None:
            await throttle.enter()
            begun.append(now())
            throttle.leave()

        await asyncio.gather(*(attempt() for _ in range(101)))
        for number in range(len(begun)):
            assert begun[number] == pytest.approx(begun[0] + number / 50)

    run(work())


def test_a_rate_is_not_saved_up() -> None:
    async def work() -> None:
        throttle = Throttle(64, per_second=20)
        await throttle.enter()
        await asyncio.sleep(10)
        for _ in range(21):
            await throttle.enter()
        # Only what a timer was late by is made up for, one interval at most.
        assert now() >= 10 + 19 / 20

    run(work())


def test_a_rate_holds_after_a_pause() -> None:
    async def work() -> None:
        throttle = Throttle(64, per_second=20)
        limits = await throttle.enter()
        throttle.overloaded(limits or 0, delay=10)
        await asyncio.gather(*(throttle.enter() for _ in range(21)))
        assert now() >= 10 + 19 / 20

    run(work())


def test_a_stop_wakes_all_that_wait_and_lets_no_more_in() -> None:
    async def work() -> None:
        throttle = Throttle(1, per_second=0.001)
        assert await throttle.enter() is not None
        throttle.overloaded(0, delay=1000)
        waiting = [asyncio.create_task(throttle.enter()) for _ in range(3)]
        asleep = asyncio.create_task(throttle.sleep(1000))
        throttle.leave()
        await settled()
        assert not any(task.done() for task in (*waiting, asleep))

        throttle.stop(REFUSED)
        throttle.stop(SettingsError(ErrorCode.OUT_OF_CREDITS, "later"))

        assert await asyncio.gather(*waiting) == [None] * 3
        await asleep
        assert await throttle.enter() is None
        assert throttle.stop_reason is REFUSED

    run(work())


@pytest.mark.parametrize("seconds", [0, 1000])
def test_sleep_ends_by_itself(seconds: float) -> None:
    async def work() -> None:
        await Throttle(1).sleep(seconds)
        assert now() == pytest.approx(seconds)

    run(work())
