"""A mapping in the order of its keys that is as large as the local disk, not as memory."""

import os
import sqlite3
from collections.abc import Iterable, Iterator

_CACHE_KIB = 16 << 10


class SortedMap:
    """Texts by text, in the order of the keys' code points.

    It is a table of SQLite in a temporary file that has no name and goes with the mapping: in the
    folder that `SQLITE_TMPDIR` or `TMPDIR` names, else the system's own for temporary files. Keys
    may be paths with bytes that are not UTF-8. Nothing may be added while it is iterated over.

    Args:
        items: to begin with; of several with one key the first is kept.
    """

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        # Whoever makes one may hand it to another thread; none is used by two at a time.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE map (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID")
        # One transaction to its end: there is nothing to lose, and each costs more than a row.
        self._database.execute("BEGIN")
        self._size: int | None = 0
        self.add(items)

    def add(self, items: Iterable[tuple[str, str]]) -> None:
        """Adds items; what has a key already is kept as it is."""
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
        """The value of a key; None where there is none."""
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
        """Keys with their values, in order."""
        for key, value in self._database.execute("SELECT key, value FROM map ORDER BY key"):
            yield os.fsdecode(key), value

    def values(self) -> Iterator[str]:
        """The values, in the order of their keys."""
        for (value,) in self._database.execute("SELECT value FROM map ORDER BY key"):
            yield value
