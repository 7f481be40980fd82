import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory_hdfs import OPTIONS, HdfsError, MemoryHdfs, hdfs
from PIL import Image
from runs import tree, upscale

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage import files
from beam_upscale.storage.beam.hdfs import STORE
from beam_upscale.storage.protocol.store import FileEntry

PARTIAL = "hdfs://out/.staging/partial"


@pytest.fixture(autouse=True)
def stored() -> Iterator[dict[str, bytes]]:
    """What is stored on HDFS, by path."""
    with hdfs() as held:
        yield held


# One file


def test_a_file_is_replaced_in_one_step(
    stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    files.write("hdfs://out/images/a.png", b"old", PARTIAL)
    monkeypatch.setattr(
        MemoryHdfs, "step", lambda *_: seen.append(files.read("hdfs://out/images/a.png"))
    )

    files.write("hdfs://out/images/a.png", b"new", PARTIAL)

    assert set(seen) == {b"old", b"new"}
    assert stored == {"/out/images/a.png": b"new"}


def test_what_is_half_written_lies_in_the_folder_for_it(
    stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str) -> None:
        raise OSError("the network is gone")

    monkeypatch.setattr(MemoryHdfs, "step", fail)

    with pytest.raises(OSError, match="the network is gone"):
        files.write("hdfs://out/images/a.png", b"new", PARTIAL)

    assert {path.rpartition("/")[0]: data for path, data in stored.items()} == {
        "/out/.staging/partial": b"n"
    }


def test_a_file_without_a_folder_for_it_is_hidden_beside_its_name(
    stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    monkeypatch.setattr(MemoryHdfs, "step", lambda *_: names.append(sorted(stored)))

    files.write("hdfs://weights/w.safetensors", b"data")

    assert names[0][0].startswith("/weights/.")
    assert list(files.list_files("hdfs://weights")) == [
        FileEntry("hdfs://weights/w.safetensors", "w.safetensors")
    ]


def test_a_server_that_does_not_replace_files_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MemoryHdfs, "replaces", False)
    files.write("hdfs://out/run.json", b"old", PARTIAL)

    with pytest.raises(OSError, match="does not rename onto a file"):
        files.write("hdfs://out/run.json", b"new", PARTIAL)

    assert files.read("hdfs://out/run.json") == b"old"


def test_a_replaced_file_of_the_same_size_has_another_version() -> None:
    files.write("hdfs://in/a.png", b"one")
    before = files.version("hdfs://in/a.png")
    files.write("hdfs://in/a.png", b"two")

    assert files.version("hdfs://in/a.png") != before
    assert files.version("hdfs://in/none.png") == ()


def test_a_folder_is_no_file(stored: dict[str, bytes]) -> None:
    stored["/in/a.png"] = b"data"

    assert files.exists("hdfs://in/a.png")
    assert files.size("hdfs://in/a.png") == 4
    assert not files.exists("hdfs://in")
    assert not files.exists("hdfs://in/none.png")
    assert files.size("hdfs://in/none.png") is None


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("FileNotFoundException", ErrorCode.NOT_FOUND),
        ("AccessControlException", ErrorCode.PERMISSION_DENIED),
        ("StandbyException", ErrorCode.READ_ERROR),
    ],
)
def test_what_a_server_says_of_a_file_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, code: ErrorCode
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HdfsError("the server's words", name)

    monkeypatch.setattr(MemoryHdfs, "status", refuse)

    with pytest.raises(ImageError) as caught:
        files.read("hdfs://in/a.png")

    assert caught.value.code is code


@pytest.mark.parametrize("name", ["AccessControlException", "RetriableException", None])
def test_a_server_that_does_not_answer_has_lost_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HdfsError("the server's words", name)

    monkeypatch.setattr(MemoryHdfs, "status", refuse)
    monkeypatch.setattr(MemoryHdfs, "_list_status", refuse)

    for ask in (
        files.exists,
        files.size,
        lambda uri: list(files.list_below(uri)),
    ):
        with pytest.raises(Exception, match=r"the server's words|may not be read by this user"):
            ask("hdfs://out/manifest")


def test_paths_begin_as_asked_for(stored: dict[str, bytes]) -> None:
    stored.update({"/in/photos/a.png": b"", "/in/pho.png": b"", "/in/x/photos/b.png": b""})

    assert set(STORE.uris_below("hdfs://in/pho")) == {
        "hdfs://in/photos/a.png",
        "hdfs://in/pho.png",
    }
    assert set(STORE.uris_below("hdfs://in/")) == {f"hdfs:/{path}" for path in stored}
    assert list(STORE.uris_below("hdfs://in/pho.png/")) == []


# A run


class GoneError(Exception):
    """The process was killed: nothing of it reaches HDFS any more."""


@dataclasses.dataclass
class Death:
    """When a process is gone for HDFS.

    Attributes:
        is_due: tells by the number of changes so far, what the next one is, and its path.
        changes: so far.
        has_come: whether it is gone.
    """

    is_due: Callable[[int, str, str], bool]
    changes: int = 0
    has_come: bool = False

    def step(self, what: str, path: str) -> None:
        self.has_come = self.has_come or self.is_due(self.changes, what, path)
        if self.has_come:
            raise GoneError
        self.changes += 1


class Runs:
    """Runs of three small images into `hdfs://out`, of which one is changed, and one is added."""

    def __init__(self, folder: Path, weights: Path, photograph: Callable[..., Image.Image]) -> None:
        self.inputs = folder / "in"
        self.inputs.mkdir()
        self._weights = weights
        self._photograph = photograph
        for number in range(3):
            photograph(number, 12 + number, 10).save(self.inputs / f"{number}.png")

    def change(self) -> None:
        """A shard that is committed is to be replaced."""
        self._photograph(7, 14, 9).save(self.inputs / "0.png")
        self._photograph(8, 13, 9).save(self.inputs / "3.png")

    def run(self, output: str = "hdfs://out") -> None:
        options = {"shard_rows": 2, "beam_options": OPTIONS, "lease_seconds": 0.5}
        upscale(self.inputs, output, self._weights, **options)

    def killed_run(self, is_due: Callable[[int, str, str], bool]) -> Death:
        """A run that may be killed before its end."""
        death = Death(is_due)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryHdfs, "step", death.step)
            with contextlib.suppress(Exception):
                self.run()
        return death


@pytest.fixture
def runs_of_three(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> Runs:
    return Runs(tmp_path, tiny_weights, photograph)


def without_telemetry(stored: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in stored.items() if "/telemetry/" not in path}


def assert_all_is_readable(shards: list[int]) -> None:
    dataset = DatasetFolder("hdfs://out")
    assert dataset.read_run() is not None
    assert set(shards) <= set(dataset.committed_shards())
    assert all(dataset.read_manifest(shard) for shard in dataset.committed_shards())
    assert all(record.row.input_id for record in dataset.read_records())


def test_a_run_leaves_what_a_local_one_does(
    stored: dict[str, bytes], tmp_path: Path, runs_of_three: Runs
) -> None:
    runs_of_three.run(str(tmp_path / "out"))

    runs_of_three.run()

    found = without_telemetry(stored)
    assert {path: hashlib.sha256(data).hexdigest() for path, data in found.items()} == {
        f"/out/{name}": digest for name, digest in tree(tmp_path / "out").items()
    }
    assert list(verify("hdfs://out")) == []


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("run.json", "rename"),
        ("manifest/000000.parquet", "rename"),
        ("manifest/000000.parquet", "renamed"),
    ],
)
def test_a_kill_while_a_file_is_replaced_leaves_one_of_the_two(
    stored: dict[str, bytes], runs_of_three: Runs, path: str, what: str
) -> None:
    runs_of_three.run()
    old = stored[f"/out/{path}"]
    runs_of_three.change()

    death = runs_of_three.killed_run(lambda _, *step: step == (what, f"/out/{path}"))

    assert death.has_come
    assert (stored[f"/out/{path}"] == old) == (what == "rename")
    assert_all_is_readable([0, 1])
    runs_of_three.run()
    assert list(verify("hdfs://out")) == []
    assert not any(".staging" in name for name in stored)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_all_along_a_run_cost_nothing(stored: dict[str, bytes], runs_of_three: Runs) -> None:
    runs_of_three.run()
    runs_of_three.change()
    begun = dict(stored)
    runs_of_three.run()
    whole = without_telemetry(stored)
    kills = number = 0

    def is_due(count: int, what: str, _: str) -> bool:
        # Half of a file is written then, and the one before it is in place.
        return count >= number and what in ("write", "delete")

    while True:
        stored.clear()
        stored.update(begun)
        death = runs_of_three.killed_run(is_due)
        if not death.has_come:
            break
        assert_all_is_readable([0, 1])
        runs_of_three.run()
        assert without_telemetry(stored) == whole
        # Each single one takes minutes.
        kills, number = kills + 1, death.changes + 3

    assert kills > 5
