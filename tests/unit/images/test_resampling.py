"""Resizing beside Pillow's own, and the fill below transparency."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from beam_upscale.images import resampling
from beam_upscale.images.resampling import BandedFill, Filter, fill_transparent


def noise(*shape: int, dtype: type = np.uint8) -> Any:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def test_size_that_is_right_costs_nothing() -> None:
    pixels = noise(20, 30, 3)

    assert resampling.resize(pixels, 30, 20) is pixels


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
@pytest.mark.parametrize("size", [(60, 40), (11, 7), (30, 20), (1, 1)])
def test_eight_bits_are_resized_as_pillow_does(
    shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    pixels = noise(*shape)

    resized = resampling.resize(pixels, *size)

    planes = pixels if shape[-1] == 3 else pixels.reshape(20, 30)
    expected = np.asarray(Image.fromarray(planes).resize(size, Image.Resampling.LANCZOS))
    assert resized.shape == (size[1], size[0], *shape[2:])
    assert np.array_equal(resized.reshape(expected.shape), expected)
    assert resized.flags.writeable


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
def test_sixteen_bits_follow_eight(shape: tuple[int, ...]) -> None:
    shallow = noise(*shape) // 4 + 96  # between two passes, only 8 bits are clipped
    deep = shallow.astype(np.uint16) * 257

    resized = resampling.resize(deep, 15, 10)

    assert resized.dtype == np.uint16
    assert resized.shape == (10, 15, *shape[2:])
    difference = resized / 257 - resampling.resize(shallow, 15, 10)
    assert np.abs(difference).max() <= 1.01  # Pillow rounds 8 bits once for each direction


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1, 3)])
@pytest.mark.parametrize("factors", [(1, 2), (2, 1), (2, 2), (3, 5), (4, 4), (7, 3), (300, 41)])
def test_pixels_are_repeated_as_pillow_does(
    dtype: type, shape: tuple[int, ...], factors: tuple[int, int]
) -> None:
    pixels = noise(*shape, dtype=dtype)
    height, width = shape[0] * factors[0], shape[1] * factors[1]

    resized = resampling.resize(pixels, width, height, Filter.NEAREST)

    assert resized.dtype == dtype
    assert resized.shape == (height, width, *shape[2:])
    assert resized.flags.writeable
    for plane, expected in zip(planes_of(resized), planes_of(pixels), strict=True):
        image = Image.fromarray(expected.astype(np.float32))
        assert np.array_equal(plane, image.resize((width, height), Image.Resampling.NEAREST))


def planes_of(pixels: Any) -> list[Any]:
    return [pixels] if pixels.ndim == 2 else list(np.moveaxis(pixels, -1, 0))


def test_overshoot_of_sixteen_bits_is_clipped() -> None:
    edge = np.zeros((8, 8), np.uint16)
    edge[:, 4:] = 65_535

    resized = resampling.resize(edge, 32, 32)

    assert (resized.min(), resized.max()) == (0, 65_535)
    assert (resized[:, :10] < 6_000).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flat_pictures_stay_flat(dtype: type) -> None:
    flat = np.full((5, 7, 3), 123, dtype)

    assert (resampling.resize(flat, 13, 29) == 123).all()


def disc(size: int, dtype: type) -> tuple[Any, Any]:
    """A white disc on transparent black."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    inside = x**2 + y**2 < (size / 3) ** 2
    white = np.iinfo(dtype).max
    alpha = np.where(inside, white, 0).astype(dtype)
    return np.repeat(alpha[..., np.newaxis], 3, axis=-1), alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_no_dark_ring_around_a_disc(dtype: type) -> None:
    color, alpha = disc(40, dtype)
    white = float(np.iinfo(dtype).max)

    def darkest_on_white(pixels: Any) -> float:
        enlarged, opacity = (
            resampling.resize(pixels, 80, 80),
            resampling.resize(alpha, 80, 80) / white,
        )
        composite = enlarged / white * opacity[..., np.newaxis] + 1 - opacity[..., np.newaxis]
        return float(composite.min())

    assert darkest_on_white(color) < 0.8
    assert darkest_on_white(resampling.fill_transparent(color, alpha)) == pytest.approx(1)


def test_hidden_pixels_take_the_nearest_colors() -> None:
    color = np.zeros((16, 64, 3), np.uint8)
    color[:, :8] = (200, 10, 10)
    color[:, -8:] = (10, 10, 200)
    alpha = np.zeros((16, 64), np.uint8)
    alpha[:, :8] = alpha[:, -8:] = 255

    filled = resampling.fill_transparent(color, alpha)

    assert np.abs(filled[:, 8:12].astype(int) - (200, 10, 10)).max() <= 20
    assert np.abs(filled[:, -12:-8].astype(int) - (10, 10, 200)).max() <= 20
    assert filled[:, 32].min() >= 10


@pytest.mark.parametrize("alpha", [0, 1, 255])
def test_nothing_to_fill_or_to_fill_with(alpha: int) -> None:
    color = noise(6, 5, 3)

    assert resampling.fill_transparent(color, np.full((6, 5), alpha, np.uint8)) is color


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(), dtype=st.sampled_from([np.uint8, np.uint16]), channels=st.sampled_from([1, 3])
)
def test_visible_pixels_stay_and_fills_lie_among_them(
    data: st.DataObject, dtype: type, channels: int
) -> None:
    shape = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    color = data.draw(hnp.arrays(dtype, (*shape, channels)))
    alpha = data.draw(hnp.arrays(dtype, shape, elements=st.sampled_from([0, 1, 200])))

    filled = resampling.fill_transparent(color, alpha)

    visible = alpha > 0
    assert np.array_equal(filled[visible], color[visible])
    if visible.any():
        for channel in range(channels):
            bounds = color[visible][:, channel]
            assert filled[..., channel].min() >= bounds.min()
            assert filled[..., channel].max() <= bounds.max()


def hidden_in_parts(height: int, width: int, dtype: type, pattern: str) -> np.ndarray:
    """Noise with alpha that hides a lot of it, in places over hundreds of pixels."""
    random = np.random.default_rng(5)
    most = np.iinfo(dtype).max
    pixels = random.integers(0, most, (height, width, 4), dtype=dtype, endpoint=True)
    y, x = np.mgrid[:height, :width]
    alpha = {
        "discs": (np.hypot(y % 97 - 40, x - 30) < 35) * most,
        "few": (random.random((height, width)) < 0.0005) * most,
        "one": ((y == height - 1) & (x == 0)) * most,
        "edge": (y > height // 2) * most,
        "none hidden": np.full((height, width), most),
        "all hidden": np.zeros((height, width)),
    }[pattern]
    pixels[..., -1] = alpha
    return pixels


@pytest.mark.parametrize("pattern", ["discs", "few", "one", "edge", "none hidden", "all hidden"])
@pytest.mark.parametrize(
    ("height", "width", "dtype"),
    [(1100, 61, np.uint8), (513, 90, np.uint16), (256, 33, np.uint8), (31, 500, np.uint8)],
)
def test_fill_in_bands_is_that_of_the_whole(
    height: int, width: int, dtype: type, pattern: str
) -> None:
    pixels = hidden_in_parts(height, width, dtype, pattern)
    rows = BandedFill.BAND_ROWS
    bands = [pixels[top : top + rows] for top in range(0, height, rows)]

    fill = BandedFill()
    for band in bands:
        fill.survey(band)
    filled = np.concatenate(list(fill.fill(bands)))

    expected = fill_transparent(np.ascontiguousarray(pixels[..., :3]), pixels[..., 3])
    np.testing.assert_array_equal(filled[..., :3], expected)
    np.testing.assert_array_equal(filled[..., 3], pixels[..., 3])
