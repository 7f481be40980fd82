"""One row, alone."""

import dataclasses
import json
from decimal import Decimal

import pytest
from example_rows import BARE, FULL

from beam_upscale.dataset.manifest.row import (
    Row,
    Status,
    row_from_json,
    row_to_json,
    status_of,
    with_earlier_billing,
)
from beam_upscale.errors import ErrorCode


@pytest.mark.parametrize("row", [FULL, BARE])
def test_a_row_survives_json(row: Row) -> None:
    assert row_from_json(json.loads(json.dumps(row_to_json(row)))) == row


def test_decimals_are_marked_strings_in_json() -> None:
    values = row_to_json(FULL)

    assert (values["credits"], values["usd"]) == ({"$decimal": "0.8"}, {"$decimal": "0.008"})
    assert values["stages"][0]["credits"] == {"$decimal": "0.2000"}


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


def test_a_changed_row_is_a_row_like_any_other() -> None:
    changed = BARE.changed(output_uri="a.png", calls=2)

    assert changed == dataclasses.replace(BARE, output_uri="a.png", calls=2)
    assert Row.of(vars(BARE)) == BARE
    with pytest.raises(TypeError, match="output_url"):
        BARE.changed(output_url="a.png")
    with pytest.raises(TypeError, match="input_id"):
        Row.of({"source_uri": "a", "status": Status.FAILED, "input": {}})
    # As many columns as a row has, but not its columns.
    with pytest.raises(TypeError, match="output_url"):
        Row.of({"source_uri": "a", "status": Status.FAILED, "input": {}, "output_url": "a.png"})


def test_columns_that_records_leave_out_keep_their_defaults() -> None:
    # A record that an earlier version wrote would mean something else with other defaults.
    row = Row("a", "b", Status.FAILED)
    others = {
        "input_id": "a",
        "source_uri": "b",
        "status": Status.FAILED,
        "notes": (),
        "calls": 0,
        "credits": Decimal(0),
        "billed_credits": Decimal(0),
        "usd": Decimal(0),
        "request_ids": (),
        "stages": (),
        "input": {},
    }

    assert vars(row) == {field.name: others.get(field.name) for field in dataclasses.fields(Row)}
    assert row_from_json({"input_id": "a", "source_uri": "b", "status": "failed"}) == row


def test_default_columns_take_no_room_in_json() -> None:
    row = Row("a", "b", Status.FAILED, error_code="c", input={"x": None})

    assert row_to_json(row) == {
        "input_id": "a",
        "source_uri": "b",
        "status": "failed",
        "error_code": "c",
        "input": {"x": None},
    }
