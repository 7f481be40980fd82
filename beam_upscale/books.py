"""The books of an output: every paid call that was sent for it, and what is known of its charge.

    books/open/<2 hex>/<place>.<n>.json   one sending of a call: durable before the call is sent
    books/closed/*.parquet                entries that were settled, many in a file
    books/closed/unresolved.parquet       a copy of the entries that are not, of earlier runs

A place is an input, an engine of its chain and a tile. Each sending that may cost something has an
entry of its own; `n` is taken by exclusive creation, so that no two workers share one. An entry is
`sent` until the answer is known, then `charged` or `free`. At a service that is known to charge a
repeated request once, a further sending of it names the entry that it repeats: both are one group,
which counts once.

What counts as spent are the groups that are charged, and those that may be: of these no entry is
charged, and one is still `sent`. Books are read as the union of all files by the entries' ids, in
which what is settled takes precedence: a crash while entries are closed leaves some in two files.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_upscale import storage
from beam_upscale.dataset import DatasetFolder
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.inference import Fate
from beam_upscale.manifest import CREDITS, Row, Totals
from beam_upscale.parameters import Parameters
from beam_upscale.remote_models import RemoteModel
from beam_upscale.sorted_map import SortedMap

BOOKS = "books"
"""The folder of the books, below the dataset's root."""

# The smallest amount that is accounted for.
_STEP = Decimal(1).scaleb(-CREDITS.scale)

_READERS = 32
_CLOSED_TOGETHER = 50_000

# Claims of so many images are remembered by a process.
_MOST_CLAIMS = 1 << 16


class State(StrEnum):
    """What is known of the charge for a sending."""

    SENT = "sent"
    CHARGED = "charged"
    FREE = "free"


@dataclasses.dataclass(frozen=True)
class Place:
    """Whose call it is.

    Attributes:
        input_id: of the input.
        stage: index of the engine in its chain.
        tile: index of the tile among the image's.
    """

    input_id: str
    stage: int
    tile: int

    @property
    def key(self) -> str:
        """A short name, spread over 256 folders."""
        text = json.dumps([self.input_id, self.stage, self.tile])
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{digest[:2]}/{digest}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One sending of a paid call.

    Attributes:
        id: tells it from every other entry.
        n: number of its file among those of its place.
        request_id: what the service knows the call by.
        input_id: of the input.
        stage: index of the engine in the chain.
        tile: index of the tile.
        engine: its name.
        work: as `work_of`: tells whether the input is still what it was.
        credits: the price, by the price list.
        run: that sent it.
        endpoint: that it was sent to.
        ledger: of the service for the key, where a repeat of a request is charged once; else None.
        sent_at: when, in seconds since the epoch.
        repeats: id of the first entry of its group; None for that one itself.
        state: what is known of its charge.
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
        """Whose call it is."""
        return Place(self.input_id, self.stage, self.tile)

    @property
    def group(self) -> str:
        """Id of the group, which counts once."""
        return self.repeats or self.id

    def to_json(self) -> bytes:
        """The entry as UTF-8 JSON, exact to the last digit."""
        return json.dumps({**dataclasses.asdict(self), "credits": str(self.credits)}).encode()


def entry_from_json(data: bytes) -> Entry:
    """The inverse of `Entry.to_json`."""
    return _entry(json.loads(data))


def _entry(values: Mapping[str, Any]) -> Entry:
    amount, state = Decimal(values["credits"]), State(values["state"])
    return Entry(**{**values, "credits": amount, "state": state})


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
    """A hash of what is asked of an input, without what the run asks of all.

    Args:
        source_sha256: of its bytes.
        parameters: its own, before a seed is derived; None where no engine takes any.
    """
    values = None if parameters is None else dataclasses.astuple(parameters)
    return hashlib.sha256(json.dumps([source_sha256, values]).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Group:
    """Entries for one charge at most.

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
        """Whether a repeat that is sent at a time counts no more than the group does already."""
        is_known = model.ledger is not None and self.first.ledger == model.ledger
        is_young = at - self.first.sent_at <= model.repeat_seconds
        return is_known and is_young and self.state is not State.FREE


def grouped(entries: Iterable[Entry]) -> list[Group]:
    """The groups of entries, the one that was sent last first.

    Args:
        entries: of one place; one that is there twice is taken as it was settled. Those whose first
            entry is not among them are left out.
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
    """What the books of an output add up to.

    Attributes:
        charged: credits that services took.
        unresolved: credits that they may have taken: of calls without a known answer.
        unresolved_calls: how many those are.
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
            "CREATE TABLE entries (id TEXT PRIMARY KEY, grp TEXT, units INTEGER, rank INTEGER) "
            "WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def close(self) -> None:
        self._database.close()

    def add(self, entries: Iterable[Entry]) -> None:
        """Adds entries; one that is there already is taken as it was settled."""
        self._database.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
            f"SET rank = excluded.rank WHERE rank = {self._RANKS[State.SENT]}",
            ((e.id, e.group, int(e.credits / _STEP), self._RANKS[e.state]) for e in entries),
        )

    def sums(self) -> BookSums:
        """The sums over all groups."""
        rows = self._database.execute(
            "SELECT rank, SUM(units), COUNT(*) FROM (SELECT MAX(rank) AS rank, "
            "COALESCE(MAX(CASE WHEN id = grp THEN units END), MAX(units)) AS units "
            "FROM entries GROUP BY grp) GROUP BY rank"
        )
        found = {rank: (units * _STEP, calls) for rank, units, calls in rows}
        charged, _ = found.get(self._RANKS[State.CHARGED], (Decimal(0), 0))
        return BookSums(charged, *found.get(self._RANKS[State.SENT], (Decimal(0), 0)))


def with_books(sums: Totals, dataset: DatasetFolder) -> Totals:
    """Totals of rows with what the books of their output add up to."""
    books = read_sums(dataset)
    return dataclasses.replace(
        sums,
        charged_credits=books.charged,
        unresolved_credits=books.unresolved,
        unresolved_calls=books.unresolved_calls,
    )


def _folder(dataset: DatasetFolder, *parts: str) -> str:
    return storage.join(dataset.root, BOOKS, *parts)


def _open_uri(dataset: DatasetFolder, place: Place, n: int) -> str:
    return _folder(dataset, "open", f"{place.key}.{n}.json")


def _closed(dataset: DatasetFolder) -> Iterator[list[Entry]]:
    """The entries of all closed files, some at a time."""
    for batch in _closed_batches(dataset):
        yield [_entry(values) for values in batch.to_pylist()]


def _closed_batches(dataset: DatasetFolder) -> Iterator[pa.RecordBatch]:
    for file_entry in list(storage.list_below(_folder(dataset, "closed"))):
        with storage.open_read(file_entry.uri) as file:
            yield from pq.ParquetFile(file).iter_batches(columns=_SCHEMA.names)


def _open(dataset: DatasetFolder) -> Iterator[list[Entry]]:
    """The open entries, some at a time."""
    for found in _open_files(dataset):
        yield [entry for _, entry in found]


def _open_files(dataset: DatasetFolder) -> Iterator[list[tuple[str, Entry]]]:
    """The files of open entries with what they hold, some at a time."""
    uris = (found.uri for found in storage.list_below(_folder(dataset, "open")))
    with ThreadPoolExecutor(_READERS) as readers:
        while some := list(itertools.islice(uris, _CLOSED_TOGETHER)):
            entries = readers.map(_read, some)
            pairs = zip(some, entries, strict=True)
            yield [(uri, entry) for uri, entry in pairs if entry is not None]


def _read(uri: str) -> Entry | None:
    """The entry in a file; None where the file is gone.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return entry_from_json(storage.read(uri))
    except ImageError as error:
        if error.code is ErrorCode.NOT_FOUND or not storage.exists(uri):
            return None
        raise OSError(error.message) from error


# Closing


def close(dataset: DatasetFolder) -> None:
    """Moves settled entries into files of many; what is not settled stays open, and is copied.

    No other run may be under way.
    """
    unresolved: list[Entry] = []
    for found in _open_files(dataset):
        _close(found, dataset)
        unresolved += [entry for _, entry in found if entry.state is State.SENT]
    uri = _folder(dataset, "closed", "unresolved.parquet")
    if unresolved:
        _publish(uri, unresolved, dataset)
    elif storage.exists(uri):
        dataset.delete(uri)


def close_rows(rows: Iterable[Row], dataset: DatasetFolder) -> None:
    """Moves the entries of rows' calls into one file, where these were billed.

    A shard's commit does so, for all of its workers' entries not to be left to one at the end.
    """
    places = [place for row in rows if row.request_ids for place in _places(row)]
    if not places:
        return
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(lambda place: list(_entries_at(place, dataset)), places)
        _close([pair for pairs in found for pair in pairs], dataset)


def _places(row: Row) -> Iterator[Place]:
    calls = [stage["calls"] for stage in row.stages] or [row.calls]
    for stage, count in enumerate(calls):
        yield from (Place(row.input_id, stage, tile) for tile in range(count))


def _entries_at(place: Place, dataset: DatasetFolder) -> Iterator[tuple[str, Entry]]:
    """The open entries of a place that follow each other from the first, with their files."""
    for n in itertools.count(1):
        uri = _open_uri(dataset, place, n)
        entry = _read(uri) if storage.exists(uri) else None
        if entry is None:
            return
        yield uri, entry


def _close(found: Sequence[tuple[str, Entry]], dataset: DatasetFolder) -> None:
    settled = [(uri, entry) for uri, entry in found if entry.state is not State.SENT]
    if not settled:
        return
    # A name of its own: an attempt that was interrupted may have deleted what only its file has.
    uri = _folder(dataset, "closed", f"{uuid.uuid4().hex}.parquet")
    _publish(uri, [entry for _, entry in settled], dataset)
    with ThreadPoolExecutor(_READERS) as threads:
        for _ in threads.map(dataset.delete, [uri for uri, _ in settled]):
            pass


def _publish(uri: str, entries: Iterable[Entry], dataset: DatasetFolder) -> None:
    ordered = sorted(entries, key=lambda entry: (entry.input_id, entry.stage, entry.tile, entry.id))
    values = [
        {**dataclasses.asdict(e), "credits": e.credits.quantize(_STEP), "state": str(e.state)}
        for e in ordered
    ]
    with dataset.publish(uri) as file:
        pq.write_table(pa.Table.from_pylist(values, schema=_SCHEMA), file)


def bring_forward(dataset: DatasetFolder, rows: Iterable[Row]) -> None:
    """Begins the books of an output that an earlier version of this package wrote.

    Args:
        dataset: the output, which has no books.
        rows: its rows, staged ones included.
    """
    charged = [_entry_of_row(row, "an earlier version") for row in rows if row.billed_credits]
    if charged:
        _publish(_folder(dataset, "closed", "earlier-version.parquet"), charged, dataset)


def exist(dataset: DatasetFolder) -> bool:
    """Whether an output has books."""
    return any(True for _ in storage.list_below(_folder(dataset)))


def enter_row(row: Row, dataset: DatasetFolder, run: str) -> None:
    """Enters what a row was billed, where its calls were not put into these books.

    Done again for the same row, it changes nothing.
    """
    if row.billed_credits:
        entry = _entry_of_row(row, run)
        uri = _folder(dataset, "open", entry.place.key[:2], f"{entry.id}.json")
        dataset.write(uri, entry.to_json())


def _entry_of_row(row: Row, run: str) -> Entry:
    """One entry for all that a row was billed."""
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
        run=run,
        endpoint="",
        ledger=None,
        sent_at=0.0,
        state=State.CHARGED,
    )


# Booking


@dataclasses.dataclass(frozen=True)
class RunBooks:
    """Where a run books its paid calls.

    Attributes:
        dataset: the output whose books they are in.
        run: names the run.
        started_at: when it was begun, in seconds since the epoch: what a budget takes for a free
            repeat is settled by this time in all its processes.
    """

    dataset: DatasetFolder
    run: str
    started_at: float

    @classmethod
    def begin(cls, dataset: DatasetFolder, run: str | None = None) -> "RunBooks":
        """The books for a run that begins now.

        Args:
            dataset: the output.
            run: names the run; by default by chance.
        """
        return cls(dataset, run or uuid.uuid4().hex, time.time())


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a budget leaves to the calls of an image.

    Attributes:
        is_prepaid: whether its claim is without what the books hold for free repeats of its calls.
        spare_calls: how many calls the whole run may make beyond its inputs' claims.
    """

    is_prepaid: bool
    spare_calls: int


@dataclasses.dataclass(frozen=True)
class ImageBooking:
    """Puts the paid calls of one image into the books.

    Attributes:
        books: of the run.
        input_id: of the image.
        work: as `work_of`.
        limit: of a budget; None where there is none.
    """

    books: RunBooks
    input_id: str
    work: str
    limit: Limit | None = None

    def call(
        self, place: tuple[int, int], request_id: str, credits: Decimal, model: RemoteModel
    ) -> "BookedCall":
        """One of the image's calls, as `inference.Booking` has it."""
        return BookedCall(self, Place(self.input_id, *place), request_id, credits, model)


class BookedCall:
    """A paid call in the books; an `inference.PaidCall`.

    Args:
        booking: of its image.
        place: whose call it is.
        request_id: what the service knows its repeats by.
        credits: its price.
        model: the engine, and how its service is called.
    """

    def __init__(
        self,
        booking: ImageBooking,
        place: Place,
        request_id: str,
        credits: Decimal,
        model: RemoteModel,
    ) -> None:
        self._booking = booking
        self._dataset = booking.books.dataset
        self._place = place
        self._request_id = request_id
        self._credits = credits
        self._model = model
        self._group: Group | None = None
        self._entry: Entry | None = None

    @property
    def is_repeat(self) -> bool:
        """Whether the sending repeats one that counts already."""
        return self._group is not None

    def begin(self) -> None:
        """Makes a sending durable: as one that counts, or as a free repeat of one that does."""
        limit, has_room = self._booking.limit, False
        if limit is not None:
            _keep_to_claimed_work(self._booking)
        earlier = repeatable_entries(self._booking.books, self._model).at(self._place)
        here: list[Entry] = []
        while True:
            now = time.time()
            self._group = self._repeated([*earlier, *here], now)
            if limit is not None and not has_room and self._is_beyond_claim(earlier, here):
                _take_spare_call(self._booking.books, limit, self._credits)
                has_room = True
            self._entry = self._new_entry(len(here) + 1, now)
            uri = _open_uri(self._dataset, self._place, self._entry.n)
            if storage.create(uri, self._entry.to_json(), self._dataset.partial):
                break
            found = _read(uri)
            here += [] if found is None else [found]
        # Only now: a run that takes the output over finds this entry, or this run finds that run.
        _check_hold(self._dataset)

    def _repeated(self, entries: Iterable[Entry], now: float) -> Group | None:
        """The group that a sending belongs to; None where it may be charged anew."""
        groups = (g for g in grouped(entries) if g.first.request_id == self._request_id)
        return next((g for g in groups if g.is_repeated_free(self._model, now)), None)

    def _is_beyond_claim(self, earlier: Iterable[Entry], here: Iterable[Entry]) -> bool:
        """Whether the image's claim has no room for a sending: it was for one, or for none."""
        if self._group is not None:
            return False
        books, limit = self._booking.books, self._booking.limit
        is_sent = any(
            entry.run == books.run and entry.repeats is None and entry.state is not State.FREE
            for entry in here
        )
        if is_sent or limit is None or not limit.is_prepaid:
            return is_sent
        return prepaid(earlier, self._booking.work, self._model, books) is not None

    def _new_entry(self, n: int, now: float) -> Entry:
        return Entry(
            id=uuid.uuid4().hex,
            n=n,
            request_id=self._request_id,
            **dataclasses.asdict(self._place),
            engine=self._model.engine,
            work=self._booking.work,
            credits=self._credits,
            run=self._booking.books.run,
            endpoint=self._model.endpoint,
            ledger=self._model.ledger,
            sent_at=now,
            repeats=None if self._group is None else self._group.first.id,
        )

    def settle(self, fate: Fate) -> None:
        """Makes it durable what became of the sending that was begun last.

        What is known of the whole group then settles what earlier runs left open of it.
        """
        assert self._entry is not None
        state = State.CHARGED if fate is Fate.CHARGED else State.FREE
        self._write(dataclasses.replace(self._entry, state=state))
        if self._group is None or fate is Fate.FREE:
            return
        for entry in self._group.entries:
            if entry.state is State.SENT and entry.run != self._booking.books.run:
                uri = _open_uri(self._dataset, self._place, entry.n)
                found = _read(uri)
                # Another entry may have its number by now.
                if found is not None and found.id == entry.id:
                    self._write(dataclasses.replace(entry, state=state))

    def _write(self, entry: Entry) -> None:
        self._dataset.write(_open_uri(self._dataset, entry.place, entry.n), entry.to_json())


def _check_hold(dataset: DatasetFolder) -> None:
    """Raises where the output is no longer this run's.

    Raises:
        SettingsError: HOLD_LOST.
    """
    hold = getattr(dataset, "hold", None)
    if hold is not None:
        with hold.guard():
            pass


def prepaid(
    entries: Iterable[Entry], work: str, model: RemoteModel, books: RunBooks
) -> Group | None:
    """The group of a place whose repeat a claim takes for free; None where the price is claimed.

    Args:
        entries: of the place.
        work: as `work_of`, of the input as it is now.
        model: how the service is called.
        books: of the run.
    """
    groups = grouped(entry for entry in entries if entry.run != books.run)
    return next(
        (
            group
            for group in groups
            if group.first.work == work and group.is_repeated_free(model, books.started_at)
        ),
        None,
    )


class RepeatableEntries:
    """Entries of earlier runs that a repeat may count as one with, by their places; thread-safe.

    Args:
        entries: in any order.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._lock = threading.Lock()
        self._map = SortedMap()
        for entry in entries:
            found = self._map.get(entry.place.key)
            others = [] if found is None else json.loads(found)
            self._map[entry.place.key] = json.dumps([*others, entry.to_json().decode()])

    def at(self, place: Place) -> list[Entry]:
        """The entries of a place."""
        with self._lock:
            found = self._map.get(place.key)
        return [] if found is None else [entry_from_json(each) for each in json.loads(found)]


_lock = threading.Lock()
_repeatable: dict[tuple[str, str, str], RepeatableEntries] = {}
_NONE = RepeatableEntries()


def repeatable_entries(books: RunBooks, model: RemoteModel) -> RepeatableEntries:
    """What this process knows of earlier runs' calls to a service, read once for a run.

    Args:
        books: of the run. Its earlier entries were closed before it began.
        model: how the service is called; at one that is not known to charge a repeated request
            once, there is nothing to know.
    """
    if model.ledger is None or model.repeat_seconds <= 0:
        return _NONE
    key = books.dataset.root, books.run, model.ledger
    with _lock:
        if key not in _repeatable:
            for other in [each for each in _repeatable if each[0] == key[0]]:
                del _repeatable[other]
            _repeatable[key] = RepeatableEntries(_young(books, model))
        return _repeatable[key]


def _young(books: RunBooks, model: RemoteModel) -> Iterator[Entry]:
    """The closed entries at a ledger that it may remember still."""
    since = books.started_at - model.repeat_seconds
    for batch in _closed_batches(books.dataset):
        is_known = pc.fill_null(pc.equal(batch["ledger"], model.ledger), fill_value=False)
        is_young = pc.greater_equal(batch["sent_at"], since)
        for values in batch.filter(pc.and_(is_known, is_young)).to_pylist():
            yield _entry(values)


_claimed: dict[tuple[str, str, str], str] = {}


def _keep_to_claimed_work(booking: ImageBooking) -> None:
    """Raises where calls for an earlier content of the input use its claim.

    A bundle that is repeated may find a file replaced: the claim is for one content only.

    Raises:
        ImageError: OVER_BUDGET.
    """
    books = booking.books
    key = books.dataset.root, books.run, booking.input_id
    if _claimed.get(key) == booking.work:
        return
    place = Place(booking.input_id, 0, 0).key
    uri = storage.join(books.dataset.staging, "claims", books.run, place)
    if not storage.create(uri, booking.work.encode(), books.dataset.partial):
        raise ImageError(
            ErrorCode.OVER_BUDGET,
            "the input was changed while the run was under way, and calls for what it was before "
            "have used its part of --max-credits; a later run does it",
        )
    with _lock:
        if len(_claimed) >= _MOST_CLAIMS:
            _claimed.clear()
        _claimed[key] = booking.work


_next_spare: dict[tuple[str, str], int] = {}


def _take_spare_call(books: RunBooks, limit: Limit, credits: Decimal) -> None:
    """Takes room for a call beyond its image's claim.

    Raises:
        ImageError: OVER_BUDGET, there is none.
    """
    key = books.dataset.root, books.run
    for number in range(_next_spare.get(key, 0), limit.spare_calls):
        _next_spare[key] = number + 1
        uri = storage.join(books.dataset.staging, "repeats", books.run, str(number))
        if storage.create(uri, uuid.uuid4().hex.encode(), books.dataset.partial):
            return
    raise ImageError(
        ErrorCode.OVER_BUDGET,
        f"a call was sent and its answer is not known; sent again it may be charged once more, and "
        f"{credits} credits would exceed --max-credits",
    )
