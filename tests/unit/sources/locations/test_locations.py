"""Bytes of whole files, of ranges and of cells."""

import gc
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from web_server import file, serving, status

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.locations import local_copies, locations, parquet_cells, parts
from beam_upscale.sources.locations.parts import Cell, Extent, Missing, Part
from beam_upscale.storage import files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture(autouse=True)
def cells(monkeypatch: pytest.MonkeyPatch) -> parquet_cells._Cells:
    own = parquet_cells._Cells()
    monkeypatch.setattr(parquet_cells, "cells", own)
    return own


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files were opened."""
    uris: list[str] = []
    open_read = files.open_read

    def note(uri: str) -> Any:
        uris.append(uri)
        return open_read(uri)

    monkeypatch.setattr(files, "open_read", note)
    return uris


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

    assert locations.read(str(path), part, max_bytes=10) == expected
    assert locations.read_start(str(path), part, 3) == expected[:3]
    assert locations.size(str(path), part) == len(expected)
    assert locations.sha256(str(path), part) == hashlib.sha256(expected).hexdigest()


def test_a_part_that_is_cut_off_is_an_error(path: Path) -> None:
    path.write_bytes(b"0123456789")
    part = Extent(8, 5)

    assert code_of(lambda: locations.read(str(path), part, 10)) is ErrorCode.TRUNCATED
    assert code_of(lambda: locations.read_start(str(path), part, 3)) is ErrorCode.TRUNCATED
    assert code_of(lambda: locations.sha256(str(path), part)) is ErrorCode.TRUNCATED


@pytest.mark.parametrize("part", [None, Extent(0, 6), Cell(0, 0, "image")])
def test_what_is_too_large_is_not_read(path: Path, part: Part | None) -> None:
    table(path, size=6)

    assert code_of(lambda: locations.read(str(path), part, 5)) is ErrorCode.FILE_TOO_LARGE


def test_what_is_missing_is_the_error_it_holds(path: Path) -> None:
    part = Missing(ErrorCode.INVALID_ROW, "why")

    assert locations.size(str(path), part) is None
    for act in (
        lambda: locations.read(str(path), part, 5),
        lambda: locations.read_start(str(path), part, 5),
        lambda: locations.sha256(str(path), part),
    ):
        with pytest.raises(ImageError, match="invalid_row: why"):
            act()


def test_a_row_group_is_read_once_for_its_rows(path: Path, opened: list[str]) -> None:
    values = table(path)

    found = [
        locations.read(str(path), Cell(number // 2, number % 2, "image"), 10)
        for number in (0, 1, 0, 2, 3, 4, 5, 1)
    ]

    assert found == [values[number] for number in (0, 1, 0, 2, 3, 4, 5, 1)]
    assert len(opened) == 3


def test_threads_that_want_one_row_group_read_it_once(path: Path, opened: list[str]) -> None:
    values = table(path, count=2)
    barrier = threading.Barrier(4)

    def read(number: int) -> bytes:
        barrier.wait()
        return locations.read(str(path), Cell(0, number % 2, "image"), 10)

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
        assert locations.read(str(path), Cell(number // 2, 0, "image"), 10**4) == values[number]

    assert len(opened) == 5
    assert len(cells._kept) == 2


def test_of_small_row_groups_sixteen_are_kept(
    path: Path, opened: list[str], cells: parquet_cells._Cells
) -> None:
    table(path, count=34)

    # The first, as the one that was read in longest ago, makes room for the seventeenth.
    for group in [*range(17), 1, 16, 0]:
        locations.read(str(path), Cell(group, 0, "image"), 10)

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
            found.append(locations.read(str(path), Cell(group, row, "image"), 10))
        return found

    with ThreadPoolExecutor(40) as executor:
        found = list(executor.map(read, range(40)))

    assert [value for pair in found for value in pair] == values
    assert len(opened) == len(cells._kept) == 40
    # What threads had that are gone is kept no longer than anything else.
    del executor
    gc.collect()
    locations.read(str(path), Cell(0, 0, "image"), 10)
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
        assert locations.read(str(path), cell, 10) == values[number]
    beyond = Cell(0, 50, "image.bytes")
    assert code_of(lambda: locations.read(str(path), beyond, 10)) is ErrorCode.READ_ERROR


def test_a_file_that_was_replaced_is_read_anew(path: Path) -> None:
    table(path)
    cell = Cell(0, 0, "image")
    assert locations.read(str(path), cell, 10) == b"0"

    other = path.with_name("other")
    pq.write_table(pa.table({"image": [b"X", b"1"]}), other)
    other.replace(path)

    assert locations.read(str(path), cell, 10) == b"X"


def test_a_file_that_was_replaced_by_one_of_its_size_and_time_is_read_anew(path: Path) -> None:
    table(path)
    before, cell = path.stat(), Cell(0, 0, "image")
    assert locations.read(str(path), cell, 10) == b"0"

    data = path.read_bytes()
    pq.write_table(pa.table({"image": [b"X", b"1"]}), path)
    path.write_bytes(path.read_bytes().ljust(len(data))[: len(data)])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(ImageError):
        locations.read(str(path), cell, 10)


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

    assert code_of(lambda: locations.read(str(path), cell, 10)) is ErrorCode.READ_ERROR


def test_a_table_that_is_gone_or_broken_is_an_error(path: Path) -> None:
    cell = Cell(0, 0, "image")

    assert code_of(lambda: locations.read(str(path), cell, 10)) is ErrorCode.NOT_FOUND
    path.write_bytes(b"no table")
    assert code_of(lambda: locations.read(str(path), cell, 10)) is ErrorCode.READ_ERROR


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> local_copies.Copies:
    own = local_copies.Copies()
    monkeypatch.setattr(locations, "_copies", own)
    return own


def test_local_file_is_where_it_is(path: Path) -> None:
    path.write_bytes(b"0123456789")

    with locations.on_disk(str(path), None) as found:
        assert found == parts.OnDisk(path, None)


@pytest.mark.parametrize("part", [Extent(2, 5), Cell(1, 1, "image")])
def test_parts_are_copied_to_be_read_in_parts(
    part: Part, path: Path, opened: list[str], copies: local_copies.Copies
) -> None:
    if isinstance(part, Cell):
        table(path)
    else:
        path.write_bytes(b"0123456789")
    expected = locations.read(str(path), part, 100)
    opened.clear()

    sha256 = None
    for _ in range(3):
        with locations.on_disk(str(path), part, sha256) as found:
            assert found.path.read_bytes() == expected
            sha256 = found.sha256

    assert sha256 == hashlib.sha256(expected).hexdigest()
    assert found.path != path
    assert len(opened) <= 1


def test_a_copy_is_of_the_bytes_that_were_hashed(path: Path, copies: local_copies.Copies) -> None:
    part = Extent(0, 5)
    path.write_bytes(b"first")
    with locations.on_disk(str(path), part) as first:
        again = first.path
    path.write_bytes(b"other")

    with locations.on_disk(str(path), part, first.sha256) as kept:
        assert (kept.path, kept.path.read_bytes()) == (again, b"first")
    with locations.on_disk(str(path), part) as now, locations.on_disk(str(path), part) as same:
        assert now == same
        assert now.path.read_bytes() == b"other"
    with (
        pytest.raises(ImageError, match="was changed or removed while it was read") as caught,
        locations.on_disk(str(path), part, "0" * 64),
    ):
        pass

    assert caught.value.code is ErrorCode.READ_ERROR
    assert {each.name for each in again.parent.iterdir()} == {again.name, now.path.name}


def test_copies_are_made_anew_of_a_changed_file_and_do_not_pile_up(
    path: Path, copies: local_copies.Copies
) -> None:
    path.write_bytes(b"0123456789")
    with locations.on_disk(str(path), Extent(0, 1)) as held:
        for offset in range(1, 6):
            with locations.on_disk(str(path), Extent(offset, 2)) as found:
                assert found.path.read_bytes() == b"0123456789"[offset : offset + 2]
        assert held.path.read_bytes() == b"0"
    path.write_bytes(b"abcdefghijkl")
    with locations.on_disk(str(path), Extent(0, 1)) as found:
        assert found.path.read_bytes() == b"a"

    assert len(list(found.path.parent.iterdir())) == 2


def test_what_cannot_be_copied_says_why(path: Path, copies: local_copies.Copies) -> None:
    missing = Missing(ErrorCode.INVALID_ROW, "nothing")

    def hold(part: Part | None) -> Callable[[], None]:
        def act() -> None:
            with locations.on_disk(str(path), part):
                pass

        return act

    assert code_of(hold(None)) is ErrorCode.NOT_FOUND
    assert code_of(hold(Extent(0, 3))) is ErrorCode.NOT_FOUND
    assert code_of(hold(missing)) is ErrorCode.INVALID_ROW
    path.write_bytes(b"01")
    assert code_of(hold(Extent(0, 3))) is ErrorCode.TRUNCATED
    assert all(copy.path is None for copy in copies._copies.values())
