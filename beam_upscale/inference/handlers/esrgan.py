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


def _wanted(model: EsrganEngine) -> Wanted | None:
    """Returns the choices of a network that OpenVINO runs; None for any other."""
    if model.network_backend is not NetworkBackend.OPENVINO:
        return None
    return Wanted(model.weights_sha256, model.precision, model.threads)


def _load(model: EsrganEngine, path: Path) -> SuperResolution:
    found = early.take(_wanted(model))
    if found is not None:
        return found
    # A worker imports only the library that runs its network.
    if model.network_backend is NetworkBackend.OPENVINO:
        backend.require_openvino()
        from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork

        return OpenVinoNetwork.load(path, model.precision, model.threads)
    from beam_upscale.inference.networks.torch.esrgan import TorchNetwork

    return TorchNetwork.load(path, model.device, model.precision, model.threads)


class EsrganHandler(EngineHandler[Batcher[Patch]]):
    """Upscales images with a local ESRGAN-family network."""

    def __init__(self, model: EsrganEngine, **options: Unpack[HandlerOptions]) -> None:
        super().__init__(model, **options)
        self._model = model

    def load_model(self) -> Batcher[Patch]:
        """Fetches the weights, loads the network, and returns the batcher that feeds it."""
        model = self._model
        path, state = weights_path(model), state_of(model.device)
        with on_device(state):
            network = _load(model, path)

        def upscale(patches: Sequence[Patch]) -> list[np.ndarray]:
            return list(network.upscale(np.stack([patch.pixels for patch in patches])))

        return Batcher(upscale, model.max_batch_pixels, state)

    def probe(self, pixels: np.ndarray, image: TiledImage, model: Batcher[Patch]) -> None:
        """Upscales a small picture."""
        del image
        model.upscale(Patch(pixels))

    def lose_device(self, error: BrokenProcessError, model: Batcher[Patch]) -> None:
        """Makes all later tiles fail at once."""
        model.lose_device(error)

    def upscale(self, tile: Tile, image: TiledImage, model: Batcher[Patch]) -> UpscaledTile:
        """Upscales one tile; cuts it if it is too large for the device's memory."""
        del image
        height, width = tile.pixels.shape[:2]
        if height * width <= self._model.max_tile_pixels:
            return UpscaledTile(model.upscale(Patch(tile.pixels)))
        return UpscaledTile(self._upscale_in_parts(tile.pixels, model))

    def _upscale_in_parts(self, pixels: np.ndarray, batcher: Batcher[Patch]) -> Batched:
        height, width = pixels.shape[:2]
        places = tiling.grid(width, height, self._model.max_tile_pixels, self._model.halo)
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
