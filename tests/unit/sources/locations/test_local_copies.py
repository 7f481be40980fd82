"""Local copies of what is read in parts."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.locations import local_copies, reading
from beam_upscale.sources.locations.file_parts import Cell, Extent, Missing, Part


def table(path: Path, count: int = 6, size: int = 1) -> list[bytes]:
    """Leaves a table of binary values, two in a row group."""
    values = [b"%d" % number * size for number in range(count)]
    pq.write_table(pa.table({"image": values}), path, row_group_size=2)
    return values


def code_of(act: Callable[[], object]) -> ErrorCode:
    with pytest.raises(ImageError) as caught:
        act()
    return caught.value.code


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> local_copies.Copies:
    own = local_copies.Copies()
    monkeypatch.setattr(reading, "_copies", own)
    return own


@pytest.mark.parametrize("part", [Extent(2, 5), Cell(1, 1, "image")])
def test_parts_are_copied_to_be_read_in_parts(
    part: Part, path: Path, opened: list[str], copies: local_copies.Copies
) -> None:
    if isinstance(part, Cell):
        table(path)
    else:
        path.write_bytes(b"0123456789")
    expected = reading.read(str(path), part, 100)
    opened.clear()

    sha256 = None
    for _ in range(3):
        with reading.on_disk(str(path), part, sha256) as found:
            assert found.path.read_bytes() == expected
            sha256 = found.sha256

    assert sha256 == hashlib.sha256(expected).hexdigest()
    assert found.path != path
    assert len(opened) <= 1


def test_a_copy_is_of_the_bytes_that_were_hashed(path: Path, copies: local_copies.Copies) -> None:
    part = Extent(0, 5)
    path.write_bytes(b"first")
    with reading.on_disk(str(path), part) as first:
        again = first.path
    path.write_bytes(b"other")

    with reading.on_disk(str(path), part, first.sha256) as kept:
        assert (kept.path, kept.path.read_bytes()) == (again, b"first")
    with reading.on_disk(str(path), part) as now, reading.on_disk(str(path), part) as same:
        assert now == same
        assert now.path.read_bytes() == b"other"
    with (
        pytest.raises(ImageError, match="was changed or removed while it was read") as caught,
        reading.on_disk(str(path), part, "0" * 64),
    ):
        pass

    assert caught.value.code is ErrorCode.READ_ERROR
    assert {each.name for each in again.parent.iterdir()} == {again.name, now.path.name}


def test_copies_are_made_anew_of_a_changed_file_and_do_not_pile_up(
    path: Path, copies: local_copies.Copies
) -> None:
    path.write_bytes(b"0123456789")
    with reading.on_disk(str(path), Extent(0, 1)) as held:
        for offset in range(1, 6):
            with reading.on_disk(str(path), Extent(offset, 2)) as found:
                assert found.path.read_bytes() == b"0123456789"[offset : offset + 2]
        assert held.path.read_bytes() == b"0"
    path.write_bytes(b"abcdefghijkl")
    with reading.on_disk(str(path), Extent(0, 1)) as found:
        assert found.path.read_bytes() == b"a"

    assert len(list(found.path.parent.iterdir())) == 2


def test_what_cannot_be_copied_says_why(path: Path, copies: local_copies.Copies) -> None:
    missing = Missing(ErrorCode.INVALID_ROW, "nothing")

    def hold(part: Part | None) -> Callable[[], None]:
        def act() -> None:
            with reading.on_disk(str(path), part):
                pass

        return act

    assert code_of(hold(None)) is ErrorCode.NOT_FOUND
    assert code_of(hold(Extent(0, 3))) is ErrorCode.NOT_FOUND
    assert code_of(hold(missing)) is ErrorCode.INVALID_ROW
    path.write_bytes(b"01")
    assert code_of(hold(Extent(0, 3))) is ErrorCode.TRUNCATED
    assert all(copy.path is None for copy in copies._copies.values())
