from collections.abc import Iterator

import pytest
from clocks import Clock

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.pipeline.run_state import stop
from beam_upscale.pipeline.run_state.input_state import state_of
from beam_upscale.pipeline.run_state.stop import (
    PostponeAfterStop,
    clear_stop,
    is_stopped,
    request_stop,
    stop_after_failures,
    stop_reason,
)
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(stop, "time", clock)
    return clock


def heed(step: PostponeAfterStop, name: str) -> bool:
    (source,) = step.process(SourceImage(name))
    assert source.input_id == name
    return state_of(source).is_postponed


def test_inputs_are_postponed_once_the_run_is_asked_to_stop(
    dataset: DatasetFolder, clock: Clock
) -> None:
    step = PostponeAfterStop(dataset)
    step.start_bundle()

    before = heed(step, "a")
    # As another process does it.
    files.write(dataset.stop_file, b"interrupted")
    too_soon_to_look = heed(step, "b")
    clock.now += 1.1
    after = [heed(step, name) for name in "cde"]

    assert (before, too_soon_to_look, after) == (False, False, [True, True, True])
    assert stop_reason(dataset) == "interrupted"


def test_this_process_stops_at_once(dataset: DatasetFolder) -> None:
    step = PostponeAfterStop(dataset)
    step.start_bundle()

    before = heed(step, "a")
    request_stop(dataset, "interrupted")
    after = heed(step, "b")
    clear_stop(dataset)

    assert (before, after, stop_reason(dataset)) == (False, True, None)
    assert not heed(step, "c")


def test_a_request_that_another_process_has_withdrawn_is_forgotten(
    dataset: DatasetFolder, clock: Clock
) -> None:
    request_stop(dataset, "device_lost")

    clock.now += 1.1
    still = is_stopped(dataset)
    files.delete(dataset.stop_file)
    just_looked = is_stopped(dataset)
    clock.now += 1.1

    assert (still, just_looked, is_stopped(dataset)) == (True, True, False)


@pytest.mark.parametrize(
    ("failures", "most", "stops"), [(2, 3, False), (3, 3, True), (9, None, False)]
)
def test_too_many_failures_ask_for_a_stop(
    dataset: DatasetFolder, failures: int, most: int | None, stops: bool
) -> None:
    stop_after_failures(dataset, failures, most)

    assert is_stopped(dataset) is stops
    assert (stop_reason(dataset) == f"{failures} inputs failed (--max-failures)") is stops


def test_a_bundle_of_a_later_run_looks_again(dataset: DatasetFolder, clock: Clock) -> None:
    step = PostponeAfterStop(dataset)
    step.start_bundle()
    request_stop(dataset, "interrupted")
    assert heed(step, "a")

    clear_stop(dataset)
    assert heed(step, "b")  # The same bundle does not change its mind.
    step.start_bundle()

    assert not heed(step, "c")
    clear_stop(dataset)
