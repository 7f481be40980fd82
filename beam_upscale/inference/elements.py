"""The elements that go into RunInference, and those that come out of it."""

import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol

import numpy as np

from beam_upscale.errors import ImageError, SettingsError
from beam_upscale.images.encoding.pool import shared_encoders
from beam_upscale.images.encoding.unencoded import ResizedPart
from beam_upscale.inference.paid_calls import Booking
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.tile_layout import Box, TilePlace

METRICS = "beam_upscale"
"""The namespace of all metrics."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A part of an image as the network sees it.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, C in {1, 3}, halo included.
        core: the part of the tile whose result is kept.
        canvas: the places of the priced tiles that the network takes together, on one canvas of
            noise, so that their results depend on each other; None if it takes this tile alone.
    """

    pixels: np.ndarray
    core: Box
    canvas: tuple[TilePlace, ...] | None = None

    def upscaled_core(self, result: np.ndarray, scale: int) -> np.ndarray:
        """Returns the core of this tile's result.

        Args:
            result: the network's result for the whole tile, at the network's own scale.
            scale: the requested scale.

        Returns:
            (core height x scale, core width x scale, C), of the result's dtype.

        Raises:
            ImageError, BrokenProcessError: as `EncoderPool.resize`.
        """
        height, width = self.pixels.shape[:2]
        core = self.core
        box = Box(core.left * scale, core.top * scale, core.width * scale, core.height * scale)
        part = ResizedPart(result, width * scale, height * scale, box)
        return shared_encoders().resize(part)


class TiledImage:
    """An image with all its tiles: the element of RunInference.

    It releases its tiles once the network is done with them, so it is mutable. It is no dataclass,
    since Beam would encode a mutable one column by column.

    Args:
        tiles: the tiles; empty if the network has nothing to do: such an image passes through.
        scale: the scale of the results; the result of a network with a larger scale is reduced.
        parameters: the parameters for a network that takes a prompt, with the seed.
        context: the data that the caller needs to make a result of the cores; passed through.
        identity: the input's id, and the index of the engine in its chain. Where tiles are paid
            for, it distinguishes equal tiles of different images.
        first: index of the first of these tiles among all tiles of the image, if the others are
            elsewhere.
        booking: enters paid calls for the tiles in the books; None if no books are kept.
        timestamp: Beam's timestamp of the image, since those of batches differ; None takes theirs.
    """

    def __init__(
        self,
        tiles: Sequence[Tile],
        scale: int,
        parameters: Parameters | None = None,
        context: Any = None,
        identity: tuple[str, int] = ("", 0),
        first: int = 0,
        booking: Booking | None = None,
        timestamp: Any = None,
    ) -> None:
        self.tiles = tiles
        self.scale = scale
        self.parameters = parameters
        self.context = context
        self.identity = identity
        self.first = first
        self.booking = booking
        self.timestamp = timestamp

    @property
    def pixels(self) -> int:
        """The input pixels of all tiles together."""
        return sum(tile.pixels.shape[0] * tile.pixels.shape[1] for tile in self.tiles)

    def release_tiles(self) -> None:
        """Drops the tiles: Beam holds all elements of a batch until its last image is encoded."""
        self.tiles = ()


@dataclasses.dataclass
class Inference:
    """The outcome of a `TiledImage`.

    Attributes:
        cores: the tiles' cores, upscaled: (core height x scale, core width x scale, C). The
            stitching takes them out one by one, so that each is freed as soon as it is pasted.
        error: the reason why there are no cores; None if there are.
        notes: changes that the network had to make.
        device_seconds: the time on the device of all tiles together.
        queue_seconds: the longest wait of a tile for the device.
        batch_size: the size of the largest batch with one of these tiles.
        request_ids: the ids of the paid calls, in the order of the tiles, also if the image failed
            half-way.
        billed_credits: the credits billed for these calls, also if the image failed.
        attempts: the most attempts that a call took.
        stop: the error that stops the whole run, or None. The image then has no row: it was not
            tried, or the error is not its own.
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
    """An inference in progress elsewhere; the caller waits for it only when it needs the result.

    Pickling waits for the inference, and pickles the `Inference` in its place.
    """

    def done(self) -> bool:
        """Checks whether `result` returns at once."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is done, at most `timeout` seconds; returns whether it is done."""
        ...

    def result(self) -> Inference:
        """Waits for the outcome and returns it. Does not raise errors of the image alone."""
        ...
