"""Pictures of one pixel, one row or one column, in every format and mode, in and out."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pyvips
from PIL import Image
from tiff_files import DEFLATE, SHORT, Page, tiff

from beam_upscale.images import resampling
from beam_upscale.images.reading import pixels
from beam_upscale.images.reading.regions import open_picture
from beam_upscale.images.values import Metadata, Pixels, Shape
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.images.writing.streaming import STREAMED_FORMATS, encode_rows
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.planning.tile_layout import Box

SIZES = [(1, 1), (1, 9), (9, 1)]
"""Widths and heights."""


def samples_of(width: int, height: int, bands: int, dtype: type = np.uint8) -> np.ndarray:
    full = np.iinfo(dtype).max
    return (
        np.linspace(full // 3, full, width * height * bands)
        .astype(dtype)
        .reshape(height, width, bands)
    )


def by_pillow(width: int, height: int, mode: str, format_: str, **options: Any) -> bytes:
    bands = {"L": 1, "LA": 2, "RGBA": 4}.get(mode, 3)
    samples = samples_of(width, height, bands)
    picture = Image.fromarray(samples[..., 0] if bands == 1 else samples)
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, format_, **options)
    return buffer.getvalue()


def sixteen_bit(width: int, height: int, bands: int, suffix: str) -> bytes:
    samples = samples_of(width, height, bands, np.uint16)
    flat = pyvips.Image.new_from_memory(
        np.ascontiguousarray(samples), width, height, bands, "ushort"
    )
    kind = "grey16" if bands < 3 else "rgb16"
    data: bytes = flat.copy(interpretation=kind).write_to_buffer(suffix)
    return data


def heic(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(samples_of(width, height, 3))
    pillow_heif.from_pillow(picture).save(buffer, quality=-1, chroma=444)
    return buffer.getvalue()


MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("1", "L", "P"),
    "AVIF": ("RGB", "RGBA"),
}


def files(width: int, height: int) -> Iterator[tuple[str, bytes]]:
    for format_, modes in MODES.items():
        for mode in modes:
            options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
            yield f"{format_} {mode}", by_pillow(width, height, mode, format_, **options)
    yield "HEIC", heic(width, height)
    for bands, suffix in itertools.product((1, 2, 3, 4), (".png", ".tif")):
        yield f"{suffix} 16 bits, {bands} bands", sixteen_bit(width, height, bands, suffix)
    for bits, bands, planes, tile in itertools.product(
        (1, 2, 4, 8, 16), (1, 2, 3, 4), (False, True), (None, (16, 16))
    ):
        if planes or bands == 1 or bits >= 8:
            dtype = np.uint16 if bits == 16 else np.uint8
            samples = samples_of(width, height, bands, dtype) & (2**bits - 1)
            extra = (2,) if bands in (2, 4) else ()
            photometric = 1 if bands < 3 else 2
            page = Page(samples.astype(dtype), bits, photometric, extra, planes, DEFLATE, tile=tile)
            yield f"TIFF {bits} bits, {bands} bands, planes {planes}, tile {tile}", tiff(page)
    for number in (3, 6):
        page = Page(samples_of(width, height, 1), tags={274: (SHORT, [number])})
        yield f"TIFF turned {number}", tiff(page)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_is_read_whole_by_rows_and_by_region(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    for name, data in files(width, height):
        decoded = pixels.decode(data, max_pixels=100)
        color, alpha = decoded.color, decoded.alpha
        upright = (width, height) if "turned 6" in name else (height, width)
        assert color.shape[:2] == upright == (decoded.header.height, decoded.header.width), name
        assert color.ndim == 3, name
        assert alpha is None or alpha.shape == upright, name
        expected = color if alpha is None else np.dstack([color, alpha])
        path.write_bytes(data)
        with open_picture(path, max_pixels=100) as reader:
            rows = list(reader.bands(1))
            np.testing.assert_array_equal(np.concatenate(rows), expected, name)
            assert len(rows) == upright[0], name
            if reader.picture.by_region:
                last = Box(width - 1, height - 1, 1, 1)
                np.testing.assert_array_equal(reader.region(last), expected[-1:, -1:], name)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_is_written_in_every_format(
    width: int, height: int, dtype: type, channels: int, has_alpha: bool, tmp_path: Path
) -> None:
    samples = samples_of(width, height, channels + has_alpha, dtype)
    color = np.ascontiguousarray(samples[..., :channels])
    alpha = np.ascontiguousarray(samples[..., -1]) if has_alpha else None
    shape = Shape(width, height, channels, has_alpha, np.dtype(dtype).name)

    for format_ in OutputFormat:
        options = EncodeOptions(format_, lossless=True)
        data = encoding.encode(color, alpha, options=options).data
        decoded = pixels.decode(data, max_pixels=100)
        assert decoded.color.shape[:2] == (height, width)
        if format_ in STREAMED_FORMATS:
            np.testing.assert_array_equal(decoded.color, color)
            path = tmp_path / f"picture.{format_}"
            encode_rows(path, iter(samples), shape, metadata=Metadata(), options=options)
            again = pixels.decode(path.read_bytes(), max_pixels=100)
            np.testing.assert_array_equal(again.color, color)
            np.testing.assert_array_equal(again.alpha, alpha)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_is_resized_from_and_to_one_pixel(dtype: type, channels: int) -> None:
    one: Pixels = samples_of(1, 1, channels, dtype)
    many: Pixels = samples_of(5, 4, channels, dtype)

    assert np.array_equal(resampling.resize(one, 3, 2), np.broadcast_to(one, (2, 3, channels)))
    assert resampling.resize(many, 1, 1).shape == (1, 1, channels)
    assert np.array_equal(resampling.fill_transparent(one, np.zeros((1, 1), dtype)), one)
