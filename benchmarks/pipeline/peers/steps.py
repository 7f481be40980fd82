"""The steps that all peers share, on one image each."""

import argparse
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Encoder = Callable[[Pixels], bytes]


@dataclass(frozen=True)
class Job:
    """The work of a peer: its input, its output, its encoder and its number of workers."""

    input: Path
    output: Path
    encode: Encoder
    workers: int


def job(description: str | None) -> Job:
    """The work that the command line asks for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--encoder", choices=list(ENCODERS), default="pillow")
    parser.add_argument("--workers", type=int, default=2)
    found = parser.parse_args()
    return Job(found.input, found.output, ENCODERS[found.encoder], found.workers)


def decoded(data: bytes) -> Pixels:
    """(height, width, 3) of an image file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def doubled(pixels: Pixels) -> Pixels:
    """(height, width, 3) at twice the height and width, each pixel repeated."""
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def png_by_pillow(pixels: Pixels) -> bytes:
    """A PNG by Pillow's default."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def png_by_ours(pixels: Pixels) -> bytes:
    """A PNG by the encoder of this package."""
    from beam_upscale.images.writing import encoding

    return encoding.encode(pixels).data


ENCODERS: dict[str, Encoder] = {"pillow": png_by_pillow, "ours": png_by_ours}


def upscaled(pixels: Pixels, encode: Encoder) -> dict[str, Any]:
    """The PNG of a doubled image and its SHA-256."""
    png = encode(doubled(pixels))
    return {"png": png, "sha256": hashlib.sha256(png).hexdigest()}
