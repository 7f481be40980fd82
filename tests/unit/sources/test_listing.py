import datetime
from decimal import Decimal

import pytest
from memory_filesystem import MemoryFileSystem

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import ErrorCode
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.sources.listing import (
    listed_shards,
    read_index,
    read_part,
    together,
    write_listing,
)
from beam_upscale.sources.locations.parts import Cell, Extent, Missing

IMAGES = [
    SourceImage(
        "/in/a.tar#a.png",
        "/in/a.tar",
        Extent(512, 10),
        name="a/a.png",
        output_name="a/a",
        columns={"price": Decimal("1.50"), "at": datetime.datetime(2024, 1, 2), "tags": [1, None]},
        caption_uri="/in/a.tar",
        caption_part=Extent(1536, 3),
        shard=0,
    ),
    SourceImage("/in/b.parquet#0", "/in/b.parquet", Cell(0, 1, "image.bytes"), shard=0),
    SourceImage(
        "/in/c.jsonl#0",
        "/in/c.jsonl",
        Missing(ErrorCode.INVALID_ROW, "line 1: {}"),
        shard=3,
        committed=True,
    ),
    SourceImage("percent-encoded:/in/%FF", "/in/\udcff", name="%FF", shard=3),
]


@pytest.fixture
def dataset() -> DatasetFolder:
    MemoryFileSystem.files.clear()
    return DatasetFolder("mem://out")


def test_a_listing_is_read_as_it_was_written(dataset: DatasetFolder) -> None:
    batches = list(write_listing(IMAGES, 4, dataset))

    found = []
    for batch in batches:
        images = read_part(dataset, batch.part)[batch.first : batch.first + batch.count]
        assert {image.shard for image in images} == {batch.shard}
        assert {image.listed_in for image in images} == {batch.part}
        found += images
    assert [image.to_json() for image in found] == [image.to_json() for image in IMAGES]
    assert [image.part for image in found] == [image.part for image in IMAGES]
    assert found[0].columns == IMAGES[0].columns
    assert found[3].uri == IMAGES[3].uri
    assert list(read_index(dataset)) == batches
    assert [shard for shard, _ in listed_shards(dataset)] == [0, 3]


def test_other_inputs_leave_the_parts_of_a_run_that_still_reads_them(
    dataset: DatasetFolder,
) -> None:
    (before, *_) = write_listing(IMAGES, 4, dataset)

    list(write_listing(IMAGES[:1], 1, dataset))

    assert [image.input_id for image in read_part(dataset, before.part)] == [
        image.input_id for image in IMAGES[:2]
    ]
    assert [batch.count for batch in read_index(dataset)] == [1]


def test_without_a_listing_there_are_no_batches(dataset: DatasetFolder) -> None:
    assert list(read_index(dataset)) == []
    assert list(write_listing([], 0, dataset)) == []


def cell(group: int, row: int, uri: str = "/a.parquet") -> SourceImage:
    return SourceImage(f"{uri}#{group}-{row}", uri, Cell(group, row, "image"))


def test_rows_of_a_row_group_stay_together() -> None:
    images = [cell(0, row) for row in range(70)] + [cell(1, 0), cell(0, 0, "/b.parquet")]
    files = [SourceImage(f"/{name}.png", f"/{name}.png") for name in "xyz"]

    few = list(together([*images, *files], 75))
    many = list(together([*images, *files], 1_000_000))

    assert [len(batch) for batch in few] == [*[8] * 8, 6, 1, 1, 1, 1, 1]
    assert [len(batch) for batch in many] == [64, 6, 1, 1, 3]
    for batches in (few, many):
        assert [image for batch in batches for image in batch] == [*images, *files]
    assert list(together([], 0)) == []
