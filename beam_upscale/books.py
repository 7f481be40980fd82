"""The books of an output: every paid call that was sent for it, and the known state of its charge.

    books/open/<2 hex>/<place>.<n>.json   one sending of a call: durable before the call is sent
    books/closed/*.parquet                entries that were settled, many in a file
    books/closed/unresolved.parquet       a copy of the entries that are not, of earlier runs

A place is an input, an engine of its chain and a tile. Each sending that may cost something has an
entry of its own; `n` is taken by exclusive creation, so that no two workers share one. An entry is
`sent` until the answer is known, then `charged` or `free`. At a service that is known to charge a
repeated request once, a further sending of it names the entry that it repeats: both are one group,
which counts once.

A group counts as spent if it is charged, or if it may be: none of its entries is charged, and one
is still `sent`. Books are read as the union of all files by the entries' ids. Of two entries with
the same id, the settled one counts: a crash while entries are closed leaves some in two files.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale import storage
from beam_upscale.dataset import DatasetFolder
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.manifest import CREDITS, Row, Totals
from beam_upscale.parameters import Parameters
from beam_upscale.remote_models import RemoteModel
from beam_upscale.sorted_map import SortedMap

BOOKS = "books"
"""The folder of the books, below the dataset's root; in `run.json` their format."""

BOOKS_FORMAT = 1
"""The number in `run.json` of books that hold every paid call; earlier versions have none."""

STEP = Decimal(1).scaleb(-CREDITS.scale)
"""The smallest amount that is accounted for."""

_READERS = 32
_CLOSED_TOGETHER = 50_000

# Programs that browse or copy the output may leave their own files among these.
_OPEN_NAME = re.compile(r"([0-9a-f]{64}\.[0-9]+|row-[0-9a-f]{64})\.json")
_CLOSED_NAME = re.compile(r"[^.].*\.parquet")
_FILE = re.compile(rf"open/[0-9a-f]{{2}}/{_OPEN_NAME.pattern}|closed/[^./][^/]*\.parquet")

_UNRESOLVED = "unresolved.parquet"

# Seconds before a file is read again: without hard links, it appears before it is fully written.
_PAUSES = (0.05, 0.2, 0.5)


class State(StrEnum):
    """The known state of the charge for a sending."""

    SENT = "sent"
    CHARGED = "charged"
    FREE = "free"


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a paid call: its input, engine and tile.

    Attributes:
        input_id: id of the input.
        stage: index of the engine in its chain.
        tile: index of the tile among the image's.
    """

    input_id: str
    stage: int
    tile: int

    @property
    def key(self) -> str:
        """The place's path in the books: one of 256 folders, and a SHA-256 in hexadecimal."""
        text = json.dumps([self.input_id, self.stage, self.tile])
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{digest[:2]}/{digest}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One sending of a paid call.

    Attributes:
        id: unique among all entries.
        n: number of the entry's file at its place, from 1; 0 for an entry made of a row.
        request_id: the id by which the service knows the call.
        input_id: id of the input.
        stage: index of the engine in the chain.
        tile: index of the tile.
        engine: name of the engine.
        work: the hash of `work_of`; shows whether the input and its parameters are unchanged.
        credits: the price, by the price list; the amount charged, where the service reports it.
        run: the run that sent the call.
        endpoint: the service that the call was sent to.
        ledger: the service's ledger for the key, if it charges a repeated request once; else None.
        sent_at: time of sending, in seconds since the epoch.
        repeats: id of the first entry of the group; None for the first entry itself.
        state: the known state of the charge.
    """

    id: str
    n: int
    request_id: str
    input_id: str
    stage: int
    tile: int
    engine: str
    work: str
    credits: Decimal
    run: str
    endpoint: str
    ledger: str | None
    sent_at: float
    repeats: str | None = None
    state: State = State.SENT

    @property
    def place(self) -> Place:
        """The place of the call."""
        return Place(self.input_id, self.stage, self.tile)

    @property
    def group(self) -> str:
        """Id of the group, which counts once."""
        return self.repeats or self.id

    def to_json(self) -> bytes:
        """Returns the entry as UTF-8 JSON, exact to the last digit."""
        return json.dumps({**self.to_dict(), "credits": str(self.credits)}).encode()

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes by their names."""
        return {name: getattr(self, name) for name in _SCHEMA.names}


def entry_from_json(data: bytes) -> Entry:
    """Parses an entry; the inverse of `Entry.to_json`."""
    return entry_of(json.loads(data))


def entry_of(values: Mapping[str, Any]) -> Entry:
    """Makes an entry of a dictionary of its attributes, as JSON and Arrow give it.

    Other keys are ignored: a later version may have added them.
    """
    amount, state = Decimal(values["credits"]), State(values["state"])
    known = {name: values[name] for name in _SCHEMA.names}
    return Entry(**{**known, "credits": amount, "state": state})


_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("n", pa.int32()),
        ("request_id", pa.string()),
        ("input_id", pa.string()),
        ("stage", pa.int32()),
        ("tile", pa.int32()),
        ("engine", pa.string()),
        ("work", pa.string()),
        ("credits", CREDITS),
        ("run", pa.string()),
        ("endpoint", pa.string()),
        ("ledger", pa.string()),
        ("sent_at", pa.float64()),
        ("repeats", pa.string()),
        ("state", pa.string()),
    ]
)


def work_of(source_sha256: str, parameters: Parameters | None) -> str:
    """Hashes an input's bytes and its own parameters, without the settings of the run.

    Args:
        source_sha256: SHA-256 of the input's bytes.
        parameters: the input's own, before a seed is derived; None if no engine takes any.
    """
    values = None if parameters is None else dataclasses.astuple(parameters)
    return hashlib.sha256(json.dumps([source_sha256, values]).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Group:
    """The entries of a call and its repeats, which are charged once at most.

    Attributes:
        first: the entry that was sent first.
        entries: all of them.
    """

    first: Entry
    entries: tuple[Entry, ...]

    @property
    def state(self) -> State:
        """CHARGED if an entry is, else SENT if one is, else FREE."""
        states = {entry.state for entry in self.entries}
        return next(state for state in (State.CHARGED, State.SENT, State.FREE) if state in states)

    def is_repeated_free(self, model: RemoteModel, at: float) -> bool:
        """Tells whether a repeat sent at a time, in epoch seconds, adds no charge to the group."""
        is_known = model.ledger is not None and self.first.ledger == model.ledger
        is_young = model.charges_once_after(at - self.first.sent_at)
        return is_known and is_young and self.state is not State.FREE


def grouped(entries: Iterable[Entry]) -> list[Group]:
    """Groups entries; the group whose first entry was sent last comes first.

    Args:
        entries: entries of one place. Of two with the same id, the settled one counts. Groups whose
            first entry is missing are left out.
    """
    by_id: dict[str, Entry] = {}
    for entry in entries:
        before = by_id.get(entry.id)
        if before is None or before.state is State.SENT:
            by_id[entry.id] = entry
    members: dict[str, list[Entry]] = {}
    for entry in by_id.values():
        members.setdefault(entry.group, []).append(entry)
    groups = [Group(by_id[id_], tuple(found)) for id_, found in members.items() if id_ in by_id]
    return sorted(groups, key=lambda group: (group.first.sent_at, group.first.id), reverse=True)


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
        """Credits that count against a budget."""
        return self.charged + self.unresolved


def read_sums(dataset: DatasetFolder) -> BookSums:
    """Adds up the books of an output; zeros where there are none."""
    with contextlib.closing(_Adder()) as adder:
        for entries in itertools.chain(_closed(dataset), _open(dataset)):
            adder.add(entries)
        return adder.sums()


class _Adder:
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
    """Returns totals of rows with the sums of their output's books."""
    books = read_sums(dataset)
    return dataclasses.replace(
        sums,
        charged_credits=books.charged,
        unresolved_credits=books.unresolved,
        unresolved_calls=books.unresolved_calls,
    )


def _folder(dataset: DatasetFolder, *parts: str) -> str:
    return storage.join(dataset.root, BOOKS, *parts)


def open_uri(dataset: DatasetFolder, place: Place, n: int) -> str:
    """Returns the URI of a place's open entry with the number `n`."""
    return _folder(dataset, "open", f"{place.key}.{n}.json")


def _closed(dataset: DatasetFolder, uris: Set[str] | None = None) -> Iterator[list[Entry]]:
    """Yields the entries of all closed files, or of the given ones, in batches."""
    for batch in closed_batches(dataset, uris):
        yield [entry_of(values) for values in batch.to_pylist()]


def closed_batches(
    dataset: DatasetFolder, uris: Set[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yields the closed entries as Arrow record batches with a column for each attribute.

    Args:
        dataset: the output.
        uris: the files to read, if they exist; None reads all.

    Raises:
        SettingsError: BOOKS_DAMAGED.
    """
    for uri in list(_named(_folder(dataset, "closed"), _CLOSED_NAME)):
        if uris is not None and uri not in uris:
            continue
        with storage.open_read(uri) as file:
            try:
                yield from pq.ParquetFile(file).iter_batches(columns=_SCHEMA.names)
            except pa.ArrowException as error:
                raise _damaged(uri, error) from error
            except OSError as error:
                # Arrow's own errors have no number.
                if error.errno is not None:
                    raise
                raise _damaged(uri, error) from error


def _named(folder: str, name: re.Pattern[str]) -> Iterator[str]:
    """Yields the URIs of the files below a folder whose base names match a pattern."""
    for found in storage.list_below(folder):
        if name.fullmatch(found.name.rpartition("/")[2]):
            yield found.uri


def _damaged(uri: str, error: Exception) -> SettingsError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return SettingsError(
        ErrorCode.BOOKS_DAMAGED,
        f"{uri} is damaged, so that what was spent is not known: restore it from a copy, or begin "
        f"the output anew with --overwrite ({type(error).__name__}: {reason})",
    )


def check(dataset: DatasetFolder) -> None:
    """Reads all books of an output.

    Raises:
        SettingsError: BOOKS_DAMAGED, with the file that cannot be understood.
    """
    for _ in itertools.chain(_closed(dataset), _open(dataset)):
        pass


def _open(dataset: DatasetFolder) -> Iterator[list[Entry]]:
    """Yields the open entries in batches."""
    for found in _open_files(dataset):
        yield [entry for _, entry in found]


def _open_files(dataset: DatasetFolder) -> Iterator[list[tuple[str, Entry]]]:
    """Yields the URIs of open entries with the entries themselves, in batches."""
    uris = _named(_folder(dataset, "open"), _OPEN_NAME)
    with ThreadPoolExecutor(_READERS) as readers:
        while some := list(itertools.islice(uris, _CLOSED_TOGETHER)):
            entries = readers.map(read_entry, some)
            pairs = zip(some, entries, strict=True)
            yield [(uri, entry) for uri, entry in pairs if entry is not None]


def read_entry(uri: str) -> Entry | None:
    """Reads the entry in a file; None if the file is gone.

    Raises:
        SettingsError: BOOKS_DAMAGED.
        OSError: it cannot be read.
    """
    for pause in (*_PAUSES, None):
        data = storage.read_if_there(uri)
        if data is None:
            return None
        try:
            return entry_from_json(data)
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            if pause is None:
                raise _damaged(uri, error) from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


# Closing


def close(dataset: DatasetFolder) -> None:
    """Moves settled entries into shared files; the others stay open, and are copied.

    No other run may be under way.
    """
    uri = _folder(dataset, "closed", _UNRESOLVED)
    copied = {entry.id: entry for entries in _closed(dataset, {uri}) for entry in entries}
    unresolved: list[Entry] = []
    for found in _open_files(dataset):
        _close(found, dataset)
        unresolved += [entry for _, entry in found if entry.state is State.SENT]
        for _, entry in found:
            copied.pop(entry.id, None)
    unresolved += _only_copied(copied, dataset)
    if unresolved:
        _publish(uri, unresolved, dataset)
    elif storage.exists(uri):
        dataset.delete(uri)


def _only_copied(copied: dict[str, Entry], dataset: DatasetFolder) -> Iterator[Entry]:
    """Yields the copies of open entries whose own files are lost."""
    others = set(_named(_folder(dataset, "closed"), _CLOSED_NAME))
    others.discard(_folder(dataset, "closed", _UNRESOLVED))
    if copied:
        for batch in closed_batches(dataset, others):
            for id_ in batch["id"].to_pylist():
                copied.pop(id_, None)
    yield from copied.values()


def close_rows(rows: Iterable[Row], dataset: DatasetFolder) -> None:
    """Moves the settled entries of rows with paid calls into one file.

    Each shard's commit calls this, so that the end of the run need not close all entries alone.
    Where a repeat may be charged again, entries stay open until then: a late worker looks for them.
    """
    places = [place for row in rows if row.request_ids for place in _places(row)]
    if not places:
        return
    with ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(lambda place: list(_entries_at(place, dataset)), places))
    _close([pair for pairs in found if _is_over(pairs) for pair in pairs], dataset)


def _is_over(found: Iterable[tuple[str, Entry]]) -> bool:
    """Tells whether a place's entries are all settled and in ledgers: no worker needs them open."""
    return all(entry.state is not State.SENT and entry.ledger is not None for _, entry in found)


def _places(row: Row) -> Iterator[Place]:
    calls = [stage["calls"] for stage in row.stages] or [row.calls]
    for stage, count in enumerate(calls):
        yield from (Place(row.input_id, stage, tile) for tile in range(count))


def _entries_at(place: Place, dataset: DatasetFolder) -> Iterator[tuple[str, Entry]]:
    """Yields a place's open entries with their URIs, from number 1 up to the first gap."""
    for n in itertools.count(1):
        uri = open_uri(dataset, place, n)
        entry = read_entry(uri)
        if entry is None:
            return
        yield uri, entry


def _close(found: Sequence[tuple[str, Entry]], dataset: DatasetFolder) -> None:
    settled = [(uri, entry) for uri, entry in found if entry.state is not State.SENT]
    if not settled:
        return
    # A new name each time: an interrupted attempt may have deleted entries that only its file has.
    uri = _folder(dataset, "closed", f"{uuid.uuid4().hex}.parquet")
    _publish(uri, [entry for _, entry in settled], dataset)
    with ThreadPoolExecutor(_READERS) as threads:
        for _ in threads.map(dataset.delete, [uri for uri, _ in settled]):
            pass


def _publish(uri: str, entries: Iterable[Entry], dataset: DatasetFolder) -> None:
    ordered = sorted(entries, key=lambda entry: (entry.input_id, entry.stage, entry.tile, entry.id))
    values = [
        {**e.to_dict(), "credits": e.credits.quantize(STEP), "state": str(e.state)} for e in ordered
    ]
    with dataset.publish(uri) as file:
        pq.write_table(pa.Table.from_pylist(values, schema=_SCHEMA), file)


def enter_missing(rows: Iterable[Row], dataset: DatasetFolder) -> None:
    """Enters the credits that rows were billed beyond the books' entries for their calls.

    Earlier versions of this package kept no books. Repeating it changes nothing.

    Args:
        rows: the output's rows.
        dataset: the output.
    """
    with contextlib.closing(_Adder()) as adder:
        for entries in itertools.chain(_closed(dataset), _open(dataset)):
            adder.add(entries)
        known = adder.by_request_id()
    missing = []
    for row in rows:
        amounts = (Decimal(known.get(request_id) or 0) for request_id in set(row.request_ids))
        billed = row.billed_credits - sum(amounts, Decimal(0))
        if billed > 0:
            missing.append(_entry_of_row(dataclasses.replace(row, billed_credits=billed)))
    if missing:
        _publish(_folder(dataset, "closed", f"{uuid.uuid4().hex}.parquet"), missing, dataset)


def exist(dataset: DatasetFolder) -> bool:
    """Tells whether an output has books."""
    return any(True for _ in storage.list_below(_folder(dataset)))


def are_all_there_is(dataset: DatasetFolder) -> bool:
    """Checks whether the folder of the books holds entries, all readable, and no other files.

    Hidden files are ignored. A user's own pipeline may end between its first entry and `run.json`.
    """
    found = [each.name for each in storage.list_below(_folder(dataset))]
    names = [name for name in found if not name.rpartition("/")[2].startswith(".")]
    try:
        check(dataset)
    except SettingsError:
        return False
    return bool(names) and all(_FILE.fullmatch(name) for name in names)


def are_kept(run: Mapping[str, Any] | None) -> bool:
    """Tells whether the books hold all calls of an output, by its `run.json`; True without one.

    Earlier versions of this package kept no books.

    Raises:
        SettingsError: BOOKS_UNKNOWN, the books are of a later version.
    """
    format_ = None if run is None else run.get(BOOKS)
    if isinstance(format_, int) and format_ > BOOKS_FORMAT:
        raise SettingsError(
            ErrorCode.BOOKS_UNKNOWN,
            f"the output has books of format {format_}, and this version of beam-upscale knows "
            f"formats up to {BOOKS_FORMAT}: go on with the later version that wrote them, or take "
            "another output",
        )
    return run is None or run.get(BOOKS) == BOOKS_FORMAT


def enter_row(row: Row, dataset: DatasetFolder) -> None:
    """Enters the credits that a row was billed, if its calls are not in these books.

    Repeating it for the same row changes nothing.
    """
    if row.billed_credits:
        entry = _entry_of_row(row)
        uri = _folder(dataset, "open", entry.place.key[:2], f"{entry.id}.json")
        dataset.write(uri, entry.to_json())


def _entry_of_row(row: Row) -> Entry:
    """Makes one entry for all credits that a row was billed."""
    text = json.dumps([row.input_id, row.request_ids, str(row.billed_credits)])
    return Entry(
        id=f"row-{hashlib.sha256(text.encode()).hexdigest()}",
        n=0,
        request_id=next(iter(row.request_ids), ""),
        input_id=row.input_id,
        stage=0,
        tile=0,
        engine=row.engine or "",
        work="",
        credits=row.billed_credits,
        run="",
        endpoint="",
        ledger=None,
        sent_at=0.0,
        state=State.CHARGED,
    )
