"""Sums of the books: charged and unresolved credits; adds them to the totals of a run."""

import contextlib
import dataclasses
import itertools
import sqlite3
from collections.abc import Iterable, Mapping
from decimal import Decimal

from beam_upscale.dataset.book_entries import STEP, Entry, State
from beam_upscale.dataset.book_files import closed, open_entries
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.totals import Totals
from beam_upscale.storage.sorted_map import SortedMap

# Reading


@dataclasses.dataclass(frozen=True)
class BookSums:
    """The sums of an output's books.

    Attributes:
        charged: credits that services took.
        unresolved: credits that services may have taken, for calls without a known answer.
        unresolved_calls: number of calls without a known answer.
    """

    charged: Decimal = Decimal(0)
    unresolved: Decimal = Decimal(0)
    unresolved_calls: int = 0

    @property
    def spent(self) -> Decimal:
        """The credits that count against a budget."""
        return self.charged + self.unresolved


def read_sums(dataset: DatasetFolder) -> BookSums:
    """Adds up the books of an output; all sums are 0 if there are none."""
    with contextlib.closing(Adder()) as adder:
        for entries in itertools.chain(closed(dataset), open_entries(dataset)):
            adder.add(entries)
        return adder.sums()


class Adder:
    """Adds entries up in a temporary database on disk: there may be millions."""

    _RANKS: Mapping[State, int] = {State.FREE: 0, State.SENT: 1, State.CHARGED: 2}

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE entries (id TEXT PRIMARY KEY, grp TEXT, units INTEGER, rank INTEGER, "
            "request_id TEXT) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def close(self) -> None:
        """Deletes the temporary database."""
        self._database.close()

    def add(self, entries: Iterable[Entry]) -> None:
        """Adds entries; of two with the same id, the settled one counts."""
        self._database.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
            "SET rank = excluded.rank, units = excluded.units "
            f"WHERE rank = {self._RANKS[State.SENT]}",
            (
                (e.id, e.group, int(e.credits / STEP), self._RANKS[e.state], e.request_id)
                for e in entries
            ),
        )

    def by_request_id(self) -> SortedMap:
        """Returns the credits of all calls that are not free, by their request ids."""
        rows = self._database.execute(
            "SELECT request_id, SUM(units) FROM entries WHERE id = grp AND rank > 0 "
            "GROUP BY request_id"
        )
        return SortedMap((request_id, str(units * STEP)) for request_id, units in rows)

    def sums(self) -> BookSums:
        """Returns the sums over all groups."""
        rows = self._database.execute(
            "SELECT rank, SUM(units), COUNT(*) FROM (SELECT MAX(rank) AS rank, MAX(units) AS units "
            "FROM entries GROUP BY grp) GROUP BY rank"
        )
        found = {rank: (units * STEP, calls) for rank, units, calls in rows}
        charged, _ = found.get(self._RANKS[State.CHARGED], (Decimal(0), 0))
        return BookSums(charged, *found.get(self._RANKS[State.SENT], (Decimal(0), 0)))


def with_books(sums: Totals, dataset: DatasetFolder) -> Totals:
    """Returns the rows' totals, completed by the sums of their output's books."""
    books = read_sums(dataset)
    return dataclasses.replace(
        sums,
        charged_credits=books.charged,
        unresolved_credits=books.unresolved,
        unresolved_calls=books.unresolved_calls,
    )
