"""Enters paid calls in the books of an output before they are sent, and finds free repeats.

A sending counts as a new charge, unless it repeats one that counts already, at a service that is
known to charge a repeated request once, and soon enough for that. With a budget, an input's claim
has room for one new charge of each call. A further charge takes from the credits that the budget
can spare for the whole run; if nothing is left, the call is not sent.
"""

import dataclasses
import time
import uuid
from collections.abc import Iterable
from decimal import ROUND_UP, Decimal

from beam_upscale.dataset.book_entries import STEP, CallKey, Entry, Group, State, grouped
from beam_upscale.dataset.book_files import open_uri, read_entry
from beam_upscale.dataset.books import RunBooks
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.inference.paid_calls import Fate
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.run_state.free_repeats import lock, prepaid, repeatable_entries
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

_MOST_CREDITS = Decimal(10**12)

# A process remembers the claims of this many images.
_MOST_CLAIMS = 1 << 16


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
        books: the books of the run.
        input_id: the id of the image.
        work: the image's work, as `work_of` gives it.
        limit: the limit of a budget; None if there is no budget.
    """

    books: RunBooks
    input_id: str
    work: str
    limit: Limit | None = None

    def call(
        self, stage_and_tile: tuple[int, int], request_id: str, price: Decimal, engine: RemoteEngine
    ) -> "BookedCall":
        """Returns the booking of one call of the image, as `paid_calls.Booking` defines it."""
        return BookedCall(self, CallKey(self.input_id, *stage_and_tile), request_id, price, engine)


class BookedCall:
    """A paid call in the books; a `paid_calls.PaidCall`.

    Args:
        booking: the booking of its image.
        key: the key of the call.
        request_id: the id by which the service recognizes repeats.
        price: the price of the call, in credits.
        engine: the engine, with the service that has it.
    """

    def __init__(
        self,
        booking: ImageBooking,
        key: CallKey,
        request_id: str,
        price: Decimal,
        engine: RemoteEngine,
    ) -> None:
        self._booking = booking
        self._dataset = booking.books.dataset
        self._key = key
        self._request_id = request_id
        self._price = price
        self._engine = engine
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
        earlier = repeatable_entries(self._booking.books, self._engine).of_call(self._key)
        here: list[Entry] = []
        while True:
            now = time.time()
            self._group = self._repeated([*earlier, *here], now)
            if limit is not None and not has_room and self._is_beyond_claim(earlier, here):
                _take_spare_call(self._booking.books, limit, self._price)
                has_room = True
            self._entry = self._new_entry(len(here) + 1, now)
            uri = open_uri(self._dataset, self._key, self._entry.n)
            if files.create(uri, self._entry.to_json(), self._dataset.partial):
                break
            found = read_entry(uri)
            here += [] if found is None else [found]
        if self._dataset.hold is not None:
            # After the write: a run that takes the output over either finds this entry, or is
            # noticed here.
            self._dataset.hold.check()

    def _repeated(self, entries: Iterable[Entry], now: float) -> Group | None:
        """Returns the group that a sending repeats for free; None if it may be charged again."""
        groups = (g for g in grouped(entries) if g.first.request_id == self._request_id)
        return next((g for g in groups if g.is_repeated_free(self._engine, now)), None)

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
        return prepaid(earlier, self._booking.work, self._engine, books) is not None

    def _new_entry(self, n: int, now: float) -> Entry:
        return Entry(
            id=uuid.uuid4().hex,
            n=n,
            request_id=self._request_id,
            input_id=self._key.input_id,
            stage=self._key.stage,
            tile=self._key.tile,
            engine=self._engine.engine,
            work=self._booking.work,
            credits=self._price,
            run=self._booking.books.run,
            endpoint=self._engine.endpoint,
            ledger=self._engine.ledger,
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
        found = read_entry(open_uri(self._dataset, self._key, entry.n))
        # By now another entry may have its number.
        return found if found is not None and found.id == entry.id else None

    def _write(self, entry: Entry) -> None:
        self._dataset.write(open_uri(self._dataset, entry.key, entry.n), entry.to_json())


def _amount(reported: Decimal, price: Decimal) -> Decimal:
    """Returns the amount that a service reports, or the price if the books cannot hold it."""
    return reported.quantize(STEP, ROUND_UP) if reported < _MOST_CREDITS else price


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
    path = CallKey(booking.input_id, 0, 0).path
    uri = uris.join(books.dataset.staging, "claims", books.run, path)
    if not files.create(uri, booking.work.encode(), books.dataset.partial):
        raise ImageError(
            ErrorCode.OVER_BUDGET,
            "the input was changed during the run, and calls for its earlier content have used its "
            "part of --max-credits; run again with --retry over_budget",
        )
    with lock:
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
        uri = uris.join(books.dataset.staging, "repeats", books.run, str(number))
        if files.create(uri, uuid.uuid4().hex.encode(), books.dataset.partial):
            return
    raise ImageError(
        ErrorCode.OVER_BUDGET,
        f"the answer to a call is not known; a repeat may be charged once more, and {price} "
        "credits would exceed --max-credits",
    )
