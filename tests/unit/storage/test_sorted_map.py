import contextlib
import os
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.storage import sorted_map
from beam_upscale.storage.sorted_map import SortedMap

names = st.text(st.characters(exclude_categories=["Cs"]))

# In a table from the first item on, from the fourth or so on, and in memory.
sizes = pytest.mark.parametrize("most_bytes", [1, 1000, 16 << 20])


@contextlib.contextmanager
def room_for(most_bytes: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_map, "_MOST_BYTES", most_bytes)
        yield


@sizes
@given(values=st.dictionaries(names, names))
def test_it_holds_what_a_dictionary_does_in_the_order_of_keys(
    most_bytes: int, values: dict[str, str]
) -> None:
    with room_for(most_bytes):
        found = SortedMap(values.items())

    assert list(found.items()) == sorted(values.items())
    assert list(found) == sorted(values)
    assert list(found.values()) == [values[key] for key in sorted(values)]
    assert len(found) == len(values)
    assert all(key in found and found.get(key) == value for key, value in values.items())


@sizes
def test_the_first_of_two_is_kept_and_one_that_is_set_is_replaced(most_bytes: int) -> None:
    with room_for(most_bytes):
        found = SortedMap([("a", "1"), ("a", "2")])
        found.add([("a", "3"), ("b", "4")])
        found["b"] = "5"

    assert list(found.items()) == [("a", "1"), ("b", "5")]
    assert len(found) == 2
    assert found.get("c") is None
    assert "c" not in found
    assert 1 not in found


@sizes
def test_a_key_or_a_value_may_be_a_path_that_is_no_unicode(most_bytes: int) -> None:
    path = os.fsdecode(b"/in/\xff.png")

    with room_for(most_bytes):
        assert list(SortedMap([(path, path)]).items()) == [(path, path)]


@sizes
def test_bytes_that_are_no_unicode_come_where_they_stand_among_bytes(most_bytes: int) -> None:
    paths = [os.fsdecode(name) for name in (b"\x80", b"\xc3\xa9", b"\xff")]

    with room_for(most_bytes):
        assert list(SortedMap((path, "") for path in reversed(paths))) == paths


def test_items_are_in_memory_up_to_a_limit() -> None:
    tracemalloc.start()
    found = SortedMap((f"{number:09}", "x" * 1000) for number in range(50_000))
    count = sum(1 for _ in found.items())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == len(found) == 50_000
    assert peak < 20_000_000
