"""Disks that fill in mid-run: one line, nothing half-written, and the same command goes on."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory_filesystem import MemoryFileSystem
from PIL import Image
from runs import Finished, command, command_elsewhere, quick, tree, upscale

from beam_upscale import storage
from beam_upscale.verify import verify

IMAGES = 10
SHARD_ROWS = 4

# Of what a run on these images needs, files and their names: some, and more than all.
SMALL, LARGE = "160k", "8m"


class Disk:
    """A small disk of its own; in memory, mounted for a test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._mount("-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs")

    def grow(self) -> None:
        """Gives it more space."""
        self._mount("-o", f"remount,size={LARGE}")

    def free(self) -> int:
        """Bytes that are left."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def _mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, self.folder], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk that a run on the inputs fills."""
    try:
        made = Disk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
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
    assert "No space left on device" in said
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
    records = len(list(output.glob(".staging/records/*/*.json")))
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
    monkeypatch.setattr(storage, "_BYTES_IN_MEMORY", 10_000)
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
