"""Runs a network strip by strip without changing its result.

A convolution sees a few pixels around each pixel: its halo. A strip that is read with so many more
lines on each side gives, once these lines are trimmed, the same values as the whole image. At the
image's own border no lines are added, so that the module pads there as it always does. The network
then needs the memory of a strip, not of an image.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

HEIGHT = 2
WIDTH = 3


class Images(Protocol):
    """Tensors of PyTorch and arrays of NumPy alike, (N, C, H, W)."""

    @property
    def shape(self) -> Sequence[int]:
        """Sizes of the dimensions."""
        ...

    def __getitem__(self, key: tuple[slice, ...], /) -> Any:
        """Returns a view on a part."""
        ...


ImagesT = TypeVar("ImagesT", bound=Images)


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

    def read(self, images: ImagesT, dim: int) -> ImagesT:
        """Returns the strip and its halo, as a view on `images`."""
        return lines(images, dim, self.read_start, self.read_stop)

    def trim(self, result: ImagesT, dim: int, scale: int) -> ImagesT:
        """Returns the strip's own lines of a module's result for `read`, as a view."""
        start, stop = self.start - self.read_start, self.stop - self.read_start
        return lines(result, dim, start * scale, stop * scale)


def lines(images: ImagesT, dim: int, start: int, stop: int) -> ImagesT:
    """Returns some lines along a dimension, as a view on `images`."""
    view: ImagesT = images[(*[slice(None)] * dim, slice(start, stop))]
    return view


@dataclass(frozen=True)
class Cut:
    """The cut of images of one size: strips of `lines` lines along dimension `dim`."""

    dim: int
    length: int
    lines: int

    @classmethod
    def of(cls, images: Images, pixels: int) -> Self:
        """Cuts the longer side into strips of about the same height, of at most `pixels` pixels.

        The cut depends only on `pixels` and on the height and width of `images`, (N, C, H, W). No
        strip is much smaller than the others, as a remainder would be: below a few hundred pixels
        libraries choose other algorithms, which round differently. A strip has at least one line.
        """
        height, width = images.shape[HEIGHT], images.shape[WIDTH]
        dim, length = (HEIGHT, height) if height >= width else (WIDTH, width)
        most_lines = max(1, pixels // min(height, width))
        strips = math.ceil(length / most_lines)
        return cls(dim, length, lines=math.ceil(length / strips))

    def strips(self, halo: int) -> Iterator[Strip]:
        """Yields the strips in order, with `halo` lines on each side where the image has them."""
        for start in range(0, self.length, self.lines):
            stop = min(start + self.lines, self.length)
            yield Strip(start, stop, max(0, start - halo), min(self.length, stop + halo))
