"""The values for an image: its shape, its pixels, its header and its metadata."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8 | np.uint16]
"""Samples of 8 or 16 bits over their full range."""

SUPPORTED_FORMATS = ("jpeg", "png", "webp", "tiff", "bmp", "gif", "avif", "heif")


@dataclass(frozen=True)
class ImageHeader:
    """The properties of an image file that are known before a pixel is decoded.

    Attributes:
        format: one of `SUPPORTED_FORMATS`.
        mode: the file's own mode in Pillow's terms, e.g. "RGB", "L", "P", "1", "CMYK"; 16-bit ones
            are "I;16", "LA;16", "RGB;16" and "RGBA;16".
        width: the width in pixels, after EXIF orientation.
        height: the height in pixels, after EXIF orientation.
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
class Shape:
    """The size, channels and sample type of a picture.

    Attributes:
        width: the width in pixels.
        height: the height in pixels.
        channels: color channels, 1 or 3.
        has_alpha: True if alpha follows the color, as a last channel.
        dtype: uint8 or uint16.
    """

    width: int
    height: int
    channels: int
    has_alpha: bool
    dtype: str

    @property
    def bands(self) -> int:
        """The number of samples of a pixel, alpha included."""
        return self.channels + self.has_alpha

    @property
    def row_bytes(self) -> int:
        """The number of bytes of a row."""
        return self.width * self.bands * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Resolution:
    """The pixels per inch, or, without a unit of length, only their ratio.

    Attributes:
        x: pixels per inch along a row.
        y: pixels per inch along a column.
        is_ratio: True if only the ratio of the two means something.
    """

    x: float
    y: float
    is_ratio: bool = False


@dataclass(frozen=True)
class Metadata:
    """The metadata that is carried from a file to its result.

    Attributes:
        icc_profile: the ICC profile of the color; None if there is none, or it no longer applies.
        exif: a TIFF-structured EXIF block (no prefix) whose orientation is 1 and that has no
            thumbnail, or None.
        xmp: an XMP packet whose orientation is 1, or None.
        resolution: as the file gives it outside of EXIF; None if it does not.
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
        header: the header of the file.
        color: (height, width, 1 or 3), uint8 or uint16, contiguous.
        alpha: (height, width) of the same dtype, 0 transparent, or None.
        metadata: carried over to the result.
        notes: changes to the picture and data left behind, as short stable phrases.
    """

    header: ImageHeader
    color: Pixels
    alpha: Pixels | None = None
    metadata: Metadata = NO_METADATA
    notes: tuple[str, ...] = ()
