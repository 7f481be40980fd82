import dataclasses
import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.dataset.manifest.columns import infer_input_type
from beam_upscale.dataset.manifest.row import (
    COLUMNS,
    Row,
    Status,
    row_from_dict,
    row_from_json,
    row_to_json,
    status_of,
    with_earlier_billing,
)
from beam_upscale.dataset.manifest.table import TELEMETRY, rows_of, table
from beam_upscale.dataset.manifest.totals import totals
from beam_upscale.errors import ErrorCode
from beam_upscale.planning.engines import ENGINES

STAGE = {
    "engine": "esrgan-v1-x2plus",
    "model": "tiny",
    "weights_sha256": "ab" * 32,
    "device_type": "cpu",
    "precision": "fp32",
    "network_backend": "openvino",
    "halo": 96,
    "seed": 7,
    "input_width": 10,
    "input_height": 20,
    "output_width": 20,
    "output_height": 40,
    "output_uri": "intermediates/1/a.png",
    "output_bytes": 123,
    "output_sha256": "cd" * 32,
    "calls": 1,
    "credits": Decimal("0.2000"),
    "request_ids": ["one", "two"],
}
FULL = Row(
    input_id="gs://bucket/é\n.png",
    source_uri="gs://bucket/é\n.png",
    status=Status.UPSCALED,
    source_sha256="cd" * 32,
    notes=("palette", "upscaled in 4 pieces"),
    engine="esrgan-v1-x2plus",
    backend="local",
    model="tiny",
    weights_sha256="ab" * 32,
    device_type="cpu",
    precision="fp32",
    network_backend="openvino",
    halo=96,
    prompt="",
    cfg_scale=7.5,
    steps=20,
    seed=2**40,
    noise_level=20,
    input_width=10,
    input_height=20,
    input_format="png",
    input_mode="P",
    output_uri="images/é\n.png",
    output_width=20,
    output_height=40,
    output_format="png",
    output_bytes=2**33,
    output_sha256="ef" * 32,
    calls=4,
    credits=Decimal("0.8"),
    billed_credits=Decimal("0.4"),
    usd=Decimal("0.008"),
    request_ids=("one", "two"),
    stages=(STAGE,),
    input={"file_name": "é\n.png", "label": 3, "engine": "mine", "box": {"x": 0.5, "tags": ["a"]}},
)
BARE = Row("b", "b", Status.FAILED, error_code=ErrorCode.EMPTY_FILE, error_message="0 bytes")

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
def test_a_row_survives_json(row: Row) -> None:
    assert row_from_json(json.loads(json.dumps(row_to_json(row)))) == row


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


def test_decimals_are_marked_strings_in_json() -> None:
    values = row_to_json(FULL)

    assert (values["credits"], values["usd"]) == ({"$decimal": "0.8"}, {"$decimal": "0.008"})
    assert values["stages"][0]["credits"] == {"$decimal": "0.2000"}


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


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.INPUT_TOO_LARGE, Status.REJECTED),
        (ErrorCode.OUTPUT_TOO_LARGE, Status.REJECTED),
        (ErrorCode.OUTPUT_SIDE_TOO_LONG, Status.REJECTED),
        (ErrorCode.TOO_MANY_PIXELS, Status.REJECTED),
        (ErrorCode.FILE_TOO_LARGE, Status.REJECTED),
        (ErrorCode.ANIMATED, Status.REJECTED),
        (ErrorCode.EMPTY_FILE, Status.FAILED),
        (ErrorCode.EMPTY_IMAGE, Status.FAILED),
        (ErrorCode.PERMISSION_DENIED, Status.FAILED),
        (ErrorCode.DECODER_CRASHED, Status.FAILED),
        (ErrorCode.OUT_OF_MEMORY, Status.FAILED),
    ],
)
def test_the_rules_reject_and_everything_else_fails(code: ErrorCode, status: Status) -> None:
    assert status_of(code) is status


def test_a_million_prices_sum_exactly() -> None:
    price = ENGINES["esrgan-v1-x2plus"].credits(160, 160)
    row = Row("a", "a", Status.UPSCALED, calls=1, credits=price, usd=price / 100, output_bytes=3)

    sums = totals(row for _ in range(1_000_000))

    assert (sums.rows, sums.by_status) == (1_000_000, {"upscaled": 1_000_000})
    assert (sums.calls, sums.credits) == (1_000_000, Decimal("200000.0"))
    assert (sums.usd, sums.output_bytes) == (Decimal("2000.000"), 3_000_000)


def test_totals_by_status() -> None:
    sums = totals([FULL, BARE, dataclasses.replace(BARE, status=Status.REJECTED), FULL])

    assert sums.by_status == {"upscaled": 2, "failed": 1, "rejected": 1}
    assert (sums.credits, sums.billed_credits) == (Decimal("1.6"), Decimal("0.8"))
    assert totals([]).rows == 0


# What was billed for a row whose place another takes


def billed_row(billed: str, *request_ids: str) -> Row:
    return Row("a", "a", Status.FAILED, billed_credits=Decimal(billed), request_ids=request_ids)


@pytest.mark.parametrize(
    ("earlier", "row", "expected"),
    [
        pytest.param(("0.2", "1"), ("0.4", "2", "3"), ("0.6", "1", "2", "3"), id="other content"),
        pytest.param(("0.2", "1"), ("0.4", "1", "2"), ("0.4", "1", "2"), id="a retry"),
        pytest.param(("0.4", "1", "2"), ("0",), ("0.4", "1", "2"), id="now unreadable"),
        pytest.param(("0",), ("0.2", "1"), ("0.2", "1"), id="nothing before"),
        pytest.param(
            ("0.6", "1", "2", "3"), ("0.4", "2", "3"), ("0.6", "1", "2", "3"), id="once more"
        ),
    ],
)
def test_money_that_was_spent_stays_in_the_manifest(
    earlier: tuple[str, ...], row: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    merged = with_earlier_billing(billed_row(*row), billed_row(*earlier))

    assert merged == billed_row(*expected)
    assert with_earlier_billing(merged, billed_row(*earlier)) == merged
