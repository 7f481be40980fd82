"""Corrects the colors of a diffusion engine's result by those of its source.

A diffusion network draws detail well and is careless with brightness and tint, which drift from the
source over large areas. The eye sees color in the low frequencies, so those are taken from the
source, and the rest stays.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_upscale.images.values import Pixels

CELL = 8
"""Source pixels between the points at which colors are compared.

Colors are averaged under a triangle of this half-width, whose standard deviation is 8 / sqrt(6) =
3.27 px. The wavelet color fix of StableSR (Wang et al., "Exploiting Diffusion Prior for Real-World
Image Super-Resolution", IJCV 2024) has the same reach: five passes of (1, 2, 1) / 4, dilated by 1,
2, 4, 8 and 16 px of a fourfold enlargement, have sqrt(341 / 2) / 4 = 3.26 px.
"""

_Plane = NDArray[np.float32]


def match_low_frequencies(result: Pixels, source: Pixels) -> Pixels:
    """Gives an enlarged image the mean and the low frequencies of its source, keeping its detail.

    The correction is smooth: the differences between the source and the result at the source's
    size, averaged on a grid of `CELL` source pixels and enlarged by a bicubic filter. One channel
    is worked on at a time, in float32.

    Args:
        result: (H, W, C), uint8 or uint16, C in {1, 3}.
        source: (h, w, C) of the same dtype, of any size from 1 x 1.

    Returns:
        A new array of `result`'s shape and dtype. Each channel's mean is the source's to half a
        level, except where values are clamped at black and white.

    Raises:
        ValueError: the two differ in dtype or channels.
    """
    if result.dtype != source.dtype or result.shape[2] != source.shape[2]:
        raise ValueError(
            f"a result of {result.shape[2]} channels of {result.dtype} cannot take the colors of a "
            f"source of {source.shape[2]} channels of {source.dtype}"
        )
    matched = np.empty_like(result)
    white = np.iinfo(result.dtype).max
    for channel in range(result.shape[2]):
        plane = _match(
            result[..., channel].astype(np.float32), source[..., channel].astype(np.float32)
        )
        matched[..., channel] = np.clip(np.rint(plane), 0, white)
    return matched


def _match(result: _Plane, source: _Plane) -> _Plane:
    height, width = source.shape
    grid = (-(-height // CELL), -(-width // CELL))
    difference = source - _resize(result, source.shape, Image.Resampling.BOX)
    averages = _resize(difference, grid, Image.Resampling.BILINEAR)
    matched = result + _resize(averages, result.shape, Image.Resampling.BICUBIC)
    # Near edges and between cells of uneven size the filters weigh pixels unevenly.
    matched += np.float32(source.mean(dtype=np.float64) - matched.mean(dtype=np.float64))
    return matched


def _resize(plane: _Plane, shape: tuple[int, ...], filter_: Image.Resampling) -> _Plane:
    height, width = shape
    return np.asarray(Image.fromarray(plane).resize((width, height), filter_))
