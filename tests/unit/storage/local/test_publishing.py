"""Files that appear on a local disk whole, or not at all."""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_files import make_files, names

from beam_upscale.storage import files
from beam_upscale.storage.local import publishing


def test_publishing_makes_the_folders_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"

    files.write(str(path), b"one")
    files.write(str(path), b"two")

    assert path.read_bytes() == b"two"
    assert [each.name for each in path.parent.iterdir()] == ["a.bin"]


def test_what_a_killed_writer_leaves_lies_in_the_folder_for_it(tmp_path: Path) -> None:
    uri, partial = str(tmp_path / "out" / "a.bin"), tmp_path / "partial"

    with files.publish(uri, str(partial)) as file:
        file.write(b"data")
        assert len(list(partial.iterdir())) == 1
        assert list((tmp_path / "out").iterdir()) == []

    assert list(partial.iterdir()) == []


def test_deleting_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    make_files(tmp_path, "kept/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "kept")

    files.delete(str(tmp_path / "link"))

    assert names(tmp_path) == ["kept/a.png"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_is_created_is_durable_with_its_name(
    tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", fsync)
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "new/a"

    assert files.create(str(path), b"first", str(tmp_path / "partial"))
    assert not files.create(str(path), b"second", str(tmp_path / "partial"))

    assert path.read_bytes() == b"first"
    assert {path.stat().st_ino, path.parent.stat().st_ino, tmp_path.stat().st_ino} <= synced
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_file_that_could_not_be_written_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space"):
        publishing._create_without_links(tmp_path / "a", b"first")

    assert list(tmp_path.iterdir()) == []


def test_files_of_a_group_are_durable_with_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        steps.append(f"sync {os.fstat(descriptor).st_ino}")
        sync(descriptor)

    def rename(name: str, path: str) -> None:
        replace(name, path)
        steps.append("rename")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    paths = [tmp_path / "out" / name for name in ("a", "b", "new/folder/c", "new/folder/d")]
    (tmp_path / "out").mkdir()

    contents = [(str(path), path.name.encode()) for path in paths]
    files.publish_all(contents, str(tmp_path / "partial"))

    assert [path.read_bytes() for path in paths] == [b"a", b"b", b"c", b"d"]
    assert steps[:4] == [f"sync {path.stat().st_ino}" for path in paths]
    assert steps[4:8] == ["rename"] * 4
    folders = {path.parent for path in paths} | {tmp_path / "out" / "new"}
    assert sorted(steps[8:]) == sorted(f"sync {each.stat().st_ino}" for each in folders)
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_group_of_one_file_is_durable_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "out" / "a"

    files.publish_all([(str(path), b"a")], str(tmp_path / "partial"))

    assert path.read_bytes() == b"a"
    assert synced[0] == path.stat().st_ino
    assert set(synced[1:]) == {path.parent.stat().st_ino, tmp_path.stat().st_ino}


def test_a_group_is_durable_where_the_kernel_takes_no_hints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    publishing._begin_to_store.cache_clear()
    contents = [(str(tmp_path / name), name.encode()) for name in "ab"]

    files.publish_all(contents, str(tmp_path / "partial"))
    publishing._begin_to_store.cache_clear()

    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"a", b"b"]


def test_a_group_that_cannot_be_written_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    contents = [(str(tmp_path / "out" / name), b"data") for name in "abc"]

    with pytest.raises(OSError, match="No space"):
        files.publish_all(contents, str(tmp_path / "partial"))

    assert names(tmp_path) == []


@pytest.mark.parametrize("refused", [1, 2])
def test_a_group_whose_guard_refuses_is_not_there(tmp_path: Path, refused: int) -> None:
    asked = []

    @contextlib.contextmanager
    def guard() -> Iterator[None]:
        asked.append(True)
        if len(asked) == refused:
            raise PermissionError
        yield

    contents = [(str(tmp_path / "out" / name), b"data") for name in "abc"]

    with pytest.raises(PermissionError):
        files.publish_all(contents, str(tmp_path / "partial"), guard)

    assert names(tmp_path) == []
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "partial").exists() == (refused == 2)
