"""Images to upscale with a small diffusion pipeline."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.diffusion.latent import LatentNetwork
from beam_upscale.inference.networks.diffusion.latent_pipeline import Job
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.tile_layout import Box, TilePlace, whole

Pixels = NDArray[np.uint8 | np.uint16]

QUICK = Parameters("a cat", "a dog", steps=2, seed=7)


def load(folder: Path, **options: Any) -> LatentNetwork:
    return LatentNetwork.load(folder, Device.CPU, Precision.FP32, threads=1, **options)


def job(pixels: Pixels, parameters: Parameters = QUICK, **changes: Any) -> Job:
    """An image upscaled as a whole."""
    height, width, _ = pixels.shape
    return Job(pixels, dataclasses.replace(parameters, **changes), whole(width, height))


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth parts and contrasts, all channels different."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    enlarged = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(enlarged)


def grid(width: int, height: int, core: int, halo: int) -> tuple[TilePlace, ...]:
    """Square cores in rows, the last ones cut off at the border."""
    return tuple(
        TilePlace.around(
            Box(left, top, min(core, width - left), min(core, height - top)), halo, width, height
        )
        for top in range(0, height, core)
        for left in range(0, width, core)
    )
