"""Disks that fill in mid-run: one line, nothing half-written, and the same command goes on."""

import contextlib
import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from memory_filesystem import MemoryFileSystem
from PIL import Image
from runs import Finished, command, command_elsewhere, quick, recorded, tree, upscale

from beam_upscale.dataset.verify import verify
from beam_upscale.storage.protocol import remote_store

IMAGES = 10
SHARD_ROWS = 4

# Of what a run on these images needs, files and their names: some, and more than all.
SMALL, LARGE = "160k", "8m"


class Disk:
    """A small disk of its own; in memory, mounted for a test.

    Args:
        folder: where it is mounted.
        unshare: words before a command that give it mounts of its own, which others reach through
            its process; none where this user may mount.

    Raises:
        OSError: it cannot be mounted.
    """

    def __init__(self, folder: Path, unshare: Sequence[str]) -> None:
        folder.mkdir(exist_ok=True)
        self._mounted = folder
        # Mounts of its own are there as long as it is.
        self._shell = subprocess.Popen(
            [*unshare, "sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.folder = Path(f"/proc/{self._shell.pid}/root{folder}") if unshare else folder
        try:
            self._do(f"mount -t tmpfs -o size={SMALL} tmpfs")
        except OSError:
            self._end()
            raise

    def grow(self) -> None:
        """Gives it more space."""
        self._do(f"mount -o remount,size={LARGE}")

    def free(self) -> int:
        """Bytes that are left."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def unmount(self) -> None:
        self._do("umount --lazy")
        self._end()

    def _do(self, command: str) -> None:
        assert self._shell.stdin is not None and self._shell.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # Its output says why it ended.
            self._shell.stdin.write(f"{command} {shlex.quote(str(self._mounted))}; echo $?\n")
            self._shell.stdin.flush()
        said = ""
        while (line := self._shell.stdout.readline()) and not line.strip().isdigit():
            said += line
        if line.strip() != "0":
            raise OSError(f"{command}: {said.strip()}")

    def _end(self) -> None:
        self._shell.communicate()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk that a run on the inputs fills."""
    made: Disk | None = None
    reasons: list[str] = []
    for unshare in ([], ["unshare", "--user", "--map-root-user", "--mount"]):
        try:
            made = Disk(tmp_path / "disk", unshare)
            break
        except OSError as error:
            reasons.append(str(error))
    if made is None:
        give_up = pytest.fail if os.environ.get("NOTHING_SKIPPED") else pytest.skip
        give_up(f"no disk can be mounted here: {'; '.join(reasons)}")
    yield made
    made.unmount()


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Pictures whose results take some 20 KB each."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(IMAGES):
        photograph(number, 50 + number, 60).save(folder / f"{number}.png")
    return folder


def assert_stopped_for_space(finished: Finished) -> None:
    assert finished.code == 1, finished
    assert "Traceback" not in finished.out + finished.err
    [said] = [line for line in finished.err.splitlines() if line.startswith("beam-upscale: ")]
    assert "disk_full: the disk is full" in said
    assert "the same command without --overwrite goes on" in said


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_output_that_fills_stops_the_run_and_the_next_goes_on(
    tmp_path: Path, inputs: Path, tiny_weights: Path, disk: Disk, layout: str
) -> None:
    whole, output = tmp_path / "whole", disk.folder / "out"
    upscale(inputs, whole, tiny_weights, layout=layout, shard_rows=SHARD_ROWS)
    arguments = [*quick(tiny_weights), "--layout", layout, "--shard-rows", str(SHARD_ROWS)]

    full = command_elsewhere(tmp_path, "run", inputs, output, *arguments)
    left = tree(output)
    again = command_elsewhere(tmp_path, "run", inputs, output, *arguments)
    disk.grow()
    records = recorded(output)
    rest = command("run", inputs, output, *arguments)

    assert_stopped_for_space(full)
    assert_stopped_for_space(again)
    assert not list(output.glob(".staging/partial/*"))
    results = {n: d for n, d in left.items() if n.startswith(("images/", "data/", "manifest/"))}
    assert results.items() <= tree(whole).items()
    assert 0 < records < IMAGES
    assert rest.code == 0, rest
    assert tree(output) == tree(whole)
    assert list(verify(str(output))) == []


def test_temporary_folder_that_fills_stops_the_run_and_the_next_goes_on(
    tmp_path: Path,
    inputs: Path,
    tiny_weights: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What goes to an object store waits there until it is whole."""
    monkeypatch.setattr(MemoryFileSystem, "files", {})
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    # As if results were larger than what waits in memory.
    monkeypatch.setattr(remote_store, "_BYTES_IN_MEMORY", 10_000)
    ballast = disk.folder / "ballast"
    ballast.write_bytes(bytes(disk.free() - 16_384))
    output, local = "mem://bucket/out", tmp_path / "local"
    upscale(inputs, local, tiny_weights)

    full = command("run", inputs, output, *quick(tiny_weights))
    left = dict(MemoryFileSystem.files)
    ballast.unlink()
    rest = command("run", inputs, output, *quick(tiny_weights))

    assert_stopped_for_space(full)
    assert [name for name in left if "/manifest/" in name] == []
    assert rest.code == 0, rest
    fetched = {
        uri.removeprefix(f"{output}/"): hashlib.sha256(data).hexdigest()
        for uri, data in MemoryFileSystem.files.items()
        if "/telemetry/" not in uri
    }
    assert fetched == tree(local)
