"""Inputs of tars, and the rows of those that cannot be used."""

import json
from pathlib import Path

import pytest
from memory_filesystem import MemoryFileSystem
from tar_files import END, member, tar, write_tar
from tar_listings import GOOD, contents, listed

from beam_upscale.errors import ErrorCode
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.formats.webdataset import read_tar
from beam_upscale.sources.inputs.found_inputs import Listing
from beam_upscale.sources.locations import reading
from beam_upscale.sources.locations.file_parts import Missing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shard.tar"


# What members are


def test_members_of_one_key_are_one_input(path: Path) -> None:
    write_tar(
        path,
        {
            "a/1.jpg": b"first",
            "a/1.json": json.dumps({"label": 7, "prompt": "a cat"}).encode(),
            "a/1.txt": b"a caption",
            "a/1.cls": b"7",
            "2.caption": b"alone",
            "3.caption": b"three",
            "3.png": b"third",
            "README": b"none",
        },
    )

    listing = read_tar(str(path))
    one, three = listing.inputs

    assert contents(listing, path) == {"a/1.jpg": b"first", "3.png": b"third"}
    assert one.columns == {"label": 7, "prompt": "a cat"}
    assert one.caption is not None
    assert reading.read(str(path), one.caption, 100) == b"a caption"
    assert three.caption is not None
    assert reading.read(str(path), three.caption, 100) == b"three"
    assert listing.ignored == 3


@pytest.mark.parametrize(
    ("names", "image"),
    [
        (["k.png", "k.jpg"], "k.jpg"),
        (["k.webp", "k.png"], "k.png"),
        (["k.mask.jpg", "k.png"], "k.png"),
        (["k.mask.png", "k.depth.jpg"], "k.depth.jpg"),
        (["k.gif", "k.JPEG"], "k.JPEG"),
        (["./k.npy", "./k.png"], "./k.png"),
    ],
)
def test_of_several_images_the_first_by_their_endings_is_taken(
    path: Path, names: list[str], image: str
) -> None:
    for order in (names, names[::-1]):
        listing = listed(path, tar([(name, name.encode()) for name in order]))

        assert contents(listing, path) == {image: image.encode()}
        assert listing.ignored == 1


def test_members_of_a_key_need_not_be_neighbors(path: Path) -> None:
    listing = listed(path, tar([("1.jpg", b"one"), ("2.jpg", b"two"), ("1.json", b'{"n": 1}')]))

    assert [each.columns for each in listing.inputs] == [{"n": 1}, {}]


def test_keys_that_come_again_are_inputs_of_their_own(path: Path) -> None:
    pairs = [("1.jpg", b"one"), ("1.json", b'{"n": 1}')]
    again = [("1.jpg", b"two"), ("1.json", b'{"n": 2}')]

    listing = listed(path, tar([*pairs, *again, ("1.jpg", b"three")]))

    assert [each.columns for each in listing.inputs] == [{"n": 1}, {"n": 2}, {}]
    read = [reading.read(str(path), each.part, 10) for each in listing.inputs]
    assert read == [b"one", b"two", b"three"]


# What becomes of bad ones


def test_what_is_cut_off_with_what_guides_an_image_costs_that_image(path: Path) -> None:
    listing = listed(path, GOOD, member("good.json", b'{"a": 1}' + b" " * 2000)[:1500])

    assert contents(listing, path) == {"good.png": ErrorCode.INVALID_ROW}


@pytest.mark.parametrize(
    "columns",
    [b"", b"[1]", b"{", b"\xff", b'{"a": "\\ud800"}', b'{"a": ' * 3000, b" " * 1_100_000],
)
def test_an_image_whose_columns_cannot_be_read_is_one_row(path: Path, columns: bytes) -> None:
    listing = listed(path, tar({"a.json": columns, "a.png": b"data", "b.png": b"other"}))

    assert contents(listing, path) == {"a.png": ErrorCode.INVALID_ROW, "b.png": b"other"}


def test_a_tar_that_cannot_be_read_is_one_row(tmp_path: Path) -> None:
    (only,) = read_tar(str(tmp_path / "none.tar")).inputs

    assert isinstance(only.part, Missing)
    assert only.part.code is ErrorCode.NOT_FOUND


# In a listing


def ids(listing: Listing, root: str) -> list[str]:
    return [image.input_id.removeprefix(root) for image in listing.images]


def test_inputs_are_known_by_tar_and_member(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/b.tar", {"1.jpg": b"b1", "1.txt": b"caption"})
    write_tar(tmp_path / "in/a.tar", {"2.jpg": b"a2", "1.jpg": b"a1"})
    (tmp_path / "in/README.md").write_text("none")

    globbed = list_images(f"{tmp_path}/in/*.tar")
    folder = list_images(f"{tmp_path}/in", input_format="webdataset")

    assert ids(globbed, str(tmp_path)) == ["/in/a.tar#1.jpg", "/in/a.tar#2.jpg", "/in/b.tar#1.jpg"]
    assert [image.output_name for image in globbed.images] == ["a/1", "a/2", "b/1"]
    assert [image.read(10) for image in globbed.images] == [b"a1", b"a2", b"b1"]
    assert list(globbed.images)[2].caption_uri == f"{tmp_path}/in/b.tar"
    assert list(folder.images) == list(globbed.images)
    assert (folder.ignored, globbed.ignored) == (1, 0)


def test_names_that_would_leave_the_output_or_meet_do_not(path: Path) -> None:
    names = [
        *("/etc/passwd.png", "../../up.png", "a/../../up.jpg", "A.png", "a.jpg", "a.png", "a.png"),
        *("b.png/c.png", "b.jpg", "..png", "dir/./x.png", "\udcff.png", "%FF.png"),
    ]
    listed(path, *(member(name, name.encode("utf-8", "surrogateescape")) for name in names), END)

    images = tuple(list_images(str(path)).images)

    outputs = [image.output_name.casefold() for image in images]
    # "..png" is hidden, and the first "a.png" has the key of "a.jpg".
    assert len(images) == len(names) - 2
    assert len({image.input_id for image in images}) == len(images)
    assert len(set(outputs)) == len(outputs)
    for name in outputs:
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert "\0" not in name


def test_a_tar_on_another_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar({"1.png": b"one", "1.json": b'{"n": 1}'})
    monkeypatch.setattr(MemoryFileSystem, "files", {"mem://bucket/a.tar": archive})

    (image,) = list_images("mem://bucket/*.tar").images

    assert image.input_id == "mem://bucket/a.tar#1.png"
    assert image.read(10) == b"one"
    assert image.columns == {"file_name": "1.png", "n": 1}
