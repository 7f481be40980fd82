"""The values of the ledger: charges, reservations, replays, and its errors."""

import dataclasses
import datetime
import hashlib
import logging
from decimal import Decimal
from typing import Any

from beam_upscale.server.accounts.key_file import CREDIT_STEP

_logger = logging.getLogger(__name__)


class LedgerError(Exception):
    """A call that the ledger refuses; the message is for the caller."""


class OutOfCredits(LedgerError):  # noqa: N818 - what it says is the caller's state.
    """The key's balance is less than the call's price."""


class RequestIdReused(LedgerError):  # noqa: N818
    """The key has used the request id for another request."""


class LedgerUnavailable(LedgerError):  # noqa: N818
    """The ledger's files cannot be read or written; nothing was charged."""


@dataclasses.dataclass(frozen=True)
class StoredResult:
    """A result in the ledger, which a repeated request gets back.

    Attributes:
        data: the artifact's bytes.
        seed: the seed of its noise, 0 to 2**63 - 1; 0 if there is none.
        engine: name of the engine that made it; those of a chain are joined by a plus sign.
    """

    data: bytes = dataclasses.field(repr=False)
    seed: int
    engine: str


@dataclasses.dataclass(frozen=True)
class Charge:
    """A row of the ledger.

    Attributes:
        key: name of the key.
        request_id: as the caller gave it; empty if none was given.
        fingerprint: the fingerprint of the request without its id.
        engine: name of the engine that was called, as in `StoredResult`.
        credits: the amount that was charged.
        charged_at: time of the charge, in UTC.
    """

    key: str
    request_id: str
    fingerprint: str
    engine: str
    credits: Decimal
    charged_at: datetime.datetime


@dataclasses.dataclass(frozen=True)
class InProgress:
    """The same request of the same key is being computed by another call of this process."""


@dataclasses.dataclass(eq=False)
class Claim:
    """A call that computes a result.

    Attributes:
        key: name of the key.
        request_id: empty if it has none.
        fingerprint: the fingerprint of its request.
        amount: reserved units of 1/10,000 credits; 0 if the call was charged before.
        charge: id of the earlier charge; None if the call is still to be charged.
        open: True until its result is stored or it is given up.
    """

    key: str
    request_id: str
    fingerprint: str
    amount: int
    charge: int | None = None
    open: bool = True


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A result for the database: the data of a small one, the name of a larger one's file."""

    file: str | None
    data: bytes | None = dataclasses.field(repr=False)
    bytes: int
    sha256: str
    seed: int

    def columns(self) -> tuple[Any, ...]:
        """Returns the values of its columns in the database."""
        return self.file, self.data, self.bytes, self.sha256, self.seed


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Results that were removed from the database: the files that some have, and the total size."""

    files: tuple[str, ...] = ()
    bytes: int = 0

    def __add__(self, other: "Dropped") -> "Dropped":
        return Dropped(self.files + other.files, self.bytes + other.bytes)


@dataclasses.dataclass(frozen=True)
class Found:
    """The last charge of a request id within the replay window."""

    charge: int
    fingerprint: str
    engine: str
    file: str | None
    data: bytes | None = dataclasses.field(repr=False)
    sha256: str | None
    seed: int | None

    def result(self, data: bytes) -> StoredResult | None:
        """Returns the stored result; None if its data does not have the stored SHA-256."""
        assert self.seed is not None
        if hashlib.sha256(data).hexdigest() == self.sha256:
            return StoredResult(data, self.seed, self.engine)
        _logger.warning("A stored result is damaged; a repeat of its request computes it again.")
        return None


def units_of(amount: Decimal) -> int:
    """Converts credits to units of 1/10,000."""
    units = amount / CREDIT_STEP
    if units != int(units) or units < 0:
        raise ValueError(f"{amount} is not an amount of credits in steps of {CREDIT_STEP}")
    return int(units)


def credits_of(units: int) -> Decimal:
    """Converts units of the ledger, of 1/10,000 credit, to credits."""
    return units * CREDIT_STEP


def out_of_credits(balance: int, reserved: int, amount: int) -> OutOfCredits:
    """Returns the error for a call that costs more than is left.

    Args:
        balance: units of the key's balance.
        reserved: units that calls in progress hold.
        amount: units of the call's price.
    """
    message = f"the call costs {_shown(amount)} credits, and the balance is {_shown(balance)}"
    if reserved:
        message += f", of which calls in progress hold {_shown(reserved)}"
    return OutOfCredits(message)


def _shown(units: int) -> str:
    """Formats credits without needless zeros, so that 0.2000 is 0.2."""
    return f"{credits_of(units).normalize():f}"


def reused(request_id: str) -> RequestIdReused:
    """Returns the error for a request id that stands for another request."""
    return RequestIdReused(
        f"the request id {request_id!r} is that of an earlier request with another content; "
        "another request takes another id"
    )


def marks(count: int) -> str:
    """Returns placeholders for `count` values of an SQL statement."""
    return ", ".join("?" * count)


def ended() -> RuntimeError:
    """Returns the error for a second use of a reservation."""
    return RuntimeError("the reservation has been charged or released before")
