import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from beam_upscale.inference.remote.slots import Slots

PATIENCE = 30


def taking(threads: ThreadPoolExecutor, slots: Slots, pixels: int) -> "Future[None]":
    """Takes a place in another thread, once that thread is in the queue or has its place."""
    before = len(slots._waiting), slots._taken
    future = threads.submit(slots.take, pixels)
    while (len(slots._waiting), slots._taken) == before:
        threading.Event().wait(0.001)
    return future


def is_waiting(future: "Future[None]") -> bool:
    with pytest.raises(TimeoutError):
        future.result(0.05)
    return True


def test_places_are_bounded_in_calls() -> None:
    slots = Slots(2, 10**9)
    with ThreadPoolExecutor() as threads:
        slots.take(1)
        slots.take(1)
        third = taking(threads, slots, 1)
        assert is_waiting(third)
        slots.give(1)
        third.result(PATIENCE)


def test_places_are_bounded_in_pixels() -> None:
    slots = Slots(10, 100)
    with ThreadPoolExecutor() as threads:
        slots.take(60)
        slots.take(40)
        more = taking(threads, slots, 1)
        assert is_waiting(more)
        slots.give(40)
        more.result(PATIENCE)


def test_a_call_with_more_pixels_than_all_has_all_places_to_itself() -> None:
    slots = Slots(10, 100)
    with ThreadPoolExecutor() as threads:
        slots.take(10)
        huge = taking(threads, slots, 1000)
        assert is_waiting(huge)
        slots.give(10)
        huge.result(PATIENCE)
        small = taking(threads, slots, 1)
        assert is_waiting(small)
        slots.give(1000)
        small.result(PATIENCE)


def test_no_one_is_overtaken() -> None:
    slots = Slots(10, 100)
    with ThreadPoolExecutor() as threads:
        slots.take(90)
        large = taking(threads, slots, 50)
        small = taking(threads, slots, 1)
        assert is_waiting(large)
        assert is_waiting(small)
        slots.give(90)
        large.result(PATIENCE)
        small.result(PATIENCE)


def test_who_stops_waiting_leaves_the_queue() -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    slots = Slots(1, 100)
    slots.take(1)
    event, threading.Event = threading.Event, Interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            slots.take(1)
        slots.give(1)
        # Interrupted just when it had its place.
        with pytest.raises(KeyboardInterrupt):
            slots.take(1)
    finally:
        threading.Event = event

    slots.take(1)
    assert slots._taken == 1
    assert not slots._waiting


def test_many_threads_all_have_their_turn() -> None:
    slots, at_once, most = Slots(3, 10), 0, 0
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal at_once, most
        slots.take(number % 6)
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.0005)
        with lock:
            at_once -= 1
        slots.give(number % 6)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(400)))

    assert 1 < most <= 3
    assert slots._taken == slots._taken_pixels == 0
