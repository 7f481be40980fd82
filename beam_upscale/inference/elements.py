"""What goes into RunInference and what comes out of it."""

import dataclasses
from decimal import Decimal
from typing import Any, Protocol

import numpy as np

from beam_upscale import image
from beam_upscale.errors import ImageError, SettingsError
from beam_upscale.paid_calls import Booking
from beam_upscale.parameters import Parameters
from beam_upscale.plan import Box, Piece

METRICS = "beam_upscale"
"""The namespace of all metrics."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A part of an image as the network sees it.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, C in {1, 3}, halo included.
        core: the part of it whose result is kept.
        pieces: how the network is to take it, where what it makes of the pieces is not independent;
            None where it takes it whole.
    """

    pixels: np.ndarray
    core: Box
    pieces: tuple[Piece, ...] | None = None

    def upscaled_core(self, result: np.ndarray, scale: int) -> np.ndarray:
        """The core of this tile's result.

        Args:
            result: of the whole tile, at whatever scale the network has.
            scale: that is asked for.

        Returns:
            (core height x scale, core width x scale, C), of the result's dtype.
        """
        height, width = self.pixels.shape[:2]
        resized = image.resize(result, width * scale, height * scale)
        core = self.core
        kept = resized[
            core.top * scale : core.bottom * scale, core.left * scale : core.right * scale
        ]
        # A view would keep the halo's pixels in memory.
        return kept if kept.shape == resized.shape else kept.copy()


@dataclasses.dataclass(frozen=True)
class TiledImage:
    """An image with all its tiles: the element of RunInference.

    Attributes:
        tiles: none where there is nothing to do for the network; such an image passes through. A
            list, so that they can be freed once the network is done with them.
        scale: of the results; a network with a larger one is reduced to it.
        parameters: what guides the network, seed included, where it takes a prompt.
        identity: the input's id and the index of the engine in its chain: what tells equal tiles of
            different images apart where each is paid for.
        context: what the caller needs to make a result of the cores; not looked at.
        first: index of the first of these tiles among all of the image's, where its others are
            elsewhere.
        booking: puts the calls for its tiles into the books, where each is paid for; None where no
            books are kept.
    """

    tiles: list[Tile]
    scale: int
    parameters: Parameters | None = None
    context: Any = None
    identity: tuple[str, int] = ("", 0)
    first: int = 0
    booking: Booking | None = None

    @property
    def pixels(self) -> int:
        """Input pixels of all tiles."""
        return sum(tile.pixels.shape[0] * tile.pixels.shape[1] for tile in self.tiles)


@dataclasses.dataclass(frozen=True)
class Inference:
    """What became of a `TiledImage`.

    Attributes:
        cores: the tiles' cores, upscaled: (core height x scale, core width x scale, C). A list, so
            that who stitches them can free each as it is pasted.
        error: why there are none.
        notes: what the network had to change.
        device_seconds: of all tiles together.
        queue_seconds: the longest wait of a tile for the device.
        batch_size: the most tiles that a batch with one of these had.
        request_ids: of the paid calls, in the order of the tiles; those of an image that failed
            half-way too.
        billed_credits: what these calls were billed, also where the image failed.
        attempts: the most attempts that a call took.
        stop: why the whole run is to stop: this image was not tried, or met an error that is not
            its own, and has no row.
    """

    cores: list[np.ndarray] = dataclasses.field(default_factory=list)
    error: ImageError | None = None
    notes: tuple[str, ...] = ()
    device_seconds: float = 0.0
    queue_seconds: float = 0.0
    batch_size: int = 0
    request_ids: tuple[str, ...] = ()
    billed_credits: Decimal = Decimal(0)
    attempts: int = 1
    stop: SettingsError | None = None


class PendingInference(Protocol):
    """An inference that is under way elsewhere; whoever takes it waits no longer than it must.

    Pickled, it waits and becomes the `Inference`.
    """

    def done(self) -> bool:
        """Whether `result` returns at once."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is done, or for so many seconds; whether it is done."""
        ...

    def result(self) -> Inference:
        """What became of the image; waits for it. Raises nothing that concerns one image only."""
        ...
