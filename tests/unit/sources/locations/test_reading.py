"""Bytes of whole files, of ranges and of cells."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from web_server import file, serving, status

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.locations import file_parts, reading
from beam_upscale.sources.locations.file_parts import Cell, Extent, Missing, Part
from beam_upscale.storage import files


def table(path: Path, count: int = 6, size: int = 1) -> list[bytes]:
    """Leaves a table of binary values, two in a row group."""
    values = [b"%d" % number * size for number in range(count)]
    pq.write_table(pa.table({"image": values}), path, row_group_size=2)
    return values


def code_of(act: Callable[[], object]) -> ErrorCode:
    with pytest.raises(ImageError) as caught:
        act()
    return caught.value.code


@pytest.mark.parametrize(
    ("part", "expected"), [(None, b"0123456789"), (Extent(2, 5), b"23456"), (Extent(9, 1), b"9")]
)
def test_a_part_is_read_as_a_whole_file_is(path: Path, part: Part | None, expected: bytes) -> None:
    path.write_bytes(b"0123456789")

    assert reading.read(str(path), part, max_bytes=10) == expected
    assert reading.read_start(str(path), part, 3) == expected[:3]
    assert reading.size(str(path), part) == len(expected)
    assert reading.sha256(str(path), part) == hashlib.sha256(expected).hexdigest()


def test_a_part_that_is_cut_off_is_an_error(path: Path) -> None:
    path.write_bytes(b"0123456789")
    part = Extent(8, 5)

    assert code_of(lambda: reading.read(str(path), part, 10)) is ErrorCode.TRUNCATED
    assert code_of(lambda: reading.read_start(str(path), part, 3)) is ErrorCode.TRUNCATED
    assert code_of(lambda: reading.sha256(str(path), part)) is ErrorCode.TRUNCATED


@pytest.mark.parametrize("part", [None, Extent(0, 6), Cell(0, 0, "image")])
def test_what_is_too_large_is_not_read(path: Path, part: Part | None) -> None:
    table(path, size=6)

    assert code_of(lambda: reading.read(str(path), part, 5)) is ErrorCode.FILE_TOO_LARGE


def test_what_is_missing_is_the_error_it_holds(path: Path) -> None:
    part = Missing(ErrorCode.INVALID_ROW, "why")

    assert reading.size(str(path), part) is None
    for act in (
        lambda: reading.read(str(path), part, 5),
        lambda: reading.read_start(str(path), part, 5),
        lambda: reading.sha256(str(path), part),
    ):
        with pytest.raises(ImageError, match="invalid_row: why"):
            act()


def test_a_file_that_was_replaced_is_read_anew(path: Path) -> None:
    table(path)
    cell = Cell(0, 0, "image")
    assert reading.read(str(path), cell, 10) == b"0"

    other = path.with_name("other")
    pq.write_table(pa.table({"image": [b"X", b"1"]}), other)
    other.replace(path)

    assert reading.read(str(path), cell, 10) == b"X"


def test_a_file_that_was_replaced_by_one_of_its_size_and_time_is_read_anew(path: Path) -> None:
    table(path)
    before, cell = path.stat(), Cell(0, 0, "image")
    assert reading.read(str(path), cell, 10) == b"0"

    data = path.read_bytes()
    pq.write_table(pa.table({"image": [b"X", b"1"]}), path)
    path.write_bytes(path.read_bytes().ljust(len(data))[: len(data)])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(ImageError):
        reading.read(str(path), cell, 10)


def test_a_table_of_a_web_server_that_was_replaced_is_read_anew(path: Path) -> None:
    tables = {}
    for value in (b"one", b"two"):
        pq.write_table(pa.table({"image": [value]}), path)
        tables[value] = path.read_bytes()
    assert len({len(data) for data in tables.values()}) == 1

    with serving() as web:
        url = f"{web.url}/t.parquet"
        # Neither is dated or tagged: only a new listing tells.
        for value, data in tables.items():
            web.replies["/t.parquet"] = file(data)
            (image,) = list_images(url).images
            assert image.read(10) == value

        seen = files.version(url)
        for headers in ({"ETag": '"1"'}, {"ETag": '"2"'}, {"Last-Modified": "Mon"}):
            web.replies["/t.parquet"] = status(200, headers, data)
            assert files.version(url) != seen
            seen = files.version(url)


@pytest.mark.parametrize(
    "cell", [Cell(9, 0, "image"), Cell(0, 9, "image"), Cell(0, 0, "other")], ids=str
)
def test_a_cell_that_is_not_there_is_an_error(path: Path, cell: Cell) -> None:
    table(path)

    assert code_of(lambda: reading.read(str(path), cell, 10)) is ErrorCode.READ_ERROR


def test_a_table_that_is_gone_or_broken_is_an_error(path: Path) -> None:
    cell = Cell(0, 0, "image")

    assert code_of(lambda: reading.read(str(path), cell, 10)) is ErrorCode.NOT_FOUND
    path.write_bytes(b"no table")
    assert code_of(lambda: reading.read(str(path), cell, 10)) is ErrorCode.READ_ERROR


def test_local_file_is_where_it_is(path: Path) -> None:
    path.write_bytes(b"0123456789")

    with reading.on_disk(str(path), None) as found:
        assert found == file_parts.OnDisk(path, None)
