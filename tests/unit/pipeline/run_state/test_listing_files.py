import datetime
from decimal import Decimal

import pytest
from memory_filesystem import MemoryFileSystem

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import ErrorCode
from beam_upscale.pipeline.run_state.listing_files import (
    ListedInput,
    listed_shards,
    read_index,
    read_part,
    together,
    write_listing,
)
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.sources.locations.file_parts import Cell, Extent, Missing
from beam_upscale.storage.http.web_access import WebAccess

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
    ),
    SourceImage("percent-encoded:/in/%FF", "/in/\udcff", name="%FF", shard=3),
]

LISTED = [ListedInput(image, is_committed=image is IMAGES[2]) for image in IMAGES]


@pytest.fixture
def dataset() -> DatasetFolder:
    MemoryFileSystem.files.clear()
    return DatasetFolder("mem://out")


def test_a_listing_is_read_as_it_was_written(dataset: DatasetFolder) -> None:
    batches = list(write_listing(LISTED, 4, dataset))

    found = []
    for batch in batches:
        inputs = read_part(dataset, batch.part)[batch.first : batch.first + batch.count]
        assert {listed.source.shard for listed in inputs} == {batch.shard}
        found += inputs
    assert found == LISTED
    assert list(read_index(dataset)) == batches
    assert [shard for shard, _ in listed_shards(dataset)] == [0, 3]


def test_lines_are_those_of_earlier_versions() -> None:
    url = "http://host/c.png"
    image = SourceImage(url, url, name="c.png", shard=3, web_access=WebAccess(True, False))

    lines = [LISTED[0].to_json(), ListedInput(image, is_committed=True).to_json()]

    assert lines == [
        '{"input_id": "/in/a.tar#a.png", "uri": "/in/a.tar", "part": ["extent", 512, 10], '
        '"name": "a/a.png", "output_name": "a/a", "columns": {"price": {"$decimal": "1.50"}, '
        '"at": {"$datetime": "2024-01-02T00:00:00"}, "tags": [1, null]}, "caption_uri": '
        '"/in/a.tar", "caption_part": ["extent", 1536, 3], "shard": 0, "committed": false}',
        '{"input_id": "http://host/c.png", "uri": "http://host/c.png", "name": "c.png", '
        '"output_name": "", "columns": {}, "shard": 3, "committed": true, '
        '"web_access": [true, false]}',
    ]


def test_other_inputs_leave_the_parts_of_a_run_that_still_reads_them(
    dataset: DatasetFolder,
) -> None:
    (before, *_) = write_listing(LISTED, 4, dataset)

    list(write_listing(LISTED[:1], 1, dataset))

    assert read_part(dataset, before.part) == LISTED[:2]
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
