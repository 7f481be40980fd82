"""The handler of latent diffusion upscalers under RunInference."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np

from beam_upscale.errors import BrokenProcessError
from beam_upscale.images import color
from beam_upscale.inference import progress
from beam_upscale.inference.batching import Batched, Batcher
from beam_upscale.inference.elements import Tile, TiledImage
from beam_upscale.inference.handlers.base import EngineHandler, UpscaledTile
from beam_upscale.inference.handlers.loading import on_device, weights_path
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.inference.local_engines import LatentEngine
from beam_upscale.inference.networks.failures import DeviceState, state_of
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.tile_layout import whole

if TYPE_CHECKING:
    from beam_upscale.inference.networks.diffusion.latent import LatentNetwork
    from beam_upscale.inference.networks.diffusion.latent_pipeline import Job

TEXT_EMBEDDINGS = "text_embeddings"
"""The metric that counts embedded texts; a process embeds each distinct text once."""


class LatentUpscaler:
    """A network and its batcher, which all threads of a process share.

    Args:
        network: the network.
        max_batch_pixels: as for `Batcher`.
        state: as for `Batcher`.
    """

    def __init__(
        self, network: "LatentNetwork", max_batch_pixels: int, state: DeviceState | None = None
    ) -> None:
        self._network = network
        self._state = state or DeviceState()
        self._batcher: Batcher[Job] = Batcher(self._run, max_batch_pixels, self._state)

    def upscale(self, job: "Job") -> tuple[Batched, tuple[str, ...], int]:
        """Upscales an image, together with waiting images that have the same parameters.

        Returns:
            The result, notes on changes, and the number of texts that had to be embedded for it.
        """
        self._state.check()
        embedded, notes = self._network.prepare(job.parameters)
        return self._batcher.upscale(job), notes, embedded

    def lose_device(self, error: BrokenProcessError) -> None:
        """Makes all waiting and all later images fail with this error."""
        self._state.lose(error)

    def _run(self, jobs: "Sequence[Job]") -> Sequence[np.ndarray]:
        try:
            return self._network.upscale(jobs, progress.report)
        finally:
            # Also if it failed half-way.
            progress.report(0, 0)


class LatentHandler(EngineHandler[LatentUpscaler]):
    """Upscales images with a local latent diffusion upscaler."""

    def __init__(self, engine: LatentEngine, **options: Unpack[HandlerOptions]) -> None:
        super().__init__(engine, **options)
        self._pinned = engine

    def load_model(self) -> LatentUpscaler:
        """Fetches the weights, and returns the loaded network with its batcher."""
        # Only a worker that runs the network needs torch and diffusers.
        from beam_upscale.inference.networks.diffusion.latent import LatentNetwork

        engine = self._pinned
        path, state = weights_path(engine), state_of(engine.device)
        with on_device(state):
            network = LatentNetwork.load(
                path, engine.device, engine.precision, engine.threads, vae_tiling=engine.vae_tiling
            )
        return LatentUpscaler(network, engine.max_batch_pixels, state)

    def probe(self, pixels: np.ndarray, tiled: TiledImage, loaded: LatentUpscaler) -> None:
        """Upscales a small picture with default parameters, as the image's own may be the cause."""
        from beam_upscale.inference.networks.diffusion.latent_pipeline import Job

        height, width = pixels.shape[:2]
        del tiled
        loaded.upscale(Job(pixels, Parameters(seed=1), whole(width, height)))

    def lose_device(self, error: BrokenProcessError, loaded: LatentUpscaler) -> None:
        """Makes all later images fail at once."""
        loaded.lose_device(error)

    def upscale(self, tile: Tile, tiled: TiledImage, loaded: LatentUpscaler) -> UpscaledTile:
        """Upscales an image; its tiles share one canvas of noise."""
        from beam_upscale.inference.networks.diffusion.latent_pipeline import Job

        height, width = tile.pixels.shape[:2]
        tiles = whole(width, height) if tile.canvas is None else tile.canvas
        assert tiled.parameters is not None, "this network is guided"
        batched, notes, embedded = loaded.upscale(Job(tile.pixels, tiled.parameters, tiles))
        if self._pinned.color_fix:
            fixed = color.match_low_frequencies(batched.pixels, tile.pixels)
            batched = dataclasses.replace(batched, pixels=fixed)
        return UpscaledTile(batched, notes, {TEXT_EMBEDDINGS: embedded})
