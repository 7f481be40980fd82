"""Globs, whose parts are matched with the parts of a path one after the other.

`**` stands for any number of folders. A folder that a glob matches is matched with all that lies
below it.
"""

import fnmatch

WILDCARDS = "*?["

_ANY_FOLDERS = "**"

State = frozenset[int]
"""The progress of a path through a pattern: the numbers of the parts that may match next."""


class Glob:
    """A pattern, matched part by part, so that no part of a path is matched twice.

    Args:
        pattern: relative, with `/` between its parts; an empty one matches everything.
    """

    def __init__(self, pattern: str = "") -> None:
        stripped = pattern.strip("/")
        self._parts = stripped.split("/") if stripped else []
        self._matched = frozenset({len(self._parts)})
        self.start: State = frozenset({0})

    def after(self, state: State, part: str) -> State:
        """Returns the state after one more part of a path; empty if nothing below it can match."""
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
        """Returns a state's positions, and those after a `**` that stands for no folder."""
        found = set(state)
        for position in state:
            while self._parts[position] == _ANY_FOLDERS and position + 1 < len(self._parts):
                position += 1
                found.add(position)
        return found

    def is_match(self, state: State) -> bool:
        """Tells whether a path that has reached this state matches."""
        return state == self._matched

    def matches(self, path: str) -> bool:
        """Tells whether a relative path, or a folder above it, matches."""
        state = self.start
        for part in path.split("/"):
            state = self.after(state, part)
        return self.is_match(state)


def has_wildcard(pattern: str) -> bool:
    """Tells whether a path is a glob: whether it holds `*`, `?` or `[`."""
    return any(wildcard in pattern for wildcard in WILDCARDS)


def literal_start(pattern: str) -> str:
    """Returns the part of a glob before its first wildcard."""
    return pattern[: min(pattern.find(each) for each in WILDCARDS if each in pattern)]


def base_of(pattern: str) -> str:
    """Returns the part of a glob before its first wildcard, up to the last slash there."""
    return literal_start(pattern).rpartition("/")[0]
