"""Inputs of the measurements, cut from the images in `samples/`, the same each time."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
PHOTOGRAPHS = ("cat.jpg", "coffee.webp", "photographer.png", "rocket.jpg")


@dataclass(frozen=True)
class Kind:
    """A kind of input images, all of one size.

    Attributes:
        name: its name in the rows.
        side: pixels a side.
        suffix: of its files, without the dot.
        saving: options of Pillow's encoder.
    """

    name: str
    side: int
    suffix: str
    saving: Mapping[str, Any] = field(default_factory=dict)


PNG_64 = Kind("PNG 64", 64, "png")
JPEG_256 = Kind("JPEG 256", 256, "jpg", {"quality": 90})
PHOTOGRAPH_128 = Kind("photograph 128", 128, "png")
KINDS = {kind.name: kind for kind in (PNG_64, JPEG_256)}


def photographs() -> list[NDArray[np.uint8]]:
    """The photographs among the samples, (height, width, 3) each."""
    paths = sorted(path for path in SAMPLES.rglob("*") if path.name in PHOTOGRAPHS)
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def sheet(height: int, width: int) -> NDArray[np.uint8]:
    """The photographs side by side, again and again, until height and width are reached."""
    pictures = photographs()
    least = min(len(picture) for picture in pictures)
    row = np.concatenate([picture[:least] for picture in pictures], axis=1)
    times = -(-height // row.shape[0]), -(-width // row.shape[1]), 1
    return np.tile(row, times)[:height, :width]


def crops(side: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yields squares of `side` pixels, each from a random place.

    They are cut from the photographs in turn, or from a sheet of them where they are smaller.
    """
    random = np.random.default_rng(side)
    wholes = [picture for picture in photographs() if min(picture.shape[:2]) >= side]
    wholes = wholes or [sheet(4 * side, 4 * side)]
    for number in range(count):
        whole = wholes[number % len(wholes)]
        top, left = (int(random.integers(0, length - side + 1)) for length in whole.shape[:2])
        yield whole[top : top + side, left : left + side]


def write_images(folder: Path, kind: Kind, count: int) -> None:
    """Writes `count` images of a kind, named by their numbers, into a new folder."""
    folder.mkdir(parents=True)
    for number, pixels in enumerate(crops(kind.side, count)):
        Image.fromarray(pixels).save(folder / f"{number:06}.{kind.suffix}", **kind.saving)


def link_first(folder: Path, source: Path, count: int) -> Path:
    """Makes a folder of the first `count` files of another, by hard links, and returns it."""
    folder.mkdir(parents=True)
    paths = sorted(source.iterdir())[:count]
    assert len(paths) == count, f"{source} has {len(paths)} files, not {count}"
    for path in paths:
        os.link(path, folder / path.name)
    return folder


def write_large(path: Path, megapixels: float) -> tuple[int, int]:
    """Writes a square PNG of so many megapixels; returns its width and height."""
    side = round((megapixels * 1e6) ** 0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet(side, side)).save(path, compress_level=1)
    return side, side
