"""Row groups that are kept for the cells in them."""

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.locations import parquet_cells, reading
from beam_upscale.sources.locations.file_parts import Cell


def table(path: Path, count: int = 6, size: int = 1) -> list[bytes]:
    """Leaves a table of binary values, two in a row group."""
    values = [b"%d" % number * size for number in range(count)]
    pq.write_table(pa.table({"image": values}), path, row_group_size=2)
    return values


def code_of(act: Callable[[], object]) -> ErrorCode:
    with pytest.raises(ImageError) as caught:
        act()
    return caught.value.code


def test_a_row_group_is_read_once_for_its_rows(path: Path, opened: list[str]) -> None:
    values = table(path)

    found = [
        reading.read(str(path), Cell(number // 2, number % 2, "image"), 10)
        for number in (0, 1, 0, 2, 3, 4, 5, 1)
    ]

    assert found == [values[number] for number in (0, 1, 0, 2, 3, 4, 5, 1)]
    assert len(opened) == 3


def test_threads_that_want_one_row_group_read_it_once(path: Path, opened: list[str]) -> None:
    values = table(path, count=2)
    barrier = threading.Barrier(4)

    def read(number: int) -> bytes:
        barrier.wait()
        return reading.read(str(path), Cell(0, number % 2, "image"), 10)

    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(read, range(4)))

    assert found == [*values, *values]
    assert len(opened) == 1


def test_what_is_kept_is_bounded(
    path: Path, opened: list[str], cells: parquet_cells._Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = table(path, count=20, size=1000)
    monkeypatch.setattr(parquet_cells, "_MOST_KEPT_BYTES", 5000)

    for number in (0, 2, 4, 6, 0):
        assert reading.read(str(path), Cell(number // 2, 0, "image"), 10**4) == values[number]

    assert len(opened) == 5
    assert len(cells._kept) == 2


def test_of_small_row_groups_sixteen_are_kept(
    path: Path, opened: list[str], cells: parquet_cells._Cells
) -> None:
    table(path, count=34)

    # The first, as the one that was read in longest ago, makes room for the seventeenth.
    for group in [*range(17), 1, 16, 0]:
        reading.read(str(path), Cell(group, 0, "image"), 10)

    assert len(opened) == 18
    assert len(cells._kept) == 16


def test_each_of_many_threads_keeps_the_row_group_that_it_reads_in(
    path: Path, opened: list[str], cells: parquet_cells._Cells
) -> None:
    values = table(path, count=80)
    barrier = threading.Barrier(40)

    def read(group: int) -> list[bytes]:
        found = []
        for row in range(2):
            barrier.wait()
            found.append(reading.read(str(path), Cell(group, row, "image"), 10))
        return found

    with ThreadPoolExecutor(40) as executor:
        found = list(executor.map(read, range(40)))

    assert [value for pair in found for value in pair] == values
    assert len(opened) == len(cells._kept) == 40
    # What threads had that are gone is kept no longer than anything else.
    del executor
    gc.collect()
    reading.read(str(path), Cell(0, 0, "image"), 10)
    assert len(cells._kept) == 16


def test_a_row_group_that_is_too_large_to_keep_is_read_to_the_row(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [b"%d" % number for number in range(100)]
    images = [{"bytes": value, "path": None} for value in values]
    pq.write_table(pa.table({"image": images}), path, row_group_size=50)
    monkeypatch.setattr(parquet_cells, "_MOST_KEPT_BYTES", 10)

    for number in (0, 49, 50, 99):
        cell = Cell(number // 50, number % 50, "image.bytes")
        assert reading.read(str(path), cell, 10) == values[number]
    beyond = Cell(0, 50, "image.bytes")
    assert code_of(lambda: reading.read(str(path), beyond, 10)) is ErrorCode.READ_ERROR
