"""Files below a local folder, whatever links lead where."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_files import as_ordinary_user, make_files, names

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.discovery import list_images
from beam_upscale.storage import files


def test_a_folder_is_descended_into_whatever_its_name(tmp_path: Path) -> None:
    make_files(tmp_path, "a.png", "sub/b.png", "folder.png/c.png")

    assert names(tmp_path) == ["a.png", "folder.png/c.png", "sub/b.png"]
    assert names(f"{tmp_path}/") == names(tmp_path)
    assert names(f"file://{tmp_path}") == names(tmp_path)


def test_hidden_names_are_left_out_below_a_folder(tmp_path: Path) -> None:
    make_files(tmp_path, ".hidden.png", ".thumbnails/a.png", "b.png")

    assert names(tmp_path) == ["b.png"]
    assert names(tmp_path / "**") == ["b.png"]
    assert names(tmp_path / ".hidden.png") == [".hidden.png"]
    assert names(tmp_path / ".thumbnails") == ["a.png"]


def test_a_name_with_wildcards_means_the_file_where_there_is_one(tmp_path: Path) -> None:
    make_files(tmp_path, "[a].png", "a.png")

    assert names(tmp_path / "[a].png") == ["[a].png"]


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert names(tmp_path) == []
    assert names(tmp_path / "none") == []


def test_loops_of_links_end(tmp_path: Path) -> None:
    make_files(tmp_path, "sub/a.png")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "itself.png").symlink_to("itself.png")

    assert names(tmp_path) == ["itself.png", "sub/a.png"]


def test_a_linked_folder_is_descended_into(tmp_path: Path) -> None:
    make_files(tmp_path, "elsewhere/a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")

    assert names(tmp_path / "in") == ["link/a.png"]


@pytest.mark.parametrize("below", ["", "/*", "/**", "/**/*.png"])
def test_folders_that_link_to_each_other_are_listed_once(tmp_path: Path, below: str) -> None:
    for number in range(7):
        make_files(tmp_path, f"{number}/x.png")
        for other in set(range(7)) - {number}:
            (tmp_path / f"{number}/to-{other}").symlink_to(tmp_path / f"{other}")
        (tmp_path / f"{number}/up").symlink_to("..")
        (tmp_path / f"{number}/here").symlink_to(".")

    assert names(f"{tmp_path}{below}") == [f"{number}/x.png" for number in range(7)]


def test_of_several_names_of_a_folder_the_one_with_the_fewest_links_wins_and_then_the_first(
    tmp_path: Path,
) -> None:
    make_files(tmp_path, "in/z/a.png", "far/b.png", "far/more/c.png", "further/d.png")
    links = {
        "in/a": "z",  # A link to a folder that is there without one.
        "in/two": "../far",
        "in/one": "../far",
        "in/three": "../far/more",  # Below another link, too.
        "far/on": "../further",  # By two links,
        "in/zz": "../further",  # and by one.
    }
    for order in (links, reversed(links)):
        for link in order:
            (tmp_path / link).unlink(missing_ok=True)
            (tmp_path / link).symlink_to(links[link])

        assert names(tmp_path / "in") == ["one/b.png", "one/more/c.png", "z/a.png", "zz/d.png"]


def test_a_glob_names_a_folder_by_a_link_that_it_matches(tmp_path: Path) -> None:
    make_files(tmp_path, "in/real/a.png")
    (tmp_path / "in/link").symlink_to("real")

    assert names(tmp_path / "in/l*/*.png") == ["link/a.png"]
    assert names(tmp_path / "in/**/link/*.png") == ["link/a.png"]
    assert names(tmp_path / "in/*/*.png") == ["real/a.png"]


@pytest.fixture
def deep_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with an image below 1,200 more; what makes and removes files by recursion cannot."""
    root, here = tmp_path / "deep", os.open(".", os.O_RDONLY)
    try:
        for part in [root, *["a"] * 1200]:
            os.mkdir(part)  # noqa: PTH102
            os.chdir(part)
        Path("x.png").touch()
        yield root
        Path("x.png").unlink()
        for part in [*["a"] * 1200, root]:
            os.chdir("..")
            os.rmdir(part)  # noqa: PTH106
    finally:
        os.chdir(here)
        os.close(here)


@pytest.mark.parametrize("below", ["", "/**/*.png"])
def test_folders_are_listed_however_deep(deep_folder: Path, below: str) -> None:
    (image,) = list_images(f"{deep_folder}{below}").images

    assert image.uri == f"{deep_folder}/{'a/' * 1200}x.png"
    assert len(image.output_name) < 700


def test_a_folder_that_goes_while_it_is_listed_is_an_entry_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_files(tmp_path, "a/1.png", "b/2.png", "b/3.png")

    class Failing:
        """A folder whose disk fails behind its first name."""

        def __init__(self, path: str) -> None:
            self._children = scandir(path)
            self._is_whole = not path.endswith("b")

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            for number, child in enumerate(self._children):
                if number and not self._is_whole:
                    raise OSError("stale file handle")
                yield child

        def __exit__(self, *_: object) -> None:
            self._children.close()

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Failing)

    found = {entry.name: entry.is_folder for entry in files.list_files(str(tmp_path))}

    assert found.pop("b") is True
    assert len(found) == 2 and not any(found.values())


def test_a_link_to_nothing_is_listed_for_its_reader_to_say(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")

    (entry,) = files.list_files(str(tmp_path))
    with pytest.raises(ImageError) as caught:
        files.read(entry.uri)

    assert entry.name == "gone.png"
    assert caught.value.code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("pattern", ["", "/private", "/private/a.png", "/*/a.png"])
def test_what_may_not_be_listed_is_an_entry_of_its_own(open_folder: Path, pattern: str) -> None:
    make_files(open_folder, "private/a.png")
    (open_folder / "private").chmod(0o000)
    (open_folder / "link.png").symlink_to(open_folder / "private" / "a.png")

    with as_ordinary_user():
        found = {
            entry.name: _code_of(lambda entry=entry: files.read(entry.uri))
            for entry in files.list_files(f"{open_folder}{pattern}")
        }

    assert found
    assert set(found.values()) == {ErrorCode.PERMISSION_DENIED}


def _code_of(read: Callable[[], object]) -> ErrorCode | None:
    try:
        read()
    except ImageError as error:
        return error.code
    return None
