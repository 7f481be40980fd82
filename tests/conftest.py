"""Fixtures that tests of all kinds share."""

from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image

from beam_upscale.images.decoding.child import usable_cores

# How long an example takes says more about the machine than about the code. The examples are the
# same each time, so that a failure comes from a change. `--hypothesis-profile search` tries others.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile("tests")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: tests wait for the processes that they start."""
    return usable_cores() + 1


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small and quick network of scale 2, as a file that a user would give."""
    # Most tests need no network, and these imports take longer than they do.
    from safetensors.torch import save_file
    from small_networks import compact

    path = tmp_path_factory.mktemp("weights") / "tiny-x2.safetensors"
    state = compact(scale=2).state_dict()
    state = {name: values.contiguous() for name, values in state.items()}
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small and quick diffusion pipeline of scale 4, as a folder."""
    from small_pipelines import small_pipeline

    return small_pipeline(tmp_path_factory.mktemp("weights") / "tiny-x4")


@pytest.fixture(scope="session")
def photograph() -> Callable[..., Image.Image]:
    """Makes a picture with smooth and busy parts, the same for the same seed."""

    def make(seed: int = 0, width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
        random = np.random.default_rng(seed)
        small = random.integers(0, 256, (6, 8, 3), np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        return picture.convert(mode)

    return make
