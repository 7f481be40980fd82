"""Enters paid calls in the books of an output before they are sent, and finds free repeats.

A sending counts as a new charge, unless it repeats one that counts already, at a service that is
known to charge a repeated request once, and soon enough for that. With a budget, an input's claim
has room for one new charge at each place. A further charge takes from what the budget can spare for
the whole run; if nothing is left, the call is not sent.
"""

import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from decimal import ROUND_UP, Decimal

import pyarrow.compute as pc

from beam_upscale import storage
from beam_upscale.books import (
    STEP,
    Entry,
    Group,
    Place,
    State,
    closed_batches,
    entry_from_json,
    entry_of,
    grouped,
    open_uri,
    read_entry,
)
from beam_upscale.dataset import DatasetFolder
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.paid_calls import Fate
from beam_upscale.remote_models import RemoteModel
from beam_upscale.sorted_map import SortedMap

_MOST_CREDITS = Decimal(10**12)

# A process remembers the claims of this many images.
_MOST_CLAIMS = 1 << 16


@dataclasses.dataclass(frozen=True)
class RunBooks:
    """The books in which a run enters its paid calls.

    Attributes:
        dataset: the output that the books belong to.
        run: names the run.
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


@dataclasses.dataclass(frozen=True)
class Limit:
    """The limits that a budget sets to the calls of an image.

    Attributes:
        is_prepaid: True if its claim leaves out the calls that the books hold for free repeats.
        spare_calls: the calls that the whole run may make beyond its inputs' claims.
    """

    is_prepaid: bool
    spare_calls: int


@dataclasses.dataclass(frozen=True)
class ImageBooking:
    """Enters the paid calls of one image in the books.

    Attributes:
        books: of the run.
        input_id: of the image.
        work: the image's work, as `work_of` gives it.
        limit: of a budget; None if there is no budget.
    """

    books: RunBooks
    input_id: str
    work: str
    limit: Limit | None = None

    def call(
        self, place: tuple[int, int], request_id: str, price: Decimal, model: RemoteModel
    ) -> "BookedCall":
        """Returns the booking of one call of the image, as `paid_calls.Booking` defines it."""
        return BookedCall(self, Place(self.input_id, *place), request_id, price, model)


class BookedCall:
    """A paid call in the books; a `paid_calls.PaidCall`.

    Args:
        booking: of its image.
        place: the input, the stage and the tile that the call is for.
        request_id: the id by which the service recognizes repeats.
        price: of the call, in credits.
        model: the engine, and how its service is called.
    """

    def __init__(
        self,
        booking: ImageBooking,
        place: Place,
        request_id: str,
        price: Decimal,
        model: RemoteModel,
    ) -> None:
        self._booking = booking
        self._dataset = booking.books.dataset
        self._place = place
        self._request_id = request_id
        self._price = price
        self._model = model
        self._group: Group | None = None
        self._entry: Entry | None = None

    @property
    def is_repeat(self) -> bool:
        """True if the sending repeats one that counts already."""
        return self._group is not None

    def begin(self) -> None:
        """Makes a sending durable, as a new charge or as a free repeat of an earlier one."""
        limit, has_room = self._booking.limit, False
        if limit is not None:
            _keep_to_claimed_work(self._booking)
        if self._dataset.hold is not None:
            # A run that has ended must not book anything.
            self._dataset.hold.check()
        earlier = repeatable_entries(self._booking.books, self._model).at(self._place)
        here: list[Entry] = []
        while True:
            now = time.time()
            self._group = self._repeated([*earlier, *here], now)
            if limit is not None and not has_room and self._is_beyond_claim(earlier, here):
                _take_spare_call(self._booking.books, limit, self._price)
                has_room = True
            self._entry = self._new_entry(len(here) + 1, now)
            uri = open_uri(self._dataset, self._place, self._entry.n)
            if storage.create(uri, self._entry.to_json(), self._dataset.partial):
                break
            found = read_entry(uri)
            here += [] if found is None else [found]
        if self._dataset.hold is not None:
            # After the write: a run that takes the output over either finds this entry, or is
            # noticed here.
            self._dataset.hold.check()

    def _repeated(self, entries: Iterable[Entry], now: float) -> Group | None:
        """Returns the group that a sending repeats for free; None if it may be charged anew."""
        groups = (g for g in grouped(entries) if g.first.request_id == self._request_id)
        return next((g for g in groups if g.is_repeated_free(self._model, now)), None)

    def _is_beyond_claim(self, earlier: Iterable[Entry], here: Iterable[Entry]) -> bool:
        """Checks whether a sending exceeds the image's claim, which has room for one or none."""
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
            input_id=self._place.input_id,
            stage=self._place.stage,
            tile=self._place.tile,
            engine=self._model.engine,
            work=self._booking.work,
            credits=self._price,
            run=self._booking.books.run,
            endpoint=self._model.endpoint,
            ledger=self._model.ledger,
            sent_at=now,
            repeats=None if self._group is None else self._group.first.id,
        )

    def settle(self, fate: Fate, charged: Decimal | None = None) -> None:
        """Makes the outcome of the last sending durable.

        The outcome also settles entries of the same group that earlier runs left open. A service
        that takes credits for a repeat of a charged call has charged twice.

        Args:
            fate: the outcome.
            charged: the credits that the service reports as taken; None if it reports none.
        """
        assert self._entry is not None
        state = State.CHARGED if fate is Fate.CHARGED else State.FREE
        entry = dataclasses.replace(self._entry, state=state)
        if charged is not None:
            entry = dataclasses.replace(entry, credits=_amount(charged, self._price))
            if self._is_charged_already():
                self._write(dataclasses.replace(entry, repeats=None))
                return
        self._write(entry)
        if self._group is None or fate is Fate.FREE:
            return
        for each in self._group.entries:
            if each.state is State.SENT and each.run != self._booking.books.run:
                found = self._now(each)
                if found is not None:
                    self._write(dataclasses.replace(each, state=state, credits=entry.credits))

    def _is_charged_already(self) -> bool:
        """Checks whether the group is known to be charged, apart from the last sending."""
        entries = () if self._group is None else self._group.entries
        return any((self._now(each) or each).state is State.CHARGED for each in entries)

    def _now(self, entry: Entry) -> Entry | None:
        """Reads the present state of an open entry; returns None if it is closed."""
        found = read_entry(open_uri(self._dataset, self._place, entry.n))
        # By now another entry may have its number.
        return found if found is not None and found.id == entry.id else None

    def _write(self, entry: Entry) -> None:
        self._dataset.write(open_uri(self._dataset, entry.place, entry.n), entry.to_json())


def _amount(told: Decimal, price: Decimal) -> Decimal:
    """Returns the amount that a service reports, or the price if the books cannot hold it."""
    return told.quantize(STEP, ROUND_UP) if told < _MOST_CREDITS else price


def prepaid(
    entries: Iterable[Entry], work: str, model: RemoteModel, books: RunBooks
) -> Group | None:
    """Returns the group of a place that a claim counts as free; None if the price is claimed.

    Args:
        entries: of the place.
        work: the work of the input as it is now, as `work_of` gives it.
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
    """The entries of earlier runs that may have a free repeat, by place; thread-safe.

    Args:
        entries: in any order.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._lock = threading.Lock()
        self._map = SortedMap()
        self._waiting = SortedMap()
        for entry in entries:
            if entry.state is State.SENT:
                places = json.loads(self._waiting.get(entry.input_id) or "[]")
                self._waiting[entry.input_id] = json.dumps([*places, [entry.stage, entry.tile]])
            found = self._map.get(entry.place.key)
            others = [] if found is None else json.loads(found)
            self._map[entry.place.key] = json.dumps([*others, entry.to_json().decode()])

    def at(self, place: Place) -> list[Entry]:
        """Returns the entries of a place."""
        with self._lock:
            found = self._map.get(place.key)
        return [] if found is None else [entry_from_json(each) for each in json.loads(found)]

    def unresolved(self, input_id: str) -> Iterator[Group]:
        """Yields the groups of an input's calls that are not known to be charged or free."""
        with self._lock:
            found = self._waiting.get(input_id)
        places = set() if found is None else {tuple(each) for each in json.loads(found)}
        for stage, tile in sorted(places):
            groups = grouped(self.at(Place(input_id, stage, tile)))
            yield from (group for group in groups if group.state is State.SENT)


_lock = threading.Lock()
_repeatable: dict[tuple[str, str, str], RepeatableEntries] = {}
_NONE = RepeatableEntries()


def repeatable_entries(books: RunBooks, model: RemoteModel) -> RepeatableEntries:
    """Returns the calls of earlier runs to a service; they are read once for each run.

    Args:
        books: of the run. Its earlier entries were closed before it began.
        model: how the service is called. A service that is not known to charge a repeated request
            once has no such calls.
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
    """Yields the closed entries of a ledger that the service may still remember."""
    since = books.started_at - model.repeat_seconds
    for batch in closed_batches(books.dataset):
        is_known = pc.fill_null(pc.equal(batch["ledger"], model.ledger), fill_value=False)
        is_young = pc.greater_equal(batch["sent_at"], since)
        for values in batch.filter(pc.and_(is_known, is_young)).to_pylist():
            yield entry_of(values)


_claimed: dict[tuple[str, str, str], str] = {}


def _keep_to_claimed_work(booking: ImageBooking) -> None:
    """Raises an error if calls for an earlier content of the input use its claim.

    A repeated bundle may find that a file was replaced. The claim is for one content only.

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
            "have used its part of --max-credits; --retry over_budget does it later",
        )
    with _lock:
        if len(_claimed) >= _MOST_CLAIMS:
            _claimed.clear()
        _claimed[key] = booking.work


_next_spare: dict[tuple[str, str], int] = {}


def _take_spare_call(books: RunBooks, limit: Limit, price: Decimal) -> None:
    """Takes a spare call of the run, for a call beyond its image's claim.

    Raises:
        ImageError: OVER_BUDGET, no spare call is left.
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
        f"{price} credits would exceed --max-credits",
    )
