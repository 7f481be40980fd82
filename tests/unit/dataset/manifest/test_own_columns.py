import datetime as dt
import io
import json
import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_upscale.dataset.manifest.own_columns import (
    are_stored_alike,
    from_struct_array,
    infer_input_type,
    plain_type,
    plain_value,
    stored_type,
    struct_array,
)

NOON = dt.datetime(2020, 2, 29, 12)
# Zones whose clocks are put back have times that equal no other.
JAPAN = dt.timezone(dt.timedelta(hours=9))
IN_UTC = NOON.replace(tzinfo=dt.UTC)
IN_BERLIN = NOON.replace(tzinfo=ZoneInfo("Europe/Berlin"))

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.just("\ud800")
    | st.binary(max_size=3)
    | st.decimals(allow_nan=False)
    | st.just(Decimal("NaN"))
    | st.datetimes(timezones=st.sampled_from([None, dt.UTC, JAPAN]))
    | st.dates()
    | st.times()
    | st.timedeltas()
)
values = st.recursive(
    scalars,
    lambda nested: (
        st.lists(nested, max_size=3) | st.dictionaries(st.sampled_from("xyz"), nested, max_size=3)
    ),
    max_leaves=6,
)
# Columns that share a type, more often than not.
alike = st.one_of(
    st.lists(st.dictionaries(st.sampled_from("ab"), kind, max_size=2), max_size=5)
    for kind in (
        values,
        st.none() | st.integers(),
        st.integers() | st.floats(allow_nan=False),
        st.decimals(allow_nan=False, allow_infinity=False),
        st.datetimes(timezones=st.sampled_from([dt.UTC, JAPAN])),
        st.dictionaries(st.sampled_from("xy"), st.none() | st.lists(st.integers()), max_size=2),
    )
)


def kind_of(*column: Any) -> pa.DataType | None:
    """The type of a column with these values; None where it is JSON text."""
    inferred = infer_input_type([{"x": value} for value in column])
    assert inferred is not None
    field = inferred.field("x")
    if field.metadata is None:
        return field.type
    assert field.metadata == {b"beam_upscale": b"json"}
    assert field.type == pa.string()
    return None


def through_parquet(
    columns: Sequence[Mapping[str, Any]], kind: pa.StructType | None = None
) -> list[dict[str, Any]]:
    file = io.BytesIO()
    pq.write_table(pa.table({"input": struct_array(columns, kind)}), file)
    return list(from_struct_array(pq.read_table(file)["input"]))


def comparable(value: Any) -> Any:
    """A value without what no type of a column tells: absent from None, a tuple from a list."""
    if isinstance(value, Mapping):
        return {
            name: comparable(each) for name, each in value.items() if comparable(each) is not None
        }
    if isinstance(value, list | tuple):
        return [comparable(each) for each in value]
    return "not a number" if value != value else value


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([None, None], pa.null()),
        ([None, True], pa.bool_()),
        ([1, None, -(2**63)], pa.int64()),
        ([2**63, 0], pa.uint64()),
        ([1, 0.5, 2**53], pa.float64()),
        (["a", None], pa.string()),
        ([b"\xff"], pa.binary()),
        ([Decimal("1.50"), Decimal("-1000"), Decimal("1E+4")], pa.decimal128(7, 2)),
        ([Decimal("0.001")], pa.decimal128(3, 3)),
        ([Decimal("1e60")], pa.decimal256(61, 0)),
        ([NOON], pa.timestamp("us")),
        ([IN_BERLIN, IN_BERLIN], pa.timestamp("us", "Europe/Berlin")),
        ([IN_BERLIN, IN_UTC], pa.timestamp("us", "UTC")),
        ([NOON.date()], pa.date32()),
        ([NOON.time()], pa.time64("us")),
        ([dt.timedelta(1)], pa.duration("us")),
        ([[], [1], [0.5, None]], pa.list_(pa.float64())),
        ([[]], pa.list_(pa.null())),
        ([(1, 2)], pa.list_(pa.int64())),
        ([{"b": 1}, {"a": "x"}], pa.struct([("a", pa.string()), ("b", pa.int64())])),
        ([{"a": 1}, {}], pa.struct([("a", pa.int64())])),
        ([{"a": None}], pa.struct([("a", pa.null())])),
        ([np.int32(1), np.float32(0.5)], pa.float64()),
        ([np.zeros((2, 2))], pa.list_(pa.list_(pa.float64()))),
    ],
    ids=str,
)
def test_type_that_values_have_in_common(column: list[Any], expected: pa.DataType) -> None:
    assert kind_of(*column) == expected
    assert kind_of(*reversed(column)) == expected


@pytest.mark.parametrize(
    "column",
    [
        [1, "a"],
        [1, True],
        [1, [1]],
        [[1], {"a": 1}],
        [[1], ["a"]],
        [{"a": 1}, {"a": "x"}],
        [b"a", "a"],
        [1, Decimal("1.5")],
        [NOON, NOON.date()],
        [NOON, IN_UTC],
        [NOON.time().replace(tzinfo=dt.UTC)],
        [IN_UTC.replace(tzinfo=dt.timezone(dt.timedelta(seconds=1)))],
        [dt.timedelta.max],
        [Decimal("NaN")],
        [Decimal("1e100")],
        [2**64],
        [2**63, -1],
        [2**53 + 1, 0.5],
        [10**5000],
        ["\ud800"],
        [{"\ud800": 1}],
        [{}],
        [[{"a": {}}]],
    ],
)
def test_what_has_no_type_is_json_text_and_comes_back(column: list[Any]) -> None:
    rows = [{"x": value} for value in column]

    assert kind_of(*column) is None
    assert kind_of(*reversed(column)) is None
    assert comparable(through_parquet(rows)) == comparable(rows)


def test_what_is_nested_very_deep_is_json_text() -> None:
    value: Any = 1
    for _ in range(200):
        value = {"a": [value]}

    assert kind_of(value) is None
    assert through_parquet([{"x": value}]) == [{"x": value}]


def test_columns_stand_in_the_order_of_their_names_after_the_name_of_the_file() -> None:
    kind = infer_input_type([{"b": 1, "file_name": "a.png"}, {"a": None}])

    assert kind == pa.struct([("file_name", pa.string()), ("a", pa.null()), ("b", pa.int64())])


@pytest.mark.parametrize("columns", [[], [{}, {}]])
def test_no_columns_have_no_type(columns: list[dict[str, Any]]) -> None:
    assert infer_input_type(columns) is None
    assert struct_array(columns).type == pa.null()
    assert list(from_struct_array(struct_array(columns))) == columns


def test_rows_are_read_once_and_not_held() -> None:
    kind = infer_input_type({"x": number} for number in range(10_000))

    assert kind == pa.struct([("x", pa.int64())])


@settings(max_examples=40)
@given(alike, st.randoms(use_true_random=False))
def test_order_and_repetition_change_no_type(
    columns: list[dict[str, Any]], shuffler: random.Random
) -> None:
    shuffled = columns * 2
    shuffler.shuffle(shuffled)

    kind, other = infer_input_type(columns), infer_input_type(shuffled)

    assert (kind is None) == (other is None)
    assert kind is None or kind.equals(other, check_metadata=True)


@given(alike)
def test_values_come_back_and_have_the_same_type_again(columns: list[dict[str, Any]]) -> None:
    kind = infer_input_type(columns)

    stored = through_parquet(columns, kind)

    assert comparable(stored) == comparable(columns)
    assert kind is None or kind.equals(infer_input_type(stored), check_metadata=True)


@given(alike)
def test_rows_of_a_part_fit_the_type_of_all(columns: list[dict[str, Any]]) -> None:
    kind = infer_input_type(columns)

    for each in columns:
        (stored,) = through_parquet([each], kind)

        assert comparable(stored) == comparable(each)
        assert are_stored_alike(each, stored, kind)


def test_text_that_looks_like_json_stays_as_it_is() -> None:
    assert through_parquet([{"x": '"a"'}, {"x": "3"}]) == [{"x": '"a"'}, {"x": "3"}]


def test_json_text_is_stored_as_others_read_it() -> None:
    array = struct_array([{"x": 1}, {"x": "a"}, {"x": None}, {"x": [b"a"]}])

    assert array.field("x").to_pylist() == ["1", '"a"', None, '[{"$bytes": "YQ=="}]']


@pytest.mark.parametrize(
    "kind",
    [
        None,
        pa.struct([("x", pa.list_(pa.int8()))]),
        pa.struct([("x", pa.timestamp("s"))]),
        pa.struct([pa.field("x", pa.string(), metadata={b"beam_upscale": b"json"})]),
    ],
    ids=str,
)
def test_stored_type_is_that_of_a_file(kind: pa.StructType | None) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"input": struct_array([{}], kind)}), file)
    found = pq.read_schema(file).field("input").type

    assert stored_type(kind).equals(found, check_metadata=True)


@pytest.mark.parametrize(
    ("one", "other", "kind", "expected"),
    [
        (3, 3.0, None, True),
        (3, 3.0, pa.float64(), True),
        (float("nan"), float("nan"), None, True),
        ({"a": 1}, {"a": 1, "b": None}, None, True),
        (3, "3", None, False),
        (1, True, None, False),
        ("a", 3, pa.int64(), False),
        (None, 0, None, False),
    ],
)
def test_what_is_stored_alike(
    one: object, other: object, kind: pa.DataType | None, expected: bool
) -> None:
    input_type = None if kind is None else pa.struct([("x", kind)])

    assert are_stored_alike({"x": one}, {"x": other}, input_type) is expected


def test_columns_that_a_type_lacks_make_no_difference() -> None:
    kind = pa.struct([("x", pa.int64())])

    assert are_stored_alike({"x": 1, "y": 2}, {"x": 1}, kind)
    assert not are_stored_alike({"x": 1, "y": 2}, {"x": 1})
    assert are_stored_alike({}, {})


@pytest.mark.parametrize(
    ("value", "kind", "expected", "expected_type"),
    [
        (True, pa.bool_(), True, pa.bool_()),
        (3, pa.int8(), 3, pa.int8()),
        (2**63, pa.uint64(), "9223372036854775808", pa.string()),
        (0.5, pa.float32(), 0.5, pa.float64()),
        (float("nan"), pa.float64(), None, pa.float64()),
        (float("-inf"), pa.float64(), None, pa.float64()),
        ("a", pa.string(), "a", pa.string()),
        (None, pa.null(), None, pa.null()),
        (Decimal("1.50"), pa.decimal128(3, 2), "1.50", pa.string()),
        (b"a", pa.binary(), "YQ==", pa.string()),
        (NOON, pa.timestamp("us"), "2020-02-29T12:00:00", pa.string()),
        (IN_UTC, pa.timestamp("us", "UTC"), "2020-02-29T12:00:00+00:00", pa.string()),
        (NOON.date(), pa.date32(), "2020-02-29", pa.string()),
        (NOON.time(), pa.time64("us"), "12:00:00", pa.string()),
        (dt.timedelta(seconds=1), pa.duration("us"), "1000000", pa.string()),
        ([("a", 1)], pa.map_(pa.string(), pa.int8()), '[["a", 1]]', pa.string()),
        ([1.5, None], pa.list_(pa.float32()), [1.5, None], pa.list_(pa.float64())),
        (
            {"a": {"b": [Decimal(1)]}, "c": None},
            pa.struct([("a", pa.struct([("b", pa.list_(pa.decimal128(1)))])), ("c", pa.binary())]),
            {"a": {"b": ["1"]}, "c": None},
            pa.struct([("a", pa.struct([("b", pa.list_(pa.string()))])), ("c", pa.string())]),
        ),
    ],
    ids=repr,
)
def test_plain_json(
    value: object, kind: pa.DataType, expected: object, expected_type: pa.DataType
) -> None:
    stored = pa.scalar(value, kind).as_py()

    assert plain_value(stored, kind) == expected
    assert plain_type(kind) == expected_type
    assert pa.scalar(expected, expected_type).as_py() == expected


@given(alike)
def test_every_column_has_a_value_in_plain_json(columns: list[Mapping[str, Any]]) -> None:
    array = struct_array(columns)

    for each in array.to_pylist():
        text = json.dumps(plain_value(each, array.type), allow_nan=False)
        assert pa.scalar(json.loads(text), plain_type(array.type)).type == plain_type(array.type)
