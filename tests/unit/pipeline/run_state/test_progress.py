import json
import os
import shutil
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from clocks import Clock

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.inference import progress
from beam_upscale.pipeline.run_state.progress import (
    Progress,
    ProgressFile,
    progress_file,
    progress_of,
    read_progress,
)
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

IMAGE = Progress(images=1, pixels=200, credits=Decimal("0.2"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr("beam_upscale.pipeline.run_state.progress.time", clock)
    return clock


# What is counted


@pytest.mark.parametrize(
    ("status", "earlier", "expected"),
    [
        (Status.UPSCALED, False, IMAGE),
        (Status.FAILED, False, Progress(images=1, failures=1)),
        (Status.REJECTED, False, Progress(images=1)),
        (Status.SKIPPED, False, Progress(images=1)),
        (Status.OVER_BUDGET, False, Progress(images=1)),
        (Status.UPSCALED, True, Progress(images=1, earlier=1)),
        (Status.FAILED, True, Progress(images=1, earlier=1)),
    ],
)
def test_an_inputs_part(status: Status, earlier: bool, expected: Progress) -> None:
    price = Decimal("0.2") if status is Status.UPSCALED else Decimal(0)
    row = Row("a", "a", status, input_width=20, input_height=10, credits=price)

    assert progress_of(Record(row, None), earlier) == expected


def test_progress_adds_up() -> None:
    one = Progress(
        images=3, earlier=1, pixels=5, failures=1, credits=Decimal("0.2"), step=7, steps=20
    )

    assert one + one == Progress(6, 2, 10, 2, Decimal("0.4"), 14, 40)
    assert one + Progress() == one


# Files


def test_files_of_several_processes_add_up(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for process in (1, 2, 3):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        file = ProgressFile(dataset, "run")
        file.add(IMAGE)
        file.add(Progress(images=1, failures=1))
        file.flush()

    assert read_progress(dataset, "run") == Progress(6, 0, 600, 3, Decimal("0.6"))


def test_other_runs_and_no_files_do_not_count(dataset: DatasetFolder) -> None:
    assert read_progress(dataset, "run") == Progress()
    ProgressFile(dataset, "another").add(IMAGE)

    assert read_progress(dataset, "run") == Progress()
    assert read_progress(dataset, "another") == IMAGE


def test_a_file_that_is_replaced_while_it_is_read_counts_the_next_time(
    dataset: DatasetFolder,
) -> None:
    ProgressFile(dataset, "run").add(IMAGE)
    (path,) = Path(dataset.progress).iterdir()
    # Of an object that has grown since its size was told, the beginning is read.
    (path.parent / "run-other.json").write_bytes(path.read_bytes()[:-5])

    assert read_progress(dataset, "run") == IMAGE


def test_a_file_is_written_at_most_once_a_second(dataset: DatasetFolder, clock: Clock) -> None:
    file = ProgressFile(dataset, "run")

    file.add(IMAGE)
    clock.now += 0.9
    file.add(IMAGE)
    assert read_progress(dataset, "run") == IMAGE
    clock.now += 0.2
    file.add(IMAGE)
    assert read_progress(dataset, "run").images == 3
    file.add(IMAGE)
    assert read_progress(dataset, "run").images == 3
    file.flush()
    assert read_progress(dataset, "run").images == 4


def test_threads_of_a_process_share_a_file(dataset: DatasetFolder) -> None:
    def count() -> None:
        for _ in range(100):
            progress_file(dataset, "run").add(IMAGE)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress_file(dataset, "run").flush()

    assert read_progress(dataset, "run") == Progress(400, 0, 80_000, 0, Decimal("80.0"))
    assert progress_file(dataset, "run") is not progress_file(dataset, "another")


def test_files_without_steps_are_read(dataset: DatasetFolder) -> None:
    values = {"images": 3, "earlier": 1, "pixels": 200, "failures": 0, "credits": "0.2"}
    uri = uris.join(dataset.progress, "run-host-1.json")
    files.write(uri, json.dumps(values).encode())

    assert read_progress(dataset, "run") == Progress(3, 1, 200, 0, Decimal("0.2"), 0, 0)


# Steps of what is being computed


def test_steps_are_written_at_most_once_a_second(dataset: DatasetFolder, clock: Clock) -> None:
    stop = ProgressFile(dataset, "run").listen()

    found = []
    for done in range(5):
        progress.report(done, 20)
        found.append(read_progress(dataset, "run").step)
        clock.now += 0.6
    stop()

    assert found == [0, 0, 2, 2, 4]


def test_steps_stand_beside_the_images(dataset: DatasetFolder) -> None:
    file = ProgressFile(dataset, "run")
    stop = file.listen()

    progress.report(7, 20)
    done = file.add(IMAGE)
    file.flush()
    stop()

    assert done == Progress(1, 0, 200, 0, Decimal("0.2"), step=7, steps=20)
    assert read_progress(dataset, "run") == done


@pytest.mark.parametrize("end", [(20, 20), (0, 0)])
def test_a_computation_that_has_ended_has_no_steps(
    dataset: DatasetFolder, end: tuple[int, int]
) -> None:
    file = ProgressFile(dataset, "run")
    stop = file.listen()

    progress.report(19, 20)
    progress.report(*end)
    file.flush()
    stop()

    assert read_progress(dataset, "run") == Progress()


def test_steps_are_noted_as_long_as_a_bundle_of_the_process_lasts(dataset: DatasetFolder) -> None:
    file = progress_file(dataset, "run")
    stop_one, stop_other = file.listen(), file.listen()

    progress.report(7, 20)
    stop_one()
    progress.report(8, 20)
    file.flush()
    stop_other()

    assert read_progress(dataset, "run") == Progress(step=8, steps=20)


def test_a_run_that_has_ended_writes_nothing_of_a_later_one(
    dataset: DatasetFolder, clock: Clock
) -> None:
    stop = progress_file(dataset, "run").listen()
    progress.report(7, 20)
    stop()
    # As a run does when it is complete.
    shutil.rmtree(dataset.staging)

    clock.now += 5
    progress.report(1, 20)

    assert not Path(dataset.staging).exists()
