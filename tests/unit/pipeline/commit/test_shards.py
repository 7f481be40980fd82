"""Shards that are committed, again and late."""

import dataclasses
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from persisted_results import TELEMETRY, files, noise, paid, result, with_row

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts import parquet
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.layouts.shard_files import read_images
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ErrorCode
from beam_upscale.pipeline.commit.persist import persist, persist_group
from beam_upscale.pipeline.commit.shards import CommitShard, commit_shard, listed_records
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.arrivals import Arrivals, ListedArrivals, id_hash
from beam_upscale.pipeline.run_state.listing_files import ListedInput, write_listing
from beam_upscale.pipeline.write import new_run_id
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files as stored_files
from beam_upscale.storage.protocol.store import FileEntry


@pytest.mark.parametrize("layout", list(Layout))
def test_a_row_that_cannot_be_stored_costs_no_other(dataset: DatasetFolder, layout: Layout) -> None:
    kind = pa.struct([("file_name", pa.string()), ("n", pa.int64())])
    huge = {"input_width": 2**32, "seed": -(2**63) - 1, "error_message": "\udc80" + "x" * 9000}
    made = [
        result("a", b"1"),
        # A surprise in a place that nothing looks at before.
        with_row(paid("1", b"2"), output_uri=None, credits=Decimal("1e30"), input_width=8),
        with_row(result("c", b"3"), input={"file_name": "c.jpg", "n": "many"}),
        with_row(result("d", None), **huge),
        with_row(result("e", b"5"), notes=("\udcff",), input_height=2**31),
    ]
    made[1] = dataclasses.replace(made[1], source=result("b", None).source)
    made[1] = with_row(made[1], input_id="/in/b.jpg")
    records = [persist(each, dataset, layout) for each in made]
    odd = dataclasses.replace(TELEMETRY, attempts=2**40, started_at=1e300)
    records[0] = dataclasses.replace(records[0], telemetry=odd)

    for _ in range(2):
        commit_shard(0, records, dataset, layout, "run", kind)

    rows = dataset.read_manifest(0)
    assert [row.error_code for row in rows] == [None, "internal_error", None, None, None]
    a, b, c, d, e = rows
    assert (b.status, b.billed_credits, b.request_ids) == (Status.FAILED, Decimal("0.2"), ("1",))
    assert (b.credits, b.output_uri, b.output_sha256, b.input_width) == (0, None, None, 8)
    assert "its row cannot be stored: " in (b.error_message or "")
    assert dict(c.input) == {"file_name": "c.jpg", "n": None}
    assert c.notes == (
        "the input's column n is left out: its value is not of the type of the others",
    )
    assert (d.input_width, d.seed) == (None, None)
    assert d.notes == (
        "seed is -0x8000000000000001, more than the 63 bits of its column",
        "input_width is 0x100000000, more than the 31 bits of its column",
    )
    assert (d.error_message or "").startswith("\\udc80xxx") and len(d.error_message or "") < 4100
    assert e.notes[0] == "\\udcff" and e.input_height is None
    images = {row.input_id for row in (a, c, e)}
    if layout.is_packed:
        found = dict(read_images(dataset.data_uri(0, layout), layout))
        assert found.keys() == images
    else:
        files = Path(dataset.resolve("images")).iterdir()
        assert {path.name for path in files} == {"a.png", "c.png", "e.png"}
    (telemetry,) = Path(dataset.resolve("telemetry")).iterdir()
    assert pq.read_table(telemetry)["attempts"].to_pylist() == [None, 1, 1, 1, 1]


def test_an_image_that_parquet_does_not_hold_is_one_row(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        parquet, "DEFINITION", dataclasses.replace(parquet.DEFINITION, most_image_bytes=4)
    )

    record = persist(paid("1", b"image"), dataset, Layout.PARQUET)

    assert (record.row.status, record.row.error_code) == (Status.FAILED, ErrorCode.ENCODE_ERROR)
    assert "take the layout files or webdataset" in (record.row.error_message or "")
    assert record.row.billed_credits == Decimal("0.2")
    assert not Path(dataset.waiting_image_uri("/in/a.jpg")).exists()
    commit_shard(0, [record], dataset, Layout.PARQUET, "run")


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("status", [Status.OVER_BUDGET, Status.FAILED])
def test_an_attempt_that_failed_takes_no_image_away(
    dataset: DatasetFolder, layout: Layout, status: Status
) -> None:
    made = persist(paid("1"), dataset, layout)
    failed = paid("2", None, status=status)

    twin = persist(failed, dataset, layout)

    assert dataset.read_record("/in/a.jpg") == twin
    assert twin.row.status is Status.UPSCALED
    assert twin.row.billed_credits == Decimal("0.4")
    commit_shard(0, [made], dataset, layout, "run")
    assert failed.record is not None
    for _ in range(2):
        commit_shard(0, [failed.record], dataset, layout, "later")

    (row,) = dataset.read_manifest(0)
    assert (row.status, row.output_uri) == (Status.UPSCALED, made.row.output_uri)
    assert (row.billed_credits, row.request_ids) == (Decimal("0.4"), ("2", "1"))
    assert row.output_uri is not None
    assert Path(dataset.resolve(row.output_uri)).exists()


@pytest.mark.parametrize("layout", list(Layout))
def test_order_of_records_changes_no_byte(tmp_path: Path, layout: Layout) -> None:
    results = [result(name, noise(100, ord(name)) if name != "c" else None) for name in "abcd"]
    files = []
    for order in (1, -1):
        dataset = DatasetFolder(str(tmp_path / str(order)))
        records = [persist(upscaled, dataset, layout) for upscaled in results]
        commit_shard(0, records[::order], dataset, layout, new_run_id())
        commit_shard(0, records[::order], dataset, layout, new_run_id())
        files.append(
            {
                path.relative_to(dataset.root): path.read_bytes()
                for folder in ("images", "data", "manifest")
                for path in Path(dataset.root, folder).rglob("*.*")
            }
        )

    assert len(files[0]) == (4 if layout is Layout.FILES else 2)
    assert files[0] == files[1]


@pytest.mark.parametrize("layout", [Layout.PARQUET, Layout.WEBDATASET])
def test_later_commit_keeps_images_that_no_longer_wait(
    dataset: DatasetFolder, layout: Layout
) -> None:
    first = [persist(result(name, name.encode()), dataset, layout) for name in "abcde"]
    commit_shard(0, first, dataset, layout, "first")
    assert not any(Path(dataset.waiting_image_uri(f"/in/{name}.jpg")).exists() for name in "abcde")
    changed = [persist(result("b", b"new"), dataset, layout)]
    changed.append(persist(result("d", None), dataset, layout))

    commit_shard(0, changed, dataset, layout, "second")

    images = read_images(dataset.data_uri(0, layout), layout)
    assert [data for _, data in images] == [b"a", b"new", b"c", b"e"]
    statuses = [str(row.status) for row in dataset.read_manifest(0)]
    assert statuses == ["upscaled", "upscaled", "upscaled", "failed", "upscaled"]


@pytest.mark.parametrize("layout", [Layout.PARQUET, Layout.WEBDATASET])
def test_a_shard_that_breaks_leaves_what_was_there(dataset: DatasetFolder, layout: Layout) -> None:
    def commit(name: str, *, is_waiting: bool) -> None:
        record = persist(result(name, noise(9000, 0)), dataset, layout)
        if not is_waiting:
            Path(dataset.waiting_image_uri(f"/in/{name}.jpg")).unlink()
        commit_shard(0, [record], dataset, layout, "run")

    def files() -> dict[Path, bytes]:
        folders = (Path(dataset.root, name) for name in ("data", ".staging/partial"))
        return {path: path.read_bytes() for folder in folders for path in folder.iterdir()}

    with pytest.raises(
        LookupError, match=r"the image of /in/a.jpg is neither below .staging nor in data/"
    ):
        commit("a", is_waiting=False)
    assert files() == {}
    commit("a", is_waiting=True)
    whole = files()
    with pytest.raises(
        LookupError, match=r"the image of /in/b.jpg is neither below .staging nor in data/"
    ):
        commit("b", is_waiting=False)
    assert files() == whole


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(250, 100, [100, 100, 50]), (40, 1 << 20, [16, 16, 8]), (3, 17 << 20, [1, 1, 1]), (0, 0, [])],
    ids=["many rows", "many bytes", "large images", "no images"],
)
def test_row_groups_are_small_enough_to_stream(
    dataset: DatasetFolder, count: int, size: int, expected: list[int]
) -> None:
    results = [result(f"{number:03}", noise(size, number)) for number in range(count)]
    results.append(result("broken", None))
    records = [persist(upscaled, dataset, Layout.PARQUET) for upscaled in results]

    commit_shard(0, records, dataset, Layout.PARQUET, "run")

    metadata = pq.read_metadata(dataset.data_uri(0, Layout.PARQUET))
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert groups == expected


def test_what_was_billed_for_an_earlier_row_stays(dataset: DatasetFolder) -> None:
    def billed(name: str, *request_ids: str) -> UpscaledImage:
        upscaled = result(name, None)
        assert upscaled.record is not None
        row = dataclasses.replace(
            upscaled.record.row, request_ids=request_ids, billed_credits=Decimal("0.2")
        )
        return dataclasses.replace(upscaled, record=Record(row, TELEMETRY))

    for shards in (1, 2):
        for request_id in ("1", "2"):
            record = persist(billed("a", f"{request_id} of {shards}"), dataset, Layout.FILES)
        for _ in range(2):
            commit_shard(0, [record], dataset, Layout.FILES, "run")
        Path(dataset.record_uri("/in/a.jpg")).unlink()

    (row,) = dataset.read_manifest(0)
    assert row.request_ids == ("1 of 1", "2 of 1", "1 of 2", "2 of 2")
    assert row.billed_credits == Decimal("0.8")


def test_a_commit_that_comes_late_takes_nothing_away(dataset: DatasetFolder) -> None:
    record = persist(result("a", noise(10, 0)), dataset, Layout.FILES)
    commit_shard(0, [record], dataset, Layout.FILES, "run")
    before = {path: path.read_bytes() for path in files(dataset)}
    left_out = Row("/in/a.jpg", "/in/a.jpg", Status.FILTERED, error_code=str(ErrorCode.LEFT_OUT))

    # The run has ended meanwhile, and with it the records: it looks as if none had come.
    commit_shard(0, [Record(left_out, None)], dataset, Layout.FILES, "run")

    assert {path: path.read_bytes() for path in files(dataset)} == before
    assert len(dataset.read_manifest(0)) == 1


def test_a_row_that_comes_late_keeps_no_other_from_its_place(dataset: DatasetFolder) -> None:
    done = [persist(result(name, noise(10, 0)), dataset, Layout.FILES) for name in "ab"]
    commit_shard(0, done[:1], dataset, Layout.FILES, "run")
    left_out = Row("/in/a.jpg", "/in/a.jpg", Status.FILTERED, error_code=str(ErrorCode.LEFT_OUT))

    commit_shard(0, [Record(left_out, None), done[1]], dataset, Layout.FILES, "run")

    assert [row.status for row in dataset.read_manifest(0)] == [Status.UPSCALED] * 2


def test_an_input_whose_record_is_gone_was_not_left_out(dataset: DatasetFolder) -> None:
    listed = [ListedInput(SourceImage(f"/in/{name}.jpg", shard=0)) for name in "abc"]
    batch = next(write_listing(listed, len(listed), dataset))
    persist(result("a", None), dataset, Layout.FILES)
    came = ListedArrivals(batch.part, id_hash("/in/a.jpg") + id_hash("/in/b.jpg"), is_new=True)

    found = listed_records(listed, dataset, Arrivals.of([came]))

    assert next(found).row.status is Status.FAILED
    with pytest.raises(LookupError, match=r"the record of /in/b\.jpg is gone"):
        next(found)


def test_what_cannot_wait_is_not_looked_for(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [ListedInput(SourceImage(f"/in/{name}.jpg", shard=0)) for name in "ab"]
    batch = next(write_listing(listed, len(listed), dataset))
    search = RecordSearch.begin(dataset, has_late_singles=False)
    made = [result(name, noise(10, 0)) for name in "ab"]
    persist_group(made, dataset, Layout.FILES, search)
    hashes = b"".join(id_hash(each.source.input_id) for each in listed)
    looked = []
    list_below = stored_files.list_below

    def noted(folder: str) -> Iterator[FileEntry]:
        looked.append(folder)
        return list_below(folder)

    monkeypatch.setattr(stored_files, "list_below", noted)
    step = CommitShard(dataset, Layout.FILES, "run", None, may_leave_out=True)

    (outcome,) = step.process((0, [ListedArrivals(batch.part, hashes, is_new=True)]))

    assert outcome.is_whole
    assert len(dataset.read_manifest(0)) == 2
    # Once, whether an earlier version has left records; no images wait for a shard.
    assert looked.count(dataset.records) == 1
    assert dataset.waiting_images not in looked
