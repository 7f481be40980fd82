"""Inputs and runs whose large images are spread over the workers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image
from runs import ENGINE, signal_after

import beam_upscale as bu
from beam_upscale.pipeline.large_images.assemble import assemble
from beam_upscale.planning import engines
from beam_upscale.planning.engines import Engine

# Megapixels: of what the images here become, some are above it and some are not.
ABOVE = 0.05

SPREAD: dict[str, Any] = {"oversize": "tile", "fan_out_above": ABOVE}


def with_small_calls() -> dict[str, Engine]:
    """Engines, of which one takes so little in a call that small images are cut into many."""
    small = dataclasses.replace(engines.ENGINES[ENGINE], input_limit=64 * 64, halo=8)
    return {**engines.ENGINES, ENGINE: small}


def killed_after(results: int) -> None:
    """Prepares a process that kills itself once so many tiles are done."""
    engines.ENGINES = with_small_calls()
    signal_after(r"giants/\w+/results/\d+", results)


def picture(width: int, height: int, bands: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Waves and noise; alpha hides a good part."""
    y, x = np.mgrid[:height, :width]
    random = np.random.default_rng(width * height)
    planes = [np.sin(x / 9 + y / 13), np.cos((x + y) / 11), np.sin(x * y / 5000)]
    color = np.stack([(1 + plane) * 110 for plane in planes], axis=-1)
    color += random.integers(0, 30, color.shape)
    alpha = np.clip(np.hypot(x - width / 2, y - height / 2) * 4 - 90, 0, 255)
    joined = np.concatenate([color, alpha[..., np.newaxis]], axis=-1)
    kept = {1: joined[..., :1], 2: joined[..., [0, 3]], 3: joined[..., :3], 4: joined}[bands]
    return (kept * (257 if dtype == np.uint16 else 1)).astype(dtype)


def vips(samples: np.ndarray) -> Any:
    height, width, bands = samples.shape
    kind = "ushort" if samples.dtype == np.uint16 else "uchar"
    names = ("rgb16", "grey16") if samples.dtype == np.uint16 else ("srgb", "b-w")
    flat = pyvips.Image.new_from_memory(np.ascontiguousarray(samples), width, height, bands, kind)
    return flat.copy(interpretation=names[bands < 3])


def make_inputs(folder: Path) -> Path:
    """One file of each kind, and two that are not above the threshold."""
    folder.mkdir()
    turned = Image.Exif()
    turned[271], turned[274] = "Maker", 6
    Image.fromarray(picture(200, 150)).save(folder / "a.jpg", quality=90)
    Image.fromarray(picture(200, 150)).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(picture(150, 210)[..., 0]).save(folder / "gray.jpg", progressive=True)
    Image.fromarray(picture(190, 170, 4)).save(folder / "alpha.png", exif=turned)
    vips(picture(180, 160, 2, np.uint16)).write_to_file(str(folder / "deep.png"))
    tiles = {"tile": True, "tile_width": 64, "tile_height": 64, "compression": "deflate"}
    vips(picture(210, 140)).write_to_file(str(folder / "tiles.tif"), **tiles)
    vips(picture(160, 200, 3, np.uint16)).write_to_file(str(folder / "strips.tif"))
    Image.fromarray(picture(200, 150)).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(picture(170, 170, 4)).save(folder / "web.webp", lossless=True)
    Image.fromarray(picture(60, 50)).save(folder / "small.png")
    Image.fromarray(picture(100, 90)).save(folder / "cut.png")
    return folder


def large_images_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the large images that are assembled from now on."""
    seen: list[str] = []

    def followed(image: Any, *arguments: Any) -> Any:
        seen.append(image.draft.source.name)
        return assemble(image, *arguments)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.assemble", followed)
    return seen


def spread_by_hand(weights: Path, scratch: Path) -> bu.Upscale:
    """An `Upscale` as a pipeline of one's own has it."""
    options = {**SPREAD, "weights": str(weights), "device": "cpu", "precision": "fp32"}
    return bu.Upscale(ENGINE, threads=1, scratch=str(scratch), **options)
