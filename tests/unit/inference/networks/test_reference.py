"""Real-ESRGAN's own class, which nobody maintains, as the reference for results."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from pictures import picture
from safetensors.torch import load_file
from torchvision.transforms import functional

from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("realesrgan") is None,
    reason="the dependency group `reference` is not installed",
)


@pytest.fixture
def reference(packaged_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`RealESRGANer` on the packaged weights, without the padding and tiles that change results."""
    # basicsr imports a module that torchvision 0.17 took away.
    stand_in = ModuleType("torchvision.transforms.functional_tensor")
    stand_in.rgb_to_grayscale = functional.rgb_to_grayscale
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    from basicsr.archs.rrdbnet_arch import RRDBNet
    from realesrgan import RealESRGANer

    path = tmp_path / "RealESRGAN_x4plus.pth"
    torch.save({"params_ema": load_file(packaged_weights)}, path)
    network = RRDBNet(num_in_ch=3, num_out_ch=3, num_feat=64, num_block=23, num_grow_ch=32, scale=4)
    return RealESRGANer(scale=4, model_path=str(path), model=network, pre_pad=0, tile=0, half=False)


@pytest.mark.parametrize("name", ["chelsea.png", "page.png"])
def test_fp32_result_is_within_a_level_of_the_reference(
    reference: Any, packaged_weights: Path, name: str
) -> None:
    pixels = picture(name, side=48)
    model = TorchNetwork.load(packaged_weights, Device.CPU, Precision.FP32, threads=1)

    result = model.upscale(pixels[None])[0]

    # The reference takes and gives BGR.
    expected, _ = reference.enhance(pixels[..., ::-1])
    difference = np.abs(result.astype(int) - expected[..., ::-1])
    assert difference.max() <= 1
