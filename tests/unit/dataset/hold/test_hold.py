"""One writer: who has an output, who takes it over, and what those can do who have lost it."""

import dataclasses
import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from holds import LEASE_SECONDS, PATIENCE, Elsewhere, everything, everywhere, lease, lock, refused
from late_writers import DEEDS, Deed, at_guard, contents, holding, overtaken, undisturbed
from PIL import Image
from runs import command, processes, quick

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold import file_lock, owners
from beam_upscale.dataset.hold.hold import Hold, new_token
from beam_upscale.dataset.hold.owners import Kind
from beam_upscale.dataset.output_hold import hold_output, untouched_on_failure
from beam_upscale.errors import ErrorCode, HoldLostError, SettingsError
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of

RACERS, ROUNDS = 5, 12

every_deed = pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)


# Locks: a run in this process on a local disk.


def test_a_second_run_is_told_who_has_the_output_and_touches_nothing(tmp_path: Path) -> None:
    first = lock(tmp_path / "out")
    first.acquire()
    DatasetFolder(first.root, first).write(f"{first.root}/images/a.png", b"a")
    before = everything(tmp_path)

    message = refused(lock(tmp_path / "out"))

    assert f", process {os.getpid()}, since 2" in message
    assert message.startswith(f"{tmp_path}/out is held by the run of ")
    assert everything(tmp_path) == before
    DatasetFolder(first.root, first).delete_staging()
    first.release()
    assert everything(tmp_path) == {"out": None, "out/images": None, "out/images/a.png": b"a"}


def test_the_command_is_refused_in_one_line(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    (tmp_path / "in").mkdir()
    photograph(0, 8, 8).save(tmp_path / "in" / "a.png")
    first = lock(tmp_path / "out")
    first.acquire()
    before = everything(tmp_path)

    words = ["run", tmp_path / "in", tmp_path / "out", *quick(tiny_weights)]
    ended = [command(*words), command(*words, "--overwrite")]

    assert [each.code for each in ended] == [2, 2]
    for each in ended:
        lines = [line for line in each.err.splitlines() if line.startswith("beam-upscale: ")]
        assert len(lines) == 1
        assert lines[0].startswith("beam-upscale: output_held: ")
    assert everything(tmp_path) == before
    first.release()


@pytest.mark.parametrize(
    "name",
    [
        "{}/link",
        "{}/linked/out",
        "file://{}/out",
        "{}/out/",
        "{}/in/../out",
        "out",
        "/proc/self/root{}/out",
    ],
)
def test_one_output_by_two_names_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(owners, "SECONDS_TO_SAY_WHO", 0)
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    (tmp_path / "linked").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    with hold_output(str(tmp_path / "out"), in_this_process=True, lease_seconds=1):
        before = everything(tmp_path)
        with (
            pytest.raises(SettingsError, match=r"^output_held: "),
            hold_output(name.format(tmp_path), in_this_process=True, lease_seconds=1),
        ):
            pass
        assert everything(tmp_path) == before


def test_the_output_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    killed = Elsewhere(tmp_path / "first", lock(tmp_path / "out"))
    killed.kill()

    second = lock(tmp_path / "out")
    second.acquire()

    with second.guard():
        pass
    second.end()
    second.release()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_stopped_process_keeps_its_output_and_goes_on(tmp_path: Path) -> None:
    stopped = Elsewhere(tmp_path / "first", lock(tmp_path / "out"))
    stopped.signal(signal.SIGSTOP)

    refused(lock(tmp_path / "out"))

    stopped.signal(signal.SIGCONT)
    assert stopped.write() == "written"


def _race(root: str, rounds: int, busy: Path) -> int:
    """Takes an output again and again; how often. No one else may have it meanwhile."""
    owners.SECONDS_TO_SAY_WHO = owners.SECONDS_BETWEEN_LOOKS = 0
    won = 0
    for number in range(rounds):
        hold = lock(root)
        try:
            hold.acquire()
        except SettingsError as error:
            assert error.code is ErrorCode.OUTPUT_HELD, error
            continue
        won += 1
        with busy.open("x"):
            DatasetFolder(root, hold).write(f"{root}/run.json", str(number).encode())
        busy.unlink()
        if number % 2:
            hold.end()
        hold.release()
    return won


def _race_and_tell(told: Path, *arguments: Any) -> None:
    """Races in a process of its own, and writes down how often it had the output."""
    told.write_text(str(_race(*arguments)))


def test_of_several_that_race_one_has_the_output_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "SECONDS_TO_SAY_WHO", 0)
    monkeypatch.setattr(owners, "SECONDS_BETWEEN_LOOKS", 0)
    arguments = (f"{tmp_path}/out", 40, tmp_path / "busy")
    told = [tmp_path / "first", tmp_path / "second"]
    others = [processes.Process(target=_race_and_tell, args=(each, *arguments)) for each in told]
    for other in others:
        other.start()
    won: list[int] = []
    threads = [
        threading.Thread(target=lambda: won.append(_race(*arguments))) for _ in range(RACERS)
    ]
    for thread in threads:
        thread.start()
    for each in (*threads, *others):
        each.join()

    assert [other.exitcode for other in others] == [0, 0]
    assert len(won) == RACERS
    # Whoever is first may have it all along, so that the others never do.
    assert sum(won) + sum(int(each.read_text()) for each in told) > 0
    assert not (tmp_path / "busy").exists()


@pytest.mark.parametrize("folder", ["hold", "partial"])
def test_a_folder_that_another_run_removes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    make, removed = os.mkdir, []

    def find_it_and_then_have_it_removed(path: Path, *mode: int) -> None:
        if Path(path).name == folder and not removed:
            removed.append(path)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        make(path, *mode)

    monkeypatch.setattr(os, "mkdir", find_it_and_then_have_it_removed)
    hold = lock(tmp_path / "out")
    hold.acquire()

    assert removed
    hold.check()
    hold.end()
    hold.release()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("removed", [".staging/hold/lock", ".staging/hold", ".staging"])
def test_a_lock_that_is_removed_by_hand_ends_the_run(tmp_path: Path, removed: str) -> None:
    hold = lock(tmp_path / "out")
    hold.acquire()
    dataset = DatasetFolder(hold.root, hold)
    files.delete(dataset.resolve(removed))
    left = everything(tmp_path)

    with pytest.raises(HoldLostError, match="was removed by hand"):
        dataset.write(dataset.run_json, b"late")

    assert everything(tmp_path) == left
    hold.release()


def test_whoever_is_writing_is_waited_for(tmp_path: Path) -> None:
    hold = lock(tmp_path / "out")
    hold.acquire()
    order = []
    writes, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with hold.guard():
            writes.set()
            may_end.wait(PATIENCE)
            order.append("written")

    def release() -> None:
        hold.release()
        order.append("released")

    threads = [threading.Thread(target=write), threading.Thread(target=release)]
    threads[0].start()
    writes.wait(PATIENCE)
    threads[1].start()
    refused(lock(tmp_path / "out"))
    may_end.set()
    for thread in threads:
        thread.join()

    assert order == ["written", "released"]
    with hold_output(str(tmp_path / "out"), in_this_process=True, lease_seconds=1):
        pass


def test_the_lock_stays_where_a_writer_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "_SECONDS_TO_FINISH", 0.01)
    hold = lock(tmp_path / "out")
    hold.acquire()
    state = hold._state()

    with hold.guard():
        hold.release()
        refused(lock(tmp_path / "out"))

    assert state.lock is not None
    assert not state.lock.is_held


def test_a_forked_child_neither_writes_nor_keeps_the_lock(tmp_path: Path) -> None:
    hold = lock(tmp_path / "out")
    hold.acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with hold.guard():
                os._exit(1)
        except HoldLostError:
            os.read(reading, 1)
            os._exit(0)
        finally:
            os._exit(2)

    hold.release()
    with hold_output(str(tmp_path / "out"), in_this_process=True, lease_seconds=1):
        pass

    os.write(writing, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("made", ["", "out", "out/images"])
def test_what_is_refused_leaves_no_trace(tmp_path: Path, made: str) -> None:
    if made:
        (tmp_path / "some" / made).mkdir(parents=True)
    before = everything(tmp_path)
    output = str(tmp_path / "some" / "out")

    def refuse() -> None:
        with (
            hold_output(output, in_this_process=True, lease_seconds=1) as dataset,
            untouched_on_failure(dataset),
        ):
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        refuse()

    assert everything(tmp_path) == before


def test_an_output_that_cannot_be_is_refused_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a file")
    before = everything(tmp_path)

    with pytest.raises(SettingsError, match=r"^output_unavailable: .*/file is a file"):
        lock(tmp_path / "file" / "out").acquire()

    assert everything(tmp_path) == before


# Leases: everything else.


def test_of_a_killed_process_the_output_is_taken_over(tmp_path: Path) -> None:
    killed = Elsewhere(tmp_path / "first", lease(f"{tmp_path}/out", 0.5))
    killed.kill()

    with hold_output(f"{tmp_path}/out", in_this_process=True, lease_seconds=1) as dataset:
        dataset.write(dataset.run_json, b"{}")


@pytest.mark.parametrize("is_taken_by_workers", [False, True])
@pytest.mark.parametrize("ending", ["end", "release"])
def test_a_worker_of_a_run_that_is_over_does_not_begin_it_anew(
    tmp_path: Path, ending: str, is_taken_by_workers: bool
) -> None:
    root = f"{tmp_path}/out"
    (tmp_path / "out").mkdir()
    hold = Hold(root, new_token(), Kind.LEASE, LEASE_SECONDS, "" if is_taken_by_workers else None)
    if not is_taken_by_workers:
        hold.acquire()
    DatasetFolder(root, hold).write(f"{root}/run.json", b"{}")
    getattr(hold, ending)()
    before = everything(tmp_path)

    worker = Elsewhere(tmp_path / "late", hold)

    assert "hold_lost" in worker.write()
    after = everything(tmp_path)
    assert {name: after[name] for name in after if name.startswith("out")} == before


@everywhere
def test_a_pipeline_put_together_before_another_run_is_refused_without_a_trace(
    place: str,
) -> None:
    late = Hold(place, new_token(), begun_on=owners.state_of_output(place))
    other = lease(place)
    other.acquire()
    DatasetFolder(place, other).write(f"{place}/run.json", b"{}")
    DatasetFolder(place, other).delete_staging()
    other.release()
    before = {entry.name for entry in files.list_below(place)}

    with pytest.raises(HoldLostError, match="put it together again"):
        DatasetFolder(place, late).write(f"{place}/run.json", b"late")

    assert {entry.name for entry in files.list_below(place)} == before == {"run.json"}
    assert files.read(f"{place}/run.json") == b"{}"
    if store_of(place).is_local:
        assert os.listdir(place) == ["run.json"]  # noqa: PTH208


def test_a_pipeline_that_broke_in_this_process_is_not_waited_for(tmp_path: Path) -> None:
    broken = Hold(f"{tmp_path}/out", new_token(), begun_on="")
    with broken.shown():
        broken.check()

    with (
        hold_output(broken.root, in_this_process=True, lease_seconds=1),
        pytest.raises(HoldLostError),
    ):
        broken.check()


# Between the answer and the deed.


@pytest.mark.parametrize("place", ["memory"], indirect=True)
@every_deed
def test_where_writes_have_conditions_whoever_slept_changes_nothing(place: str, deed: Deed) -> None:
    for each in overtaken(deed, place):
        assert each.left == each.successor, each.moment


@pytest.mark.parametrize("place", ["hdfs"], indirect=True)
@every_deed
def test_on_hdfs_whoever_slept_changes_at_most_the_file_that_it_was_about_to(
    place: str, deed: Deed
) -> None:
    for each in overtaken(deed, place):
        found, wanted = each.left, each.successor
        changed = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        # What was not there when it fell asleep it does not replace.
        assert set(changed) <= each.before.keys(), each.moment
        # One file, or at the very end of a run a folder of work in progress.
        assert len(changed) < 2 or all(name.startswith(".staging/") for name in changed)


@pytest.mark.parametrize("kind", Kind)
@every_deed
def test_on_a_local_disk_nobody_takes_over_between_the_answer_and_the_deed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, deed: Deed
) -> None:
    monkeypatch.setattr(owners, "SECONDS_TO_SAY_WHO", 0)
    monkeypatch.setattr(owners, "WATCHED", 0)
    found = undisturbed(deed, f"{tmp_path}/undisturbed", kind)
    root = f"{tmp_path}/out"
    dataset = DatasetFolder(root, holding(root, kind))
    assert dataset.hold is not None
    deed.prepare(dataset)
    refusals = []

    with at_guard(dataset.hold, None, lambda: refusals.append(refused(lock(root))), inside=True):
        deed.act(dataset)

    assert len(refusals) == found.moments
    assert contents(root).keys() == found.left.keys()
    dataset.hold.release()


@pytest.mark.parametrize("kind", Kind)
@every_deed
def test_late_writers_of_a_run_that_gave_the_output_up_change_nothing(
    tmp_path: Path, kind: Kind, deed: Deed
) -> None:
    for moment in range(undisturbed(deed, f"{tmp_path}/undisturbed", kind).moments):
        root = tmp_path / str(moment)
        dataset = DatasetFolder(str(root), holding(str(root), kind))
        hold = dataset.hold
        assert hold is not None
        deed.prepare(dataset)
        left: dict[str, bytes | None] = {}

        def give_up(
            hold: Hold = hold, root: Path = root, left: dict[str, bytes | None] = left
        ) -> None:
            hold.release()
            left.update(everything(root))

        with at_guard(hold, moment, give_up, inside=False), pytest.raises(HoldLostError):
            deed.act(dataset)

        # But for what was being written, which is gone.
        writing = {name for name in left if name.startswith(".staging/partial/")}
        assert everything(root) == {name: left[name] for name in left.keys() - writing}


# Beside other processes of a run


def test_a_pipeline_of_ones_own_forgets_what_stopped_the_one_before(tmp_path: Path) -> None:
    stop = DatasetFolder(f"{tmp_path}/out").stop_file
    files.write(stop, b"device_lost")
    hold = dataclasses.replace(lease(f"{tmp_path}/out"), begun_on="")

    with hold.guard():
        assert not files.exists(stop)

    hold.release()
