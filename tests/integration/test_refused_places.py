"""Files and folders that cannot be what an option says: told in plain words, before anything."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from runs import command

from beam_upscale.dataset.hold.hold import Hold, new_token
from beam_upscale.dataset.hold.owners import Kind
from beam_upscale.errors import SettingsError
from beam_upscale.storage.stores import store_of

GRPC = ("--backend=grpc", "--endpoint=127.0.0.1:1")


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A folder with an image and what is no folder, no readable file or nothing at all."""
    folder = tmp_path / "places"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "file").write_text("kept")
    (folder / "link").symlink_to(folder / "nowhere")
    (folder / "circle").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    return folder


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


NO_FOLDERS = {
    "file": "file is a file, not a folder",
    "file/out": "file is a file, not a folder",
    "link": "link is a link that leads nowhere",
    "link/out": "link is a link that leads nowhere",
    "circle": "circle is a link that leads nowhere",
    "pipe": "pipe is a file, not a folder",
    "x" * 300: "the name is too long",
    "/".join(30 * ["x" * 200]): "the name is too long",
}


@pytest.mark.parametrize("words", [["run", "a.png"], ["plan", "a.png", "--to"]])
def test_what_cannot_be_a_folder_is_no_output(places: Path, words: Sequence[str]) -> None:
    before = tree(places)
    told, command_name = NO_FOLDERS, [words[0], places / words[1], *words[2:]]

    for name, found in told.items():
        finished = command(*command_name, places / name)

        assert (finished.code, finished.out, finished.err.count("\n")) == (2, "", 1)
        assert finished.err.startswith("beam-upscale: output_unavailable: ")
        assert f"{found}; take another output" in finished.err
    assert tree(places) == before
    assert (places / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("", "it is empty"),
        ("s3:/bucket/x", "'s3:/bucket/x' has one slash; a URI has two: s3://"),
    ],
)
@pytest.mark.parametrize(
    "before",
    [
        ["plan"],
        ["run", "a.png"],
        ["verify"],
        ["plan", "a.png", "--to"],
        ["run", "a.png", "out", "--weights"],
        ["run", "a.png", "out", *GRPC, "--api-key-file"],
        ["run", "a.png", "out", *GRPC, "--ca-file"],
    ],
    ids=" ".join,
)
def test_a_place_that_can_be_none_is_a_mistake(before: list[str], place: str, found: str) -> None:
    finished = command(*before, place, *(["out"] if before == ["run"] else []))

    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert found in finished.err


NO_FILES = ["file/x", "link", "circle", "pipe", "x" * 300, "folder"]


@pytest.mark.parametrize(
    "words",
    [
        ["keys", "add", "name", "--keys"],
        ["keys", "list", "--keys"],
        ["keys", "list", "--keys", "keys", "--ledger"],
        ["serve", "--ledger", "new", "--keys"],
        ["serve", "--keys", "keys", "--ledger"],
        ["serve", "--tls-key", "file", "--tls-cert"],
        ["serve", "--tls-cert", "file", "--tls-key"],
        ["run", "a.png", "out", *GRPC, "--api-key-file"],
        ["run", "a.png", "out", *GRPC, "--ca-file"],
        ["run", "a.png", "out", "--device=cpu", "--weights"],
    ],
    ids=" ".join,
)
def test_what_is_no_file_is_told_before_networks_are_loaded(
    places: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(places)
    (places / "keys").touch()
    before = tree(places)
    # A pipe may be a key's, from a shell; a link may lead to a file that is to be made.
    made = {"--tls-cert": ["pipe"], "--tls-key": ["pipe"], "--keys": ["link"]}
    made["--ledger"] = ["link", "circle"]

    for name in NO_FILES:
        if name in made.get(words[-1], []):
            continue
        finished = command(*words, places / name)

        assert (finished.code, finished.out) == (2, "")
        assert finished.err.count("\n") == 1
        assert "[Errno" not in finished.err
        assert Path(name).parts[0][:200] in finished.err
    assert tree(places) == before


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.EACCES, "this user has no permission"),
        (errno.EROFS, "the disk is read-only"),
        (errno.ENOSPC, "the disk is full"),
    ],
)
def test_a_disk_that_takes_no_output_is_told_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, found: str
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)

    with pytest.raises(SettingsError, match=f"^output_unavailable: .* cannot be written: {found}"):
        Hold(str(tmp_path / "out"), new_token(), Kind.LOCK).acquire()


@pytest.mark.parametrize(
    ("root", "found"),
    [
        ("floppy://a/out", "cannot be written: no file system of the scheme floppy is known"),
        ("http://127.0.0.1:1/out", "is on a web server, where nothing can be written"),
    ],
)
def test_a_store_that_takes_nothing_is_no_output(root: str, found: str) -> None:
    with pytest.raises(SettingsError, match=f"^output_unavailable: {root} {found}"):
        Hold(root, new_token(), Kind.LEASE).acquire()


def test_a_folder_that_another_run_makes_meanwhile_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Path.stat

    def look_and_then_make(path: Path, **options: bool) -> os.stat_result:
        try:
            return look(path, **options)
        except FileNotFoundError:
            os.makedirs(path, exist_ok=True)  # noqa: PTH103 (it would look itself)
            raise

    monkeypatch.setattr(Path, "stat", look_and_then_make)

    store_of(f"{tmp_path}/out").check_folder(f"{tmp_path}/out")
