import hashlib
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st
from memory_filesystem import MemoryFileSystem

from beam_upscale import manifest, storage
from beam_upscale.dataset import DatasetFolder, Record
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.listing import SourceImage, is_image_name, list_images, source_image
from beam_upscale.manifest import Row, Status
from beam_upscale.resume import assign_shards, still_holds
from beam_upscale.sources import FindEarlier, ListImages, ReadImages


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
            "source_sha256": image.sha256() if storage.exists(image.uri or "") else None,
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
    with storage.publish(dataset.manifest_uri(shard)) as file:
        pq.write_table(manifest.table(rows), file)
    storage.delete(dataset.staging)


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
    storage.write(dataset.resolve("images/b.png"), b"done")
    with storage.publish(dataset.manifest_uri(1)) as file:
        pq.write_table(manifest.table([upscaled(before[2]), upscaled(before[3])]), file)

    after = list(assign_shards(images, dataset, shard_rows=2))

    assert shards(after) == shards(before)
    assert [image.committed for image in after] == [False, False, True, True]
    assert after[2].earlier == Record(upscaled(before[2]), telemetry=None)


def test_added_inputs_go_into_new_shards(dataset: DatasetFolder) -> None:
    before = list(assign_shards(sources("b", "d", "f"), dataset, shard_rows=2))
    commit(dataset, 0, [upscaled(image) for image in before[:2]])
    commit(dataset, 1, [upscaled(image) for image in before[2:]])

    after = list(assign_shards(sources("a", "b", "c", "d", "e", "f"), dataset, shard_rows=2))

    assert shards(after) == {"a": 2, "b": 0, "c": 2, "d": 0, "e": 3, "f": 1}
    assert [image.name for image in after if image.earlier is None] == ["a", "c", "e"]


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


def test_shards_do_not_depend_on_the_order_of_the_listing(
    inputs: Path, dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(inputs, *(f"{number}.png" for number in range(20)), "3.jpg", "3.webp")
    expected = list(assign_shards(list_images(str(inputs)).images, dataset, 4))
    shuffled = list(storage.list_files(str(inputs)))
    random.Random(7).shuffle(shuffled)
    monkeypatch.setattr(storage, "list_files", lambda _: iter(shuffled))

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
    (image,) = assign_shards([image], dataset, 10)
    return image


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
    storage.write(picture.uri or "", b"other bytes")

    found = find(image, dataset)

    assert (found.earlier, found.committed) == (None, False)


@pytest.mark.parametrize("left", [None, b"cut"])
def test_a_result_that_is_gone_or_cut_is_made_again(
    picture: SourceImage, dataset: DatasetFolder, left: bytes | None
) -> None:
    image = with_committed(picture, upscaled(picture), dataset)
    storage.delete(dataset.resolve("images/a.png"))
    if left is not None:
        storage.write(dataset.resolve("images/a.png"), left)

    assert find(image, dataset).earlier is None


def test_a_result_in_parquet_holds_where_its_shard_or_its_staged_image_is(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    row = upscaled(picture, output_uri="data/000000.parquet")

    assert not still_holds(picture, row, dataset)
    storage.write(dataset.staged_image_uri(picture.input_id), b"done")
    assert still_holds(picture, row, dataset)
    storage.delete(dataset.staging)
    storage.write(dataset.data_uri(0), b"shard")
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
    monkeypatch.setattr(storage, "open_read", opened.append)

    assert not still_holds(picture, row, dataset)
    assert opened == []


# As transforms


def test_the_pipeline_lists_what_list_images_does(inputs: Path, dataset: DatasetFolder) -> None:
    make(inputs, "b.png", "a.png", "line\nbreak.png", "notes.txt")
    storage.write(os.fsdecode(os.fsencode(inputs) + b"/\xff.png"), b"")
    expected = [image.input_id for image in list_images(str(inputs)).images]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        ids = pipeline | ReadImages(str(inputs)) | beam.Map(lambda image: image.input_id)
        assert_that(ids, equal_to(expected))


def test_the_pipeline_marks_what_is_done(inputs: Path, dataset: DatasetFolder) -> None:
    make(inputs, "a.png", "b.png", "c.png")
    images = list(ListImages(str(inputs), dataset, 2).process(None))
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

    images = ListImages(str(inputs), DatasetFolder(f"{inputs}/out"), 10).process(None)

    assert [image.name for image in images] == ["a.png"]
