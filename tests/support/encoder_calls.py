"""Images for encoders, and encoders to which something happens."""

import sys
from typing import Any

import numpy as np

from beam_upscale.images.encoding.unencoded import UnencodedImage
from beam_upscale.images.values import NO_METADATA, Metadata
from beam_upscale.images.writing.encode_options import EncodeOptions

MARK = "beam-upscale: do something else"
MARKED = Metadata(xmp=f"<x>{MARK}</x>".encode())
"""The metadata of an image on which a misbehaving encoder does something else."""


def misbehaving(behavior: str) -> list[str]:
    """The command of an encoder that runs some statements before it encodes a marked image."""
    program = f"""
import ctypes, errno, os, signal, time
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.encoding import child
from beam_upscale.images.encoding.unencoded import UnencodedImage

def encode(image):
    if {MARK.encode()!r} in (image.metadata.xmp or b""):
        {behavior}
    return UnencodedImage.encoded(image)

child.main(encode)
"""
    return [sys.executable, "-c", program]


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Random samples over the full range of their type."""
    samples = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, True)
    return np.asarray(samples)


def unencoded(
    width: int = 80,
    height: int = 60,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    dtype: Any = np.uint8,
    has_alpha: bool = False,
    metadata: Metadata = NO_METADATA,
    seed: int = 0,
    **options: Any,
) -> UnencodedImage:
    """An image of noise that is to be encoded, at its own size unless another is given."""
    return UnencodedImage(
        noise(height, width, channels, dtype=dtype, seed=seed),
        noise(height // 2, width // 2, 1, dtype=dtype, seed=seed) if has_alpha else None,
        *(size or (width, height)),
        metadata,
        EncodeOptions(**options),
    )
