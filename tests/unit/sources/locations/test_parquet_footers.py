"""What footers say of columns, as Arrow reads them, and damaged ones."""

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_upscale.sources.locations.parquet_footers import ColumnChunk, column_chunks

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(values: list[bytes | None]) -> bytes:
    images = pa.array([{"bytes": value, "path": "a"} for value in values], STRUCT)
    file = io.BytesIO()
    kinds: Mapping[bytes, bytes] = {b"note": b"x" * 300}
    columns = pa.table({"n": range(len(values)), "image": images, "x": [1.5] * len(values)})
    pq.write_table(columns.replace_schema_metadata(kinds), file, row_group_size=2)
    return file.getvalue()


WHOLE = table([b"a", b"b", None, b"x" * 5000, b"", b"b", None, None, b"z"])


def test_chunks_are_those_that_arrow_tells_of() -> None:
    metadata = pq.read_metadata(io.BytesIO(WHOLE))
    for index in range(metadata.num_columns):
        path = metadata.schema.column(index).path

        found = column_chunks(io.BytesIO(WHOLE), path)

        for number, chunk in enumerate(found):
            expected = metadata.row_group(number).column(index)
            assert chunk is not None
            assert (chunk.path, chunk.size) == (path, expected.total_uncompressed_size)
            assert chunk.nulls == expected.statistics.null_count
        assert len(found) == metadata.num_row_groups == 5


def test_the_least_value_tells_whether_one_is_empty() -> None:
    found = column_chunks(io.BytesIO(WHOLE), "image.bytes")

    assert [(chunk.nulls, chunk.least) for chunk in found if chunk] == [
        *((0, b"a"), (1, None), (0, b""), (2, None), (0, b"z")),
    ]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\xff\xff\xff\xffPAR1", bytes(100), WHOLE[:-9]])
def test_what_is_no_footer_tells_nothing(data: bytes) -> None:
    assert column_chunks(io.BytesIO(data), "image.bytes") == []
    assert column_chunks(io.BytesIO(WHOLE), "none") == [None] * 5


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=8))
@settings(max_examples=300)
def test_damage_is_no_error(place: int, noise: bytes) -> None:
    data = bytearray(WHOLE)
    data[-2008 + place : -2008 + place + len(noise)] = noise

    for chunk in column_chunks(io.BytesIO(data), "image.bytes"):
        assert chunk is None or isinstance(chunk, ColumnChunk)
