import datetime as dt
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.json_values import from_json, to_json

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
