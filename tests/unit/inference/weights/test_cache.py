import hashlib
import io
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from weight_files import files_in, write_files

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.weights import digest
from beam_upscale.inference.weights.cache import cache_directory, store, store_folder

CONTENT = os.urandom(200_000)
CONTENT_SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Source:
    """A folder whose files are opened by name, and counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[str] = []

    def __call__(self, name: str) -> BinaryIO:
        self.opened.append(name)
        return (self.folder / name).open("rb")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    files = {
        "model_index.json": b"{}",
        "unet/config.json": b"{}",
        "unet/model.safetensors": CONTENT,
    }
    return Source(write_files(tmp_path / "source", files))


def test_stored_weights_are_copied_once(cache: Path) -> None:
    opened = []

    def open_source() -> io.BytesIO:
        opened.append(True)
        return io.BytesIO(CONTENT)

    first = store(CONTENT_SHA256, ".pth", open_source)
    second = store(CONTENT_SHA256, ".pth", open_source)

    assert first == second == cache / f"{CONTENT_SHA256}.pth"
    assert first.read_bytes() == CONTENT
    assert len(opened) == 1


def test_storing_another_file_is_a_mismatch(cache: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        store(CONTENT_SHA256, ".pth", lambda: io.BytesIO(b"another"))

    assert caught.value.code is ErrorCode.WEIGHTS_MISMATCH
    assert files_in(cache) == set()


def test_storing_what_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        store(CONTENT_SHA256, ".pth", lambda: (tmp_path / "absent").open("rb"))

    assert caught.value.code is ErrorCode.WEIGHTS_UNAVAILABLE


def store_all(source: Source) -> Path:
    names = digest.files_of(source.folder)
    return store_folder(digest.sha256_of(source.folder), names, source)


def test_a_stored_folder_is_copied_once(source: Source, cache: Path) -> None:
    first = store_all(source)
    second = store_all(source)

    assert first == second == cache / digest.sha256_of(source.folder)
    assert digest.sha256_of(first) == digest.sha256_of(source.folder)
    assert (first / "unet" / "model.safetensors").read_bytes() == CONTENT
    assert source.opened == ["model_index.json", "unet/config.json", "unet/model.safetensors"]
    assert files_in(cache) == {first.name}


def change_a_file(folder: Path) -> None:
    (folder / "unet" / "config.json").write_bytes(b"[]")


def remove_a_file(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()


def add_a_file(folder: Path) -> None:
    (folder / "unet" / "more.json").write_bytes(b"{}")


def remove_all_files(folder: Path) -> None:
    for name in digest.files_of(folder):
        (folder / name).unlink()


def put_a_file_in_its_place(folder: Path) -> None:
    remove_all_files(folder)
    (folder / "unet").rmdir()
    folder.rmdir()
    folder.write_bytes(CONTENT)


@pytest.mark.parametrize(
    "damage",
    [change_a_file, remove_a_file, add_a_file, remove_all_files, put_a_file_in_its_place],
)
def test_a_damaged_folder_is_noticed_and_made_again(
    source: Source, cache: Path, damage: Callable[[Path], None]
) -> None:
    stored = store_all(source)
    damage(stored)

    assert store_all(source) == stored

    assert digest.sha256_of(stored) == digest.sha256_of(source.folder)
    assert len(source.opened) == 6
    assert files_in(cache) == {stored.name}


def test_storing_another_folder_is_a_mismatch(source: Source, cache: Path) -> None:
    names = digest.files_of(source.folder)[1:]

    with pytest.raises(SettingsError) as caught:
        store_folder(digest.sha256_of(source.folder), names, source)

    assert caught.value.code is ErrorCode.WEIGHTS_MISMATCH
    assert files_in(cache) == set()


def test_storing_a_folder_of_which_a_file_cannot_be_opened_leaves_nothing(
    source: Source, cache: Path
) -> None:
    names = [*digest.files_of(source.folder), "unet/absent.json"]

    with pytest.raises(SettingsError) as caught:
        store_folder("0" * 64, names, source)

    assert caught.value.code is ErrorCode.WEIGHTS_UNAVAILABLE
    assert "absent.json" in caught.value.message
    assert files_in(cache) == set()


@pytest.mark.parametrize(
    "name", ["../evil", "unet/../../evil", "/etc/evil", "", "unet//evil", "./evil", ".hidden"]
)
def test_names_that_leave_the_folder_or_hide_are_refused(
    source: Source, cache: Path, name: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        store_folder("0" * 64, ["model_index.json", name], source)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE
    assert repr(name) in caught.value.message
    assert source.opened == []
    assert not cache.exists()


def test_storing_a_folder_without_files_is_refused(source: Source, cache: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        store_folder("0" * 64, [], source)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE
    assert files_in(cache) == set()


def test_what_a_killed_process_left_is_removed_with_the_next_making(
    source: Source, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        # As if nothing ran after the copy: what is left is under the name that it has.
        context.setattr("beam_upscale.inference.weights.cache._remove", lambda path: None)
        with pytest.raises(SettingsError):
            store_folder("0" * 64, digest.files_of(source.folder), source)
        with pytest.raises(SettingsError):
            store_folder("1" * 64, digest.files_of(source.folder), source)
    left = files_in(cache)
    assert len(left) == 2

    with pytest.raises(SettingsError):
        store_folder("0" * 64, digest.files_of(source.folder), source)

    # Another target's may be in the making.
    (kept,) = files_in(cache)
    assert kept in left
    assert "1" * 64 in kept


def store_and_note(folder: Path, notes: Path) -> None:
    source = Source(folder)
    store_all(source)
    (notes / str(os.getpid())).write_text(str(len(source.opened)))


def test_processes_at_once_copy_a_folder_once(source: Source, tmp_path: Path, cache: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=store_and_note, args=(source.folder, notes)) for _ in range(3)
    ]

    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(note.read_text() for note in notes.iterdir()) == ["0", "0", "3"]
    assert files_in(cache) == {digest.sha256_of(source.folder)}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BEAM_UPSCALE_CACHE": "/mine"}, "/mine"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/beam-upscale"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/a"}, "/home/a/.cache/beam-upscale"),
        ({"HOME": "/home/a"}, "/home/a/.cache/beam-upscale"),
    ],
)
def test_cache_directory_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.delenv("BEAM_UPSCALE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert cache_directory() == Path(expected)
