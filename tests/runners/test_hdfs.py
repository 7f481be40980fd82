"""Datasets on a real HDFS: the bytes of a local run, whatever is killed."""

import functools
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import clusters
import fetch
import pytest
from PIL import Image
from runs import (
    RECORD,
    command_elsewhere,
    copy,
    processes,
    quick,
    signal_after,
    tree,
    upscale,
    without_places,
)

from beam_upscale.storage import files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARD_ROWS = 4
KILLS = 5
WHOLE = {b"a" * (1 << 20), b"b" * (1 << 21)}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Beam's options for an HDFS, which this process too finds."""
    if not fetch.HDFS.exists():
        pytest.fail(f"{fetch.HDFS} is not there: run make runners")
    with clusters.hdfs(tmp_path_factory.mktemp("hdfs")) as options:
        files.configure(options)
        yield options
    files.configure(())


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Pictures in folders, names that URLs would be misread by, and files that are no pictures."""
    folder = tmp_path / "in"
    names = ["0.png", "more/1.png", "more/deep/2 #%41?&+;[3].png", "f\u00fcr \u2603.png", "4.png"]
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(number, 20 + number, 14).save(path)
    (folder / "text.jpg").write_text("not an image")
    (folder / "more" / "empty.png").write_bytes(b"")
    return folder


def test_runs_leave_what_local_ones_do(
    tmp_path: Path, options: Sequence[str], inputs: Path, tiny_weights: Path
) -> None:
    local, fetched = tmp_path / "local", tmp_path / "fetched"
    source, output = "hdfs://test/runs/in", "hdfs://test/runs/out"
    upscale(inputs, local, tiny_weights, shard_rows=SHARD_ROWS)
    files.configure(options)
    copy(str(inputs), source)
    command = functools.partial(command_elsewhere, tmp_path)
    settings = ["--shard-rows", str(SHARD_ROWS), "--", *options]
    run = functools.partial(command, "run", source, output, *quick(tiny_weights), *settings)

    killed = run(prepare=functools.partial(signal_after, RECORD, 3))
    left = [entry.name for entry in files.list_below(output)]
    finished = run()
    versions = results(output)
    again = run()
    verified = command("verify", output, "--", *options)
    copy(output, str(fetched))

    assert killed.code == -signal.SIGKILL, killed
    assert [name for name in left if name.startswith(("data/", "manifest/"))] == []
    assert len([name for name in left if name.startswith(".staging/groups/")]) == 3
    assert (finished.code, again.code, verified.code) == (0, 0, 0), (finished, again, verified)
    assert results(output) == versions
    assert without_places(fetched) == without_places(local)
    images = {name: digest for name, digest in tree(local).items() if name.startswith("images/")}
    assert images.items() <= tree(fetched).items()
    assert images
    assert not (fetched / ".staging").exists()


def results(output: str) -> dict[str, tuple[object, ...]]:
    """The versions of all that a run without news is not to write."""
    return {
        entry.name: files.version(entry.uri)
        for entry in files.list_below(output)
        if entry.name.startswith(("images/", "data/", "manifest/"))
    }


def replace_without_end(uri: str, options: Sequence[str]) -> None:
    """Writes one file after the other under one name."""
    files.configure(options)
    for data in itertools.cycle(sorted(WHOLE)):
        files.write(uri, data, "hdfs://test/partial")


def test_a_file_that_is_replaced_is_there_at_every_moment(options: Sequence[str]) -> None:
    uri = "hdfs://test/replaced/run.json"
    files.write(uri, min(WHOLE))
    seen, is_over = [], threading.Event()

    def look() -> None:
        while not is_over.is_set():
            names = [entry.name for entry in files.list_below("hdfs://test/replaced")]
            seen.append(files.exists(uri) and names == ["run.json"])

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(KILLS):
            writer = processes.Process(target=replace_without_end, args=(uri, options))
            writer.start()
            before = files.version(uri)
            wait_until(lambda before=before: files.version(uri) != before)
            time.sleep(0.01)
            writer.kill()
            writer.join()
            assert files.read(uri) in WHOLE
    finally:
        is_over.set()
        looker.join()
    assert set(seen) == {True}
    files.delete("hdfs://test/partial")
    assert list(files.list_below("hdfs://test/partial")) == []


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
