"""The interface through which paid calls are entered in the books, which `books` keeps."""

from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from beam_upscale.remote_models import RemoteModel


class Fate(StrEnum):
    """The known charge for a paid call, or for one attempt of it.

    Attributes:
        CHARGED: the service gave a result that it took its price for.
        FREE: it took nothing for what was sent.
        NEVER_CHARGED: nor for any earlier sending of the same request.
        UNKNOWN: the service may have taken its price.
    """

    CHARGED = "charged"
    FREE = "free"
    NEVER_CHARGED = "never_charged"
    UNKNOWN = "unknown"


class PaidCall(Protocol):
    """A paid call in the books. Both methods wait for storage."""

    def begin(self) -> None:
        """Makes a sending of the call durable; it is due before the call is sent.

        Raises:
            ImageError: OVER_BUDGET, the call may be charged a second time, and the budget has no
                room for that: it must not be sent.
            SettingsError: no call of this run may be sent any more.
            OSError: the books cannot be written.
        """
        ...

    def settle(self, fate: Fate, charged: Decimal | None = None) -> None:
        """Makes it durable what became of the sending that was begun last.

        Args:
            fate: what is known of its charge.
            charged: credits that the service says it took for it now; None where it took the price,
                or does not say.
        """
        ...

    @property
    def is_repeat(self) -> bool:
        """Whether the sending repeats one that counts already, at a service that charges once."""
        ...


class Booking(Protocol):
    """Enters the paid calls of one image in the books."""

    def call(
        self, place: tuple[int, int], request_id: str, price: Decimal, model: RemoteModel
    ) -> PaidCall:
        """One of the image's calls.

        Args:
            place: index of the engine in its chain, and of the tile.
            request_id: what the service knows its repeats by.
            price: of it.
            model: the engine, and how its service is called.
        """
        ...
