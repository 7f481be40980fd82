"""Photographs and drawings that scikit-image carries, as networks take them."""

from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image


def picture(name: str, side: int) -> NDArray[np.uint8]:
    """The middle of a picture, (side, side, 3); one that is smaller is continued mirrored."""
    with Image.open(Path(skimage.data.__file__).parent / name) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = (max(0, side - length) for length in pixels.shape[:2])
    around = ((height // 2, height - height // 2), (width // 2, width - width // 2), (0, 0))
    pixels = np.pad(pixels, around, "symmetric")
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduced to half the size by Pillow's antialiased Lanczos filter."""
    size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def psnr(result: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in decibels."""
    error = np.mean((result.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
