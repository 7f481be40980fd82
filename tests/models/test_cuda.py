"""On a CUDA device: nearness to fp32 on the CPU, shared passes, and running out of memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import picture, psnr

from beam_upscale.models.device import Device, Precision, settle
from beam_upscale.models.esrgan import EsrganModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def load(path: Path, device: Device, precision: Precision) -> EsrganModel:
    return EsrganModel.load(path, device, precision, threads=2)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Leaves 1 GiB of the device's memory to this process."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize(
    ("precision", "decibels"),
    [(Precision.FP32, 60), (Precision.FP16, 45), (Precision.BF16, 45)],
)
@pytest.mark.parametrize("name", ["chelsea.png", "page.png", "hubble_deep_field.jpg"])
def test_cuda_is_near_fp32_on_the_cpu(
    packaged_weights: Path, name: str, precision: Precision, decibels: float
) -> None:
    pixels = picture(name, side=96)[None]

    result = load(packaged_weights, Device.CUDA, precision).upscale(pixels)

    expected = load(packaged_weights, Device.CPU, Precision.FP32).upscale(pixels)
    assert psnr(result[0], expected[0]) > decibels


def test_a_batch_gives_each_image_as_alone(packaged_weights: Path) -> None:
    device, precision = settle(Device.AUTO, Precision.AUTO)
    model = load(packaged_weights, device, precision)
    batch = np.stack([picture(name, side=128) for name in ("chelsea.png", "page.png", "cell.png")])

    together = model.upscale(batch)

    for index, image in enumerate(batch):
        assert psnr(together[index], model.upscale(image[None])[0]) > 50


@pytest.mark.usefixtures("little_memory")
def test_too_large_a_batch_goes_on_in_smaller_ones(packaged_weights: Path) -> None:
    model = load(packaged_weights, Device.CUDA, Precision.FP16)
    image = picture("astronaut.png", side=512)

    result = model.upscale(np.stack([image] * 8))

    assert psnr(result[7], model.upscale(image[None])[0]) > 50
