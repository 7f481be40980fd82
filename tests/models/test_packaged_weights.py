from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import halved, picture, psnr
from PIL import Image

from beam_upscale.models.device import Device, Precision
from beam_upscale.models.esrgan import EsrganModel, inspect

PICTURES = ["chelsea.png", "hubble_deep_field.jpg", "logo.png", "page.png"]


@pytest.fixture(scope="module")
def model(packaged_weights: Path) -> EsrganModel:
    return EsrganModel.load(packaged_weights, Device.CPU, Precision.FP32, threads=1)


def test_default_weights_are_those_of_real_esrgan_x4plus(packaged_weights: Path) -> None:
    info = inspect(packaged_weights)

    assert (info.architecture, info.scale, info.channels) == ("ESRGAN", 4, 3)
    assert info.parameters == 16_697_987


@pytest.mark.parametrize("name", PICTURES)
def test_a_result_reduced_again_is_near_the_picture(model: EsrganModel, name: str) -> None:
    pixels = picture(name, side=48)

    result = model.upscale(pixels[None])[0]

    reduced = np.asarray(Image.fromarray(result).resize((48, 48), Image.Resampling.BOX))
    assert psnr(reduced, pixels) > 23


@pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"), reason="the CPU does not compute in bf16"
)
@pytest.mark.parametrize(
    # The slow tests have fifty photographs.
    "name",
    [PICTURES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in PICTURES[1:])],
)
def test_bf16_is_within_48_decibels_of_fp32(
    model: EsrganModel, packaged_weights: Path, name: str
) -> None:
    pixels = picture(name, side=64)[None]
    reduced_precision = EsrganModel.load(packaged_weights, Device.CPU, Precision.BF16, threads=1)

    result = reduced_precision.upscale(pixels)[0]

    assert psnr(halved(result), halved(model.upscale(pixels)[0])) > 48
