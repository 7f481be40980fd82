"""Records of groups whose inputs are assigned to other shards."""

import contextlib
import dataclasses
from pathlib import Path

import pytest
from persisted_results import result

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import Record
from beam_upscale.pipeline.commit.persist import persist_group
from beam_upscale.pipeline.commit.waiting_images import WaitingImages
from beam_upscale.pipeline.read import FindEarlier, ReadBatch, write_down
from beam_upscale.pipeline.run_state import regrouping
from beam_upscale.pipeline.run_state.input_state import state_of
from beam_upscale.pipeline.run_state.regrouping import has_groups, regroup
from beam_upscale.sources.inputs.found_inputs import Inputs
from beam_upscale.sources.inputs.source_image import SourceImage

NAMES = "abcdef"

every_layout = pytest.mark.parametrize("layout", [Layout.FILES, Layout.PARQUET])


def persisted(dataset: DatasetFolder, layout: Layout) -> dict[str, Record]:
    """Records of two groups: of `a` to `c` in one shard, and of `d` to `f` in another."""
    search = RecordSearch.begin(dataset, has_late_singles=False)
    records = [
        record
        for shard, names in enumerate(("abc", "def"))
        for record in persist_group(
            [result(name, name.encode(), shard) for name in names], dataset, layout, search
        )
    ]
    return {record.row.input_id: record for record in records}


def found(dataset: DatasetFolder, shards: dict[str, int]) -> dict[str, Record]:
    """The records that are found in these shards, by the ids of their inputs."""
    search = RecordSearch.begin(dataset, has_late_singles=False)
    pairs = {input_id: search.find(input_id, shard) for input_id, shard in shards.items()}
    return {input_id: record for input_id, record in pairs.items() if record is not None}


def images(dataset: DatasetFolder, records: dict[str, Record]) -> dict[str, bytes | None]:
    waiting = WaitingImages.of(records.values(), dataset)
    return {input_id: waiting.read(input_id) for input_id in records}


def input_id(name: str) -> str:
    return f"/in/{name}.jpg"


@every_layout
def test_records_follow_their_inputs(dataset: DatasetFolder, layout: Layout) -> None:
    records = persisted(dataset, layout)
    shards = {input_id(name): number // 2 for number, name in enumerate(NAMES)}

    regroup(dataset, shards.get)

    again = found(dataset, shards)
    assert again == records
    assert {each.row.input_id: each for each in dataset.read_records()} == records
    if layout.is_packed:
        assert images(dataset, again) == {input_id(name): name.encode() for name in NAMES}


@every_layout
def test_records_of_inputs_that_are_gone_are_removed(
    dataset: DatasetFolder, layout: Layout
) -> None:
    persisted(dataset, layout)

    regroup(dataset, {input_id(name): 0 for name in "bc"}.get)

    assert {each.row.input_id for each in dataset.read_records()} == {input_id("b"), input_id("c")}
    assert not list(Path(dataset.groups, "000001").iterdir())


def test_records_that_stay_are_not_written(dataset: DatasetFolder) -> None:
    persisted(dataset, Layout.PARQUET)
    before = {path: path.stat().st_mtime_ns for path in Path(dataset.groups).rglob("*.*")}

    regroup(dataset, {input_id(name): number // 3 for number, name in enumerate(NAMES)}.get)

    assert {path: path.stat().st_mtime_ns for path in Path(dataset.groups).rglob("*.*")} == before


@every_layout
def test_an_interrupted_move_is_done_again(
    dataset: DatasetFolder, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = persisted(dataset, layout)
    shards = {input_id(name): number // 2 for number, name in enumerate(NAMES)}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DatasetFolder, "delete", interrupt)
        with pytest.raises(KeyboardInterrupt):
            regroup(dataset, shards.get)
    regroup(dataset, shards.get)

    again = found(dataset, shards)
    assert again == records
    if layout.is_packed:
        assert images(dataset, again) == {input_id(name): name.encode() for name in NAMES}


def interrupt_after(deletions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts the deletion after this number of them."""
    delete, left = DatasetFolder.delete, [None] * deletions

    def counted(dataset: DatasetFolder, uri: str) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        delete(dataset, uri)

    monkeypatch.setattr(DatasetFolder, "delete", counted)


# Two groups, each with records and images, are moved.
@pytest.mark.parametrize("deletions", range(4))
@every_layout
def test_a_move_that_is_interrupted_after_any_deletion_is_done_again(
    dataset: DatasetFolder,
    layout: Layout,
    deletions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = RecordSearch.begin(dataset, has_late_singles=False)
    # The first image was made again, of other bytes; its first record counts no more.
    for group in ({"a": b"old", "b": b"b"}, {"a": b"new"}):
        made = [result(*each) for each in group.items()]
        persist_group(made, dataset, layout, search)
    shards = {input_id("a"): 1, input_id("b"): 1}

    with monkeypatch.context() as patch:
        interrupt_after(deletions, patch)
        with contextlib.suppress(KeyboardInterrupt):
            regroup(dataset, shards.get)
    regroup(dataset, shards.get)

    again = found(dataset, shards)
    assert set(again) == set(shards)
    assert again[input_id("a")].edition.number == 1
    if layout.is_packed:
        assert images(dataset, again) == {input_id("a"): b"new", input_id("b"): b"b"}


def test_an_earlier_record_that_is_left_behind_replaces_no_later_image(
    dataset: DatasetFolder,
) -> None:
    search = RecordSearch.begin(dataset, has_late_singles=False)
    persist_group([result("a", b"old")], dataset, Layout.PARQUET, search)
    left = {path: path.read_bytes() for path in Path(dataset.groups, "000000").iterdir()}
    persist_group([result("a", b"new")], dataset, Layout.PARQUET, search)
    shards = {input_id("a"): 1}

    # Interrupted before the last deletions.
    regroup(dataset, shards.get)
    for path, data in left.items():
        path.write_bytes(data)
    regroup(dataset, shards.get)

    assert images(dataset, found(dataset, shards)) == {input_id("a"): b"new"}


def test_an_input_that_moves_to_another_shard_is_still_done(
    dataset: DatasetFolder, inputs: Path
) -> None:
    def listed(*names: str) -> list[SourceImage]:
        for name in names:
            (inputs / name).write_bytes(name.encode())
        sources = [
            SourceImage(str(inputs / name), uri=str(inputs / name), name=name)
            for name in sorted(names)
        ]
        reader = ReadBatch(dataset)
        batches = list(write_down(Inputs(sources), dataset, shard_rows=2))
        return [source for batch in batches for source in reader.process(batch)]

    made = []
    for source in listed("b", "c", "d"):
        done = result(source.name, source.name.encode(), state_of(source).listed.source.shard)  # type: ignore[union-attr]
        row = dataclasses.replace(
            done.record.row,  # type: ignore[union-attr]
            input_id=source.input_id,
            source_uri=source.source_uri,
            source_sha256=source.sha256(),
        )
        made.append(dataclasses.replace(done, source=source, record=Record(row, None)))
    search = RecordSearch.begin(dataset, has_late_singles=False)
    persist_group(made, dataset, Layout.FILES, search)
    assert has_groups(dataset)

    # `b` and `d` have other shards by these.
    sources = listed("a", "b", "c", "d", "e")

    finder = FindEarlier(dataset, frozenset())
    done_now = [state_of(each).earlier for source in sources for each in finder.process(source)]
    assert [each is not None for each in done_now] == [False, True, True, True, False]
    assert regrouping.has_groups(dataset)
