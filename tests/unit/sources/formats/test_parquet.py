"""Tables of Parquet, whose columns have types and may hold images."""

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written_tables import problems_of, write

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.formats import parquet
from beam_upscale.sources.locations.file_parts import Cell


def test_values_of_parquet_keep_their_types(tmp_path: Path) -> None:
    row = {
        "URL": "a.png",
        "n": 7,
        "when": dt.datetime(2024, 5, 6, tzinfo=dt.UTC),
        "price": Decimal("1.50"),
        "tags": ["a", "b"],
        "box": {"x": 1.5},
        "hash": b"\0\1",
        "none": None,
    }
    path = write(tmp_path / "rows.parquet", [row])

    (image,) = list_images(str(path)).images

    assert image.columns == row


def test_uuids_of_parquet_are_texts(tmp_path: Path) -> None:
    found = uuid.uuid4()
    column = pa.array([found.bytes], pa.uuid())
    lists = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), column)
    ends = pa.array([0, 1], pa.int32())
    maps = pa.MapArray.from_arrays(ends, pa.array(["key"]), column)
    table = pa.table({"url": ["a.png"], "id": column, "ids": lists, "by_name": maps})
    pq.write_table(table, tmp_path / "rows.parquet")

    (image,) = list_images(str(tmp_path / "rows.parquet")).images

    by_name = [["key", str(found)]]
    expected = {"url": "a.png", "id": str(found), "ids": [str(found)], "by_name": by_name}
    assert image.columns == expected


def embedded(path: Path, images: pa.Array, row_group_size: int = 2, **others: list[Any]) -> Path:
    pq.write_table(pa.table({"image": images, **others}), path, row_group_size=row_group_size)
    return path


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_embedded_images_are_cells(tmp_path: Path) -> None:
    values = [{"bytes": b"%d" % n, "path": f"{n}.png" if n % 2 else None} for n in range(5)]
    path = embedded(tmp_path / "a.parquet", pa.array(values, STRUCT), label=list(range(5)))

    images = tuple(list_images(str(path)).images)

    assert [image.input_id for image in images] == [f"{path}#{n:012}" for n in range(5)]
    assert [image.part for image in images] == [
        Cell(n // 2, n % 2, "image.bytes") for n in range(5)
    ]
    assert [image.columns for image in images] == [{"label": n} for n in range(5)]
    assert [image.read(10) for image in images] == [b"%d" % n for n in range(5)]
    assert [image.output_name for image in images] == [
        *("a/row-000000000000", "a/1", "a/row-000000000002", "a/3", "a/row-000000000004"),
    ]
    assert [image.source_uri for image in images] == [str(path)] * 5


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(2)])
def test_a_binary_column_holds_images_too(tmp_path: Path, kind: pa.DataType) -> None:
    path = embedded(tmp_path / "a.parquet", pa.array([b"aa", b"bb", None], kind))

    images = tuple(list_images(str(path)).images)

    assert [image.read(10) for image in images[:2]] == [b"aa", b"bb"]
    assert [dict(image.columns) for image in images] == [{}, {}, {}]
    with pytest.raises(ImageError) as caught:
        images[2].read(10)
    assert caught.value.code is ErrorCode.INVALID_ROW


def test_a_struct_without_bytes_names_a_file_where_it_has_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"file")
    values = [
        {"bytes": b"x", "path": "a.png"},
        {"bytes": None, "path": "a.png"},
        {"bytes": b"", "path": f"file://{tmp_path}/a.png"},
        {"bytes": None, "path": "http://localhost:1/b.png"},
        None,
        {"bytes": None, "path": None},
        {"bytes": b"", "path": ""},
        {"bytes": None, "path": "data:image/png;base64,AAAA"},
    ]
    path = embedded(tmp_path / "a.parquet", pa.array(values, STRUCT), n=list(range(8)))

    images = tuple(list_images(str(path)).images)

    inside, beside, absolute, elsewhere, *without = images
    assert (inside.uri, inside.read(10)) == (str(path), b"x")
    for image in (beside, absolute):
        assert (image.uri, image.part, image.read(10)) == (f"{tmp_path}/a.png", None, b"file")
    assert elsewhere.uri == "http://localhost:1/b.png"
    assert [problem.partition(", ")[2].partition(";")[0] for problem in problems_of(without)] == [
        *(f"row {n}: image.path has no value" for n in (4, 5, 6)),
        "row 7: image.path is an address that is not read: data: is not a scheme that is read",
    ]
    assert [dict(image.columns) for image in images] == [{"n": n} for n in range(8)]


def test_bytes_are_read_by_a_listing_only_where_some_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"file")
    long = b"x" * 5000
    read: list[list[str]] = []
    batches = parquet._batches
    monkeypatch.setattr(parquet, "_batches", lambda *each: read.append(each[3]) or batches(*each))

    def parts(*values: bytes | None) -> list[bool]:
        """Whether each image of a row group is in the table."""
        structs = [{"bytes": value, "path": "a.png"} for value in values]
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"image": pa.array(structs, STRUCT)}), path)
        read.clear()
        return [isinstance(image.part, Cell) for image in list_images(str(path)).images]

    assert (parts(b"a", b"b"), ["image.bytes"] in read) == ([True, True], False)
    assert (parts(long, b"b"), ["image.bytes"] in read) == ([True, True], False)
    assert (parts(None, None), ["image.bytes"] in read) == ([False, False], False)
    assert (parts(None, long), ["image.bytes"] in read) == ([False, True], True)
    assert (parts(b"", b"b"), ["image.bytes"] in read) == ([False, True], True)
    assert (parts(b"", long), ["image.bytes"] in read) == ([False, True], True)


def test_bytes_of_other_images_stay_where_they_are(tmp_path: Path) -> None:
    values = pa.array([{"bytes": b"x", "path": None}], STRUCT)
    masks = pa.array([{"bytes": b"mask", "path": "m.png"}], STRUCT)
    lists = pa.ListArray.from_arrays([0, 1], masks)
    nested = pa.StructArray.from_arrays([lists, pa.array([1])], ["images", "count"])
    path = tmp_path / "a.parquet"
    columns = {"mask": masks, "image": values, "n": [1], "more": lists, "others": nested}
    pq.write_table(pa.table(columns), path)

    (image,) = list_images(str(path)).images
    (mask,) = list_images(str(path), image_column="mask").images

    assert image.columns == {"n": 1}
    assert (image.read(10), mask.read(10)) == (b"x", b"mask")
