"""The handler of resampling filters, which replace a network under RunInference."""

import time
from typing import Unpack

import numpy as np

from beam_upscale.errors import BrokenProcessError
from beam_upscale.images import resampling
from beam_upscale.images.resampling import Filter
from beam_upscale.inference.batching import Batched
from beam_upscale.inference.elements import Tile, TiledImage
from beam_upscale.inference.handlers.base import EngineHandler, UpscaledTile
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.inference.local_engines import BaselineEngine
from beam_upscale.inference.networks.failures import DeviceState, state_of


class Resampler:
    """A filter that any number of threads can use at once.

    Args:
        by: the filter.
        state: the state of the device: usable or lost.
    """

    def __init__(self, by: Filter, state: DeviceState) -> None:
        self._by = by
        self._state = state

    def enlarge(self, pixels: np.ndarray, scale: int) -> Batched:
        """Enlarges (H, W, C), uint8 or uint16, to (H x scale, W x scale, C).

        Raises:
            BrokenProcessError: the process can compute nothing more.
        """
        self._state.check()
        height, width = pixels.shape[:2]
        begun = time.monotonic()
        enlarged = resampling.resize(pixels, width * scale, height * scale, self._by)
        return Batched(enlarged, time.monotonic() - begun, queue_seconds=0.0, batch_size=1)

    def lose_device(self, error: BrokenProcessError) -> None:
        """Makes all later tiles fail with this error."""
        self._state.lose(error)


class BaselineHandler(EngineHandler[Resampler]):
    """Upscales images with a filter, by the engine's scale; ignores prompts."""

    def __init__(self, engine: BaselineEngine, **options: Unpack[HandlerOptions]) -> None:
        super().__init__(engine, **options)
        self._pinned = engine

    def load_model(self) -> Resampler:
        """Loads nothing."""
        return Resampler(self._pinned.filter, state_of(self._pinned.device))

    def probe(self, pixels: np.ndarray, tiled: TiledImage, loaded: Resampler) -> None:
        """Enlarges a small picture."""
        loaded.enlarge(pixels, tiled.scale)

    def lose_device(self, error: BrokenProcessError, loaded: Resampler) -> None:
        """Makes all later tiles fail at once."""
        loaded.lose_device(error)

    def upscale(self, tile: Tile, tiled: TiledImage, loaded: Resampler) -> UpscaledTile:
        """Enlarges one tile."""
        return UpscaledTile(loaded.enlarge(tile.pixels, tiled.scale))
