import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weight_files import write_files

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.weights import digest
from beam_upscale.inference.weights.digest import files_of, folder_sha256, sha256_of


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")

    assert sha256_of(path) == sha256(b"weights")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SHA-256 that were computed from a file's bytes, in order."""
    found: list[str] = []

    def compute(*arguments: Any) -> Any:
        computed = plain_digest(*arguments)
        found.append(computed.hexdigest())
        return computed

    plain_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", compute)
    return found


def test_a_file_is_read_once(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_SECONDS_UNTIL_SETTLED", 0.0)
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")

    assert sha256_of(path) == sha256_of(path) == sha256(b"weights")
    assert len(reads) == 1

    before = path.stat()
    path.write_bytes(b"changed")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))

    assert sha256_of(path) == sha256(b"changed")


def test_a_file_that_was_written_just_now_is_read_again(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_SECONDS_UNTIL_SETTLED", 60.0)
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")

    assert sha256_of(path) == sha256_of(path)
    assert len(reads) == 2


def test_the_sha256_of_a_folder_is_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    write_files(tmp_path, {"unet/b": b"2", "unet.txt": b"3", "a": b"1"})

    # Sorted by bytes, "." comes before "/".
    lines = f"{sha256(b'1')}  a\n{sha256(b'3')}  unet.txt\n{sha256(b'2')}  unet/b\n"

    assert sha256_of(tmp_path) == sha256(lines.encode())


def test_any_change_of_a_folder_changes_its_sha256(tmp_path: Path) -> None:
    files = {"a": b"1", "b/c": b"2"}
    changed = [
        {"a": b"1", "b/c": b"3"},
        {"a": b"2", "b/c": b"1"},
        {"a": b"1", "b/d": b"2"},
        {"a": b"1", "c": b"2"},
        {"a": b"1"},
        {"a": b"1", "b/c": b"2", "d": b""},
    ]

    folders = [write_files(tmp_path / str(i), each) for i, each in enumerate([files, *changed])]

    assert len({sha256_of(folder) for folder in folders}) == len(folders)


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    plain = write_files(tmp_path / "plain", {"a": b"1", "unet/b": b"2"})
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(plain / "a")
    (linked / "unet").symlink_to(plain / "unet", target_is_directory=True)

    assert files_of(linked) == ["a", "unet/b"]
    assert sha256_of(linked) == sha256_of(plain)


def test_hidden_files_and_folders_do_not_count(tmp_path: Path) -> None:
    plain = write_files(tmp_path / "plain", {"a": b"1"})
    # A hidden folder above says nothing.
    notes = {"a": b"1", ".gitattributes": b"2", ".cache/huggingface/a.metadata": b"3"}
    downloaded = write_files(tmp_path / ".downloads" / "weights", notes)

    assert files_of(downloaded) == ["a"]
    assert sha256_of(downloaded) == sha256_of(plain)


def test_a_link_back_to_a_folder_above_ends(tmp_path: Path) -> None:
    write_files(tmp_path, {"unet/a": b"1"})
    (tmp_path / "unet" / "back").symlink_to(tmp_path, target_is_directory=True)

    assert files_of(tmp_path) == ["unet/a"]


def test_a_link_that_leads_nowhere_is_not_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1"})
    (tmp_path / "b").symlink_to(tmp_path / "gone")

    with pytest.raises(FileNotFoundError):
        sha256_of(tmp_path)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {".gitattributes": b"1"})
    (tmp_path / "unet").mkdir()

    with pytest.raises(SettingsError) as caught:
        sha256_of(tmp_path)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE
    assert str(tmp_path) in caught.value.message


def test_names_that_are_not_utf8_have_a_sha256(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.json")
    try:
        (tmp_path / name).write_bytes(b"1")
    except OSError:
        pytest.skip("this file system takes no such names")

    assert sha256_of(tmp_path) == sha256(sha256(b"1").encode() + b"  \xff.json\n")


@given(st.dictionaries(st.text("ab/.é", min_size=1), st.binary(), min_size=1))
def test_the_order_of_files_does_not_matter(files: dict[str, bytes]) -> None:
    hashes = {name: sha256(content) for name, content in files.items()}

    assert folder_sha256(hashes) == folder_sha256(dict(reversed(hashes.items())))
