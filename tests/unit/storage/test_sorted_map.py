import os
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.storage.sorted_map import SortedMap

names = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(names, names))
def test_it_holds_what_a_dictionary_does_in_the_order_of_keys(values: dict[str, str]) -> None:
    found = SortedMap(values.items())

    assert list(found.items()) == sorted(values.items())
    assert list(found.values()) == [values[key] for key in sorted(values)]
    assert len(found) == len(values)
    assert all(key in found and found.get(key) == value for key, value in values.items())


def test_the_first_of_two_is_kept_and_one_that_is_set_is_replaced() -> None:
    found = SortedMap([("a", "1"), ("a", "2")])
    found.add([("a", "3"), ("b", "4")])
    found["b"] = "5"

    assert list(found.items()) == [("a", "1"), ("b", "5")]
    assert len(found) == 2
    assert found.get("c") is None
    assert "c" not in found
    assert 1 not in found


def test_a_key_may_be_a_path_that_is_no_unicode() -> None:
    path = os.fsdecode(b"/in/\xff.png")

    assert list(SortedMap([(path, "odd")]).items()) == [(path, "odd")]


def test_items_are_not_in_memory() -> None:
    tracemalloc.start()
    found = SortedMap((f"{number:09}", "x" * 100) for number in range(100_000))
    count = sum(1 for _ in found.items())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == len(found) == 100_000
    assert peak < 1_000_000
