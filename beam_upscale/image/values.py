"""Pixels and what is known about them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8 | np.uint16]
"""Samples of 8 or 16 bits over their full range."""

SUPPORTED_FORMATS = ("jpeg", "png", "webp", "tiff", "bmp", "gif", "avif", "heif")


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about itself before a pixel is decoded.

    Attributes:
        format: one of `SUPPORTED_FORMATS`.
        mode: the file's own mode in Pillow's terms, e.g. "RGB", "L", "P", "1", "CMYK"; 16-bit ones
            are "I;16", "LA;16", "RGB;16" and "RGBA;16".
        width: in pixels, after EXIF orientation.
        height: in pixels, after EXIF orientation.
        frames: frames or pages in the file, at least 1.
        bits: bits of a decoded sample, 8 or 16.
    """

    format: str
    mode: str
    width: int
    height: int
    frames: int
    bits: int


@dataclass(frozen=True)
class Resolution:
    """Pixels in an inch, or, where no length is told, the sides of a pixel.

    Attributes:
        x: pixels in an inch of a row.
        y: pixels in an inch of a column.
        is_ratio: whether only the ratio of the two means something.
    """

    x: float
    y: float
    is_ratio: bool = False


@dataclass(frozen=True)
class Metadata:
    """What is carried from a file to its result, besides pixels.

    Attributes:
        icc_profile: describes the color; None where there is none, or it no longer applies.
        exif: a TIFF-structured EXIF block (no prefix) whose orientation is 1 and that has no
            thumbnail, or None.
        xmp: an XMP packet whose orientation is 1, or None.
        resolution: as the file says it outside of EXIF; None where it does not.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    resolution: Resolution | None = None


NO_METADATA = Metadata()


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One picture, upright.

    Attributes:
        header: what the file said about itself.
        color: (height, width, 1 or 3), uint8 or uint16, contiguous.
        alpha: (height, width) of the same dtype, 0 transparent, or None.
        metadata: what is carried over to the result.
        notes: what was done to the picture and what is left behind, as short stable phrases.
    """

    header: ImageHeader
    color: Pixels
    alpha: Pixels | None = None
    metadata: Metadata = NO_METADATA
    notes: tuple[str, ...] = ()
