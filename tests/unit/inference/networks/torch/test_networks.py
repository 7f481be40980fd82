from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import compact, esrgan, noise
from spandrel import ImageModelDescriptor, ModelLoader, SizeRequirements
from torch import Tensor, nn

from beam_upscale.inference.networks.torch.networks import (
    SMALLEST_STRIP_PIXELS,
    STRIP_PIXELS,
    Network,
    StripedEsrgan,
    WholeNetwork,
    build_network,
    pad,
)


def build(path: Path, dtype: torch.dtype = torch.float32) -> Network:
    descriptor = ModelLoader().load_from_file(path)
    assert isinstance(descriptor, ImageModelDescriptor)
    return build_network(descriptor, dtype)


def assemble(network: Network, images: Tensor, strip_pixels: int, scale: int) -> Tensor:
    height, width = images.shape[2] * scale, images.shape[3] * scale
    result = torch.full((len(images), 3, height, width), float("nan"))
    with torch.inference_mode():
        for strip in network.run(images, strip_pixels):
            rows, columns = strip.values.shape[2:]
            place = result[:, :, strip.top : strip.top + rows, strip.left : strip.left + columns]
            assert place.isnan().all(), "no pixel is given twice"
            place.copy_(strip.values[:, :, : place.shape[2], : place.shape[3]])
    return result


def images_of(height: int, width: int, count: int = 1) -> Tensor:
    pixels = torch.from_numpy(noise(count, height, width, 3).astype(np.float32)) / 255
    return pixels.permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(61, 40), (40, 61), (100, 3)], ids=str)
@pytest.mark.parametrize(
    ("network", "scale"),
    [
        (esrgan(4, blocks=2), 4),
        (esrgan(1), 1),
        (esrgan(2, shuffle=2), 2),
        (esrgan(4, plus=True), 4),
    ],
    ids=["x4", "x1", "x2 unshuffle", "plus"],
)
def test_strips_of_any_height_give_the_same_values(
    network: nn.Module, scale: int, size: tuple[int, int], save: Callable[[nn.Module], Path]
) -> None:
    striped = build(save(network))
    images = images_of(*size)

    whole = assemble(striped, images, strip_pixels=1 << 30, scale=scale)

    assert whole.isfinite().all()
    for strip_pixels in (1000, 300, 1):
        in_strips = assemble(striped, images, strip_pixels, scale)
        # Strips of a few pixels are computed by other algorithms, which round differently.
        torch.testing.assert_close(in_strips, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str
)
def test_strips_of_real_weights_change_no_pixel(packaged_weights: Path, dtype: torch.dtype) -> None:
    striped = build(packaged_weights, dtype)
    images = images_of(40, 32)

    whole = assemble(striped, images, strip_pixels=1 << 30, scale=4)
    in_strips = assemble(striped, images, strip_pixels=400, scale=4)

    assert torch.equal((in_strips * 255).round(), (whole * 255).round())


def test_several_images_in_strips_are_each_as_alone(save: Callable[[nn.Module], Path]) -> None:
    striped = build(save(esrgan(2)))
    images = images_of(40, 30, count=3)

    together = assemble(striped, images, strip_pixels=500, scale=2)

    for index in range(3):
        alone = assemble(striped, images[index : index + 1], strip_pixels=500, scale=2)
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-5)


def test_esrgan_runs_in_strips_and_others_whole(save: Callable[[nn.Module], Path]) -> None:
    assert isinstance(build(save(esrgan(4))), StripedEsrgan)
    assert isinstance(build(save(compact(4))), WholeNetwork)


def test_strips_can_be_halved_a_whole_number_of_times() -> None:
    ratio = STRIP_PIXELS / SMALLEST_STRIP_PIXELS

    assert ratio > 1
    assert ratio.is_integer()
    assert int(ratio).bit_count() == 1


@pytest.mark.parametrize(
    ("size", "requirements", "padded"),
    [
        ((5, 7), SizeRequirements(), (5, 7)),
        ((5, 7), SizeRequirements(multiple_of=4), (8, 8)),
        ((1, 1), SizeRequirements(minimum=4), (4, 4)),
        ((5, 7), SizeRequirements(square=True), (7, 7)),
    ],
)
def test_padding_keeps_the_image_in_its_corner(
    size: tuple[int, int], requirements: SizeRequirements, padded: tuple[int, int]
) -> None:
    images = images_of(*size)

    result = pad(images, requirements)

    assert result.shape[2:] == padded
    torch.testing.assert_close(result[:, :, : size[0], : size[1]], images)
