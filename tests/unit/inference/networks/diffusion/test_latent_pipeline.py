"""Single jobs, before any network runs."""

from typing import Any

import numpy as np
import pytest
from latent_jobs import QUICK, job, picture
from small_networks import noise

from beam_upscale.inference.networks.diffusion.latent_pipeline import Job
from beam_upscale.planning.tile_layout import whole


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (noise(8, 8), r"\(H, W, C\)"),
        (noise(8, 8, 4), r"C 1 or 3"),
        (noise(0, 8, 3), "pixels expected"),
        (noise(8, 8, 3).astype(np.float32), "uint8 or uint16 expected, float32 found"),
    ],
    ids=["two dimensions", "alpha", "empty", "float"],
)
def test_other_pixels_are_refused(pixels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Job(pixels, QUICK, whole(8, 8))


def test_a_job_needs_a_seed() -> None:
    with pytest.raises(ValueError, match="a seed"):
        job(picture(8, 8), seed=0)
