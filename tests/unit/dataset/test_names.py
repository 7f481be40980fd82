"""Names of outputs that every file system takes."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.dataset.names import RequestedName, extension, other_names, safe_name, stem


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("sub/a.png", "sub/a.png"),
        ("../../etc/passwd", "etc/passwd"),
        ("/absolute//a.png", "absolute/a.png"),
        ("./a/./b", "a/b"),
        ("..", "image"),
        ("", "image"),
        ("nul\0.png", "nul_.png"),
        ("line\nbreak 100%.png", "line\nbreak 100%.png"),
        ("odd \udcff.png", "odd%20%FF.png"),
    ],
)
def test_a_name_stays_below_its_folder(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text(st.characters() | st.sampled_from("/.\0")))
def test_safe_names_are_safe_whatever_is_asked(name: str) -> None:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # No file system gives such a name.
        return
    parts = safe_name(name).split("/")

    assert not {"", ".", ".."}.intersection(parts)
    assert all(len(part.encode()) <= 200 and "\0" not in part for part in parts)
    assert len("/".join(parts).encode()) <= 600
    assert safe_name("/".join(parts)) == "/".join(parts)


def test_long_paths_are_cut_and_stay_distinct() -> None:
    one, other = (safe_name(f"{number}/{'deep/' * 900}a.png") for number in (1, 2))

    assert len(one.encode()) < 100
    assert (one.rpartition("/")[2], other.rpartition("/")[2]) == ("a.png", "a.png")
    assert one != other
    assert safe_name(one) == one


def test_long_names_are_cut_and_stay_distinct() -> None:
    one, other = safe_name("é" * 200 + "1"), safe_name("é" * 200 + "2")

    assert len(one.encode()) <= 200
    assert one.startswith("é" * 80)
    assert one != other


@pytest.mark.parametrize(
    ("name", "before", "last"),
    [
        ("a/b.tar.png", "a/b.tar", ".png"),
        ("a.b/c", "a.b/c", ""),
        ("a/.hidden", "a/.hidden", ""),
        (".hidden.png", ".hidden", ".png"),
        ("a.png", "a", ".png"),
        ("a.b/c.png/", "a.b/c", ".png"),
        ("a.", "a.", ""),
        ("photo", "photo", ""),
        ("", "", ""),
    ],
)
def test_a_name_without_its_last_extension(name: str, before: str, last: str) -> None:
    assert (stem(name), extension(name)) == (before, last)


paths = st.lists(
    st.sampled_from(["a", "A", "b", "a.png", "a.jpg", "b.webp"]), min_size=1, max_size=3
).map("/".join)


@given(st.lists(st.tuples(paths, paths), max_size=12))
def test_names_that_are_unique_stay_as_they_are(requested: list[tuple[str, str]]) -> None:
    names = [
        RequestedName(str(number), name, source_name)
        for number, (name, source_name) in enumerate(requested)
    ]
    others = dict(other_names(lambda: names))
    unique = [
        dataclasses.replace(each, name=others.get(each.input_id, each.name)) for each in names
    ]

    assert len({each.name.casefold() for each in unique}) == len(names)
    assert list(other_names(lambda: unique)) == []
