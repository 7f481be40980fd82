"""The base class of super-resolution networks, for every network backend."""

import abc
import threading

import numpy as np
from numpy.typing import NDArray

from beam_upscale.inference.networks.recognition import NetworkInfo

ImageBatch = NDArray[np.uint8 | np.uint16]
"""Images of one size: (N, H, W, C), full range of the type."""

IMAGE_CHANNELS = (1, 3)
"""The numbers of channels that an image may have."""


class SuperResolution(abc.ABC):
    """A super-resolution network that is ready to run.

    One pass runs at a time; other threads wait.

    Attributes:
        info: the network's properties, found in its weights.
    """

    def __init__(self, info: NetworkInfo) -> None:
        self.info = info
        self._lock = threading.Lock()

    @property
    def scale(self) -> int:
        """The number of output pixels for each input pixel along a side."""
        return self.info.scale

    @property
    def architecture(self) -> str:
        """The architecture's name in spandrel."""
        return self.info.architecture

    @property
    def halo(self) -> int:
        """The input pixels that a tile needs on each side for a result without seams."""
        return self.info.halo

    def upscale(self, batch: ImageBatch) -> ImageBatch:
        """Upscales images of one size by the network's scale.

        A network for grayscale upscales the channels of a color image one by one. A network for
        color upscales a grayscale image as three equal channels, whose results are averaged.

        Args:
            batch: (N, H, W, C), C 1 or 3, uint8 or uint16, full range.

        Returns:
            (N, H · scale, W · scale, C) of the same type, values rounded to the nearest.

        Raises:
            ImageError: `OUT_OF_MEMORY` if one image does not fit, `NOT_A_NUMBER` if the network
                gave values that are not finite. It concerns the batch: repeat its images one by
                one to learn which.
            ValueError: another shape or type, or no pixels.
        """
        _check(batch)
        if batch.shape[-1] > self.info.channels:
            return self._upscale_channels(batch)
        with self._lock:
            return self._run(batch)

    @abc.abstractmethod
    def _run(self, batch: ImageBatch) -> ImageBatch:
        """Upscales images with as many channels as the network's, or one; see `upscale`."""

    def _upscale_channels(self, batch: ImageBatch) -> ImageBatch:
        count, height, width, channels = batch.shape
        planes = np.moveaxis(batch, -1, 1).reshape(count * channels, height, width, 1)
        enlarged = self.upscale(planes)
        enlarged = enlarged.reshape(count, channels, *enlarged.shape[1:3])
        return np.ascontiguousarray(np.moveaxis(enlarged, 1, -1))


def _check(batch: ImageBatch) -> None:
    if batch.ndim != 4 or batch.shape[-1] not in IMAGE_CHANNELS or batch.size == 0:
        raise ValueError(f"(N, H, W, C) with C 1 or 3 and pixels expected, {batch.shape} found")
    if batch.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"uint8 or uint16 expected, {batch.dtype} found")
