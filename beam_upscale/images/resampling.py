"""Resizes arrays, and replaces the hidden colors of transparent pixels before that."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_upscale.images.values import Pixels


class Filter(StrEnum):
    """The filters that pixels can be resized with, by Pillow's names.

    Attributes:
        NEAREST: repeats pixels, or leaves some out.
        BICUBIC: cubic convolution (a = -0.5), antialiased when it shrinks.
        LANCZOS: three lobes, antialiased when it shrinks.
    """

    NEAREST = "nearest"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


_PILLOW: Mapping[Filter, Image.Resampling] = MappingProxyType(
    {each: Image.Resampling[each.name] for each in Filter}
)


def resize(pixels: Pixels, width: int, height: int, by: Filter = Filter.LANCZOS) -> Pixels:
    """Resizes with one of Pillow's filters.

    Args:
        pixels: (h, w), (h, w, 1) or (h, w, 3), uint8 or uint16. uint8 gives what
            `Image.resize((width, height), …)` gives; uint16 is computed in float32, rounded
            and clipped.
        width: the width of the result, at least 1.
        height: the height of the result, at least 1.
        by: the filter.

    Returns:
        The same number of dimensions and dtype as `pixels`: a new, writable array, or `pixels`
        itself where it has that size.
    """
    if pixels.shape[:2] == (height, width):
        # A filter changes nothing then; Pillow would copy all of it three times.
        return pixels
    if by is Filter.NEAREST and _is_multiple(pixels, width, height):
        return _repeated(pixels, width, height)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        plane = pixels.reshape(pixels.shape[:2])
        return _resize_plane(plane, width, height, by).reshape(height, width, *pixels.shape[2:])
    if pixels.dtype == np.uint8:
        return _resize_plane(pixels, width, height, by)
    resized = np.empty((height, width, pixels.shape[2]), pixels.dtype)
    for channel in range(pixels.shape[2]):
        resized[..., channel] = _resize_plane(pixels[..., channel], width, height, by)
    return resized


def _is_multiple(pixels: Pixels, width: int, height: int) -> bool:
    return not (height % pixels.shape[0] or width % pixels.shape[1])


def _repeated(pixels: Pixels, width: int, height: int) -> Pixels:
    """Repeats each pixel, which gives what Pillow's filter does, in half of its time or less.

    Pillow takes the pixel below the middle of each new one, which is at least half a new pixel away
    from the next.
    """
    in_rows = pixels.repeat(width // pixels.shape[1], axis=1)
    return in_rows.repeat(height // pixels.shape[0], axis=0)


def fill_transparent(color: Pixels, alpha: Pixels) -> Pixels:
    """Replaces the colors of fully transparent pixels by those bled from visible ones around.

    The color below full transparency is arbitrary, often black; a filter that mixes neighbors, as
    every upscaler does, would draw it into the visible rim. The fill is a push-pull pyramid
    (Gortler et al., "The Lumigraph", SIGGRAPH 1996, section 3.4): colors weighted by alpha are
    summed over ever larger squares, and each hidden pixel takes its color from the smallest that
    has any.

    Args:
        color: (height, width, C), uint8 or uint16.
        alpha: (height, width) of the same dtype.

    Returns:
        An array like `color`, equal to it wherever alpha is not 0; `color` itself where no pixel
        or every pixel is fully transparent.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return color
    return _filled(color, hidden, _push_pull(*_weighted(color, alpha)))


class BandedFill:
    """Fills transparent pixels exactly as `fill_transparent` does, for rows that come in bands.

    A first pass sums up squares of 32 by 32 pixels and keeps the sums. A second pass sums up
    smaller squares again, around each array of rows.
    """

    BAND_ROWS = 256
    """Rows of each array but the last."""

    def __init__(self) -> None:
        self._any = False
        self._all = True
        self._sums: list[tuple[_Plane, _Plane]] = []
        self._coarse: _Plane | None = None

    def survey(self, rows: Pixels) -> None:
        """Takes the next rows of the first pass: (`BAND_ROWS`, width, C + 1), alpha last."""
        color, alpha = rows[..., :-1], rows[..., -1]
        self._any = self._any or not alpha.all()
        self._all = self._all and not alpha.any()
        weighted, weight = _weighted(color, alpha)
        for _ in range(_KEPT_LEVEL - 1):
            weighted, weight = _halve(weighted), _halve(weight)
        self._sums.append((weighted, weight))

    def fill(self, bands: Iterable[Pixels]) -> Iterator[Pixels]:
        """Runs the second pass.

        Args:
            bands: all rows once more, in the same arrays.

        Yields:
            The rows, filled.
        """
        if not self._any or self._all:
            yield from bands
            return
        weighted, weight = (np.concatenate(planes) for planes in zip(*self._sums, strict=True))
        self._coarse = _push_pull(weighted, weight)
        top, above, band = 0, None, None
        for below in itertools.chain(bands, (None,)):
            if band is not None:
                yield self._fill(top, above, band, below)
                top, above = top + len(band), band[-_MARGIN:]
            band = below

    def _fill(self, top: int, above: Pixels | None, band: Pixels, below: Pixels | None) -> Pixels:
        """Fills one array of rows.

        An edge of the given rows changes one row of the coarsest level, and at each finer level
        twice as many and one more; at full size these are fewer than the margin.
        """
        if band[..., -1].all():
            return band
        around = [rows for rows in (above, band, below) if rows is not None]
        if below is not None:
            around[-1] = below[:_MARGIN]
        window = np.concatenate(around)
        before = 0 if above is None else len(above)
        color, alpha = window[..., :-1], window[..., -1]
        first = (top - before) // _MARGIN
        assert self._coarse is not None
        coarse = self._coarse[first : first + -(-len(window) // _MARGIN)]
        filled = band.copy()
        bled = _pull(*_weighted(color, alpha), coarse, _KEPT_LEVEL - 1)
        filled[..., :-1] = _filled(color, alpha == 0, bled)[before : before + len(band)]
        return filled


_KEPT_LEVEL = 5
_MARGIN = 1 << _KEPT_LEVEL
"""Pixels on a side of the squares whose sums are kept."""


def _weighted(color: Pixels, alpha: Pixels) -> tuple["_Plane", "_Plane"]:
    """Returns color times alpha, and alpha, each summed over squares of 2 by 2 pixels."""
    weighted = [
        _halve(np.multiply(color[..., channel], alpha, dtype=np.float32))
        for channel in range(color.shape[2])
    ]
    return np.stack(weighted, axis=-1), _halve(alpha.astype(np.float32))


def _filled(color: Pixels, hidden: NDArray[np.bool_], bled: "_Plane") -> Pixels:
    filled = color.copy()
    for channel in range(color.shape[2]):
        spread = _double(bled[..., channel], hidden.shape)
        filled[..., channel][hidden] = np.rint(spread[hidden])
    return filled


def _resize_plane(pixels: Pixels, width: int, height: int, by: Filter) -> Pixels:
    """Resizes an array of (h, w) of either dtype, or of (h, w, 3) of uint8."""
    if pixels.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.array(image.resize((width, height), _PILLOW[by]))
    image = Image.fromarray(pixels.astype(np.float32))
    resized = np.asarray(image.resize((width, height), _PILLOW[by]))
    deep: Pixels = np.clip(np.rint(resized), 0, 65_535).astype(np.uint16)
    return deep


_Plane = NDArray[np.float32]
"""Single-precision values on a grid of pixels: (h, w) or (h, w, C)."""


def _pull(weighted: _Plane, weight: _Plane, coarse: _Plane, levels: int) -> _Plane:
    """Computes the result of `_push_pull` if the colors `levels` levels above are known."""
    if levels == 0:
        return coarse
    is_known = weight > 0
    divisor = np.where(is_known, weight, 1)[..., np.newaxis]
    colors = np.divide(weighted, divisor, dtype=np.float32)
    above = _pull(_halve(weighted), _halve(weight), coarse, levels - 1)
    return _with_coarser(colors, is_known, above)


def _push_pull(weighted: _Plane, weight: _Plane) -> _Plane:
    """Divides weighted colors by their weights; without a weight, takes a coarser level's color.

    Args:
        weighted: (h, w, C), colors times weight.
        weight: (h, w), with at least one positive value.

    Returns:
        (h, w, C), a color for every pixel.
    """
    is_known = weight > 0
    divisor = np.where(is_known, weight, 1)[..., np.newaxis]
    colors = np.divide(weighted, divisor, dtype=np.float32)
    if is_known.all():
        return colors
    return _with_coarser(colors, is_known, _push_pull(_halve(weighted), _halve(weight)))


def _with_coarser(colors: _Plane, is_known: NDArray[np.bool_], coarse: _Plane) -> _Plane:
    for channel in range(colors.shape[2]):
        spread = _double(coarse[..., channel], is_known.shape)
        colors[..., channel][~is_known] = spread[~is_known]
    return colors


def _halve(plane: _Plane) -> _Plane:
    """Sums squares of 2 by 2 pixels; beyond the edges there are zeros."""
    height, width = plane.shape[:2]
    rows = np.zeros(((height + 1) // 2, *plane.shape[1:]), np.float32)
    rows += plane[::2]
    rows[: height // 2] += plane[1::2]
    halved = np.zeros((rows.shape[0], (width + 1) // 2, *plane.shape[2:]), np.float32)
    halved += rows[:, ::2]
    halved[:, : width // 2] += rows[:, 1::2]
    return halved


def _double(plane: _Plane, shape: tuple[int, ...]) -> _Plane:
    """Enlarges (h, w) to twice its size by linear interpolation and cuts it to `shape`."""
    size = (plane.shape[1] * 2, plane.shape[0] * 2)
    image = Image.fromarray(np.ascontiguousarray(plane))
    enlarged = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    return enlarged[: shape[0], : shape[1]]
