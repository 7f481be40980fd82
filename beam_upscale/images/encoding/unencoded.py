"""Pixels that are to be resized or encoded, and the file that becomes of them."""

import hashlib
from dataclasses import dataclass, field

from beam_upscale.images import resampling
from beam_upscale.images.values import Metadata, Pixels
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.tile_layout import Box


@dataclass(frozen=True)
class EncodedFile:
    """The bytes of an image file.

    Attributes:
        data: the bytes.
        sha256: their SHA-256, as hexadecimal digits.
        notes: changes and omissions that fit the image to its format.
    """

    data: bytes = field(repr=False)
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class UnencodedImage:
    """An image that is to be resized and encoded.

    Attributes:
        color: (height, width, 1 or 3), uint8 or uint16, at any size.
        alpha: (height, width, 1) of the same dtype, at any size; None if there is none.
        width: the width of the result, in pixels.
        height: the height of the result, in pixels.
        metadata: the source's metadata.
        options: the format of the result and its options.
    """

    color: Pixels
    alpha: Pixels | None
    width: int
    height: int
    metadata: Metadata
    options: EncodeOptions

    @property
    def pixels(self) -> int:
        """The pixels of the samples or of the result, whichever has more."""
        return max(self.color[..., 0].size, self.height * self.width)

    def encoded(self) -> EncodedFile:
        """Resizes, encodes and hashes the image in this process.

        Raises:
            ImageError: ENCODE_ERROR.
            Exception: any exception of the encoder.
        """
        color = resampling.resize(self.color, self.width, self.height)
        alpha = None
        if self.alpha is not None:
            alpha = resampling.resize(self.alpha, self.width, self.height)[:, :, 0]
        found = encoding.encode(color, alpha, metadata=self.metadata, options=self.options)
        return EncodedFile(found.data, hashlib.sha256(found.data).hexdigest(), found.notes)


@dataclass(frozen=True, eq=False)
class ResizedPart:
    """Pixels that are to be resized, and the part of the result that is kept.

    Attributes:
        pixels: (h, w, 1 or 3), uint8 or uint16.
        width: the width that they get, in pixels.
        height: the height that they get, in pixels.
        box: the part of the resized pixels.
    """

    pixels: Pixels
    width: int
    height: int
    box: Box

    def resized(self) -> Pixels:
        """Resizes the pixels in this process.

        Returns:
            (box height, box width, 1 or 3), of their dtype.
        """
        resized = resampling.resize(self.pixels, self.width, self.height)
        box = self.box
        kept = resized[box.top : box.bottom, box.left : box.right]
        # A view would keep the other pixels in memory.
        return kept if kept.shape == resized.shape else kept.copy()
