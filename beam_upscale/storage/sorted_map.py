"""A mapping in the order of its keys, kept on the local disk, for more items than memory holds."""

import os
import sqlite3
from collections.abc import Iterable, Iterator

_CACHE_KIB = 16 << 10


class SortedMap:
    """A mapping of texts to texts, in the order of the keys' code points.

    It is an SQLite table in an unnamed temporary file that vanishes with the mapping. The file is
    in the folder that `SQLITE_TMPDIR` or `TMPDIR` names, else in the system's own for such files.
    Keys may be paths with bytes that are not UTF-8. Nothing may be added while it is iterated over.

    Args:
        items: the first items; of several with the same key the first is kept.
    """

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        # A mapping may be handed to another thread; two threads never use it at the same time.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE map (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID")
        # One transaction that is never committed: nothing must survive, and each commit costs more
        # than a row.
        self._database.execute("BEGIN")
        self._size: int | None = 0
        self.add(items)

    def add(self, items: Iterable[tuple[str, str]]) -> None:
        """Adds items; an item whose key exists already is ignored."""
        self._size = None
        self._database.executemany(
            "INSERT OR IGNORE INTO map VALUES (?, ?)",
            ((os.fsencode(key), value) for key, value in items),
        )

    def __setitem__(self, key: str, value: str) -> None:
        self._size = None
        self._database.execute(
            "INSERT OR REPLACE INTO map VALUES (?, ?)", (os.fsencode(key), value)
        )

    def get(self, key: str) -> str | None:
        """Returns the value of a key; None if there is none."""
        found = self._database.execute("SELECT value FROM map WHERE key = ?", (os.fsencode(key),))
        row = found.fetchone()
        return None if row is None else str(row[0])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __len__(self) -> int:
        if self._size is None:
            (self._size,) = self._database.execute("SELECT COUNT(*) FROM map").fetchone()
        return self._size

    def items(self) -> Iterator[tuple[str, str]]:
        """Yields (key, value) in the order of the keys."""
        for key, value in self._database.execute("SELECT key, value FROM map ORDER BY key"):
            yield os.fsdecode(key), value

    def values(self) -> Iterator[str]:
        """Yields the values in the order of their keys."""
        for (value,) in self._database.execute("SELECT value FROM map ORDER BY key"):
            yield value
