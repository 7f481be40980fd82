"""Holds of outputs on each kind of store, and processes that have one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import memory_hdfs
import pytest
from memory_filesystem import conditional_memory
from runs import processes
from waits import until

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold.hold import Hold, new_token
from beam_upscale.dataset.hold.owners import Kind
from beam_upscale.errors import ErrorCode, HoldLostError, SettingsError

# How long runs are waited for that show no sign of life; and what a living process shows one
# within, also on a machine whose disk has much to do.
LEASE_SECONDS = 1.0
LONG_LEASE_SECONDS = 10.0
PATIENCE = 60


@contextlib.contextmanager
def output_of(kind: str, folder: Path) -> Iterator[str]:
    """The root of an output that is not there, in `local`, `memory` or `hdfs`."""
    with contextlib.ExitStack() as stack:
        if kind == "local":
            yield f"{folder}/out"
        elif kind == "memory":
            yield f"{stack.enter_context(conditional_memory())}/out"
        else:
            stack.enter_context(memory_hdfs.hdfs())
            yield "hdfs://server/out"


everywhere = pytest.mark.parametrize("place", ["local", "memory", "hdfs"], indirect=True)
elsewhere = pytest.mark.parametrize("place", ["memory", "hdfs"], indirect=True)
in_memory = pytest.mark.parametrize("place", ["memory"], indirect=True)


def lease(root: str, lease_seconds: float = LEASE_SECONDS) -> Hold:
    return Hold(root, new_token(), Kind.LEASE, lease_seconds)


def lock(root: Path | str) -> Hold:
    return Hold(str(root), new_token(), Kind.LOCK)


def fall_silent(hold: Hold) -> None:
    """Has a run show no further sign of life, as if its process slept."""
    hold._state().show(-1)
    until(lambda: hold._state()._thread is None)
    hold._state()._shown = 1


def everything(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refused(hold: Hold) -> str:
    """The messages for a run that may not have an output."""
    with pytest.raises(SettingsError) as error:
        hold.acquire()
    assert error.value.code is ErrorCode.OUTPUT_HELD
    return error.value.message


class Elsewhere:
    """A process of its own that has a hold, and writes a file at a word.

    Args:
        folder: for what it says and is told; `worker` joins the hold, and `late` does not before
            it writes.
        hold: that any other takes.
    """

    def __init__(self, folder: Path, hold: Hold) -> None:
        folder.mkdir()
        self._folder = folder
        self.process = processes.Process(target=_write_at_a_word, args=(folder, hold))
        self.process.start()
        until((folder / "begun").exists)

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def write(self) -> str:
        """Returns the outcome."""
        (self._folder / "word").touch()
        self.process.join(PATIENCE)
        return (self._folder / "end").read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def _write_at_a_word(folder: Path, hold: Hold) -> None:
    with contextlib.ExitStack() as stack:
        if folder.name == "worker":
            stack.enter_context(hold.shown())
            hold.check()
        elif folder.name != "late":
            hold.acquire()
        (folder / "begun").touch()
        until((folder / "word").exists)
        try:
            DatasetFolder(hold.root, hold).write(f"{hold.root}/written", b"by another process")
            end = "written"
        except HoldLostError as error:
            end = str(error)
    (folder / "end").write_text(end)
