import threading
from collections.abc import Iterator

import pytest

from beam_upscale.inference import progress

Heard = list[tuple[int, int]]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What a listener hears during a test."""
    heard: Heard = []
    stop = progress.listen(lambda done, total: heard.append((done, total)))
    yield heard
    stop()


def test_listeners_hear_every_step(heard: Heard) -> None:
    for done in range(1, 4):
        progress.report(done, 3)

    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_each_listener_stops_for_itself(heard: Heard) -> None:
    # Two threads may work for one run and listen for it.
    stop_one = progress.listen(lambda done, total: heard.append((done, total)))
    progress.report(1, 3)
    stop_one()
    stop_one()
    progress.report(2, 3)

    assert heard == [(1, 3), (1, 3), (2, 3)]


def test_equal_listeners_are_two() -> None:
    heard: Heard = []

    def listener(done: int, total: int) -> None:
        heard.append((done, total))

    stop_first, stop_second = progress.listen(listener), progress.listen(listener)
    stop_first()
    stop_first()
    progress.report(1, 2)
    stop_second()
    progress.report(2, 2)

    assert heard == [(1, 2)]


def test_a_listener_that_raises_is_logged_and_heard_no_more(
    heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(done: int, total: int) -> None:
        raise OSError("no space left on device")

    stop = progress.listen(fail)
    progress.report(1, 3)
    progress.report(2, 3)
    stop()

    assert heard == [(1, 3), (2, 3)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no space left on device" in caplog.text


def test_a_listener_may_stop_while_it_is_called() -> None:
    heard: Heard = []

    def once(done: int, total: int) -> None:
        heard.append((done, total))
        stop()

    stop = progress.listen(once)
    progress.report(1, 3)
    progress.report(2, 3)

    assert heard == [(1, 3)]


def test_threads_may_come_and_go_while_steps_are_reported(heard: Heard) -> None:
    def come_and_go() -> None:
        for _ in range(200):
            progress.listen(lambda done, total: None)()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for done in range(200):
        progress.report(done, 200)
    for thread in threads:
        thread.join()

    assert heard == [(done, 200) for done in range(200)]
