"""Runs networks that spandrel loaded, on a device: in strips, or whole images at once."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from beam_upscale.inference.networks.architectures import (
    ESRGAN,
    Compact,
    ImageModelDescriptor,
    SizeRequirements,
)
from beam_upscale.inference.networks.numerics import require_finite
from beam_upscale.inference.networks.recognition import ESRGAN_HALO, UNKNOWN_HALO
from beam_upscale.inference.networks.strips import HEIGHT, WIDTH, Cut, lines

# Input pixels of one strip of a residual dense block, which holds up to 400 channels of them at
# once: 420 MB in fp32. A strip of the tail has an eighth of that, as the tail of a network for
# scale 4 holds about 200 channels of 16 times as many pixels.
STRIP_PIXELS = 1 << 18
SMALLEST_STRIP_PIXELS = 1 << 12
_TAIL_SHARE = 8

_DENSE_BLOCK_REACH = 5
_RESIDUAL_SCALE = 0.2


@dataclass(frozen=True)
class ResultStrip:
    """A strip of the network's result.

    Attributes:
        values: (N, C, H, W), float32, not clamped.
        top: its first row in the result.
        left: its first column in the result.
    """

    values: Tensor
    top: int = 0
    left: int = 0


class Network(Protocol):
    """A network that yields its result in strips.

    Attributes:
        halo: input pixels that a tile needs on each side for a result without seams.
        batches: True if several images may share a forward pass without influence on each other.
        shrinks: True if fewer `strip_pixels` need less memory.
    """

    halo: int
    batches: bool
    shrinks: bool

    def run(self, images: Tensor, strip_pixels: int) -> Iterator[ResultStrip]:
        """Upscales images.

        Args:
            images: (N, C, H, W), float32 in [0, 1], on the network's device, channels last.
            strip_pixels: pixels of a strip; they bound the memory and never change the result.

        Yields:
            Strips that cover the result (N, C, H · scale, W · scale) once; where the network
            pads its input, further pixels below and to the right.

        Raises:
            ImageError: `NOT_A_NUMBER` if a value of the result is infinite or not a number.
        """
        ...


def build_network(descriptor: ImageModelDescriptor[nn.Module], dtype: torch.dtype) -> Network:
    """Prepares a loaded network for `dtype`: ESRGAN in strips, any other as its descriptor runs it.

    Args:
        descriptor: the network as spandrel loaded it, in float32, on its device; it is changed.
        dtype: type of the weights and the intermediate results.
    """
    descriptor.model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    if isinstance(descriptor.model, ESRGAN):
        return StripedEsrgan(descriptor.model, descriptor.size_requirements, dtype)
    return WholeNetwork(descriptor, dtype)


def halo_of(network: nn.Module) -> int:
    """Returns the input pixels that a tile needs on each side for a result without seams."""
    match network:
        case ESRGAN():
            factor = network.shuffle_factor or 1
            return min(ESRGAN_HALO, math.ceil(reach(network))) * factor
        case Compact():
            return math.ceil(reach(network))
        case _:
            return UNKNOWN_HALO


def reach(layers: nn.Module) -> float:
    """Returns how far a chain of stride-1 convolutions and upsamplings sees, in its input's pixels.

    Exact for layers that run one after the other; an upper bound where some run side by side.
    """
    pixels, scale = 0.0, 1.0
    for layer in layers.modules():
        if isinstance(layer, nn.Upsample):
            scale *= float(layer.scale_factor)  # type: ignore[arg-type]
        elif isinstance(layer, nn.Conv2d):
            pixels += layer.kernel_size[0] // 2 * layer.dilation[0] / scale
    return pixels


def transform_in_strips(
    transform: Callable[[Tensor], Tensor], images: Tensor, cut: Cut, halo: int
) -> Tensor:
    """Runs a transform in strips; it must keep shape and type, and see at most `halo` pixels."""
    if cut.lines >= cut.length:
        return transform(images)
    result = torch.empty_like(images)
    for strip in cut.strips(halo):
        rows = strip.trim(transform(strip.read(images, cut.dim)), cut.dim, scale=1)
        lines(result, cut.dim, strip.start, strip.stop).copy_(rows)
    return result


class StripedEsrgan:
    """ESRGAN's generator (arXiv:1809.00219) in a fraction of its memory, with the same result.

    Features at input resolution are kept whole. Each residual dense block and the tail, which
    enlarges them, run in strips with halos as wide as they see. In fp32 the result is that of the
    plain forward pass. In bf16 and fp16 the first and the last convolution and the sum of the
    residual blocks stay in float32, where they cost little: about 5 dB nearer to fp32, and 16-bit
    images keep their tonal steps.
    """

    batches = True
    shrinks = True

    def __init__(
        self, network: ESRGAN, size_requirements: SizeRequirements, dtype: torch.dtype
    ) -> None:
        first, shortcut, *tail = network.model
        *blocks, body_last = shortcut.sub
        self.halo = halo_of(network)
        self._shuffle_factor = network.shuffle_factor or 1
        self._size_requirements = size_requirements
        self._dtype = dtype
        self._first = first
        self._blocks = [(block.RDB1, block.RDB2, block.RDB3) for block in blocks]
        self._body_last = body_last
        self._tail = nn.Sequential(*tail[:-1])
        self._last = tail[-1]
        self._scale = network.scale
        self._tail_halo = math.ceil(reach(nn.Sequential(*tail)))
        for module in (*blocks, body_last, self._tail):
            module.to(dtype)

    def run(self, images: Tensor, strip_pixels: int) -> Iterator[ResultStrip]:
        """See `Network.run`."""
        images = pad(images, self._size_requirements)
        # Unshuffling loses the memory format, without which convolutions on a CPU are slow.
        images = functional.pixel_unshuffle(images, self._shuffle_factor)
        images = images.contiguous(memory_format=torch.channels_last)
        features = self._trunk(images, strip_pixels)
        cut = Cut.of(features, strip_pixels // _TAIL_SHARE)
        for strip in cut.strips(self._tail_halo):
            values = self._enlarge(strip.read(features, cut.dim))
            values = strip.trim(values, cut.dim, self._scale)
            require_finite(values)
            offset = strip.start * self._scale
            yield (
                ResultStrip(values, offset, 0)
                if cut.dim == HEIGHT
                else ResultStrip(values, 0, offset)
            )

    def _trunk(self, images: Tensor, strip_pixels: int) -> Tensor:
        """Computes the features at the trunk's resolution, float32."""
        cut = Cut.of(images, strip_pixels)
        shallow = self._first(images)
        features = shallow
        for dense_blocks in self._blocks:
            block_features = features.to(self._dtype)
            for dense_block in dense_blocks:
                block_features = transform_in_strips(
                    dense_block, block_features, cut, _DENSE_BLOCK_REACH
                )
            # `features` may be `shallow`, which is needed again, so the block's own result is
            # the one that is overwritten.
            features = block_features.float().mul_(_RESIDUAL_SCALE).add_(features)
        deep: Tensor = self._body_last(features.to(self._dtype))
        return deep.float().add_(shallow)

    def _enlarge(self, features: Tensor) -> Tensor:
        enlarged: Tensor = self._last(self._tail(features.to(self._dtype)).float())
        return enlarged


class WholeNetwork:
    """Any other network: one forward pass over whole images, as spandrel's descriptor runs it."""

    shrinks = False

    def __init__(self, descriptor: ImageModelDescriptor[nn.Module], dtype: torch.dtype) -> None:
        self.halo = halo_of(descriptor.model)
        # Only of plain convolutions is it known that images of a batch do not influence each other.
        self.batches = isinstance(descriptor.model, Compact)
        self._descriptor = descriptor.to(dtype)
        self._dtype = dtype
        descriptor.model.register_forward_hook(_require_finite_result)

    def run(self, images: Tensor, strip_pixels: int) -> Iterator[ResultStrip]:
        """See `Network.run`."""
        yield ResultStrip(self._descriptor(images.to(self._dtype)).float())


def pad(images: Tensor, requirements: SizeRequirements) -> Tensor:
    """Pads (N, C, H, W) below and to the right as spandrel's descriptor does.

    By reflection as far as the image reaches, beyond that by repeating the last line.
    """
    height, width = images.shape[HEIGHT], images.shape[WIDTH]
    right, below = requirements.get_padding(width, height)
    if not right and not below:
        return images
    reflected_right, reflected_below = min(right, width - 1), min(below, height - 1)
    images = functional.pad(images, (0, reflected_right, 0, reflected_below), "reflect")
    rest = (0, right - reflected_right, 0, below - reflected_below)
    return functional.pad(images, rest, "replicate")


def _require_finite_result(_module: nn.Module, _inputs: object, result: object) -> None:
    """Checks a result in a forward hook: once the descriptor has clamped it, infinity is white."""
    if isinstance(result, Tensor):
        require_finite(result)
