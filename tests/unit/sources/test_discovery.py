import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from earlier_runs import make
from memory_filesystem import MemoryFileSystem

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.parameters import Parameters
from beam_upscale.sources.discovery import list_images, no_input
from beam_upscale.sources.inputs.found_inputs import Listing
from beam_upscale.storage import files
from beam_upscale.storage.local.local_disk import LocalDisk


def test_lists_in_order_and_counts_what_it_leaves_out(inputs: Path) -> None:
    make(inputs, "b.png", "a.png", "sub/c.png", "notes.txt", "sub/labels.csv")

    listing = list_images(str(inputs))

    assert [image.name for image in listing.images] == ["a.png", "b.png", "sub/c.png"]
    assert listing.ignored == 2


def test_a_single_file_is_taken_whatever_its_name(inputs: Path) -> None:
    make(inputs, "picture.txt")

    listing = list_images(str(inputs / "picture.txt"))

    assert [image.name for image in listing.images] == ["picture.txt"]
    assert listing.ignored == 0


def test_an_output_below_the_input_is_no_input(inputs: Path) -> None:
    make(inputs, "a.png", "out/images/a.png", "out-of-focus/b.png")

    listing = list_images(str(inputs), exclude=f"{inputs}/out/")

    assert [image.name for image in listing.images] == ["a.png", "out-of-focus/b.png"]


def describe(folder: Path, *rows: dict[str, Any]) -> None:
    """Writes the metadata file of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines)


def columns(listing: Listing) -> dict[str, dict[str, Any]]:
    """Each image's columns but for its name."""
    return {
        image.name: {name: image.columns[name] for name in image.columns if name != "file_name"}
        for image in listing.images
    }


def test_images_get_the_columns_of_the_nearest_metadata(inputs: Path) -> None:
    make(inputs, "a.png", "b.png", "sub/c.png", "sub/d.png")
    describe(
        inputs,
        {"file_name": "a.png", "prompt": "a cat", "tags": [1, "x"]},
        {"file_name": "sub/c.png", "label": "far", "other": 1},
        {"file_name": "sub/d.png", "label": "far"},
    )
    (inputs / "sub/metadata.csv").write_text("file_name,label\nc.png,near\n")

    listing = list_images(str(inputs))

    assert columns(listing) == {
        "a.png": {"prompt": "a cat", "tags": [1, "x"]},
        "b.png": {},
        "sub/c.png": {"label": "near"},
        "sub/d.png": {"label": "far"},
    }
    assert list(listing.images)[2].columns["file_name"] == "sub/c.png"
    assert (listing.ignored, listing.unmatched) == (0, 0)


def test_rows_that_name_no_image_are_counted(inputs: Path) -> None:
    make(inputs, "a.png", "notes.txt", "out/b.png", "labels.jsonl")
    describe(inputs, *({"file_name": n} for n in ("a.png", "gone.png", "notes.txt", "out/b.png")))
    describe(inputs / "empty", {"file_name": "none.png"})

    listing = list_images(str(inputs), exclude=f"{inputs}/out")

    assert [image.name for image in listing.images] == ["a.png"]
    assert (listing.ignored, listing.unmatched) == (2, 4)


def test_names_that_need_care_are_matched_as_they_are_listed(inputs: Path) -> None:
    odd = os.fsdecode(b"\xff.png")
    names = ["%FF.png", "ä b.png", "[x].png", "x" * 220 + ".png", "line\nbreak.png"]
    make(inputs, *names)
    files.write(f"{inputs}/{odd}", b"")
    describe(inputs, *({"file_name": name, "label": name} for name in names))

    listing = list_images(str(inputs))

    found = {(image.uri or "").rpartition("/")[2]: image.columns for image in listing.images}
    assert {name: found[name]["label"] for name in names} == {name: name for name in names}
    # Bytes that are not UTF-8 cannot be written in JSON.
    assert "label" not in found[odd]
    assert listing.unmatched == 0


def test_metadata_of_every_format_is_found(inputs: Path) -> None:
    make(inputs, "a/1.png", "b/2.png", "c/3.png")
    describe(inputs / "a", {"file_name": "1.png", "steps": 5})
    (inputs / "b/metadata.csv").write_text("file_name,steps\n2.png,5\n")
    table = pa.table({"file_name": ["3.png"], "steps": [5]})
    pq.write_table(table, inputs / "c/metadata.parquet")

    listing = list_images(str(inputs))

    assert columns(listing) == {
        "a/1.png": {"steps": 5},
        "b/2.png": {"steps": "5"},
        "c/3.png": {"steps": 5},
    }
    assert {image.parameters(Parameters()).steps for image in listing.images} == {5}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.png", {"a.png": {"label": 1}}),
        ("sub/c.png", {"c.png": {"label": 3}}),
        ("*.png", {"a.png": {"label": 1}, "b.png": {}}),
        ("[a]*", {"a.png": {"label": 1}}),
        ("a*", {"a.png": {"label": 1}}),
        ("**/*.png", {"a.png": {"label": 1}, "b.png": {}, "sub/c.png": {"label": 3}}),
        ("su*", {"sub/c.png": {"label": 3}}),
        ("s*b/c.png", {"sub/c.png": {"label": 3}}),
    ],
)
def test_metadata_beside_what_a_glob_or_a_file_names_is_found(
    inputs: Path, pattern: str, expected: dict[str, dict[str, Any]]
) -> None:
    make(inputs, "a.png", "b.png", "sub/c.png", "broken/notes.txt")
    describe(inputs, {"file_name": "a.png", "label": 1}, {"file_name": "sub/c.png", "label": 2})
    describe(inputs / "sub", {"file_name": "c.png", "label": 3})
    # It belongs to none of these images.
    (inputs / "broken/metadata.jsonl").write_text("no JSON")

    assert columns(list_images(f"{inputs}/{pattern}")) == expected


def test_rows_beside_a_glob_may_be_about_other_images(inputs: Path) -> None:
    make(inputs, "a.png", "b.png")
    describe(inputs, *({"file_name": f"{name}.png"} for name in "abc"))

    assert list_images(f"{inputs}/a.png").unmatched == 0
    assert list_images(f"{inputs}/a*").unmatched == 0
    assert list_images(f"{inputs}/*").unmatched == 1


@pytest.mark.parametrize("pattern", ["mem://b/in", "mem://b/in/*.png", "mem://b/in/a.png"])
def test_columns_and_captions_are_found_in_an_object_store(pattern: str) -> None:
    MemoryFileSystem.files.clear()
    MemoryFileSystem.files |= {
        "mem://b/in/a.png": b"",
        "mem://b/in/a.txt": b"a cat",
        "mem://b/in/metadata.csv": b"file_name,steps\na.png,5\n",
        "mem://b/metadata.csv": b"above what was asked for",
    }

    (image,) = list_images(pattern).images

    assert image.parameters(Parameters()) == Parameters(prompt="a cat", steps=5)


def test_metadata_that_is_wrong_refuses_the_listing(inputs: Path) -> None:
    make(inputs, "a.png")
    (inputs / "metadata.jsonl").write_text("{")

    for pattern in ("", "/a.png", "/*.png"):
        with pytest.raises(SettingsError) as refused:
            list_images(f"{inputs}{pattern}")
        assert refused.value.code is ErrorCode.INVALID_METADATA


def test_a_metadata_file_is_read_once(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(inputs, "a.png", "b.png", "sub/c.png")
    describe(inputs, {"file_name": "a.png"}, {"file_name": "sub/c.png"})
    read: list[str] = []
    for name in ("open_read", "read", "read_at_most"):
        _note(monkeypatch, name, read)

    list_images(str(inputs))
    list_images(f"{inputs}/**/*.png")

    assert read == [f"{inputs}/metadata.jsonl"] * 2


def _note(monkeypatch: pytest.MonkeyPatch, name: str, uris: list[str]) -> None:
    """Notes the files that a method of the local disk reads."""
    method = getattr(LocalDisk, name)

    def noted(self: LocalDisk, uri: str, *others: Any) -> Any:
        uris.append(uri)
        return method(self, uri, *others)

    monkeypatch.setattr(LocalDisk, name, noted)


def test_a_text_with_an_images_name_is_its_caption(inputs: Path) -> None:
    make(inputs, "cat.jpg", "cat.png", "cat.txt", "dog.jpg", "dog.jpg.txt", "sub/cat.jpg", "v1.txt")
    make(inputs, "v1.2", "no extension", "no extension.txt", "readme.txt")

    listing = list_images(str(inputs))

    assert {image.name: image.caption_uri for image in listing.images} == {
        "cat.jpg": f"{inputs}/cat.txt",
        "cat.png": f"{inputs}/cat.txt",
        "dog.jpg": None,
        "no extension": f"{inputs}/no extension.txt",
        "sub/cat.jpg": None,
        "v1.2": f"{inputs}/v1.txt",
    }
    assert listing.ignored == 2


@pytest.mark.parametrize("pattern", ["cat.jpg", "*.jpg", "cat.*", "cat.j*", "c?t.jpg", "[c]at.jpg"])
def test_captions_beside_what_a_glob_or_a_file_names_are_found(inputs: Path, pattern: str) -> None:
    make(inputs, "cat.jpg", "cat.txt", "catalog.txt")

    (image,) = list_images(f"{inputs}/{pattern}").images

    assert image.caption_uri == f"{inputs}/cat.txt"


@pytest.mark.parametrize("name", ["picture.txt", "metadata.json"])
def test_a_file_given_as_the_image_is_nothing_else(inputs: Path, name: str) -> None:
    make(inputs, name)

    (image,) = list_images(f"{inputs}/{name}").images

    assert image.caption_uri is None
    assert columns(list_images(f"{inputs}/{name}")) == {name: {}}


def test_a_format_that_there_is_not_is_refused(inputs: Path) -> None:
    with pytest.raises(SettingsError, match=r"input_format is 'json'; .*webdataset") as found:
        list_images(str(inputs), input_format="json")
    assert found.value.code is ErrorCode.INVALID_OPTION


def test_an_input_that_does_not_exist_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere does not exist, or holds no files") as found:
        raise no_input(f"{tmp_path}/nowhere", list_images(f"{tmp_path}/nowhere"))
    assert found.value.code is ErrorCode.NO_INPUT
