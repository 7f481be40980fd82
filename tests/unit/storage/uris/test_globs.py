"""What globs match, against the rule written down by recursion."""

import fnmatch

from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.storage.uris.globs import Glob, base_of, has_wildcard, literal_start

PATTERNS = st.lists(st.sampled_from(["**", "*", "a", "b", "a*", "?", "[ab]"]), max_size=5)
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "c"]), min_size=1, max_size=6)


def matches(parts: list[str], pattern: list[str]) -> bool:
    """The rule: `**` is any number of folders, and what a match holds is matched."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(matches(parts[skip:], pattern[1:]) for skip in range(len(parts)))
    if not parts:
        return False
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


@given(PATTERNS, PATHS)
def test_a_path_matches_by_the_rule(pattern: list[str], parts: list[str]) -> None:
    assert Glob("/".join(pattern)).matches("/".join(parts)) == matches(parts, pattern)


@given(PATTERNS, PATHS)
def test_no_more_than_the_parts_of_a_pattern_are_kept_of_a_path(
    pattern: list[str], parts: list[str]
) -> None:
    glob = Glob("/".join(pattern))
    state = glob.start
    for part in parts:
        state = glob.after(state, part)
        if not state:
            assert not matches(parts, pattern)
        assert len(state) <= len(pattern) + 1


def test_a_long_path_and_many_folders_take_no_time() -> None:
    assert Glob("/".join(["**", "a"] * 20)).matches("/".join("a" * 2000))
    assert not Glob("/".join(["**", "a"] * 20 + ["b"])).matches("/".join("a" * 2000))


def test_a_glob_begins_with_what_no_wildcard_is_in() -> None:
    assert has_wildcard("/a/b?/c") and not has_wildcard("/a/b")
    assert literal_start("/a/b?/c*") == "/a/b"
    assert base_of("/a/b?/c*") == "/a"
