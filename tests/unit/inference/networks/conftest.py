import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from beam_upscale.inference.weights import find


@pytest.fixture
def save(tmp_path: Path) -> Callable[[nn.Module], Path]:
    """Saves a network's weights as the file that a user would give."""

    def save_weights(network: nn.Module) -> Path:
        path = tmp_path / "weights.safetensors"
        state = {name: values.contiguous() for name, values in network.state_dict().items()}
        save_file(state, path)
        return path

    return save_weights


@pytest.fixture(scope="session")
def packaged_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights that `esrgan-v1-x2plus` uses by default."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return find.resolve(None, "esrgan-v1-x2plus").path


@pytest.fixture
def own_pipeline(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_pipeline` that a test may change."""
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "pipeline"))
