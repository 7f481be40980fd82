"""The handler of super-resolution networks under RunInference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from beam_upscale.errors import BrokenProcessError
from beam_upscale.images import tiling
from beam_upscale.inference.batching import Batched, Batcher, Patch
from beam_upscale.inference.elements import Tile, TiledImage
from beam_upscale.inference.handlers.base import EngineHandler, UpscaledTile
from beam_upscale.inference.handlers.loading import on_device, weights_path
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.inference.local_engines import EsrganEngine
from beam_upscale.inference.networks import backend
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.failures import state_of
from beam_upscale.inference.networks.openvino import early
from beam_upscale.inference.networks.openvino.early import Wanted
from beam_upscale.inference.networks.super_resolution import SuperResolution


def _wanted(engine: EsrganEngine) -> Wanted | None:
    """Returns the choices of a network that OpenVINO runs; None for any other."""
    if engine.network_backend is not NetworkBackend.OPENVINO:
        return None
    return Wanted(engine.weights_sha256, engine.precision, engine.threads)


def _load(engine: EsrganEngine, path: Path) -> SuperResolution:
    found = early.take(_wanted(engine))
    if found is not None:
        return found
    # A worker imports only the library that runs its network.
    if engine.network_backend is NetworkBackend.OPENVINO:
        backend.require_openvino()
        from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork

        return OpenVinoNetwork.load(path, engine.precision, engine.threads)
    from beam_upscale.inference.networks.torch.esrgan import TorchNetwork

    return TorchNetwork.load(path, engine.device, engine.precision, engine.threads)


class EsrganHandler(EngineHandler[Batcher[Patch]]):
    """Upscales images with a local ESRGAN-family network."""

    def __init__(self, engine: EsrganEngine, **options: Unpack[HandlerOptions]) -> None:
        super().__init__(engine, **options)
        self._pinned = engine

    def load_model(self) -> Batcher[Patch]:
        """Fetches the weights, loads the network, and returns the batcher that feeds it."""
        engine = self._pinned
        path, state = weights_path(engine), state_of(engine.device)
        with on_device(state):
            network = _load(engine, path)

        def upscale(patches: Sequence[Patch]) -> list[np.ndarray]:
            return list(network.upscale(np.stack([patch.pixels for patch in patches])))

        return Batcher(upscale, engine.max_batch_pixels, state)

    def probe(self, pixels: np.ndarray, tiled: TiledImage, loaded: Batcher[Patch]) -> None:
        """Upscales a small picture."""
        del tiled
        loaded.upscale(Patch(pixels))

    def lose_device(self, error: BrokenProcessError, loaded: Batcher[Patch]) -> None:
        """Makes all later tiles fail at once."""
        loaded.lose_device(error)

    def upscale(self, tile: Tile, tiled: TiledImage, loaded: Batcher[Patch]) -> UpscaledTile:
        """Upscales one tile; cuts it if it is too large for the device's memory."""
        del tiled
        height, width = tile.pixels.shape[:2]
        if height * width <= self._pinned.max_tile_pixels:
            return UpscaledTile(loaded.upscale(Patch(tile.pixels)))
        return UpscaledTile(self._upscale_in_parts(tile.pixels, loaded))

    def _upscale_in_parts(self, pixels: np.ndarray, batcher: Batcher[Patch]) -> Batched:
        height, width = pixels.shape[:2]
        places = tiling.grid(width, height, self._pinned.max_tile_pixels, self._pinned.halo)
        parts = [batcher.upscale(Patch(part)) for part in tiling.split(pixels, places)]
        scale = parts[0].pixels.shape[0] // places[0].extended.height
        cores = (
            tiling.crop_halo(part.pixels, place, scale)
            for part, place in zip(parts, places, strict=True)
        )
        return Batched(
            pixels=tiling.stitch(cores, places, scale, width, height),
            device_seconds=sum(part.device_seconds for part in parts),
            queue_seconds=max(part.queue_seconds for part in parts),
            batch_size=max(part.batch_size for part in parts),
        )
