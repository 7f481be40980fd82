"""Names of outputs that every file system takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.dataset.names import safe_name, stem


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
    ("name", "expected"),
    [
        ("a/b.tar.png", "a/b.tar"),
        ("a.b/c", "a.b/c"),
        (".hidden", ".hidden"),
        ("a.png", "a"),
        ("photo", "photo"),
    ],
)
def test_stem(name: str, expected: str) -> None:
    assert stem(name) == expected
