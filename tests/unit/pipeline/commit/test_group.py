"""Groups of results: when they are closed, and by whom."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import pytest

from beam_upscale.pipeline.commit import group
from beam_upscale.pipeline.commit.group import Groups


class Kept:
    """What was made durable, group by group, and in which threads."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.threads: list[threading.Thread] = []
        self.error: Exception | None = None

    def __call__(self, results: Sequence[int]) -> list[str]:
        self.groups.append(list(results))
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        return list(map(str, results))


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "MOST_SECONDS", 1000)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_group_is_closed_with_so_many_results(kept: Kept) -> None:
    groups = Groups(kept)
    for number in range(group.MOST_RESULTS + 1):
        groups.add(number, 1)

    assert kept.groups == [list(range(group.MOST_RESULTS))]
    assert groups.take() == list(map(str, range(group.MOST_RESULTS)))
    groups.flush()
    assert groups.take() == [str(group.MOST_RESULTS)]
    groups.flush()
    assert groups.take() == []
    assert len(kept.groups) == 2


def test_a_group_is_closed_with_so_many_bytes(kept: Kept) -> None:
    groups = Groups(kept)

    groups.add(1, group.MOST_BYTES - 1)
    assert kept.groups == []
    groups.add(2, 1)

    assert kept.groups == [[1, 2]]


def test_an_urgent_result_closes_the_group(kept: Kept) -> None:
    groups = Groups(kept)
    groups.add(1, 1)
    groups.add(2, 1, is_urgent=True)

    assert kept.groups == [[1, 2]]


def test_a_group_is_closed_after_a_while_in_a_thread_of_its_own(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "MOST_SECONDS", 0.01)
    groups = Groups(kept)
    groups.add(1, 1)
    until(lambda: kept.groups == [[1]])

    assert kept.threads != [threading.current_thread()]
    assert groups.take() == ["1"]


def test_a_group_that_was_closed_in_time_is_not_closed_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "MOST_SECONDS", 0.02)
    groups = Groups(kept)
    groups.add(1, 1, is_urgent=True)
    monkeypatch.setattr(group, "MOST_SECONDS", 1000)
    groups.add(2, 1)

    time.sleep(0.05)

    assert kept.groups == [[1]]


def test_what_fails_in_the_thread_is_raised_in_that_of_the_bundle(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "MOST_SECONDS", 0.01)
    kept.error = OSError("the disk is full")
    groups = Groups(kept)
    groups.add(1, 1)
    until(lambda: kept.groups)

    with pytest.raises(OSError, match="the disk is full"):
        groups.take()


def test_what_fails_in_the_thread_of_the_bundle_is_raised_at_once(kept: Kept) -> None:
    kept.error = OSError("the disk is full")
    groups = Groups(kept)

    with pytest.raises(OSError, match="the disk is full"):
        groups.add(1, 1, is_urgent=True)


def test_a_bundle_that_failed_leaves_nothing_to_close(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "MOST_SECONDS", 0.02)
    groups = Groups(kept)
    groups.add(1, 1)
    groups.abandon()

    time.sleep(0.05)
    groups.flush()

    assert kept.groups == []


class Image:
    """A result that shows whether it is still held."""


def test_what_is_durable_is_held_no_longer() -> None:
    groups: Groups[Image, None] = Groups(lambda results: [None for _ in results])
    image = Image()
    held = weakref.ref(image)
    gc.disable()
    try:
        groups.add(image, 1)
        del image
        groups.flush()
        groups.take()

        assert held() is None
    finally:
        gc.enable()
