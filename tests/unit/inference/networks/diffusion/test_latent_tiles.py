"""Tiles of one image that share a canvas of noise."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from latent_jobs import QUICK, grid, job, load, picture
from small_pipelines import SCHEDULERS, small_pipeline

from beam_upscale.inference.networks.diffusion.latent import LatentNetwork
from beam_upscale.inference.networks.diffusion.latent_pipeline import Job


@pytest.fixture(scope="module")
def model(tiny_pipeline: Path) -> LatentNetwork:
    return load(tiny_pipeline)


def seen_by_the_unet(model: LatentNetwork, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Collects what the UNet is given from now on."""
    seen: list[torch.Tensor] = []
    forward = model._pipeline.unet.forward

    def spy(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(sample.clone())
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(model._pipeline.unet, "forward", spy)
    return seen


# Heun's method takes two passes a step, but for the last.
@pytest.mark.parametrize(
    ("scheduler", "passes"), [(n, 5 if n == "heun" else 3) for n in SCHEDULERS]
)
def test_tiles_see_the_same_canvas_at_every_step(
    tmp_path: Path, scheduler: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(small_pipeline(tmp_path, scheduler=scheduler))
    seen = seen_by_the_unet(model, monkeypatch)
    tiles = grid(40, 10, core=20, halo=6)
    steps = []

    model.upscale(
        [Job(picture(40, 10), dataclasses.replace(QUICK, steps=3), tiles)],
        lambda done, total: steps.append((done, total)),
    )

    # Both windows are aligned to 8: columns 0 to 32 and 8 to 40, 16 padded rows.
    assert [each.shape for each in seen] == [(2, 7, 16, 32)] * 2 * passes
    for left, right in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(left[..., 8:32], right[..., 0:24])
    assert steps == [(done, 2 * passes) for done in range(1, 2 * passes + 1)]


def test_the_noise_is_that_of_the_untiled_image(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny_pipeline)
    seen = seen_by_the_unet(model, monkeypatch)
    pixels = picture(40, 16)

    model.upscale([job(pixels, steps=1)])
    model.upscale([Job(pixels, dataclasses.replace(QUICK, steps=1), grid(40, 16, 24, 8))])

    untiled, left, right = seen
    assert torch.equal(left, untiled[..., :32])
    assert torch.equal(right, untiled[..., 16:])


def test_windows_that_see_everything_give_the_untiled_result(model: LatentNetwork) -> None:
    pixels = picture(32, 24)
    tiles = grid(32, 24, core=16, halo=32)

    (tiled,) = model.upscale([Job(pixels, QUICK, tiles)])

    assert len(tiles) == 4
    (untiled,) = model.upscale([job(pixels)])
    assert np.abs(tiled.astype(int) - untiled).max() <= 1


def test_tiles_have_no_seams(model: LatentNetwork) -> None:
    width, height, core = 96, 64, 32
    # A flat image: what jumps is the network's doing.
    pixels = np.full((height, width, 3), 128, np.uint8)

    (result,) = model.upscale([Job(pixels, QUICK, grid(width, height, core, halo=8))])

    values = result.astype(int)
    jumps = np.abs(np.diff(values, axis=1)).mean(axis=(0, 2))
    cuts = [4 * cut - 1 for cut in range(core, width, core)]
    # A window ends at each of these.
    ends = [4 * (cut + side) - 1 for cut in range(core, width, core) for side in (-8, 8)]
    assert jumps[cuts + ends].max() <= np.quantile(jumps, 0.99)
