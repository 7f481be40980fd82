"""The interface by which paid calls are entered in the books of an output."""

from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from beam_upscale.inference.remote_engines import RemoteEngine


class Fate(StrEnum):
    """The known charge for a paid call, or for one attempt of it.

    Attributes:
        CHARGED: the service gave a result and charged its price.
        FREE: the service charged nothing for this sending.
        NEVER_CHARGED: the service charged nothing, also for earlier sendings of the same request.
        UNKNOWN: the service may have charged its price.
    """

    CHARGED = "charged"
    FREE = "free"
    NEVER_CHARGED = "never_charged"
    UNKNOWN = "unknown"


class PaidCall(Protocol):
    """A paid call in the books. Both methods wait for storage."""

    def begin(self) -> None:
        """Records a sending of the call durably; must be called before the call is sent.

        Raises:
            ImageError: OVER_BUDGET, the call may be charged a second time, and the budget has no
                room for that: it must not be sent.
            SettingsError: no call of this run may be sent any more.
            OSError: the books cannot be written.
        """
        ...

    def settle(self, fate: Fate, charged: Decimal | None = None) -> None:
        """Records durably the charge for the last sending.

        Args:
            fate: the known state of its charge.
            charged: the credits that the service states to have charged for it now; None if it
                charged the price, or states nothing.
        """
        ...

    @property
    def is_repeat(self) -> bool:
        """True if the sending repeats one that counts already, at a service that charges once."""
        ...


class Booking(Protocol):
    """Enters the paid calls of one image in the books."""

    def call(
        self, stage_and_tile: tuple[int, int], request_id: str, price: Decimal, engine: RemoteEngine
    ) -> PaidCall:
        """Returns one of the image's calls.

        Args:
            stage_and_tile: index of the engine in its chain, and of the tile.
            request_id: the id by which the service recognizes repeats of the call.
            price: the price of the call, in credits.
            engine: the engine, with the endpoint of its service.
        """
        ...
