"""Results that are persisted, one after the other and in groups."""

import dataclasses
import errno
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from input_states import known
from persisted_results import TELEMETRY, files, paid, result, with_row

from beam_upscale.dataset.book_sums import read_sums
from beam_upscale.dataset.books import RunBooks
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts import parquet
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ErrorCode
from beam_upscale.pipeline.commit.persist import (
    output_uri,
    persist,
    persist_group,
    shard_of,
)
from beam_upscale.pipeline.commit.waiting_images import WaitingImages
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files as stored_files
from beam_upscale.storage.local import publishing


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (Layout.FILES, "images/a/b.png"),
        (Layout.PARQUET, "data/000007.parquet"),
        (Layout.WEBDATASET, "data/000007.tar"),
    ],
)
def test_where_images_stand(layout: Layout, expected: str) -> None:
    upscaled = result("a/b", b"image")
    assert upscaled.record is not None

    assert output_uri(upscaled.source, upscaled.record.row, layout, 7) == expected


def test_results_without_a_shard_are_spread_evenly_and_always_alike() -> None:
    sources = [SourceImage(input_id=str(number)) for number in range(1000)]

    shards = [shard_of(source) for source in sources]

    assert shards == [shard_of(source) for source in sources]
    assert set(shards) == set(range(16))


@pytest.mark.parametrize("layout", list(Layout))
def test_persisted_result_is_durable(dataset: DatasetFolder, layout: Layout) -> None:
    record = persist(result("a", b"image"), dataset, layout)

    assert dataset.read_record("/in/a.jpg") == record
    path = (
        dataset.resolve("images/a.png")
        if layout is Layout.FILES
        else dataset.waiting_image_uri("/in/a.jpg")
    )
    assert Path(path).read_bytes() == b"image"


def test_failure_that_replaces_a_persisted_image_removes_it(dataset: DatasetFolder) -> None:
    persist(result("a", b"image"), dataset, Layout.FILES)

    persist(result("a", None), dataset, Layout.FILES)

    assert not Path(dataset.resolve("images/a.png")).exists()


def test_what_is_booked_under_another_name_of_the_output_is_not_entered_again(
    dataset: DatasetFolder, tmp_path: Path
) -> None:
    Path(dataset.root).mkdir()
    (tmp_path / "link").symlink_to(dataset.root)
    (tmp_path / "other").mkdir()

    def billed_in(root: Path | str) -> Decimal:
        upscaled = paid("1")
        run = RunBooks.begin(DatasetFolder(str(root)))
        source = known(upscaled.source, books=run)
        persist(dataclasses.replace(upscaled, source=source), dataset, Layout.FILES)
        return read_sums(dataset).charged

    assert [billed_in(root) for root in (dataset.root, tmp_path / "link")] == [0, 0]
    assert billed_in(tmp_path / "other") == Decimal("0.2")


@pytest.mark.parametrize(
    "columns",
    [{"source_sha256": "t"}, {"prompt": "a cat"}, {"seed": 7}],
    ids=["content", "prompt", "seed"],
)
def test_an_image_of_what_is_asked_no_more_goes(
    dataset: DatasetFolder, columns: dict[str, Any]
) -> None:
    persist(paid("1"), dataset, Layout.FILES)

    record = persist(paid("2", None, **columns), dataset, Layout.FILES)

    assert (record.row.status, record.row.billed_credits) == (Status.FAILED, Decimal("0.4"))
    assert not Path(dataset.resolve("images/a.png")).exists()


def test_a_row_whose_image_is_lost_is_not_kept(dataset: DatasetFolder) -> None:
    persist(paid("1"), dataset, Layout.FILES)
    Path(dataset.resolve("images/a.png")).unlink()

    assert persist(paid("2", None), dataset, Layout.FILES).row.status is Status.FAILED


# In groups

NAMES = "abcdef"


def results(names: str = NAMES, worker: str = "worker:1") -> list[UpscaledImage]:
    """Images, but for the last, which failed; every other one is of another shard."""
    telemetry = dataclasses.replace(TELEMETRY, worker=worker)
    made = [
        result(name, f"image {name}".encode() if name != NAMES[-1] else None, shard=number % 2)
        for number, name in enumerate(names)
    ]
    return [
        dataclasses.replace(each, record=Record(each.record.row, telemetry))
        for each in made
        if each.record is not None
    ]


def group(dataset: DatasetFolder, layout: Layout, made: Sequence[UpscaledImage]) -> list[Record]:
    search = RecordSearch.begin(dataset, has_late_singles=False)
    return persist_group(made, dataset, layout, search)


def recorded(dataset: DatasetFolder) -> dict[str, Record]:
    """The records that are there, by the names of their inputs."""
    return {str(each.row.input["file_name"])[0]: each for each in dataset.read_records()}


def images(dataset: DatasetFolder, layout: Layout) -> dict[str, bytes | None]:
    """The images that a commit would find of what is recorded."""
    found = recorded(dataset)
    waiting = WaitingImages.of(found.values(), dataset)

    def read(record: Record) -> bytes | None:
        if layout.is_packed or record.row.output_uri is None:
            return waiting.read(record.row.input_id)
        return Path(dataset.resolve(record.row.output_uri)).read_bytes()

    return {name: read(record) for name, record in found.items()}


EXPECTED = {name: f"image {name}".encode() for name in NAMES[:-1]} | {NAMES[-1]: None}

every_layout = pytest.mark.parametrize("layout", list(Layout))


@every_layout
def test_a_group_is_durable_in_few_files(dataset: DatasetFolder, layout: Layout) -> None:
    records = group(dataset, layout, results())

    assert sorted(recorded(dataset).values(), key=lambda each: each.row.input_id) == records
    assert images(dataset, layout) == EXPECTED
    # The records of two shards, and the images: one file each, or one for each shard.
    assert len(files(dataset)) == 2 + (2 if layout.is_packed else len(NAMES) - 1)
    assert not list(Path(dataset.partial).iterdir())


@every_layout
def test_a_group_that_is_written_twice_leaves_the_same(
    dataset: DatasetFolder, layout: Layout
) -> None:
    first = group(dataset, layout, results())
    again = group(dataset, layout, results(worker="worker:2"))

    assert [each.row for each in again] == [each.row for each in first]
    assert images(dataset, layout) == EXPECTED
    # The later one counts.
    assert {each.telemetry.worker for each in recorded(dataset).values() if each.telemetry} == {
        "worker:2"
    }


class Killed(BaseException):
    """Stands for the end of a process."""


def killed_at(
    dataset: DatasetFolder,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    is_due: Callable[[str], bool],
) -> None:
    """Persists a group up to the rename of a file, by its path."""
    rename = publishing._rename

    def renamed(name: str, path: str) -> set[str]:
        if is_due(path):
            raise Killed
        return rename(name, path)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_rename", renamed)
        with pytest.raises(Killed):
            group(dataset, layout, results())


@every_layout
def test_a_kill_between_images_and_records_costs_the_group(
    dataset: DatasetFolder, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(dataset, layout, monkeypatch, lambda path: path.endswith(".json"))
    assert recorded(dataset) == {}
    assert len(files(dataset)) == (2 if layout.is_packed else len(NAMES) - 1)

    group(dataset, layout, results())

    assert images(dataset, layout) == EXPECTED


@every_layout
def test_a_kill_between_the_records_of_two_shards_costs_those_of_one(
    dataset: DatasetFolder, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_second(path: str) -> bool:
        return path.endswith(".json") and bool(list(dataset_groups.glob("*/*.json")))

    dataset_groups = Path(dataset.groups)
    killed_at(dataset, layout, monkeypatch, is_second)
    assert recorded(dataset).keys() == set(NAMES[::2])
    assert images(dataset, layout) == {name: EXPECTED[name] for name in NAMES[::2]}

    group(dataset, layout, results(NAMES))

    assert images(dataset, layout) == EXPECTED


def fill_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Has a disk be full after so many bytes."""
    publish_all, left = stored_files.publish_all, [room]

    def publish(contents: Sequence[tuple[str, bytes]], *arguments: Any) -> None:
        size = sum(len(data) for _, data in contents)
        if size > left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= size
        publish_all(contents, *arguments)

    monkeypatch.setattr(stored_files, "publish_all", publish)


@every_layout
def test_a_disk_that_fills_in_the_middle_of_a_group_costs_what_does_not_fit(
    dataset: DatasetFolder, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [result(name, name.encode() * 4000) for name in "abcd"]
    with monkeypatch.context() as patch:
        fill_disk(patch, room=11_000)
        with pytest.raises(OSError, match="No space left"):
            group(dataset, layout, made)

    assert images(dataset, layout) == {name: name.encode() * 4000 for name in "ab"}
    group(dataset, layout, made[2:])
    assert images(dataset, layout) == {name: name.encode() * 4000 for name in "abcd"}


def test_images_of_a_group_whose_records_do_not_fit_make_room_for_others(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [result(name, name.encode() * 4000) for name in "abcd"]
    with monkeypatch.context() as patch:
        fill_disk(patch, room=16_100)
        with pytest.raises(OSError, match="No space left"):
            group(dataset, Layout.PARQUET, made)

    names = {each.packed.name for each in recorded(dataset).values() if each.packed is not None}
    there = {str(path.relative_to(dataset.groups)) for path in files(dataset)}
    assert {name for name in there if name.endswith(".images")} == names


def test_images_that_a_record_names_stay_when_their_group_does_not_fit_again(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    group(dataset, Layout.PARQUET, results())

    with monkeypatch.context() as patch:
        fill_disk(patch, room=0)
        with pytest.raises(OSError, match="No space left"):
            group(dataset, Layout.PARQUET, results(worker="worker:2"))

    assert images(dataset, Layout.PARQUET) == EXPECTED


def test_a_row_that_is_made_to_fit_keeps_the_place_of_its_image(dataset: DatasetFolder) -> None:
    (before,) = group(dataset, Layout.PARQUET, [result("a", b"image")])
    row = before.row.changed(notes=("odd \ud800",))
    earlier = UpscaledImage(result("a", None).source, dataclasses.replace(before, row=row))

    (again,) = group(dataset, Layout.PARQUET, [earlier])

    assert again.row.notes == ("odd \\ud800",)
    assert again.packed == before.packed


@every_layout
def test_two_workers_with_the_same_bundle_at_once_leave_one_record_of_each(
    dataset: DatasetFolder, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second does all of its own between what the first looks for and what it writes."""
    again, begun = RecordSearch.again, []

    def look_and_be_overtaken(self: RecordSearch) -> RecordSearch:
        search = again(self)
        if not begun:
            begun.append(True)
            found = [search.find(each.source.input_id, shard_of(each.source)) for each in made]
            assert found == [None] * len(made)
            group(dataset, layout, results(worker="worker:2"))
            # What this one has found by then is all that it knows.
            monkeypatch.setattr(RecordSearch, "find", lambda *_: None)
        return search

    made = results(worker="worker:1")
    monkeypatch.setattr(RecordSearch, "again", look_and_be_overtaken)
    group(dataset, layout, made)
    monkeypatch.undo()

    assert len(list(Path(dataset.groups).glob("*/*.json"))) == 4
    assert images(dataset, layout) == EXPECTED
    workers = [each.telemetry.worker for each in recorded(dataset).values() if each.telemetry]
    assert set(workers) == {"worker:2"}


@every_layout
def test_an_image_beats_the_failure_of_another_worker_that_saw_none(
    dataset: DatasetFolder, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, failure = (with_row(result("a", data), source_sha256="s") for data in (b"image", None))
    for first, second in ((image, failure), (failure, image)):
        group(dataset, layout, [first])
        with monkeypatch.context() as patch:
            patch.setattr(RecordSearch, "find", lambda *_: None)
            group(dataset, layout, [second])

        assert images(dataset, layout) == {"a": b"image"}


@every_layout
def test_a_failure_to_make_an_image_again_keeps_it(dataset: DatasetFolder, layout: Layout) -> None:
    image, failure = (with_row(result("a", data), source_sha256="s") for data in (b"image", None))
    group(dataset, layout, [image])

    (kept,) = group(dataset, layout, [failure])

    assert kept.row.status is Status.UPSCALED
    assert images(dataset, layout) == {"a": b"image"}


def test_a_result_that_replaces_one_of_the_version_before_removes_its_image(
    dataset: DatasetFolder,
) -> None:
    persist(with_row(result("a", b"old"), output_format="jpeg"), dataset, Layout.FILES)
    assert Path(dataset.resolve("images/a.jpg")).exists()

    group(dataset, Layout.FILES, [result("a", b"new")])

    assert images(dataset, Layout.FILES) == {"a": b"new"}
    assert not Path(dataset.resolve("images/a.jpg")).exists()


@every_layout
def test_an_input_that_comes_twice_in_a_group_has_its_last_result(
    dataset: DatasetFolder, layout: Layout
) -> None:
    group(dataset, layout, [result("a", b"first"), result("b", b"b"), result("a", b"last")])

    assert images(dataset, layout) == {"a": b"last", "b": b"b"}
    assert recorded(dataset)["a"].row.output_bytes == 4


def test_the_credits_of_results_without_books_are_entered(dataset: DatasetFolder) -> None:
    group(dataset, Layout.FILES, [paid("1"), with_row(paid("2"), input_id="/in/b.jpg")])

    assert read_sums(dataset).charged == Decimal("0.4")


def test_an_image_that_a_layout_cannot_hold_costs_no_other(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        parquet, "DEFINITION", dataclasses.replace(parquet.DEFINITION, most_image_bytes=4)
    )

    records = group(dataset, Layout.PARQUET, [result("a", b"large"), result("b", b"b")])

    assert [each.row.error_code for each in records] == [ErrorCode.ENCODE_ERROR, None]
    assert images(dataset, Layout.PARQUET) == {"a": None, "b": b"b"}
