"""Images that wait for a data shard, together with those of their group or alone."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from persisted_results import result

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.layouts.shard_files import read_images
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import Record
from beam_upscale.pipeline.commit import waiting_images
from beam_upscale.pipeline.commit.persist import persist, persist_group
from beam_upscale.pipeline.commit.shards import commit_shard
from beam_upscale.pipeline.commit.waiting_images import WaitingImages

packed_layouts = pytest.mark.parametrize("layout", [Layout.PARQUET, Layout.WEBDATASET])


def group(dataset: DatasetFolder, layout: Layout, **images: bytes | None) -> list[Record]:
    search = RecordSearch.begin(dataset, has_late_singles=False)
    return persist_group([result(*each) for each in images.items()], dataset, layout, search)


def committed(dataset: DatasetFolder, layout: Layout) -> dict[str, bytes]:
    """The images of the shard, by the names of their inputs."""
    found = read_images(dataset.data_uri(0, layout), layout)
    return {input_id.removeprefix("/in/").removesuffix(".jpg"): data for input_id, data in found}


def waiting(dataset: DatasetFolder) -> list[Path]:
    return [*Path(dataset.groups).rglob("*.images"), *Path(dataset.waiting_images).rglob("*.*")]


@packed_layouts
@pytest.mark.parametrize("most_bytes", [1 << 20, 10])
def test_images_of_groups_and_single_ones_are_committed_and_removed(
    dataset: DatasetFolder, layout: Layout, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_images, "_MOST_BYTES", most_bytes)
    records = group(dataset, layout, b=b"image b", d=None, c=b"")
    records.append(persist(result("a", b"alone"), dataset, layout))
    records += group(dataset, layout, e=b"of another group")

    commit_shard(0, records, dataset, layout, "run")

    assert committed(dataset, layout) == {
        "a": b"alone",
        "b": b"image b",
        "c": b"",
        "e": b"of another group",
    }
    assert waiting(dataset) == []


@packed_layouts
def test_a_commit_that_is_repeated_takes_images_from_the_shard(
    dataset: DatasetFolder, layout: Layout
) -> None:
    records = group(dataset, layout, a=b"a", b=b"b", c=b"c")
    commit_shard(0, records, dataset, layout, "run")
    before = committed(dataset, layout)

    commit_shard(0, records, dataset, layout, "run")
    assert committed(dataset, layout) == before
    changed = group(dataset, layout, b=b"new")
    commit_shard(0, [records[0], *changed, records[2]], dataset, layout, "run")

    assert committed(dataset, layout) == {"a": b"a", "b": b"new", "c": b"c"}
    assert waiting(dataset) == []


@packed_layouts
def test_a_group_counts_before_what_the_version_before_left(
    dataset: DatasetFolder, layout: Layout
) -> None:
    persist(result("a", b"old"), dataset, layout)
    records = group(dataset, layout, a=b"new")

    commit_shard(0, records, dataset, layout, "run")
    commit_shard(0, [], dataset, layout, "run")

    assert committed(dataset, layout) == {"a": b"new"}
    assert not Path(dataset.waiting_image_uri("/in/a.jpg")).exists()


def test_images_of_which_nothing_is_left_are_none(dataset: DatasetFolder) -> None:
    records = group(dataset, Layout.PARQUET, a=b"a")
    for path in waiting(dataset):
        path.unlink()

    found = WaitingImages.of(records, dataset)

    assert found.read("/in/a.jpg") is None
    assert not found.has_singles


def test_a_group_is_read_at_once_whatever_waits_beside_it(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_images, "_MOST_BYTES", 250)
    images = {f"{number:02}": bytes([number]) * 10 for number in range(50)}
    records = []
    for first in range(0, 50, 10):
        names = list(images)[first : first + 10]
        records += group(dataset, Layout.PARQUET, **{name: images[name] for name in names})
    reads = []
    read_range = waiting_images.files.read_range

    def counted(*arguments: Any) -> bytes:
        reads.append(arguments)
        return read_range(*arguments)

    monkeypatch.setattr(waiting_images.files, "read_range", counted)

    found = WaitingImages.of(records, dataset)
    assert [found.read(f"/in/{name}.jpg") for name in images] == list(images.values())
    assert len(reads) == 5
    assert sum(map(len, found._whole._files.values())) <= 250

    # In an order that leaps from group to group, no file is read whole twice.
    reads.clear()
    leaping = WaitingImages.of(records, dataset)
    for name in sorted(images, key=lambda name: name[::-1]):
        assert leaping.read(f"/in/{name}.jpg") == images[name]
    assert len([each for each in reads if each[2] > 10]) == 5


class Interrupted(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("deletions", range(3))
def test_an_image_that_a_group_has_replaced_does_not_outlive_it(
    dataset: DatasetFolder, deletions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    persist(result("a", b"old"), dataset, Layout.PARQUET)
    single = Path(dataset.waiting_image_uri("/in/a.jpg"))
    old = single.read_bytes()
    records = group(dataset, Layout.PARQUET, a=b"new")
    single.write_bytes(old)
    delete, left = DatasetFolder.delete, [None] * deletions

    def interrupted(folder: DatasetFolder, uri: str) -> None:
        if "/images/" in uri or uri.endswith(".images"):
            if not left:
                raise Interrupted
            left.pop()
        delete(folder, uri)

    with monkeypatch.context() as patch:
        patch.setattr(DatasetFolder, "delete", interrupted)
        with contextlib.suppress(Interrupted):
            commit_shard(0, records, dataset, Layout.PARQUET, "run")
    commit_shard(0, records, dataset, Layout.PARQUET, "run")

    assert committed(dataset, Layout.PARQUET) == {"a": b"new"}
