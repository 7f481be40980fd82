import dataclasses
import hashlib
import io
import json
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st
from memory_filesystem import MemoryFileSystem

from beam_upscale.dataset.folder import RUN_FORMAT, DatasetFolder
from beam_upscale.dataset.manifest import table as manifest_table
from beam_upscale.dataset.manifest.columns import infer_input_type
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record, record_from_json
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.pipeline.budget import claim, spent
from beam_upscale.pipeline.read import (
    FindDone,
    FindEarlier,
    ListingRequest,
    ReadBatch,
    ReadImages,
    write_down,
)
from beam_upscale.pipeline.run_state.resume import (
    Asked,
    asked_by,
    assign_shards,
    relabeled,
    still_holds,
)
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import get_engine
from beam_upscale.planning.parameters import Parameters
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.formats.folder import is_image_name
from beam_upscale.sources.inputs.inputs import Inputs, Listing
from beam_upscale.sources.inputs.source_image import SourceImage, source_image
from beam_upscale.storage import files, publishing, walking

RULES = Rules((get_engine("esrgan-v1-x2plus"),))


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def sources(*names: str) -> list[SourceImage]:
    """Inputs as `list_images` gives them."""
    return sorted((source_image(f"/in/{n}", n) for n in names), key=lambda image: image.input_id)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetFolder:
    return DatasetFolder(str(tmp_path / "out"))


def upscaled(image: SourceImage, **values: Any) -> Row:
    """The row of an input that was done, with a result of four bytes."""
    return Row(
        image.input_id,
        image.source_uri,
        Status.UPSCALED,
        **{
            "source_sha256": image.sha256() if files.exists(image.uri or "") else None,
            "output_uri": f"images/{image.output_name}.png",
            "output_bytes": 4,
            **values,
        },
    )


def commit(dataset: DatasetFolder, shard: int, rows: Iterable[Row]) -> None:
    """Leaves what a completed run leaves."""
    rows = list(rows)
    for row in rows:
        if row.output_uri is not None:
            dataset.write(dataset.resolve(row.output_uri), b"done")
    with publishing.publish(dataset.manifest_uri(shard)) as file:
        pq.write_table(manifest_table.table(rows), file)
    publishing.delete(dataset.staging)


def put_aside(dataset: DatasetFolder, row: Row) -> Record:
    """Leaves what an interrupted run leaves."""
    if row.output_uri is not None:
        dataset.write(dataset.resolve(row.output_uri), b"done")
    record = Record(row, telemetry=None)
    dataset.write(dataset.record_uri(row.input_id), record.to_json())
    return record


# One input


def test_an_input_is_named_by_its_path() -> None:
    image = source_image("gs://bucket/photos/sub/a.tar.png", "sub/a.tar.png")

    assert image.input_id == image.source_uri == image.uri == "gs://bucket/photos/sub/a.tar.png"
    assert (image.name, image.output_name) == ("sub/a.tar.png", "sub/a.tar")
    assert image.columns == {"file_name": "sub/a.tar.png"}


def test_ids_of_odd_names_are_distinct_plain_text() -> None:
    odd = os.fsdecode(b"/in/a\xff.png")
    images = [source_image(uri) for uri in (odd, "/in/a%FF.png", "/in/a%25FF.png", "/in/a\n.png")]

    ids = {image.input_id for image in images}

    assert len(ids) == 4
    assert all(id_.encode() for id_ in ids)
    assert images[0].source_uri == "/in/a%FF.png"
    assert images[0].uri == odd


def test_a_long_name_loses_its_extension_and_then_its_end() -> None:
    image = source_image("/in/x", "v1.5 " + "x" * 245 + ".png")

    assert image.output_name.startswith("v1.5 xxx")
    assert len(image.output_name) <= 200


def test_an_input_may_hold_its_own_bytes(inputs: Path) -> None:
    image = SourceImage("row 7", data=b"bytes")

    assert (image.read(max_bytes=5), image.source_uri) == (b"bytes", "row 7")
    assert image.sha256() == hashlib.sha256(b"bytes").hexdigest()
    with pytest.raises(ImageError) as caught:
        source_image(f"{inputs}/none.png").read(max_bytes=5)
    assert caught.value.code is ErrorCode.NOT_FOUND


# Listing


@pytest.mark.parametrize(
    "name", ["a.png", "A.JPG", "a.heic", "no extension", "v1.2", "a.unknown", "a.b/c.tiff"]
)
def test_what_may_be_an_image_is_listed(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "README.md", "metadata.jsonl", "labels.csv", "data.parquet"),
        *("Thumbs.db", "desktop.ini", "clip.mp4", "a.JSON", "archive.zip", "x.py"),
    ],
)
def test_side_files_are_left_out(name: str) -> None:
    assert not is_image_name(name)


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


# Columns from metadata files


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
    publishing.write(f"{inputs}/{odd}", b"")
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
    opened: list[str] = []
    open_read = files.open_read

    def noted(uri: str) -> BinaryIO:
        opened.append(uri)
        return open_read(uri)

    monkeypatch.setattr(files, "open_read", noted)
    list_images(str(inputs))
    list_images(f"{inputs}/**/*.png")

    assert opened == [f"{inputs}/metadata.jsonl"] * 2


# Captions


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


def captioned(inputs: Path, caption: bytes, **values: Any) -> SourceImage:
    """An image with a caption beside it."""
    (inputs / "a.txt").write_bytes(caption)
    return source_image(f"{inputs}/a.png", caption_uri=f"{inputs}/a.txt", columns=values)


def test_the_prompt_is_the_columns_else_the_captions_else_the_runs(inputs: Path) -> None:
    defaults = Parameters(prompt="default", steps=30)
    caption = b"\xef\xbb\xbf\n a c\xc3\xa4t, \r\n sitting \r\n"

    assert captioned(inputs, caption).parameters(defaults).prompt == "a cät, \r\n sitting"
    assert captioned(inputs, caption, prompt=None).parameters(defaults).prompt.startswith("a cät")
    assert captioned(inputs, caption, prompt="a dog").parameters(defaults).prompt == "a dog"
    assert captioned(inputs, caption, prompt="").parameters(defaults).prompt == ""
    assert captioned(inputs, b" \n").parameters(defaults).prompt == ""
    assert source_image("/in/a.png").parameters(defaults) == defaults


def test_columns_set_each_parameter(inputs: Path) -> None:
    image = captioned(inputs, b"caption", text="a dog", prompt=7, steps="25", seed=3, cfg_scale="")

    found = image.parameters(Parameters(cfg_scale=5, seed=1), prompt_column="text")

    assert found == Parameters(prompt="a dog", cfg_scale=5, steps=25, seed=3)


def test_a_caption_is_read_only_when_it_is_needed(inputs: Path) -> None:
    image = captioned(inputs, b"caption", prompt="a dog")
    (inputs / "a.txt").unlink()

    assert image.parameters(Parameters()).prompt == "a dog"


def test_columns_out_of_range_are_the_images_own_error(inputs: Path) -> None:
    with pytest.raises(ImageError) as refused:
        captioned(inputs, b"caption", steps=51).parameters(Parameters())

    assert refused.value.code is ErrorCode.INVALID_STEPS


def test_a_caption_that_cannot_be_a_prompt_is_the_images_own_error(inputs: Path) -> None:
    image = captioned(inputs, b"caf\xe9")

    with pytest.raises(ImageError) as not_text:
        image.parameters(Parameters())
    (inputs / "a.txt").write_bytes(b"x" * (2**20 + 5))
    with pytest.raises(ImageError) as too_large:
        image.parameters(Parameters())
    (inputs / "a.txt").unlink()
    with pytest.raises(ImageError) as gone:
        image.parameters(Parameters())

    assert not_text.value.code is too_large.value.code is ErrorCode.INVALID_PROMPT
    assert "byte 0xe9 at 3" in not_text.value.message
    assert "has 1,048,581 bytes; it may have 1,048,576" in too_large.value.message
    assert gone.value.code is ErrorCode.NOT_FOUND


def test_a_caption_of_the_largest_size_is_read(inputs: Path) -> None:
    image = captioned(inputs, b"x" * 2**20)

    assert len(image.parameters(Parameters()).prompt) == 2**20


# Output names


def output_names(images: Iterable[SourceImage]) -> dict[str, str]:
    return {image.name: image.output_name for image in images}


def test_names_that_would_meet_keep_their_extensions(inputs: Path) -> None:
    make(inputs, "a.jpg", "a.png", "b.png", "sub/a.jpg")

    assert output_names(list_images(str(inputs)).images) == {
        "a.jpg": "a.jpg",
        "a.png": "a.png",
        "b.png": "b",
        "sub/a.jpg": "sub/a",
    }


def test_names_that_differ_in_case_only_are_one(inputs: Path) -> None:
    make(inputs, "A.png", "a.png", "Straße.png", "STRASSE.png")

    names = list(output_names(list_images(str(inputs)).images).values())

    assert len({name.casefold() for name in names}) == 4


def test_names_that_differ_in_the_form_of_a_letter_only_are_one(inputs: Path) -> None:
    make(inputs, "\u00e9.png", "e\u0301.png", "\u00c9.jpg")

    names = list(output_names(list_images(str(inputs)).images).values())

    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == 3


def test_a_result_does_not_stand_where_a_folder_does(inputs: Path) -> None:
    make(inputs, "a.jpg", "a.png/b.jpg")

    names = output_names(list_images(str(inputs)).images)

    assert names == {"a.jpg": "a.jpg", "a.png/b.jpg": "a.png/b"}


file_names = st.lists(
    st.sampled_from(["a", "A", "b", "a.png", "a.jpg", "b.webp"]), min_size=1, max_size=3
).map("/".join)


@given(st.sets(file_names, max_size=12))
def test_output_names_never_meet(names: set[str]) -> None:
    images = sources(*names)
    MemoryFileSystem.files.clear()

    assigned = assign_shards(images, DatasetFolder("mem://out"), 10)

    results = [f"{image.output_name}.png".casefold() for image in assigned]

    assert len(set(results)) == len(names)
    assert not any(other.startswith(f"{result}/") for result in results for other in results)


# Shards


def shards(images: Iterable[SourceImage]) -> dict[str, int | None]:
    return {image.name: image.shard for image in images}


def test_shards_are_counted_off_in_order(dataset: DatasetFolder) -> None:
    assigned = assign_shards(sources("c", "a", "e", "b", "d"), dataset, shard_rows=2)

    assert shards(assigned) == {"a": 0, "b": 0, "c": 1, "d": 1, "e": 2}


def test_an_interrupted_run_goes_on_with_its_shards(dataset: DatasetFolder) -> None:
    images = sources("a", "b", "c", "d")
    before = list(assign_shards(images, dataset, shard_rows=2))
    publishing.write(dataset.resolve("images/b.png"), b"done")
    with publishing.publish(dataset.manifest_uri(1)) as file:
        pq.write_table(manifest_table.table([upscaled(before[2]), upscaled(before[3])]), file)

    after = list(assign_shards(images, dataset, shard_rows=2))

    assert shards(after) == shards(before)
    assert [image.committed for image in after] == [False, False, True, True]


def test_added_inputs_go_into_new_shards(dataset: DatasetFolder) -> None:
    before = list(assign_shards(sources("b", "d", "f"), dataset, shard_rows=2))
    commit(dataset, 0, [upscaled(image) for image in before[:2]])
    commit(dataset, 1, [upscaled(image) for image in before[2:]])

    after = list(assign_shards(sources("a", "b", "c", "d", "e", "f"), dataset, shard_rows=2))

    assert shards(after) == {"a": 2, "b": 0, "c": 2, "d": 0, "e": 3, "f": 1}
    assert [image.name for image in after if not image.committed] == ["a", "c", "e"]


def test_names_of_earlier_results_stay_theirs(dataset: DatasetFolder) -> None:
    before = list(assign_shards(sources("a.jpg", "b.png.webp"), dataset, shard_rows=10))
    commit(dataset, 0, [upscaled(image) for image in before])

    after = assign_shards(
        sources("a.jpg", "a.png", "b.png", "b.jpg", "b.png.webp", "a.png.d/x", "A"), dataset, 10
    )

    names = output_names(after)
    assert (names["a.jpg"], names["b.png.webp"]) == ("a", "b.png")
    assert names["a.png"] == "a.png"
    assert len({name.casefold() for name in names.values()}) == 7


def test_the_name_of_an_input_that_is_gone_stays_taken(dataset: DatasetFolder) -> None:
    before = list(assign_shards(sources("a.jpg"), dataset, shard_rows=10))
    commit(dataset, 0, [upscaled(image) for image in before])

    assert output_names(assign_shards(sources("a.png"), dataset, 10)) == {"a.png": "a.png"}


def test_a_folder_does_not_stand_where_an_earlier_result_does(dataset: DatasetFolder) -> None:
    before = list(assign_shards(sources("a.jpg"), dataset, shard_rows=10))
    commit(dataset, 0, [upscaled(image) for image in before])

    names = output_names(assign_shards(sources("a.jpg", "a.png/b.png"), dataset, 10))

    assert not names["a.png/b.png"].startswith("a.png/")


def test_names_of_staged_results_stay_theirs_when_inputs_are_added(
    dataset: DatasetFolder,
) -> None:
    before = list(assign_shards(sources("a.jpg"), dataset, shard_rows=10))
    put_aside(dataset, upscaled(before[0]))
    more = sources("a", "a.jpg")

    once = output_names(assign_shards(more, dataset, 10))
    again = output_names(assign_shards(more, dataset, 10))

    assert once["a.jpg"] == "a"
    assert once["a"] != "a"
    assert again == once


def test_rows_that_have_changed_places_keep_the_names_of_their_results(
    dataset: DatasetFolder,
) -> None:
    def table(*names: str) -> Inputs:
        ids = (f"table.csv#{number}" for number in range(len(names)))
        return Inputs(
            SourceImage(input_id, uri=f"/in/{name}.png", name=f"{name}.png", output_name=name)
            for input_id, name in zip(ids, names, strict=True)
        )

    before = list(assign_shards(table("a", "b", "c"), dataset, shard_rows=10))
    for image in before[:2]:
        put_aside(dataset, upscaled(image))

    after = list(assign_shards(table("b", "a", "c"), dataset, shard_rows=10))

    # Under each other's, the second to be made would take the first's away.
    assert [image.output_name for image in after] == ["a", "b", "c"]


def test_another_number_of_rows_is_another_assignment(dataset: DatasetFolder) -> None:
    images = sources("a", "b", "c", "d")
    before = list(assign_shards(images, dataset, shard_rows=2))
    with publishing.publish(dataset.manifest_uri(0)) as file:
        pq.write_table(manifest_table.table([upscaled(before[0]), upscaled(before[1])]), file)

    after = list(assign_shards(images, dataset, shard_rows=1))

    assert shards(after) == {"a": 0, "b": 0, "c": 1, "d": 2}


def test_shards_do_not_depend_on_the_order_of_the_listing(
    inputs: Path, dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(inputs, *(f"{number}.png" for number in range(20)), "3.jpg", "3.webp")
    expected = list(assign_shards(list_images(str(inputs)).images, dataset, 4))
    shuffled = list(walking.list_files(str(inputs)))
    random.Random(7).shuffle(shuffled)
    monkeypatch.setattr(walking, "list_files", lambda *_: iter(shuffled))

    assert list(assign_shards(list_images(str(inputs)).images, dataset, 4)) == expected


# Earlier results


@pytest.fixture
def picture(inputs: Path) -> SourceImage:
    make(inputs, "a.png")
    return source_image(f"{inputs}/a.png", "a.png")


def find(
    image: SourceImage, dataset: DatasetFolder, retry: frozenset[Status] = frozenset()
) -> SourceImage:
    (found,) = FindEarlier(dataset, retry).process(image)
    return found


def with_committed(image: SourceImage, row: Row, dataset: DatasetFolder) -> SourceImage:
    commit(dataset, 0, [row])
    (image,) = listed([image], dataset)
    return image


def listed(images: Iterable[SourceImage], dataset: DatasetFolder) -> Iterator[SourceImage]:
    """Inputs as workers find them in the listing."""
    reader = ReadBatch(dataset)
    for batch in list(write_down(Inputs(images), dataset, 10)):
        yield from reader.process(batch)


def test_there_is_work_to_do_for_a_new_input(picture: SourceImage, dataset: DatasetFolder) -> None:
    assert find(picture, dataset) == picture


def test_a_committed_result_holds(picture: SourceImage, dataset: DatasetFolder) -> None:
    image = with_committed(picture, upscaled(picture), dataset)

    assert find(image, dataset) == image
    assert image.committed


def test_a_staged_result_holds_and_beats_a_committed_one(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    image = with_committed(picture, upscaled(picture, notes=("old",)), dataset)
    staged = put_aside(dataset, upscaled(picture, notes=("new",)))

    found = find(image, dataset)

    assert found.earlier == staged
    assert not found.committed


@pytest.mark.parametrize(
    ("made", "stands", "expected"),
    [
        pytest.param({"credits": Decimal("0.2")}, {}, "0.2", id="as it was made"),
        pytest.param(
            {"billed_credits": Decimal("0.2"), "request_ids": ("since",)},
            {"billed_credits": Decimal("0.4"), "request_ids": ("before", "since")},
            "0.4",
            id="with what was billed before",
        ),
    ],
)
def test_a_record_of_what_is_committed_is_that_result(
    picture: SourceImage,
    dataset: DatasetFolder,
    made: dict[str, Any],
    stands: dict[str, Any],
    expected: str,
) -> None:
    row = upscaled(picture, **made)
    image = with_committed(picture, dataclasses.replace(row, **stands), dataset)
    # A run that is stopped leaves the records of shards that it has committed.
    put_aside(dataset, row)

    found = find(image, dataset)

    assert found.committed
    # Its price stands in the shard, and is not to be counted twice.
    assert claim(found, RULES, shared_pool()).credits == 0
    assert spent(dataset.root, None) == Decimal(expected)


def test_columns_that_were_staged_since_are_told_from_those_that_were_committed(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    (image,) = listed([with_columns(picture, label="then")], dataset)
    row = upscaled(image, input=as_stored(image.columns))
    image = with_committed(image, row, dataset)
    # A run with other labels is stopped before it commits, and the labels are taken back.
    put_aside(dataset, dataclasses.replace(row, input={"label": "between"}))

    found = find(image, dataset)

    assert found.committed and found.staged_otherwise
    assert found.earlier is not None and found.earlier.row == row
    assert claim(found, RULES, shared_pool()).credits == 0


def test_what_was_done_behind_a_budget_is_found(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    (image,) = listed([picture], dataset)
    behind = FindDone(dataset, frozenset())
    beyond = dataclasses.replace(image, within_budget=False)
    assert list(behind.process(image)) == [image]

    # A worker is lost after this, and what it was given is given again.
    staged = put_aside(dataset, upscaled(image))

    assert [found.earlier for found in behind.process(image)] == [staged]
    assert list(behind.process(beyond)) == [beyond]
    row = dataclasses.replace(upscaled(image, output_uri=None), status=Status.FAILED)
    failed = put_aside(dataset, row)
    assert [found.earlier for found in behind.process(image)] == [failed]
    (again,) = FindDone(dataset, frozenset({Status.FAILED})).process(image)
    assert again.earlier is None


def test_statuses_to_retry_are_done_again(picture: SourceImage, dataset: DatasetFolder) -> None:
    failed = Row(
        picture.input_id,
        picture.source_uri,
        Status.FAILED,
        source_sha256=picture.sha256(),
        error_code=ErrorCode.TRUNCATED,
    )
    image = with_committed(picture, failed, dataset)

    assert find(image, dataset).earlier == Record(failed, None)
    assert find(image, dataset, frozenset({Status.OVER_BUDGET})).earlier == Record(failed, None)
    again = find(image, dataset, frozenset({Status.FAILED}))
    assert (again.earlier, again.committed, again.shard) == (None, False, 0)


def test_changed_content_is_done_again(picture: SourceImage, dataset: DatasetFolder) -> None:
    image = with_committed(picture, upscaled(picture), dataset)
    publishing.write(picture.uri or "", b"other bytes")

    found = find(image, dataset)

    assert (found.earlier, found.committed) == (None, False)


@pytest.mark.parametrize("left", [None, b"cut"])
def test_a_result_that_is_gone_or_cut_is_made_again(
    picture: SourceImage, dataset: DatasetFolder, left: bytes | None
) -> None:
    image = with_committed(picture, upscaled(picture), dataset)
    publishing.delete(dataset.resolve("images/a.png"))
    if left is not None:
        publishing.write(dataset.resolve("images/a.png"), left)

    assert find(image, dataset).earlier is None


def test_an_input_at_which_our_own_code_failed_is_looked_at_anew(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    row = dataclasses.replace(
        upscaled(picture, output_uri=None), status=Status.FAILED, error_code="corrupt"
    )
    ours = dataclasses.replace(row, error_code="internal_error")

    assert still_holds(picture, row, dataset)
    assert not still_holds(picture, ours, dataset)


def test_a_result_in_parquet_holds_where_its_shard_or_its_staged_image_is(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    row = upscaled(picture, output_uri="data/000000.parquet")

    assert not still_holds(picture, row, dataset)
    publishing.write(dataset.staged_image_uri(picture.input_id), b"done")
    assert still_holds(picture, row, dataset)
    publishing.delete(dataset.staging)
    publishing.write(dataset.resolve("data/000000.parquet"), b"shard")
    assert still_holds(picture, row, dataset)


def test_an_input_that_cannot_be_read_holds_while_it_fails_alike(
    inputs: Path, dataset: DatasetFolder
) -> None:
    image = source_image(f"{inputs}/gone.png")
    not_found = Row(image.input_id, "", Status.FAILED, error_code=ErrorCode.NOT_FOUND)
    denied = Row(image.input_id, "", Status.FAILED, error_code=ErrorCode.PERMISSION_DENIED)

    assert still_holds(image, not_found, dataset)
    assert not still_holds(image, denied, dataset)
    make(inputs, "gone.png")
    assert not still_holds(image, not_found, dataset)


def test_a_file_that_was_too_large_is_not_read_again(
    picture: SourceImage, dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(picture.input_id, "", Status.REJECTED, error_code=ErrorCode.FILE_TOO_LARGE)
    opened: list[str] = []
    monkeypatch.setattr(files, "open_read", opened.append)

    assert not still_holds(picture, row, dataset)
    assert opened == []


# Earlier results and what was asked

ASKED = Asked(Parameters(prompt="default", cfg_scale=6, steps=30))


def with_columns(image: SourceImage, **values: Any) -> SourceImage:
    return dataclasses.replace(image, columns={**image.columns, **values})


def guided(image: SourceImage, **values: Any) -> Row:
    """The row of an input that was done with parameters; a seed that none asked for is 999."""
    found = dataclasses.asdict(image.parameters(ASKED.parameters))
    seed = found.pop("seed") or 999
    columns = as_stored(image.columns)
    return upscaled(image, **{**found, "seed": seed, "input": columns, **values})


def as_stored(columns: Mapping[str, Any], *others: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a manifest gives back of columns, in a shard with other rows."""
    rows = [
        Row(str(number), "", Status.SKIPPED, input=each)
        for number, each in enumerate([columns, *others])
    ]
    file = io.BytesIO()
    pq.write_table(manifest_table.table(rows), file)
    return manifest_table.rows_of(pq.read_table(file))[0].input


def holds(image: SourceImage, row: Row, dataset: DatasetFolder) -> bool:
    if row.output_uri is not None:
        dataset.write(dataset.resolve(row.output_uri), b"done")
    return still_holds(image, row, dataset, ASKED)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"prompt": "a cat", "steps": "25", "cfg_scale": 7},
        {"seed": 5},
        {"seed": "0", "noise_level": ""},
        {"label": "x"},
    ],
)
def test_a_row_holds_while_the_same_is_asked(
    picture: SourceImage, dataset: DatasetFolder, values: dict[str, Any]
) -> None:
    image = with_columns(picture, **values)

    assert holds(image, guided(image), dataset)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"prompt": "a cat"}),
        ({"prompt": "a cat"}, {}),
        ({"prompt": "a cat"}, {"prompt": ""}),
        ({}, {"negative_prompt": "blur"}),
        ({"cfg_scale": 7}, {"cfg_scale": 7.5}),
        ({"steps": 30}, {"steps": 31}),
        ({}, {"noise_level": 0}),
        ({}, {"seed": 7}),
        ({"seed": 7}, {"seed": 8}),
        ({"seed": 7}, {}),
        ({"seed": "7"}, {"seed": "0"}),
        ({}, {"steps": 51}),
    ],
)
def test_a_row_does_not_hold_when_something_else_is_asked(
    picture: SourceImage, dataset: DatasetFolder, before: dict[str, Any], now: dict[str, Any]
) -> None:
    row = guided(with_columns(picture, **before))

    assert not holds(with_columns(picture, **now), row, dataset)


def test_what_was_asked_does_not_matter_to_engines_without_parameters(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    row = upscaled(picture)
    dataset.write(dataset.resolve("images/a.png"), b"done")

    assert still_holds(with_columns(picture, prompt="a cat", steps=51), row, dataset, asked=None)


def test_a_caption_that_changes_is_asked_anew(picture: SourceImage, dataset: DatasetFolder) -> None:
    caption = Path(picture.uri or "").with_suffix(".txt")
    caption.write_text("a cat")
    image = dataclasses.replace(picture, caption_uri=str(caption))
    row = guided(image)

    before = holds(image, row, dataset)
    caption.write_text("a cat\n")
    trimmed = holds(image, row, dataset)
    caption.write_text("a dog")

    assert (before, trimmed, holds(image, row, dataset)) == (True, True, False)
    assert not holds(dataclasses.replace(image, caption_uri=None), row, dataset)


def test_a_seed_that_is_asked_for_where_it_was_derived_is_the_same(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    row = guided(picture)

    assert holds(with_columns(picture, seed=999), row, dataset)


@pytest.mark.parametrize("status", [Status.SKIPPED, Status.REJECTED, Status.OVER_BUDGET])
def test_rows_that_parameters_did_not_reach_hold_whatever_is_asked(
    picture: SourceImage, dataset: DatasetFolder, status: Status
) -> None:
    row = upscaled(picture, output_uri=None)
    row = dataclasses.replace(row, status=status, error_code=ErrorCode.INPUT_TOO_LARGE)

    assert holds(with_columns(picture, prompt="new"), row, dataset)
    assert holds(with_columns(picture, steps=51), row, dataset)


def refused(image: SourceImage) -> Row:
    """The row of an image whose parameters cannot be had."""
    with pytest.raises(ImageError) as caught:
        image.parameters(ASKED.parameters)
    error = caught.value
    return upscaled(image, output_uri=None, error_code=str(error.code), error_message=error.message)


@pytest.mark.parametrize("was_read", [False, True])
def test_parameters_that_were_wrong_hold_while_the_same_is_wrong(
    picture: SourceImage, dataset: DatasetFolder, was_read: bool
) -> None:
    row = refused(with_columns(picture, steps=52))
    row = row if was_read else dataclasses.replace(row, source_sha256=None)

    assert holds(with_columns(picture, steps=52), row, dataset)
    assert not holds(with_columns(picture, seed=-1), row, dataset)
    # The row's message would be wrong.
    assert not holds(with_columns(picture, steps=53), row, dataset)
    assert not holds(with_columns(picture, steps=50), row, dataset)


@pytest.mark.parametrize("was_read", [False, True])
def test_a_caption_that_was_gone_holds_until_it_is_back(
    picture: SourceImage, dataset: DatasetFolder, was_read: bool
) -> None:
    caption = Path(picture.uri or "").with_suffix(".txt")
    image = dataclasses.replace(picture, caption_uri=str(caption))
    row = refused(image)
    row = row if was_read else dataclasses.replace(row, source_sha256=None)

    assert holds(image, row, dataset)
    caption.write_text("a cat")
    assert not holds(image, row, dataset)


def test_an_image_that_is_gone_holds_with_and_without_its_parameters(
    inputs: Path, dataset: DatasetFolder
) -> None:
    image = source_image(f"{inputs}/gone.png")
    without = Row(image.input_id, "", Status.FAILED, error_code=ErrorCode.NOT_FOUND)
    row = dataclasses.replace(without, **{**dataclasses.asdict(ASKED.parameters), "seed": None})

    assert holds(image, without, dataset)
    assert holds(image, row, dataset)
    assert not holds(with_columns(image, prompt="new"), row, dataset)
    make(inputs, "gone.png")
    assert not holds(image, without, dataset)
    assert not holds(image, row, dataset)


def test_a_seed_among_values_of_other_types_is_told_from_none(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    none, some = with_columns(picture, seed=""), with_columns(picture, seed=7)
    stored_none = as_stored(none.columns, {"seed": 7})
    stored_some = as_stored(some.columns, {"seed": ""})

    assert (stored_none["seed"], stored_some["seed"]) == ("", 7)
    assert holds(none, guided(none, input=stored_none), dataset)
    assert holds(some, guided(some, input=stored_some), dataset)
    assert not holds(none, guided(some, input=stored_some), dataset)


def test_what_a_run_asked_is_read_from_its_record() -> None:
    parameters = dataclasses.asdict(ASKED.parameters)
    settings = {"parameters": parameters, "prompt_column": "text"}

    assert asked_by({"settings": settings}) == Asked(ASKED.parameters, "text")
    assert asked_by({"settings": {"parameters": None, "prompt_column": None}}) is None
    assert asked_by({"settings": {}}) is asked_by({"settings": None}) is asked_by(None) is None


def test_the_search_for_earlier_rows_asks_what_the_run_does(
    picture: SourceImage, dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"parameters": dataclasses.asdict(ASKED.parameters), "prompt_column": "text"}
    dataset.write_json(dataset.run_json, {"format": RUN_FORMAT, "settings": settings})
    image = with_committed(picture, guided(picture), dataset)
    reads = Counter[str]()
    read_run = DatasetFolder.read_run

    def noted(self: DatasetFolder) -> dict[str, Any] | None:
        reads[self.root] += 1
        return read_run(self)

    monkeypatch.setattr(DatasetFolder, "read_run", noted)
    search = FindEarlier(dataset, frozenset())
    found = [
        next(search.process(with_columns(image, **values))).earlier is not None
        for values in ({}, {"prompt": "other"}, {"text": "a cat"})
    ]

    assert found == [True, True, False]
    assert reads == {dataset.root: 1}


# Columns of earlier results

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text("ab1\u00e4", max_size=3)
    | st.datetimes(),
    lambda nested: (
        st.lists(nested, max_size=2)
        | st.dictionaries(st.sampled_from("xy"), nested, min_size=1, max_size=2)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from("abc"), values, max_size=3))
def test_columns_come_back_from_a_record_the_same(columns: dict[str, Any]) -> None:
    record = Record(Row("1", "", Status.SKIPPED, input=columns), telemetry=None)
    record = record_from_json(record.to_json())

    assert relabeled(record, columns) is record


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ({"x": 1}, {"x": 2.5}),
        ({"x": 1}, {"y": "a"}),
        ({}, {"y": "a"}),
        ({"x": {"a": 1}}, {"x": {"b": 2}}),
        ({"x": [{"a": 1}, {}]}, {"x": [{"b": 0.5}]}),
        ({"x": float("nan")}, {"x": None}),
        ({"x": None}, {}),
        ({"x": [None, ()]}, {"x": [[1]]}),
    ],
)
def test_columns_come_back_from_a_manifest_the_same(
    mine: dict[str, Any], other: dict[str, Any]
) -> None:
    record = Record(Row("1", "", Status.SKIPPED, input=as_stored(mine, other)), telemetry=None)

    assert relabeled(record, mine) is record


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"x": "a"}, {"x": "b"}),
        ({"x": "a"}, {"x": None}),
        ({"x": "a"}, {}),
        ({}, {"x": 0}),
        ({"x": 1}, {"x": True}),
        ({"x": 0}, {"x": False}),
        ({"x": 1}, {"x": "1"}),
        ({"x": [1, 2]}, {"x": [1]}),
        ({"x": {"a": 1}}, {"x": {"a": 1, "b": 2}}),
    ],
)
def test_columns_that_changed_are_taken_over(before: dict[str, Any], now: dict[str, Any]) -> None:
    row = Row("1", "", Status.UPSCALED, prompt="p", input=as_stored(before))

    changed = relabeled(Record(row, telemetry=None), now)

    assert changed == Record(dataclasses.replace(row, input=now), telemetry=None)


@pytest.mark.parametrize(
    ("before", "now", "kind", "is_same"),
    [
        (3.0, 3, pa.float64(), True),
        (3.0, 3, pa.int64(), True),
        ("3", 3, pa.int64(), False),
        (None, 3, pa.int64(), False),
    ],
)
def test_columns_are_compared_as_they_are_to_be_stored(
    before: object, now: object, kind: pa.DataType, is_same: bool
) -> None:
    record = Record(Row("1", "", Status.SKIPPED, input={"x": before}), telemetry=None)

    assert (relabeled(record, {"x": now}, pa.struct([("x", kind)])) is record) is is_same


def test_number_that_becomes_json_text_is_the_one_of_now() -> None:
    as_text = infer_input_type([{"x": 1}, {"x": "a"}])
    record = Record(Row("1", "", Status.SKIPPED, input={"x": 3.0}), telemetry=None)

    assert str(relabeled(record, {"x": 3}, as_text).row.input) == "{'x': 3}"


# As transforms


def test_the_pipeline_lists_what_list_images_does(inputs: Path, dataset: DatasetFolder) -> None:
    make(inputs, "b.png", "a.png", "line\nbreak.png", "notes.txt")
    publishing.write(os.fsdecode(os.fsencode(inputs) + b"/\xff.png"), b"")
    expected = [image.input_id for image in list_images(str(inputs)).images]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        ids = pipeline | ReadImages(str(inputs)) | beam.Map(lambda image: image.input_id)
        assert_that(ids, equal_to(expected))


def test_the_pipeline_marks_what_is_done(inputs: Path, dataset: DatasetFolder) -> None:
    make(inputs, "a.png", "b.png", "c.png")
    images = list(assign_shards(list_images(str(inputs)).images, dataset, 2))
    commit(dataset, 0, [upscaled(image) for image in images[:2]])

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        found = (
            pipeline
            | ReadImages(str(inputs), output=dataset.root, shard_rows=2)
            | beam.Map(lambda image: (image.name, image.shard, image.earlier is not None))
        )
        assert_that(found, equal_to([("a.png", 0, True), ("b.png", 0, True), ("c.png", 1, False)]))


def test_an_output_below_the_input_is_not_read_by_the_pipeline(inputs: Path) -> None:
    make(inputs, "a.png", "out/images/a.png")

    images = ListingRequest(str(inputs), dataset=DatasetFolder(f"{inputs}/out")).listing().images

    assert [image.name for image in images] == ["a.png"]
