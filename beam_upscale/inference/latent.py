"""Latent diffusion upscalers under RunInference."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_upscale import color, steps
from beam_upscale.batching import Batched, Batcher
from beam_upscale.inference.elements import Tile, TiledImage
from beam_upscale.inference.handler import UpscaledTile, UpscaleModelHandler
from beam_upscale.inference.loading import weights_path
from beam_upscale.layout import whole
from beam_upscale.local_models import LocalLatent

if TYPE_CHECKING:
    from beam_upscale.models.latent import Job, LatentModel

TEXT_EMBEDDINGS = "text_embeddings"
"""Metric: how often a text was embedded; once for each distinct one in a process."""


class LatentUpscaler:
    """A network with the batcher before it: what threads of a process share."""

    def __init__(self, network: "LatentModel", max_batch_pixels: int) -> None:
        self._network = network
        self._batcher: Batcher[Job] = Batcher(self._run, max_batch_pixels)

    def upscale(self, job: "Job") -> tuple[Batched, tuple[str, ...], int]:
        """Upscales an image, together with others that wait and are guided alike.

        Returns:
            The result, notes on what was changed, and how many texts had to be embedded for it.
        """
        embedded, notes = self._network.prepare(job.parameters)
        return self._batcher.upscale(job), notes, embedded

    def _run(self, jobs: "Sequence[Job]") -> Sequence[np.ndarray]:
        try:
            return self._network.upscale(jobs, steps.report)
        finally:
            # Also where it failed half-way.
            steps.report(0, 0)


class LatentHandler(UpscaleModelHandler[LatentUpscaler]):
    """Upscales images with a local latent diffusion upscaler."""

    def __init__(self, model: LocalLatent, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self._model = model

    def load_model(self) -> LatentUpscaler:
        """Brings the weights to this machine, loads the network and puts the batcher before it."""
        # Only a worker that runs the network needs torch and diffusers.
        from beam_upscale.models.latent import LatentModel

        model = self._model
        network = LatentModel.load(
            weights_path(model),
            model.device,
            model.precision,
            model.threads,
            vae_tiling=model.vae_tiling,
        )
        return LatentUpscaler(network, model.max_batch_pixels)

    def upscale(self, tile: Tile, image: TiledImage, model: LatentUpscaler) -> UpscaledTile:
        """Upscales an image; its pieces share one canvas of noise."""
        from beam_upscale.models.latent import Job

        height, width = tile.pixels.shape[:2]
        pieces = whole(width, height) if tile.pieces is None else tile.pieces
        assert image.parameters is not None, "this network is guided"
        batched, notes, embedded = model.upscale(Job(tile.pixels, image.parameters, pieces))
        if self._model.color_fix:
            fixed = color.match_low_frequencies(batched.pixels, tile.pixels)
            batched = dataclasses.replace(batched, pixels=fixed)
        return UpscaledTile(batched, notes, {TEXT_EMBEDDINGS: embedded})
