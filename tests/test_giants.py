"""Images whose tiles are spread over the workers, against the same ones done in one place."""

import functools
import hashlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import pyvips
from PIL import Image
from runs import command_elsewhere, quick, rows, signal_after, tree, upscale

import beam_upscale as bu
from beam_upscale import decoding, engines, fan_out, storage
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.image import EncodeOptions
from beam_upscale.manifest import Row, Status
from beam_upscale.verify import verify

# Megapixels: of what the images here become, some are above it and some are not.
ABOVE = 0.05


@pytest.fixture(autouse=True)
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that takes so little in one call that small images are cut into many tiles."""
    import dataclasses

    name = "esrgan-v1-x2plus"
    small = dataclasses.replace(engines.ENGINES[name], input_limit=64 * 64, halo=8)
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, name: small})


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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("giants") / "in")


def giants_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the giants that are assembled from now on."""
    seen: list[str] = []
    assemble = fan_out.assemble

    def followed(image: Any, *arguments: Any) -> Any:
        seen.append(image.prepared.source.name)
        return assemble(image, *arguments)

    monkeypatch.setattr("beam_upscale.giants.assemble", followed)
    return seen


def described(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Row.__dataclass_fields__}


def test_files_and_rows_are_those_of_one_place(
    inputs: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscale(inputs, tmp_path / "plain", tiny_weights, oversize="tile")
    giants = giants_of(monkeypatch)

    upscale(
        inputs, tmp_path / "spread", tiny_weights, oversize="tile", fan_out_above=ABOVE, workers=2
    )

    assert {row.status for row in rows(tmp_path / "plain").values()} == {Status.UPSCALED}
    assert tree(tmp_path / "spread") == tree(tmp_path / "plain")
    assert sorted(giants) == sorted(
        path.name for path in inputs.iterdir() if path.name not in ("small.png", "cut.png")
    )
    assert list(verify(str(tmp_path / "spread"))) == []
