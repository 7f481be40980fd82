import dataclasses
import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_rows import BARE, FULL
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.dataset.manifest.own_columns import infer_input_type
from beam_upscale.dataset.manifest.row import (
    COLUMNS,
    Row,
    Status,
    row_from_dict,
    row_from_json,
    row_to_json,
)
from beam_upscale.dataset.manifest.table import TELEMETRY, rows_of, table

amounts = st.integers(0, 10**13).map(lambda units: Decimal(units).scaleb(-4))
rows = st.builds(
    Row,
    input_id=st.text(st.characters(exclude_categories=["Cs"])),
    source_uri=st.text(st.characters(exclude_categories=["Cs"])),
    status=st.sampled_from(Status),
    notes=st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    cfg_scale=st.none() | st.floats(allow_nan=False),
    calls=st.integers(0, 2**31 - 1),
    credits=amounts,
    billed_credits=amounts,
    usd=amounts.map(lambda amount: amount / 100),
)


@pytest.mark.parametrize("row", [FULL, BARE])
def test_a_row_survives_parquet(tmp_path: Path, row: Row) -> None:
    pq.write_table(table([row]), tmp_path / "manifest.parquet")

    (values,) = pq.read_table(tmp_path / "manifest.parquet").to_pylist()

    assert row_from_dict(values) == row


def test_rows_come_back_from_a_file_with_the_columns_that_they_had(tmp_path: Path) -> None:
    mixed = [3, "3", '"3"', [1, "a"], {"$date": "mine"}, 2**70, 10**5000, "\ud800", {}]
    rows = [Row(str(n), "", Status.FAILED, input={"x": x}) for n, x in enumerate(mixed)]

    pq.write_table(table(rows), tmp_path / "manifest.parquet")

    found = rows_of(pq.read_table(tmp_path / "manifest.parquet"))
    assert [row.input["x"] for row in found] == mixed
    assert table(found).equals(table(rows))


def test_parts_have_the_type_that_is_given(tmp_path: Path) -> None:
    kind = infer_input_type([{"x": 1}, {"x": 0.5}, {"y": [1]}])

    parts = [table([dataclasses.replace(BARE, input=own)], kind) for own in ({"x": 2}, {})]

    assert parts[0].schema == parts[1].schema
    assert pa.concat_tables(parts)["input"].to_pylist() == [
        {"x": 2.0, "y": None},
        {"x": None, "y": None},
    ]


@given(rows)
def test_any_row_survives_json_and_arrow(row: Row) -> None:
    assert row_from_json(json.loads(json.dumps(row_to_json(row)))) == row
    assert row_from_dict(table([row]).to_pylist()[0]) == row


def test_own_columns_of_any_type_survive_json_and_arrow() -> None:
    columns = {
        "bytes": b"\xff\x00",
        "time": dt.datetime(2020, 2, 29, 12, 30, tzinfo=dt.UTC),
        "day": dt.date(2020, 2, 29),
        "price": Decimal("1.50"),
        "tags": ["a", "b"],
        "nested": {"score": 0.5},
        "none": None,
    }
    row = Row("a", "a", Status.FAILED, input=columns)

    assert row_from_json(json.loads(json.dumps(row_to_json(row)))) == row
    assert table([row]).to_pylist()[0]["input"] == columns


def test_a_column_without_one_type_is_stored_as_text() -> None:
    rows = [
        Row("a", "a", Status.FAILED, input={"label": 1}),
        Row("b", "b", Status.FAILED, input={"label": ["x"]}),
        Row("c", "c", Status.FAILED),
    ]

    labels = [row["input"]["label"] for row in table(rows).to_pylist()]

    assert labels == ["1", '["x"]', None]


def test_columns_are_those_that_are_promised() -> None:
    promised = [
        "input_id",
        "source_uri",
        "source_sha256",
        "status",
        "error_code",
        "error_message",
        "notes",
        "engine",
        "backend",
        "model",
        "weights_sha256",
        "device_type",
        "precision",
        "network_backend",
        "halo",
        "prompt",
        "negative_prompt",
        "cfg_scale",
        "steps",
        "seed",
        "noise_level",
        "input_width",
        "input_height",
        "input_format",
        "input_mode",
        "output_uri",
        "output_width",
        "output_height",
        "output_format",
        "output_bytes",
        "output_sha256",
        "calls",
        "credits",
        "billed_credits",
        "usd",
        "request_ids",
        "stages",
        "input",
    ]

    schema = table([FULL]).schema

    assert schema.names == promised
    assert [field.name for field in dataclasses.fields(Row) if field.name not in promised] == []
    assert schema.field("credits").type == pa.decimal128(18, 4)
    assert schema.field("billed_credits").type == pa.decimal128(18, 4)
    assert schema.field("usd").type == pa.decimal128(18, 6)
    assert TELEMETRY.names == [
        *("input_id", "device_seconds", "queue_seconds", "attempts", "batch_size", "worker"),
        "started_at",
    ]


def test_rows_stand_in_the_order_of_their_ids_whatever_order_they_come_in() -> None:
    ids = ["b", "B", "a/b", "a", "é", "a\n"]
    there = table(Row(id_, id_, Status.SKIPPED) for id_ in ids)
    back = table(Row(id_, id_, Status.SKIPPED) for id_ in reversed(ids))

    assert there.column("input_id").to_pylist() == sorted(ids)
    assert there.equals(back)


def test_the_datasets_own_columns_are_nested_and_untouched() -> None:
    inputs = table([FULL, BARE]).column("input").to_pylist()

    assert inputs == [
        dict.fromkeys(FULL.input),
        {"file_name": "é\n.png", "label": 3, "engine": "mine", "box": {"x": 0.5, "tags": ["a"]}},
    ]
    assert table([FULL, BARE]).column("engine").to_pylist() == [None, "esrgan-v1-x2plus"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**70, "1180591620717411303424"),
        ({}, "{}"),
        ([{"a": {}}], '[{"a": {}}]'),
    ],
)
def test_what_parquet_has_no_type_for_is_stored_as_json(
    tmp_path: Path, value: object, text: str
) -> None:
    row = dataclasses.replace(BARE, input={"x": value})

    pq.write_table(table([row]), tmp_path / "manifest.parquet")

    assert pq.read_table(tmp_path / "manifest.parquet")["input"].to_pylist() == [{"x": text}]


def test_no_columns_of_the_datasets_own_are_nulls(tmp_path: Path) -> None:
    pq.write_table(table([BARE]), tmp_path / "manifest.parquet")

    assert pq.read_table(tmp_path / "manifest.parquet").column("input").to_pylist() == [None]


def test_a_shard_without_rows_has_the_columns() -> None:
    empty = table([])

    assert empty.num_rows == 0
    assert empty.schema.names == [*COLUMNS.names, "input"]
