"""Two runs into one output on a local disk: one writes, and nothing of it is lost."""

import signal
import threading
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import apache_beam as beam
import faults
import pytest
import two_runs
from runs import ENGINE, command, rows
from two_runs import (
    WEIGHTS,
    Command,
    pictures,
    standing,
    stop_after_two_records,
    the_line,
    words,
)
from waits import until

from beam_upscale import Upscale, WriteDataset
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.verify import verify
from beam_upscale.inference.handlers.baseline import Resampler
from beam_upscale.pipeline import preview
from beam_upscale.pipeline.commit import shards
from beam_upscale.pipeline.local_runner import new_pipeline
from beam_upscale.pipeline.read import ReadImages
from beam_upscale.pipeline.write import new_run_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IMAGES = 6


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return pictures(tmp_path / "in", IMAGES)


def everything(folder: Path) -> dict[str, bytes]:
    """All files of an output, but for its progress, which a process may be writing."""
    return {
        name: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not (name := str(path.relative_to(folder))).startswith(
            (".staging/progress/", ".staging/partial/")
        )
    }


def assert_done(output: Path, source: Path) -> None:
    found = rows(output)
    assert {row.source_uri for row in found.values()} == {str(path) for path in source.iterdir()}
    assert list(verify(str(output))) == []
    assert not (output / ".staging").exists()


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_a_second_run_is_refused_while_the_first_works_sleeps_and_works_on(
    tmp_path: Path, source: Path, layout: str
) -> None:
    output, options = tmp_path / "out", ["--layout", layout]
    other = pictures(tmp_path / "other", IMAGES, seed=1)
    first = Command(tmp_path / "1", *words(source, output, options), prepare=standing())
    first.wait_until_it_stands()
    left = everything(output)

    second = Command(tmp_path / "2", *words(other, output, options)).finished()
    first.signal(signal.SIGSTOP)
    overwriting = [*options, "--overwrite"]
    third = Command(tmp_path / "3", *words(other, output, overwriting)).finished()
    verified = command("verify", output)
    now = everything(output)
    first.signal(signal.SIGCONT)
    first.go_on()

    assert (second.code, third.code) == (2, 2)
    for each in (second, third):
        assert the_line(each).startswith(f"output_held: {output} is held by the run of ")
    assert (verified.code, "incomplete" in verified.out) == (1, True)
    assert now == left
    assert first.finished().code == 0
    assert_done(output, source)


def test_of_runs_that_begin_together_one_works(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out"
    begun = [
        Command(tmp_path / str(number), *words(source, output), prepare=standing())
        for number in range(3)
    ]
    until(lambda: sum(each.has_ended for each in begun) == 2)
    for each in begun:
        each.go_on()

    ended = [each.finished() for each in begun]

    assert sorted(each.code for each in ended) == [0, 2, 2]
    assert_done(output, source)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_output_of_a_killed_run_is_taken_over(
    tmp_path: Path, source: Path, is_stopped: bool
) -> None:
    output = tmp_path / "out"
    first = Command(tmp_path / "1", *words(source, output), prepare=standing())
    first.wait_until_it_stands()
    if is_stopped:
        first.signal(signal.SIGSTOP)
    done = {record.row.input_id for record in DatasetFolder(str(output)).read_records()}
    images = {name: data for name, data in everything(output).items() if name.startswith("images")}
    first.kill()

    second = Command(tmp_path / "2", *words(source, output)).finished()

    assert second.code == 0
    assert done
    assert images.items() <= everything(output).items()
    assert_done(output, source)


def _plan_slowly(folder: Path) -> None:
    planned, wait = preview._preview_row, two_runs.wait_at(2, folder)

    def slowly(*arguments: object) -> object:
        wait()
        return planned(*arguments)  # type: ignore[arg-type]

    preview._preview_row = slowly  # type: ignore[assignment]


def test_of_two_plans_in_one_folder_the_second_is_refused(tmp_path: Path, source: Path) -> None:
    plan = ["plan", source, "--to", tmp_path / "plan"]
    first = Command(tmp_path / "1", *plan, prepare=_plan_slowly)
    first.wait_until_it_stands()
    left = everything(tmp_path / "plan" / ".staging")

    second = Command(tmp_path / "2", *plan).finished()
    now = everything(tmp_path / "plan" / ".staging")
    first.go_on()

    assert second.code == 2
    assert the_line(second).startswith("output_held: ")
    assert now == left
    assert first.finished().code == 0
    assert not (tmp_path / "plan" / ".staging").exists()
    again = Command(tmp_path / "3", *plan).finished()
    assert (again.code, the_line(again).partition(":")[0]) == (2, "output_taken")


def test_what_was_paid_for_stays_and_is_charged_once(
    tmp_path: Path, source: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    (tmp_path / "server").mkdir()
    with faults.server(tmp_path / "server", tiny_weights) as server:
        service = ["--backend", "grpc", "--endpoint", server.endpoint, "--max-in-flight", "1"]
        key = ["--api-key-file", str(server.add_key("key")), "--workers", "1", "--quiet"]
        paid = ["run", source, output, *service, *key]
        first = Command(tmp_path / "1", *paid, prepare=stop_after_two_records)
        first.wait_until_it_stands()
        refused = Command(tmp_path / "2", *paid).finished()
        first.kill()
        finished = Command(tmp_path / "3", *paid).finished()
        charges = server.charges("key")

    assert (refused.code, finished.code) == (2, 0), (refused, finished)
    found = rows(output).values()
    billed = Counter(name for row in found for name in row.request_ids)
    assert Counter(charge.request_id for charge in charges) == billed
    assert set(billed.values()) == {1}
    charged = sum((charge.credits for charge in charges), Decimal(0))
    assert sum((row.billed_credits for row in found), Decimal(0)) == charged
    assert_done(output, source)


# Pipelines of one's own.


def _own(source: Path, output: Path, lease_seconds: float = 30.0) -> beam.Pipeline:
    """A pipeline of one's own, in this process."""
    pipeline = new_pipeline([], 1)
    results = (
        pipeline
        | ReadImages(str(source), str(output), lease_seconds=lease_seconds)
        | Upscale(ENGINE, weights=WEIGHTS)
        | WriteDataset(str(output), run_id=new_run_id(), lease_seconds=lease_seconds)
    )
    del results
    return pipeline


@pytest.fixture
def before_each_image(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has the baseline of this process do something before each image, in this test."""
    monkeypatch.setattr(Resampler, "enlarge", Resampler.enlarge)
    return two_runs.before_each_image


def test_a_pipeline_of_ones_own_and_a_run_keep_each_other_out(
    tmp_path: Path, source: Path, before_each_image: Callable[[Callable[[], None]], None]
) -> None:
    output = tmp_path / "out"
    (tmp_path / "own").mkdir()
    before_each_image(two_runs.wait_at(3, tmp_path / "own"))
    # What is written for a sign of life may take seconds on a disk that has much to do.
    own, late = _own(source, output, 10), _own(source, output, 10)
    thread = threading.Thread(target=lambda: own.run().wait_until_finish())
    thread.start()
    until((tmp_path / "own" / "waits").exists)

    run = Command(tmp_path / "1", *words(source, output)).finished()
    left = everything(output)
    with pytest.raises(Exception, match="output_held"):
        late.run().wait_until_finish()
    now = everything(output)
    (tmp_path / "own" / "word").touch()
    thread.join()

    assert run.code == 2
    assert the_line(run).startswith("output_held: ")
    assert {n: d for n, d in now.items() if "/hold/" not in n} == {
        n: d for n, d in left.items() if "/hold/" not in n
    }
    assert_done(output, source)
    with pytest.raises(Exception, match="put it together again"):
        late.run().wait_until_finish()
    assert_done(output, source)


def test_a_pipeline_of_ones_own_is_refused_by_a_run(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out"
    run = Command(tmp_path / "1", *words(source, output), prepare=standing())
    run.wait_until_it_stands()
    left = everything(output)

    with pytest.raises(Exception, match="output_held"):
        _own(source, output).run().wait_until_finish()

    assert everything(output) == left
    run.go_on()
    assert run.finished().code == 0
    assert_done(output, source)


def test_a_pipeline_of_ones_own_that_broke_leaves_no_thread_that_holds_the_output(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the commit broke")

    output = tmp_path / "out"
    monkeypatch.setattr(shards, "commit_shard", fail)
    with pytest.raises(Exception, match="the commit broke"):
        _own(source, output, lease_seconds=1).run().wait_until_finish()

    finished = Command(tmp_path / "1", *words(source, output)).finished()

    assert finished.code == 0, finished
    assert_done(output, source)
