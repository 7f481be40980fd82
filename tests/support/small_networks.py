"""Networks as small as spandrel can load, and images for them."""

import numpy as np
import torch
from numpy.typing import NDArray
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from torch import nn


def esrgan(
    scale: int = 4,
    *,
    channels: int = 3,
    filters: int = 16,
    blocks: int = 1,
    shuffle: int | None = None,
    plus: bool = False,
) -> nn.Module:
    """ESRGAN's generator with few, random weights."""
    network = ESRGAN(
        in_nc=channels * (shuffle or 1) ** 2,
        out_nc=channels,
        num_filters=filters,
        num_blocks=blocks,
        scale=scale * (shuffle or 1),
        plus=plus,
        shuffle_factor=shuffle,
    )
    return randomize(network, last=network.model[-1])


def compact(scale: int = 2, *, convolutions: int = 2) -> nn.Module:
    """Real-ESRGAN's compact network with few, random weights."""
    network = Compact(num_feat=8, num_conv=convolutions, upscale=scale)
    network = randomize(network, last=network.body[-1])
    # The network adds its result to the enlarged image.
    with torch.no_grad():
        network.body[-1].bias.sub_(0.5)
    return network


def randomize(network: nn.Module, last: nn.Conv2d) -> nn.Module:
    """Draws weights whose results spread over the range of an image without being clamped."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in network.parameters():
            spread = 1 / values[0].numel() ** 0.5
            values.copy_(torch.randn(values.shape, generator=generator) * spread)
        channels = network.hyperparameters.get("in_nc", 3)
        shuffle = network.hyperparameters.get("shuffle_factor") or 1
        probe = torch.rand((1, channels // shuffle**2, 32, 32), generator=generator)
        result = network(probe)
        last.weight.mul_(0.2 / result.std())
        last.bias.sub_(result.mean()).mul_(0.2 / result.std()).add_(0.5)
    return network


def noise(
    *shape: int, dtype: type[np.uint8 | np.uint16] = np.uint8
) -> NDArray[np.uint8 | np.uint16]:
    """Random pixels over the whole range of the type."""
    random = np.random.default_rng(0)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
