"""The step that persists results: when a group is full, and what leaves the step when."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue
from input_states import known
from persisted_results import TELEMETRY, result
from waits import until

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.records import Record
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.pipeline.commit import group
from beam_upscale.pipeline.commit.grouping import Persist
from beam_upscale.pipeline.commit.persist import persist
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.arrivals import ListedArrivals, id_hash
from beam_upscale.pipeline.run_state.input_state import EarlierResult, ListingEntry
from beam_upscale.pipeline.run_state.progress import progress_file
from beam_upscale.pipeline.run_state.stop import clear_stop, stop_reason

LOCAL, PAID = RunJson(settings={}), RunJson(settings={}, endpoint="localhost:1")
WHEN, WINDOW = Timestamp(7), "window"


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds close no group, however slow this machine is."""
    monkeypatch.setattr(group, "MOST_SECONDS", 1000)


def step(dataset: DatasetFolder, run: RunJson = LOCAL, failures: int | None = None) -> Persist:
    """The step, with a bundle."""
    made = Persist(dataset, Layout.FILES, run, "run", failures, None)
    made.start_bundle()
    return made


def give(persisting: Persist, *results: UpscaledImage) -> list[WindowedValue]:
    """What leaves the step at these results."""
    return [out for each in results for out in persisting.process(each, WHEN, WINDOW)]


def recorded(dataset: DatasetFolder) -> int:
    return len(list(dataset.read_records()))


def images(count: int) -> list[UpscaledImage]:
    return [result(f"{number:03}", b"image") for number in range(count)]


def as_listed(upscaled: UpscaledImage) -> UpscaledImage:
    """A result whose input is as it is listed."""
    entry = ListingEntry("part", upscaled.source)
    return dataclasses.replace(upscaled, source=known(upscaled.source, listed=entry))


def names(outs: Iterable[WindowedValue]) -> set[tuple[object, ...]]:
    return {(type(out), out.timestamp, tuple(out.windows), out.value[0]) for out in outs}


def test_nothing_leaves_before_its_group_is_durable(dataset: DatasetFolder) -> None:
    persisting = step(dataset)
    *first, last = images(group.MOST_RESULTS)

    assert give(persisting, *first) == []
    assert recorded(dataset) == 0
    outs = give(persisting, last)

    assert len(outs) == recorded(dataset) == group.MOST_RESULTS
    assert names(outs) == {(WindowedValue, WHEN, (WINDOW,), 0)}
    assert list(persisting.finish_bundle()) == []
    assert len(list(Path(dataset.groups).rglob("*.json"))) == 1


def test_the_end_of_a_bundle_makes_the_rest_durable(dataset: DatasetFolder) -> None:
    persisting = step(dataset)
    assert give(persisting, result("a", b"a"), as_listed(result("b", b"b"))) == []

    first, second = persisting.finish_bundle()

    assert recorded(dataset) == 2
    assert first.value[0] == second.value[0] == 0
    assert second.value[1] == ListedArrivals("part", id_hash("/in/b.jpg"), is_new=True)


def test_a_failed_bundle_loses_its_group_and_nothing_else(dataset: DatasetFolder) -> None:
    persisting = step(dataset)
    done, lost = images(group.MOST_RESULTS), result("lost", b"lost")
    give(persisting, *done, lost)
    persisting.teardown()

    persisting.start_bundle()

    assert list(persisting.finish_bundle()) == []
    assert recorded(dataset) == len(done)
    assert not Path(dataset.resolve("images/lost.png")).exists()


def test_what_waits_is_durable_after_a_second_though_the_next_image_takes_longer(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "MOST_SECONDS", 0.01)
    persisting = step(dataset)
    first, second = images(2)
    outs = give(persisting, first)

    until(lambda: recorded(dataset) == 1)
    outs += [*give(persisting, second), *persisting.finish_bundle()]

    assert len(outs) == 2


def test_an_image_in_a_file_does_not_wait(dataset: DatasetFolder, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    made = result("a", b"image")
    large = dataclasses.replace(made, data=None, file=str(tmp_path / "a.png"))

    assert len(give(step(dataset), large)) == 1

    assert Path(dataset.resolve("images/a.png")).read_bytes() == b"image"


def test_a_run_that_stops_has_all_that_was_made(dataset: DatasetFolder) -> None:
    persisting = step(dataset)
    postponed = dataclasses.replace(result("b", None), record=None)
    assert give(persisting, result("a", b"a")) == []

    assert len(give(persisting, postponed)) == 1

    assert recorded(dataset) == 1
    assert [out.value for out in persisting.finish_bundle()] == [(0, None)]


def test_failures_are_counted_as_they_come_where_they_may_stop_the_run(
    dataset: DatasetFolder,
) -> None:
    persisting = step(dataset, failures=2)

    assert give(persisting, result("a", b"a")) == []
    assert len(give(persisting, result("b", None))) == 2
    assert stop_reason(dataset) is None
    give(persisting, result("c", None))

    assert stop_reason(dataset) == "2 inputs failed (--max-failures)"
    clear_stop(dataset)


@pytest.mark.parametrize("run", [PAID, RunJson()], ids=["a service", "nothing known"])
def test_what_may_be_paid_is_durable_one_by_one(dataset: DatasetFolder, run: RunJson) -> None:
    persisting = step(dataset, run)

    for number, each in enumerate(images(3), start=1):
        assert len(give(persisting, each)) == 1
        assert recorded(dataset) == number

    assert not Path(dataset.groups).exists()
    assert len(list(Path(dataset.records).rglob("*.json"))) == 3


def test_an_earlier_result_with_other_columns_is_recorded_again(dataset: DatasetFolder) -> None:
    made = result("a", b"a")
    record = persist(made, dataset, Layout.FILES)
    source = dataclasses.replace(made.source, columns={"label": "new"})
    source = known(source, earlier=EarlierResult(record))
    persisting = step(dataset)

    assert give(persisting, UpscaledImage(source, record)) == []
    assert len(list(persisting.finish_bundle())) == 1

    (again,) = dataset.read_records()
    assert again.row.input == {"label": "new"}
    assert dataclasses.replace(again.row, input=record.row.input) == record.row


def test_an_earlier_result_as_it_was_is_not_written(dataset: DatasetFolder) -> None:
    made = as_listed(result("a", b"a"))
    assert made.record is not None
    row = dataclasses.replace(made.record.row, input=made.source.columns)
    row = dataclasses.replace(row, source_uri=made.source.source_uri)
    earlier = EarlierResult(Record(row, TELEMETRY), is_committed=True)
    persisting = step(dataset)

    give(persisting, UpscaledImage(known(made.source, earlier=earlier), earlier.record))
    (out,) = persisting.finish_bundle()

    assert recorded(dataset) == 0
    assert out.value[1] == ListedArrivals("part", id_hash("/in/a.jpg"), is_new=False)


@pytest.mark.parametrize("is_taken_up", [False, True])
def test_result_that_is_taken_up_is_no_progress_of_this_run(
    is_taken_up: bool, dataset: DatasetFolder, tmp_path: Path
) -> None:
    waiting = tmp_path / "waiting"
    waiting.write_bytes(b"image")
    upscaled = dataclasses.replace(
        result("a", b"image"), data=None, file=str(waiting), is_taken_up=is_taken_up
    )
    persisting = step(dataset)

    give(persisting, upscaled)
    list(persisting.finish_bundle())

    done = progress_file(dataset, "run").total
    assert (done.images, done.earlier) == (1, int(is_taken_up))
    assert Path(dataset.resolve("images/a.png")).read_bytes() == b"image"
