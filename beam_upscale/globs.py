"""Globs: a pattern's parts against a path's, one after the other.

`**` stands for any number of folders. A folder that a glob matches is matched with all that lies
below it.
"""

import fnmatch

WILDCARDS = "*?["

_ANY_FOLDERS = "**"

State = frozenset[int]
"""How far a path has come in a pattern: the numbers of the parts that may come next."""


class Glob:
    """A pattern that paths are matched with part by part, so that none is looked at twice.

    Args:
        pattern: relative, with `/` between its parts; an empty one matches everything.
    """

    def __init__(self, pattern: str = "") -> None:
        stripped = pattern.strip("/")
        self._parts = stripped.split("/") if stripped else []
        self._matched = frozenset({len(self._parts)})
        self.start: State = frozenset({0})

    def after(self, state: State, part: str) -> State:
        """The state behind one more part of a path; empty where nothing below it can match."""
        if state == self._matched:
            return state
        found: set[int] = set()
        for position in self._reachable(state):
            wanted = self._parts[position]
            if wanted == _ANY_FOLDERS:
                is_last = position + 1 == len(self._parts)
                found.add(position + 1 if is_last else position)
            elif fnmatch.fnmatchcase(part, wanted):
                found.add(position + 1)
        return self._matched if found >= self._matched else frozenset(found)

    def _reachable(self, state: State) -> set[int]:
        """A state's positions with those behind a `**` that stands for no folder."""
        found = set(state)
        for position in state:
            while self._parts[position] == _ANY_FOLDERS and position + 1 < len(self._parts):
                position += 1
                found.add(position)
        return found

    def is_match(self, state: State) -> bool:
        """Whether a path that has come this far matches."""
        return state == self._matched

    def matches(self, path: str) -> bool:
        """Whether a relative path, or a folder above it, matches."""
        state = self.start
        for part in path.split("/"):
            state = self.after(state, part)
        return self.is_match(state)


def has_wildcard(pattern: str) -> bool:
    """Whether a path is a glob by its form."""
    return any(wildcard in pattern for wildcard in WILDCARDS)


def literal_start(pattern: str) -> str:
    """The part of a glob before its first wildcard."""
    return pattern[: min(pattern.find(each) for each in WILDCARDS if each in pattern)]


def base_of(pattern: str) -> str:
    """The part of a glob before its first wildcard, to the last slash."""
    return literal_start(pattern).rpartition("/")[0]
