"""Signs of life, and other processes of a run: who keeps an output and who is waited for."""

import contextlib
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from holds import (
    LEASE_SECONDS,
    LONG_LEASE_SECONDS,
    PATIENCE,
    Elsewhere,
    elsewhere,
    everywhere,
    fall_silent,
    in_memory,
    lease,
    lock,
    refused,
)
from late_writers import contents
from memory_filesystem import ConditionalMemory
from waits import until

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold import owners, state
from beam_upscale.dataset.hold.hold import Hold, new_token
from beam_upscale.dataset.hold.owners import Kind
from beam_upscale.dataset.output_hold import ShownBundle, hold_output
from beam_upscale.errors import HoldLostError
from beam_upscale.storage import files


@everywhere
def test_a_run_that_shows_signs_of_life_keeps_its_output(place: str) -> None:
    first = lease(place, LONG_LEASE_SECONDS)
    first.acquire()

    assert place in refused(lease(place))

    with first.guard():
        pass
    first.end()
    first.release()
    assert list(files.list_below(place)) == []


@everywhere
def test_a_silent_run_is_overtaken_after_its_own_lease_and_writes_nothing(place: str) -> None:
    first, second = lease(place), lease(place, lease_seconds=1000)
    first.acquire()
    dataset = DatasetFolder(place, first)
    dataset.write(f"{place}/images/a.png", b"a")
    fall_silent(first)
    begun = time.monotonic()

    second.acquire()

    assert time.monotonic() - begun >= LEASE_SECONDS
    left = contents(place)
    for late in (
        lambda: dataset.write(f"{place}/images/b.png", b"late"),
        lambda: dataset.delete(f"{place}/images/a.png"),
        dataset.delete_staging,
        first.end,
    ):
        with pytest.raises(HoldLostError, match="another run has taken"):
            late()
    assert contents(place) == left == {"images/a.png": b"a"}
    first.release()
    with second.guard():
        pass
    second.release()


@everywhere
def test_a_lease_that_merely_expired_is_taken_up_again(place: str) -> None:
    hold = lease(place, lease_seconds=0.01)
    hold.acquire()
    fall_silent(hold)
    time.sleep(0.05)

    with hold.guard():
        pass

    hold.release()


@everywhere
def test_whoever_finds_a_late_sign_of_life_withdraws(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = lease(place, 0.1), lease(place), lease(place)
    first.acquire()
    fall_silent(first)
    create = owners.Folder.create

    def create_after_a_sign(self: owners.Folder, owner: owners.Owner) -> bool:
        first._state()._confirm()
        return create(self, owner)

    monkeypatch.setattr(owners.Folder, "create", create_after_a_sign)
    refused(second)
    monkeypatch.undo()

    with first.guard():
        pass
    # The number that was withdrawn is not given again.
    third.acquire()
    assert owners.Folder(place).look().last == 3
    third.end()
    assert list(files.list_below(place)) == []
    for hold in (first, third):
        hold.release()


def test_workers_join_and_keep_the_output_without_their_submitter(tmp_path: Path) -> None:
    root = f"{tmp_path}/out"
    hold = lease(root, 3 * LEASE_SECONDS)
    hold.acquire()
    worker = Elsewhere(tmp_path / "worker", pickle.loads(pickle.dumps(hold)))
    fall_silent(hold)
    time.sleep(hold.lease_seconds)

    refused(lease(root))
    worker.signal(signal.SIGSTOP)
    other = lease(root)
    other.acquire()
    worker.signal(signal.SIGCONT)
    told = worker.write()

    assert "another run has taken" in told
    assert contents(root) == {}
    other.release()
    hold.release()


@everywhere
def test_signs_of_life_end_with_the_bundles(place: str) -> None:
    hold = Hold(place, new_token(), Kind.LEASE, 0.1, begun_on="")
    shown = ShownBundle(DatasetFolder(place, hold))
    shown.begin()
    folder = owners.Folder(place)
    until(lambda: folder.signs_of_life(1))
    # The bundle before failed, and was not ended.
    shown.begin()
    shown.end()
    shown.end()

    until(lambda: hold._state()._thread is None)
    assert folder.signs_of_life(1) == {}
    with lease_taken(place) as other, other.guard():
        pass
    hold.release()


@contextlib.contextmanager
def lease_taken(root: str) -> Iterator[Hold]:
    hold = lease(root)
    hold.acquire()
    yield hold
    hold.release()


@elsewhere
@pytest.mark.parametrize("ending", ["end", "release"])
def test_those_that_rely_on_a_look_are_waited_for(place: str, ending: str) -> None:
    hold, other = lease(place, 30), lease(place)
    hold.acquire()
    folder = owners.Folder(place)
    folder.write_sign(1, "of-another-process", 1)
    steps = []

    def give_up_and_take() -> None:
        getattr(hold, ending)()
        other.acquire()
        steps.append("taken")

    thread = threading.Thread(target=give_up_and_take)
    thread.start()
    until(lambda: folder.look().owner.released)  # type: ignore[union-attr]
    time.sleep(0.3)
    steps.append("found")
    folder.delete_sign(1, "of-another-process")
    thread.join()

    assert steps == ["found", "taken"]
    hold.release()
    other.release()


@in_memory
def test_a_store_that_does_not_answer_is_no_end_of_a_run(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = lease(place, 0.01)
    hold.acquire()
    fall_silent(hold)
    time.sleep(0.01)

    def fail(self: object, uri: str) -> bytes:
        raise OSError("503")

    with monkeypatch.context() as patch:
        patch.setattr(ConditionalMemory, "read", fail)
        with pytest.raises(OSError, match="503"), hold.guard():
            pass

    with hold.guard():
        pass
    hold.release()


def other_process(hold: Hold) -> state.State:
    """The part that another process of the run has in its hold."""
    number = owners.Folder(hold.root).look().owner.number
    return state.State(hold, number, None)


def test_a_worker_of_a_run_before_is_told_where_disks_use_inodes_again(tmp_path: Path) -> None:
    root = f"{tmp_path}/out"
    before = lease(root)
    before.acquire()
    worker = other_process(before)
    with worker.guarded():
        pass
    before.end()
    now = lease(root)
    now.acquire()

    with pytest.raises(HoldLostError), worker.guarded():
        pytest.fail("a late worker may write")
    with now.guard():
        pass
    now.release()


def test_a_submitter_that_breaks_leaves_the_output_to_the_workers(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="lost"),
        hold_output(
            f"{tmp_path}/out", in_this_process=False, lease_seconds=LEASE_SECONDS
        ) as dataset,
    ):
        worker = other_process(dataset.hold)
        raise OSError("the job server's connection is lost")

    with worker.guarded():
        pass


def test_an_interruption_waits_for_no_writer_and_the_lock_goes_with_the_last(
    tmp_path: Path,
) -> None:
    root = f"{tmp_path}/out"
    begun, go_on = threading.Event(), threading.Event()

    def write(dataset: DatasetFolder) -> None:
        with contextlib.suppress(HoldLostError), dataset.hold.guard():
            begun.set()
            go_on.wait(PATIENCE)

    with (
        pytest.raises(KeyboardInterrupt),
        hold_output(root, in_this_process=True, lease_seconds=LEASE_SECONDS) as dataset,
    ):
        writer = threading.Thread(target=write, args=(dataset,))
        writer.start()
        begun.wait(PATIENCE)
        raise KeyboardInterrupt

    assert writer.is_alive()
    refused(lock(root))
    go_on.set()
    writer.join()
    following = lock(root)
    following.acquire()
    following.release()
