"""Values of Arrow's tables, and those that Python has no place for."""

import datetime as dt
import uuid
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.dataset.manifest.json_values import from_json, to_json
from beam_upscale.dataset.manifest.own_columns import (
    from_struct_array,
    infer_input_type,
    struct_array,
)
from beam_upscale.sources.parsing.arrow_values import rows_of_arrow

DAY = 24 * 60 * 60


def as_type(values: list[int], kind: pa.DataType) -> pa.Array:
    """Values of a type by the numbers that stand for them, be they beyond what is meant."""
    is_short = kind in (pa.date32(), pa.time32("s"), pa.time32("ms"))
    return pa.array(values, pa.int32() if is_short else pa.int64()).view(kind)


def values_of(array: pa.Array) -> list[Any]:
    return [row["x"] for row in rows_of_arrow(pa.table({"image": ["a"] * len(array), "x": array}))]


def not_utf_8() -> pa.Array:
    data = b"\xff\xfea"
    ends = pa.array([0, 1, 3], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(data)])


def twice_named() -> pa.Array:
    far = as_type([10_000_000], pa.date32())
    return pa.StructArray.from_arrays([pa.array([1]), far], ["a", "a"])


def nested(leaf: pa.Array) -> pa.Array:
    lists = pa.ListArray.from_arrays([0, 1], leaf)
    pairs = pa.StructArray.from_arrays([pa.array(["k"]), lists], ["key", "value"])
    return pa.StructArray.from_arrays([pairs, lists], ["pairs", "lists"])


UTC = dt.UTC
ODD: list[tuple[pa.Array, list[Any]]] = [
    (as_type([19_000, 10_000_000], pa.date32()), [dt.date(2022, 1, 8), "+29349-01-26"]),
    (as_type([-719_163, -719_529], pa.date32()), ["0000-12-31", "-0001-12-31"]),
    (as_type([0, 253_402_300_800_000], pa.date64()), [dt.date(1970, 1, 1), "+10000-01-01"]),
    (
        as_type([0, 2**62], pa.timestamp("us")),
        [dt.datetime(1970, 1, 1), "+148108-07-06T14:00:27.387904"],
    ),
    (as_type([253_402_300_800], pa.timestamp("s", "UTC")), ["+10000-01-01T00:00:00Z"]),
    (as_type([-62_135_596_800_001], pa.timestamp("ms")), ["0000-12-31T23:59:59.999"]),
    (
        as_type([0], pa.timestamp("us", "Mars/Base")),
        [dt.datetime(1970, 1, 1, tzinfo=UTC)],
    ),
    (as_type([2**62], pa.timestamp("us", "Mars/Base")), ["+148108-07-06T14:00:27.387904Z"]),
    (
        as_type([1_234_567, None, 10**9], pa.timestamp("ns", "Europe/Paris")),
        ["1970-01-01T00:00:00.001234567Z", None, "1970-01-01T00:00:01Z"],
    ),
    (
        as_type([1_700_000_000_123_456_789], pa.timestamp("ns")),
        ["2023-11-14T22:13:20.123456789"],
    ),
    (as_type([1_001, 86_399 * 10**9], pa.time64("ns")), ["00:00:00.000001001", "23:59:59"]),
    (
        nested(as_type([1], pa.time64("ns"))),
        [
            {
                "pairs": {"key": "k", "value": ["00:00:00.000000001"]},
                "lists": ["00:00:00.000000001"],
            }
        ],
    ),
    (
        as_type([1_234_000], pa.timestamp("ns", "Europe/Paris")),
        [dt.datetime(1970, 1, 1, 1, 0, 0, 1234, ZoneInfo("Europe/Paris"))],
    ),
    # The year 1 in UTC, and the year before it in New York.
    (
        as_type([-62_135_596_800_000_000], pa.timestamp("us", "America/New_York")),
        [dt.datetime(1, 1, 1, tzinfo=UTC)],
    ),
    (as_type([1_000], pa.time64("ns")), [dt.time(0, 0, 0, 1)]),
    (as_type([1_000], pa.duration("ns")), [dt.timedelta(microseconds=1)]),
    (as_type([1_999, 1_000, -5], pa.duration("ns")), ["1999 ns", "1000 ns", "-5 ns"]),
    (as_type([2**60], pa.duration("s")), [f"{2**60} s"]),
    (pa.array([1], pa.decimal256(76, 75)), pa.array([1], pa.decimal256(76, 75)).to_pylist()),
    (
        pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64())),
        [[("a", 1), ("a", 2)]],
    ),
    (twice_named(), [[["a", 1], ["a", "+29349-01-26"]]]),
    (not_utf_8(), ["\\xff", "\\xfea"]),
    (as_type([10_000_000], pa.date32()).dictionary_encode(), ["+29349-01-26"]),
    (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)], pa.binary(16))),
        [str(uuid.UUID(int=0))],
    ),
    (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], pa.int8())), [True]),
    (
        nested(as_type([2_000_000], pa.timestamp("ns"))),
        [
            {
                "pairs": {"key": "k", "value": [dt.datetime(1970, 1, 1, 0, 0, 0, 2000)]},
                "lists": [dt.datetime(1970, 1, 1, 0, 0, 0, 2000)],
            }
        ],
    ),
    (
        nested(as_type([10_000_000], pa.date32())),
        [{"pairs": {"key": "k", "value": ["+29349-01-26"]}, "lists": ["+29349-01-26"]}],
    ),
    (pa.array([None, None], pa.date32()), [None, None]),
]


@pytest.mark.parametrize(("array", "values"), ODD, ids=lambda each: str(getattr(each, "type", "")))
def test_values_are_python_s_or_text(array: pa.Array, values: list[Any]) -> None:
    found = values_of(array)

    assert found == values
    # And a manifest holds them, through JSON.
    columns = [{"x": from_json(to_json(value))} for value in found]
    stored = list(from_struct_array(struct_array(columns, infer_input_type(columns))))
    assert [to_json(each["x"]) for each in stored] == [to_json(value) for value in found]


@given(st.integers(-(10**9), 10**9))
def test_dates_are_those_of_the_gregorian_calendar(days: int) -> None:
    (found,) = values_of(as_type([days], pa.date32()))

    text = found if isinstance(found, str) else found.isoformat()
    assert np.datetime64(text) == np.datetime64(days, "D")


@given(st.integers(-(2**62), 2**62))
def test_times_are_those_of_the_gregorian_calendar(microseconds: int) -> None:
    (found,) = values_of(as_type([microseconds], pa.timestamp("us")))

    text = found if isinstance(found, str) else found.isoformat()
    assert np.datetime64(text) == np.datetime64(microseconds, "us")


def test_a_deep_struct_is_text_or_nothing() -> None:
    def deep(levels: int) -> pa.Array:
        array = pa.array([1])
        for _ in range(levels):
            array = pa.StructArray.from_arrays([array], ["a"])
        return array

    assert values_of(deep(90))[0]["a"]["a"]
    assert values_of(deep(200)) == ['{"a": ' * 200 + "1" + "}" * 200]
    assert values_of(deep(3000)) == [None]


def test_rows_without_columns_are_rows() -> None:
    table = pa.table({"x": [1, 2]}).select([])

    assert rows_of_arrow(table) == [{}, {}]
