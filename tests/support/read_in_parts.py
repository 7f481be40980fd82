"""Pictures of waves, stored by other programs, and all their rows."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beam_upscale.images.reading.regions import open_picture

MAX_PIXELS = 1_000_000
WIDTH, HEIGHT = 150, 170


def pixels(bands: int, dtype: type = np.uint8) -> np.ndarray:
    """Smooth enough for lossy codecs, with no symmetry; alpha is 0 and 255 in places."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / 9) + np.sin(y / 7), np.cos((x + y) / 11), np.sin(x * y / 900)]
    color = np.stack([(1 + wave / 2) * 127 for wave in waves], axis=-1)
    alpha = np.clip(x * 3 - y, 0, 255)[..., np.newaxis]
    planes = {1: color[..., :1], 2: [color[..., :1], alpha], 3: color, 4: [color, alpha]}[bands]
    joined = np.concatenate(planes, axis=-1) if isinstance(planes, list) else planes
    return (joined.clip(0, 255) * (257 if dtype == np.uint16 else 1)).astype(dtype)


def by_pillow(mode: str, format_: str, **options: Any) -> bytes:
    bands = {"L": 1, "LA": 2, "RGBA": 4}.get(mode, 3)
    picture = Image.fromarray(pixels(bands).squeeze())
    if mode == "P":
        picture = picture.quantize(64)
    elif picture.mode != mode:
        picture = picture.convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[271], exif[274] = "Maker", orientation
    return exif.tobytes()


def all_rows(path: Path, **options: Any) -> list[np.ndarray]:
    with open_picture(path, **{"max_pixels": MAX_PIXELS, **options}) as reader:
        return list(reader.bands(16))
