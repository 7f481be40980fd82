import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.dataset.manifest.json_values import from_json, parsed, to_json, without_deep

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.timedeltas()
)
values = st.recursive(
    scalars,
    lambda nested: (
        st.lists(nested)
        | st.dictionaries(st.sampled_from(["a", "$bytes", "$int", "$escaped"]), nested)
    ),
)


@given(values)
def test_any_value_survives(value: Any) -> None:
    assert from_json(json.loads(json.dumps(to_json(value)))) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(10**5000, id="digits"),
        pytest.param(-(10**5000), id="negative"),
        *(2**2048, 2**2048 - 1, "\ud800", "a\0"),
    ],
)
def test_what_text_hardly_holds_survives(value: Any) -> None:
    text = json.dumps(to_json(value))

    assert text.isascii()
    assert from_json(json.loads(text)) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**70, 2**70),
        (Decimal("1.50"), {"$decimal": "1.50"}),
        (dt.date(2020, 2, 29), {"$date": "2020-02-29"}),
        ({"$date": "mine"}, {"$escaped": {"$date": "mine"}}),
        (2**4096, {"$int": hex(2**4096)}),
        (np.arange(3), [0, 1, 2]),
        (np.float32(0.5), 0.5),
        ((1, 2), [1, 2]),
    ],
    ids=str,
)
def test_form_of_values(value: Any, expected: Any) -> None:
    assert to_json(value) == expected


def test_a_number_of_many_digits_is_their_text() -> None:
    digits = "7" * 5000

    assert parsed(f'{{"a": [{digits}, 1, -{digits}], "b": 2}}') == {
        "a": [digits, 1, f"-{digits}"],
        "b": 2,
    }
    for text in ("{", '{"a": 1', b"\xff"):
        with pytest.raises(ValueError):
            parsed(text)


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deep_columns_are_texts(brackets: str) -> None:
    begin, end = ("[", "]") if brackets == "[]" else ('{"a": ', "}")
    shallow, deep = (json.loads(begin * n + brackets + end * n) for n in (99, 101))

    assert without_deep({"x": shallow, "y": 1}) == {"x": shallow, "y": 1}
    assert without_deep({"x": deep, "y": [1]}) == {"x": json.dumps(deep), "y": [1]}


def test_anything_at_all_becomes_json() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    identity = uuid.UUID(int=7)

    found = to_json({"id": identity, ("a", 1): {1}, "deep": deep, None: b""})

    assert json.loads(json.dumps(found))["id"] == str(identity)
    assert found["('a', 1)"] == "{1}"
