"""The books of an output: enters a paid call before it is sent, and decides when its entries close.

    books/open/<2 hex>/<call>.<n>.json    one sending of a call: durable before the call is sent
    books/closed/*.parquet                entries that were settled, many in a file
    books/closed/unresolved.parquet       a copy of the entries that are not, of earlier runs

A call is named by its key: an input, an engine of its chain and a tile. Each sending that may cost
something has an entry of its own; `n` is taken by exclusive creation, so that no two workers share
one. An entry is `sent` until the answer is known, then `charged` or `free`. At a service that is
known to charge a repeated request once, a further sending of it names the entry that it repeats:
both are one group, which counts once.

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
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale.dataset.book_entries import SCHEMA, STEP, CallKey, Entry, State
from beam_upscale.dataset.book_files import (
    CLOSED_NAME,
    OPEN_NAME,
    READERS,
    check,
    closed,
    closed_batches,
    folder_of,
    named,
    open_entries,
    open_files,
    open_uri,
    read_entry,
)
from beam_upscale.dataset.book_sums import Adder
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.storage import files


@dataclasses.dataclass(frozen=True)
class RunBooks:
    """The books in which a run enters its paid calls.

    Attributes:
        dataset: the output that the books belong to.
        run: the run's name in the books.
        started_at: the start of the run, in seconds since the epoch. All its processes use this
            time to decide which calls of earlier runs a budget counts as free repeats.
    """

    dataset: DatasetFolder
    run: str
    started_at: float

    @classmethod
    def begin(cls, dataset: DatasetFolder) -> "RunBooks":
        """Returns the books for a run that begins now."""
        run = uuid.uuid4().hex if dataset.hold is None else dataset.hold.token
        return cls(dataset, run, time.time())


@dataclasses.dataclass(frozen=True)
class Prepaid:
    """The credits that an input's claim leaves out, because repeats of earlier calls are free.

    Attributes:
        work: the input's work, as `work_of` gives it.
        credits: the price of these calls.
        unresolved: the part of `credits` that is not known to be charged. A repeat of such a call
            may be charged, as if sent for the first time.
    """

    work: str
    credits: Decimal
    unresolved: Decimal = Decimal(0)


BOOKS_FORMAT = 1
"""The number in `run.json` of books that hold every paid call; earlier versions have none."""
_FILE = re.compile(rf"open/[0-9a-f]{{2}}/{OPEN_NAME.pattern}|closed/[^./][^/]*\.parquet")

_UNRESOLVED = "unresolved.parquet"


# Closing


def close(dataset: DatasetFolder) -> None:
    """Moves settled entries into shared files; the others stay open, and are copied.

    No other run may be under way.
    """
    uri = folder_of(dataset, "closed", _UNRESOLVED)
    copied = {entry.id: entry for entries in closed(dataset, {uri}) for entry in entries}
    unresolved: list[Entry] = []
    for found in open_files(dataset):
        _close(found, dataset)
        unresolved += [entry for _, entry in found if entry.state is State.SENT]
        for _, entry in found:
            copied.pop(entry.id, None)
    unresolved += _only_copied(copied, dataset)
    if unresolved:
        _publish(uri, unresolved, dataset)
    elif files.exists(uri):
        dataset.delete(uri)


def _only_copied(copied: dict[str, Entry], dataset: DatasetFolder) -> Iterator[Entry]:
    """Yields the copies of open entries whose own files are lost."""
    others = set(named(folder_of(dataset, "closed"), CLOSED_NAME))
    others.discard(folder_of(dataset, "closed", _UNRESOLVED))
    if copied:
        for batch in closed_batches(dataset, others):
            for id_ in batch["id"].to_pylist():
                copied.pop(id_, None)
    yield from copied.values()


def close_rows(rows: Iterable[Row], dataset: DatasetFolder) -> None:
    """Moves the settled entries of rows with paid calls into one file.

    Each shard's commit calls this, so that few entries are left to close at the end of the run. If
    a repeat may be charged again, entries stay open until the end: a late worker looks for them.
    """
    keys = [key for row in rows if row.request_ids for key in _keys(row)]
    if not keys:
        return
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(lambda key: list(_entries_of(key, dataset)), keys))
    _close([pair for pairs in found if _is_over(pairs) for pair in pairs], dataset)


def _is_over(found: Iterable[tuple[str, Entry]]) -> bool:
    """Checks whether a call's entries may close: all are settled, in ledgers that charge once."""
    return all(entry.state is not State.SENT and entry.ledger is not None for _, entry in found)


def _keys(row: Row) -> Iterator[CallKey]:
    calls = [stage["calls"] for stage in row.stages] or [row.calls]
    for stage, count in enumerate(calls):
        yield from (CallKey(row.input_id, stage, tile) for tile in range(count))


def _entries_of(key: CallKey, dataset: DatasetFolder) -> Iterator[tuple[str, Entry]]:
    """Yields a call's open entries with their URIs, from number 1 up to the first gap."""
    for n in itertools.count(1):
        uri = open_uri(dataset, key, n)
        entry = read_entry(uri)
        if entry is None:
            return
        yield uri, entry


def _close(found: Sequence[tuple[str, Entry]], dataset: DatasetFolder) -> None:
    settled = [(uri, entry) for uri, entry in found if entry.state is not State.SENT]
    if not settled:
        return
    # A new name each time: an interrupted attempt may have deleted entries that only its file has.
    uri = folder_of(dataset, "closed", f"{uuid.uuid4().hex}.parquet")
    _publish(uri, [entry for _, entry in settled], dataset)
    with ThreadPoolExecutor(READERS) as threads:
        for _ in threads.map(dataset.delete, [uri for uri, _ in settled]):
            pass


def _publish(uri: str, entries: Iterable[Entry], dataset: DatasetFolder) -> None:
    ordered = sorted(entries, key=lambda entry: (entry.input_id, entry.stage, entry.tile, entry.id))
    values = [
        {**e.to_dict(), "credits": e.credits.quantize(STEP), "state": str(e.state)} for e in ordered
    ]
    with dataset.publish(uri) as file:
        pq.write_table(pa.Table.from_pylist(values, schema=SCHEMA), file)


def enter_missing(rows: Iterable[Row], dataset: DatasetFolder) -> None:
    """Enters the credits that rows were billed for calls that the books do not hold.

    Earlier versions of this package kept no books. Repeating it changes nothing.

    Args:
        rows: the output's rows.
        dataset: the output.
    """
    with contextlib.closing(Adder()) as adder:
        for entries in itertools.chain(closed(dataset), open_entries(dataset)):
            adder.add(entries)
        known = adder.by_request_id()
    missing = []
    for row in rows:
        amounts = (Decimal(known.get(request_id) or 0) for request_id in set(row.request_ids))
        billed = row.billed_credits - sum(amounts, Decimal(0))
        if billed > 0:
            missing.append(_entry_of_row(row.changed(billed_credits=billed)))
    if missing:
        _publish(folder_of(dataset, "closed", f"{uuid.uuid4().hex}.parquet"), missing, dataset)


def exist(dataset: DatasetFolder) -> bool:
    """Checks whether an output has books."""
    return any(True for _ in files.list_below(folder_of(dataset)))


def are_all_there_is(dataset: DatasetFolder) -> bool:
    """Checks whether the folder of the books holds entries, all readable, and no other files.

    Hidden files are ignored. A user's own pipeline may end between its first entry and `run.json`.
    """
    found = [each.name for each in files.list_below(folder_of(dataset))]
    names = [name for name in found if not name.rpartition("/")[2].startswith(".")]
    try:
        check(dataset)
    except SettingsError:
        return False
    return bool(names) and all(_FILE.fullmatch(name) for name in names)


def are_kept(run: RunJson | None) -> bool:
    """Checks by `run.json` whether the books hold all calls of an output; True without the file.

    Earlier versions of this package kept no books.

    Raises:
        SettingsError: BOOKS_UNKNOWN, the books are of a later version.
    """
    format_ = None if run is None else run.books
    if isinstance(format_, int) and format_ > BOOKS_FORMAT:
        raise SettingsError(
            ErrorCode.BOOKS_UNKNOWN,
            f"the output has books of format {format_}, and this version of beam-upscale knows "
            f"formats up to {BOOKS_FORMAT}: go on with the later version that wrote them, or take "
            "another output",
        )
    return run is None or run.books == BOOKS_FORMAT


def enter_row(row: Row, dataset: DatasetFolder) -> None:
    """Enters the credits that a row was billed, if its calls are not in these books.

    Repeating it for the same row changes nothing.
    """
    if row.billed_credits:
        entry = _entry_of_row(row)
        uri = folder_of(dataset, "open", entry.key.path[:2], f"{entry.id}.json")
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
