"""Finds earlier paid calls whose repeat is free."""

import json
import threading
from collections.abc import Iterable, Iterator

import pyarrow.compute as pc

from beam_upscale.dataset.book_entries import (
    CallKey,
    Entry,
    Group,
    State,
    entry_from_json,
    entry_of,
    grouped,
)
from beam_upscale.dataset.book_files import closed_batches
from beam_upscale.dataset.books import RunBooks
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.storage.sorted_map import SortedMap


def prepaid(
    entries: Iterable[Entry], work: str, engine: RemoteEngine, books: RunBooks
) -> Group | None:
    """Returns the group of a call that a claim counts as free; None if the price is claimed.

    Args:
        entries: the entries of the call.
        work: the work of the input as it is now, as `work_of` gives it.
        engine: the service's engine.
        books: the books of the run.
    """
    groups = grouped(entry for entry in entries if entry.run != books.run)
    return next(
        (
            group
            for group in groups
            if group.first.work == work and group.is_repeated_free(engine, books.started_at)
        ),
        None,
    )


class RepeatableEntries:
    """The entries of earlier runs that may have a free repeat, by call; thread-safe.

    Args:
        entries: the entries, in any order.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._lock = threading.Lock()
        self._map = SortedMap()
        self._waiting = SortedMap()
        for entry in entries:
            if entry.state is State.SENT:
                tiles = json.loads(self._waiting.get(entry.input_id) or "[]")
                self._waiting[entry.input_id] = json.dumps([*tiles, [entry.stage, entry.tile]])
            found = self._map.get(entry.key.path)
            others = [] if found is None else json.loads(found)
            self._map[entry.key.path] = json.dumps([*others, entry.to_json().decode()])

    def of_call(self, key: CallKey) -> list[Entry]:
        """Returns the entries of a call."""
        with self._lock:
            found = self._map.get(key.path)
        return [] if found is None else [entry_from_json(each) for each in json.loads(found)]

    def unresolved(self, input_id: str) -> Iterator[Group]:
        """Yields the groups of an input's calls that are not known to be charged or free."""
        with self._lock:
            found = self._waiting.get(input_id)
        tiles = set() if found is None else {tuple(each) for each in json.loads(found)}
        for stage, tile in sorted(tiles):
            groups = grouped(self.of_call(CallKey(input_id, stage, tile)))
            yield from (group for group in groups if group.state is State.SENT)


lock = threading.Lock()
_repeatable: dict[tuple[str, str, str], RepeatableEntries] = {}
_NONE = RepeatableEntries()


def repeatable_entries(books: RunBooks, engine: RemoteEngine) -> RepeatableEntries:
    """Returns the calls of earlier runs to a service; they are read once for each run.

    Args:
        books: the books of the run. Its earlier entries were closed before it began.
        engine: the service's engine. A service that is not known to charge a repeated request
            once has no such calls.
    """
    if engine.ledger is None or engine.repeat_seconds <= 0:
        return _NONE
    key = books.dataset.root, books.run, engine.ledger
    with lock:
        if key not in _repeatable:
            for other in [each for each in _repeatable if each[0] == key[0]]:
                del _repeatable[other]
            _repeatable[key] = RepeatableEntries(_young(books, engine))
        return _repeatable[key]


def _young(books: RunBooks, engine: RemoteEngine) -> Iterator[Entry]:
    """Yields the closed entries of a ledger that the service may still remember."""
    since = books.started_at - engine.repeat_seconds
    for batch in closed_batches(books.dataset):
        is_known = pc.fill_null(pc.equal(batch["ledger"], engine.ledger), fill_value=False)
        is_young = pc.greater_equal(batch["sent_at"], since)
        for values in batch.filter(pc.and_(is_known, is_young)).to_pylist():
            yield entry_of(values)
