"""A mapping in the order of its keys: in memory while it is small, else on the local disk."""

import sqlite3
import sys
from collections.abc import Iterable, Iterator

# The most that a mapping takes of memory: first for its items, then for pages of its table.
_MOST_BYTES = 16 << 20

# The memory that an item takes in a dictionary beside its key and its value, on average.
_SLOT_BYTES = 100


class SortedMap:
    """A mapping of texts to texts, in the order of the keys' code points.

    Its items are in memory while they take less than 16 MiB there. Those of a larger one are in an
    unnamed temporary file that vanishes with the mapping, in the folder that `SQLITE_TMPDIR` or
    `TMPDIR` names, else in the system's own for such files. Keys and values may be paths with bytes
    that are not UTF-8. Nothing may be added while it is iterated over.

    Args:
        items: the first items; of several with the same key the first is kept.
    """

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._held: dict[bytes, str] = {}
        self._held_bytes = 0
        self._table: _Table | None = None
        self.add(items)

    def add(self, items: Iterable[tuple[str, str]]) -> None:
        """Adds items; an item whose key exists already is ignored."""
        rest = iter(items)
        if self._table is None:
            for key, value in rest:
                if (encoded := _encoded(key)) not in self._held:
                    self._hold(encoded, value)
                if self._table is not None:
                    break
        if self._table is not None:
            self._table.add((_encoded(key), value) for key, value in rest)

    def __setitem__(self, key: str, value: str) -> None:
        if self._table is None:
            self._hold(_encoded(key), value)
        else:
            self._table.put(_encoded(key), value)

    def _hold(self, key: bytes, value: str) -> None:
        """Keeps an item in memory, if need be in place of another; moves all out of it if full."""
        replaced = self._held.get(key)
        self._held[key] = value
        self._held_bytes += sys.getsizeof(value)
        if replaced is None:
            self._held_bytes += sys.getsizeof(key) + _SLOT_BYTES
        else:
            self._held_bytes -= sys.getsizeof(replaced)
        if self._held_bytes >= _MOST_BYTES:
            self._table = _Table(self._in_order())
            self._held = {}

    def get(self, key: str) -> str | None:
        """Returns the value of a key; None if there is none."""
        if self._table is not None:
            return self._table.get(_encoded(key))
        # Many mappings stay empty, and are asked for each input.
        return self._held.get(_encoded(key)) if self._held else None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __len__(self) -> int:
        return len(self._held if self._table is None else self._table)

    def __iter__(self) -> Iterator[str]:
        """Yields the keys in order."""
        return (key for key, _ in self.items())

    def items(self) -> Iterator[tuple[str, str]]:
        """Yields (key, value) in the order of the keys."""
        return ((_decoded(key), value) for key, value in self._in_order())

    def values(self) -> Iterator[str]:
        """Yields the values in the order of their keys."""
        return (value for _, value in self._in_order())

    def _in_order(self) -> Iterable[tuple[bytes, str]]:
        if self._table is not None:
            return self._table.items()
        # To sort what is in order already takes next to no time.
        self._held = dict(sorted(self._held.items()))
        return self._held.items()


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _decoded(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


class _Table:
    """The items of a mapping in an SQLite table, in a temporary file.

    Args:
        items: the first items.
    """

    def __init__(self, items: Iterable[tuple[bytes, str]]) -> None:
        # A mapping may be handed to another thread; two threads never use it at the same time.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        cache = f"cache_size = -{_MOST_BYTES >> 10}"
        for setting in (cache, "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE map (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        # One transaction that is never committed: nothing must survive, and each commit costs more
        # than a row.
        self._database.execute("BEGIN")
        self._size: int | None = None
        self.add(items)

    def add(self, items: Iterable[tuple[bytes, str]]) -> None:
        self._size = None
        self._database.executemany(
            "INSERT OR IGNORE INTO map VALUES (?, ?)",
            ((key, _encoded(value)) for key, value in items),
        )

    def put(self, key: bytes, value: str) -> None:
        self._size = None
        self._database.execute("INSERT OR REPLACE INTO map VALUES (?, ?)", (key, _encoded(value)))

    def get(self, key: bytes) -> str | None:
        found = self._database.execute("SELECT value FROM map WHERE key = ?", (key,)).fetchone()
        return None if found is None else _decoded(found[0])

    def __len__(self) -> int:
        if self._size is None:
            (self._size,) = self._database.execute("SELECT COUNT(*) FROM map").fetchone()
        return self._size

    def items(self) -> Iterator[tuple[bytes, str]]:
        for key, value in self._database.execute("SELECT key, value FROM map ORDER BY key"):
            yield key, _decoded(value)
