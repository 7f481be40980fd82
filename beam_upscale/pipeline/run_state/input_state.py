"""`InputState`: an input's state in a run: listing entry, earlier result, budget, books.

It travels with its `SourceImage`, through the steps of this package and through a user's own, which
change an input by `dataclasses.replace`.
"""

import dataclasses
import hashlib
from decimal import Decimal
from typing import TypeVar

from beam_upscale.dataset.books import Prepaid, RunBooks
from beam_upscale.dataset.records import Record
from beam_upscale.sources.inputs.source_image import RunState, SourceImage

_Source = TypeVar("_Source", bound=SourceImage)


@dataclasses.dataclass(frozen=True)
class ListingEntry:
    """The entry of an input in the output's own listing.

    Attributes:
        part: the part of the listing, which the commit of the input's shard reads.
        source: the input as it is listed.
    """

    part: str
    source: SourceImage


@dataclasses.dataclass(frozen=True)
class EarlierResult:
    """The result that an earlier run has left of an input, if it is still valid.

    Attributes:
        record: its row and telemetry.
        is_committed: True if a committed shard holds it.
        has_other_record: True if a record of the same result with other columns is below
            `.staging/` too, which the next commit of its shard would take.
    """

    record: Record
    is_committed: bool = False
    has_other_record: bool = False


@dataclasses.dataclass(frozen=True)
class Allowance:
    """The part of a budget that is set aside for an input.

    Attributes:
        credits: the most that the input may cost; an input that turns out to cost more is over the
            budget.
        prepaid: calls that an earlier run paid and that `credits` leaves out; None if there are
            none.
        is_within_budget: False if the budget does not reach the input.
        spare_calls: the calls that the whole run may make beyond the allowances of its inputs.
    """

    credits: Decimal
    prepaid: Prepaid | None = None
    is_within_budget: bool = True
    spare_calls: int = 0


@dataclasses.dataclass(frozen=True)
class InputState(RunState):
    """The state of an input in a run, besides the input itself.

    Attributes:
        listed: its entry in the output's own listing; None if it comes from elsewhere.
        earlier: its result of an earlier run; None if the input is to be done.
        allowance: its part of the budget; None if there is no budget.
        books: the books for its paid calls; None if no books are kept.
        is_postponed: True leaves the input to a later run.
        data_sha256: the SHA-256 of the bytes that the input held, in hexadecimal; None if it held
            none.
    """

    listed: ListingEntry | None = None
    earlier: EarlierResult | None = None
    allowance: Allowance | None = None
    books: RunBooks | None = dataclasses.field(default=None, compare=False)
    is_postponed: bool = False
    data_sha256: str | None = None


_NEW = InputState()


def state_of(source: SourceImage) -> InputState:
    """Returns an input's state; an empty one for an input that a user has made."""
    return source.run_state if isinstance(source.run_state, InputState) else _NEW


def with_state(source: _Source, state: InputState) -> _Source:
    """Returns an input with another state."""
    return dataclasses.replace(source, run_state=state)


def without_data(source: _Source, state: InputState) -> _Source:
    """Returns an input with a state and without its bytes; the input itself if it is that."""
    if source.data is None and state_of(source) is state:
        return source
    return dataclasses.replace(source, data=None, run_state=state)


def is_as_listed(source: SourceImage) -> bool:
    """Checks whether an input is in the output's own listing, and no step has changed it since."""
    state = state_of(source)
    if state.listed is None or source.data is not None or state.data_sha256 is not None:
        return False
    return source.is_same_input(state.listed.source)


def fingerprint(source: SourceImage) -> str:
    """Returns a hash of the values that identify an input, independent of its outcome."""
    return hashlib.sha256(source.identity(state_of(source).data_sha256).encode()).hexdigest()
