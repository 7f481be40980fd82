"""Running a network piece by piece without changing its result.

A convolution sees a few pixels around each pixel. A strip of an image that carries as many lines
more on each side as a module sees (its halo) gives, without those lines, the same values as the
whole image; at the image's own border no lines are added, so that the module pads there as it
always does. The network's memory is then a strip's, not an image's.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

HEIGHT = 2
WIDTH = 3

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Strip:
    """Lines of an image, and the lines that are read to compute them.

    Attributes:
        start: first line of the strip.
        stop: line after the last one.
        read_start: first line read.
        read_stop: line after the last one read.
    """

    start: int
    stop: int
    read_start: int
    read_stop: int

    def read(self, images: Tensor, dim: int) -> Tensor:
        """The strip and its halo, as a view on `images`."""
        return images.narrow(dim, self.read_start, self.read_stop - self.read_start)

    def trim(self, result: Tensor, dim: int, scale: int) -> Tensor:
        """The strip's own lines of what a module computed from `read`."""
        return result.narrow(
            dim, (self.start - self.read_start) * scale, (self.stop - self.start) * scale
        )


@dataclass(frozen=True)
class Cut:
    """How images of one size are cut: strips of `lines` lines along dimension `dim`."""

    dim: int
    length: int
    lines: int

    @classmethod
    def of(cls, images: Tensor, pixels: int) -> Self:
        """Cuts the longer side into strips of about the same height, of at most `pixels` pixels.

        It depends on the height and the width of `images`, (N, C, H, W), and on nothing else. No
        strip is much smaller than the others, as a remainder would be: below a few hundred pixels
        libraries choose other algorithms, which round differently. A strip has at least one line.
        """
        height, width = images.shape[HEIGHT], images.shape[WIDTH]
        dim, length = (HEIGHT, height) if height >= width else (WIDTH, width)
        most_lines = max(1, pixels // min(height, width))
        strips = math.ceil(length / most_lines)
        return cls(dim, length, lines=math.ceil(length / strips))

    def strips(self, halo: int) -> Iterator[Strip]:
        """The strips in order, with `halo` lines on each side where the image has them."""
        for start in range(0, self.length, self.lines):
            stop = min(start + self.lines, self.length)
            yield Strip(start, stop, max(0, start - halo), min(self.length, stop + halo))


def transform_in_strips(transform: Transform, images: Tensor, cut: Cut, halo: int) -> Tensor:
    """`transform(images)` for a transform that keeps shape and type and sees `halo` pixels."""
    if cut.lines >= cut.length:
        return transform(images)
    result = torch.empty_like(images)
    for strip in cut.strips(halo):
        piece = strip.trim(transform(strip.read(images, cut.dim)), cut.dim, scale=1)
        result.narrow(cut.dim, strip.start, strip.stop - strip.start).copy_(piece)
    return result


def reach(layers: nn.Module) -> float:
    """How far a chain of stride-1 convolutions and upsamplings sees, in pixels of its input.

    Exact for layers that run one after the other; an upper bound where some run side by side.
    """
    pixels, scale = 0.0, 1.0
    for layer in layers.modules():
        if isinstance(layer, nn.Upsample):
            scale *= float(layer.scale_factor)  # type: ignore[arg-type]
        elif isinstance(layer, nn.Conv2d):
            pixels += layer.kernel_size[0] // 2 * layer.dilation[0] / scale
    return pixels
