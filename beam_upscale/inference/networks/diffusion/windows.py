"""Places the overlapping windows of an image that a network sees, and blends their results.

Over an overlap, the weights of the windows rise and fall linearly, along rows and columns
separately, and are divided by their sum. So the result has no edge at the end of a window.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beam_upscale.planning.tile_layout import TilePlace


@dataclass(frozen=True)
class Span:
    """A window along one side.

    Attributes:
        start: first line.
        stop: line after the last one.
        rise: lines at the start over which the weight rises to 1.
        fall: lines at the end over which it falls.
    """

    start: int
    stop: int
    rise: int = 0
    fall: int = 0

    def scaled(self, scale: int) -> "Span":
        """Returns the same span of an enlarged image."""
        return Span(self.start * scale, self.stop * scale, self.rise * scale, self.fall * scale)

    def weights(self) -> Tensor:
        """Returns the weight of each line, over 0 and at most 1: (stop - start,), float32."""
        lines = torch.arange(self.stop - self.start) + 0.5
        weights = torch.ones(len(lines))
        if self.rise:
            weights = torch.minimum(weights, lines / self.rise)
        if self.fall:
            weights = torch.minimum(weights, lines.flip(0) / self.fall)
        return weights


@dataclass(frozen=True)
class Window:
    """A box of an image; the weight of a pixel is that of its row times that of its column."""

    rows: Span
    columns: Span

    def of(self, images: Tensor) -> Tensor:
        """Returns the window's part of (…, H, W), as a view."""
        rows, columns = self.rows, self.columns
        return images[..., rows.start : rows.stop, columns.start : columns.stop]

    def scaled(self, scale: int) -> "Window":
        """Returns the same window of an enlarged image."""
        return Window(self.rows.scaled(scale), self.columns.scaled(scale))

    def weights(self) -> Tensor:
        """Returns the weight of each pixel: (height, width), float32."""
        return torch.outer(self.rows.weights(), self.columns.weights())


def windows_of(
    tiles: Iterable[TilePlace], width: int, height: int, factor: int = 1
) -> tuple[Window, ...]:
    """Returns the window of each tile: its extended box, aligned outwards to `factor`.

    The image's sides must be padded to multiples of `factor` for the windows to lie in it.

    Args:
        tiles: the tiles, which cover the image.
        width: the image's width in pixels, without padding.
        height: the image's height in pixels, without padding.
        factor: the alignment in pixels.
    """

    def span(start: int, stop: int, core_start: int, core_stop: int, length: int) -> Span:
        start, stop = start // factor * factor, math.ceil(stop / factor) * factor
        # A neighbor reaches over the core's edge about as far as this window does.
        rise = 2 * (core_start - start) if core_start > 0 else 0
        fall = 2 * (stop - core_stop) if core_stop < length else 0
        return Span(start, stop, rise, fall)

    return tuple(
        Window(
            span(box.top, box.bottom, core.top, core.bottom, height),
            span(box.left, box.right, core.left, core.right, width),
        )
        for box, core in ((tile.extended, tile.core) for tile in tiles)
    )


def share(windows: Sequence[Window], index: int) -> Tensor:
    """Returns a window's share in each of its pixels: its weight divided by the sum of all weights.

    Returns:
        (height, width) of the window, float32; the windows' shares in a pixel sum to 1, and the
        share is exactly 1 in a pixel that only this window covers.
    """
    window = windows[index]
    own = window.weights()
    total = torch.zeros_like(own)
    for other in windows:
        rows, other_rows = _common(window.rows, other.rows)
        columns, other_columns = _common(window.columns, other.columns)
        if rows.start < rows.stop and columns.start < columns.stop:
            total[rows, columns] += other.weights()[other_rows, other_columns]
    return own / total


def _common(span: Span, other: Span) -> tuple[slice, slice]:
    """Returns the lines that both spans cover, counted from each one's start; empty if none."""
    start, stop = max(span.start, other.start), min(span.stop, other.stop)
    return (
        slice(start - span.start, stop - span.start),
        slice(start - other.start, stop - other.start),
    )
