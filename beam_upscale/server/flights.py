"""Calls in progress, each with its callers, its turn and its result."""

import asyncio
import dataclasses
import time
from decimal import Decimal

import grpc

from beam_upscale.grpc_api.status import Reason, Refusal
from beam_upscale.server.accounts.charges import StoredResult
from beam_upscale.server.accounts.key_file import Key
from beam_upscale.server.accounts.ledger import Replay, Reservation
from beam_upscale.server.refusals import RefusedError
from beam_upscale.server.requests import Call
from beam_upscale.server.worker import Priced, Upscaled


@dataclasses.dataclass(frozen=True)
class Result:
    """The answer to a call.

    Attributes:
        stored: the result that is sent, and kept for repeats.
        credits: charged for it now; 0 for a repeat, or without a ledger.
        upscaled: the result of the networks; None for a repeat that needed none.
        queue_seconds: the call's wait for the networks, in the queue and for their batches.
    """

    stored: StoredResult
    credits: Decimal
    upscaled: Upscaled | None
    queue_seconds: float = 0.0


@dataclasses.dataclass(eq=False)
class Flight:
    """A call in progress, and the number of its callers.

    Attributes:
        key: the callers' `Key`, which names the API key.
        call: the request.
        future: the future `Result`, or a `RefusedError`; cancelled if no caller waits any more, or
            if the server ends before the call does.
        callers: the number of callers that wait; repeats join the first caller.
    """

    key: Key
    call: Call
    future: "asyncio.Future[Result]"
    callers: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
    """A call to be computed, with its reservation in the ledger and the start of its wait."""

    flight: Flight
    priced: Priced
    held: Reservation | Replay | None
    since: float = dataclasses.field(default_factory=time.monotonic)

    def give_up(self) -> None:
        """Releases the reservation uncharged; nothing happens if it has ended."""
        if self.held is not None:
            self.held.release()


def is_unavailable(error: RefusedError) -> bool:
    """Checks whether a call failed in a way that may leave its charge unknown."""
    return error.refusal.code is grpc.StatusCode.UNAVAILABLE


def uncharged(error: RefusedError) -> RefusedError:
    """Returns the same refusal, with the statement that its request id was not charged."""
    return RefusedError(dataclasses.replace(error.refusal, charged=Decimal(0)))


def reused(message: str) -> RefusedError:
    """Returns the refusal of a request id that stands for another request."""
    return RefusedError(Refusal(grpc.StatusCode.ALREADY_EXISTS, message, Reason.REQUEST_ID_REUSED))
