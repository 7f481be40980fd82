from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_upscale.images.color import CELL, match_low_frequencies
from beam_upscale.images.values import Pixels

SCALE = 4


def enlarged(source: Pixels) -> Pixels:
    return source.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def mean_errors(result: Pixels, source: Pixels) -> np.ndarray:
    difference: np.ndarray = np.abs(
        result.mean(axis=(0, 1), dtype=np.float64) - source.mean(axis=(0, 1), dtype=np.float64)
    )
    return difference


@pytest.fixture
def picture(photograph: Callable[..., Image.Image]) -> Pixels:
    """Without values near black and white, so that nothing is clamped."""
    return (60 + np.asarray(photograph(width=90, height=70), np.float32) * 0.5).astype(np.uint8)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Pixels, Pixels]:
    """A result and its source, alike in nothing but their size, away from black and white."""
    height, width = draw(st.tuples(*[st.integers(1, 40)] * 2))
    channels = draw(st.sampled_from([1, 3]))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    level = np.iinfo(dtype).max // 16
    source = random.integers(7 * level, 9 * level, (height, width, channels), dtype)
    shape = (height * SCALE, width * SCALE, channels)
    return random.integers(7 * level, 9 * level, shape, dtype), source


# Laws


@given(pairs())
def test_mean_shape_and_dtype(pair: tuple[Pixels, Pixels]) -> None:
    result, source = pair

    matched = match_low_frequencies(result, source)

    assert (matched.shape, matched.dtype) == (result.shape, result.dtype)
    # Single precision holds a 16-bit level to a few thousandths.
    assert (mean_errors(matched, source) < 0.51).all()


@given(pairs(), st.integers(-50, 50))
def test_a_constant_shift_is_removed(pair: tuple[Pixels, Pixels], shift: int) -> None:
    result, source = pair
    shifted = (result.astype(np.int32) + shift).astype(result.dtype)

    matched = match_low_frequencies(shifted, source).astype(np.int32)

    assert np.abs(matched - match_low_frequencies(result, source)).max() <= 1


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([np.uint8, np.uint16]))
def test_colors_that_agree_stay(height: int, width: int, dtype: type[np.uint8]) -> None:
    random = np.random.default_rng(height * width)
    source = random.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)

    matched = match_low_frequencies(enlarged(source), source)

    assert (matched == enlarged(source)).all()


# Pictures


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_color_cast_is_removed(picture: Pixels, dtype: type[np.uint8]) -> None:
    unit = np.iinfo(dtype).max // 255
    source = picture.astype(dtype) * dtype(unit)
    faithful = enlarged(source)
    cast = (faithful * 0.8 + np.array([40, 10, -5]) * unit).astype(dtype)

    matched = match_low_frequencies(cast, source)

    before = np.abs(cast - faithful.astype(np.float64)).mean() / unit
    after = np.abs(matched - faithful.astype(np.float64)).mean() / unit
    assert before > 10
    assert after < 1.5


def test_a_drift_from_side_to_side_is_removed() -> None:
    source = np.full((64, 64, 1), 100, np.uint8)
    drift = np.linspace(-40, 40, 64 * SCALE)
    result = np.broadcast_to((100 + drift)[:, np.newaxis], (256, 256, 1)).astype(np.uint8)

    off = np.abs(match_low_frequencies(result, source).astype(int) - 100)

    assert off[:, 32:-32].max() <= 1
    assert off.max() <= 6


def test_detail_is_kept(picture: Pixels) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(-20, 21, (*(SCALE * n for n in picture.shape[:2]), 3))
    result = (enlarged(picture) * 0.9 + noise).astype(np.uint8)

    matched = match_low_frequencies(result, picture).astype(int)

    added = matched - result
    assert added.mean() > 5
    # What is added has neither detail nor edges: from pixel to pixel it changes by rounding alone.
    for axis in (0, 1):
        assert np.abs(np.diff(added, axis=axis)).max() <= 2


def test_no_cells_show() -> None:
    source = np.full((8 * CELL, 8 * CELL, 1), 60, np.uint16)
    source[:, 4 * CELL :] = 180
    source *= 256
    result = np.full_like(enlarged(source), 120 * 256)

    row = match_low_frequencies(result, source)[128, :, 0].astype(int)

    bends = np.abs(np.diff(row, n=2))
    # An edge of 120 levels becomes a slope without steps or corners.
    assert np.abs(np.diff(row)).max() < 5 * 256
    assert bends.max() < 0.3 * 256


def test_each_channel_has_its_own_colors() -> None:
    source = np.zeros((20, 20, 3), np.uint8) + np.array([10, 100, 200], np.uint8)
    result = np.zeros((80, 80, 3), np.uint8) + np.array([200, 100, 10], np.uint8)

    assert (match_low_frequencies(result, source) == enlarged(source)).all()


def test_black_and_white_are_clamped() -> None:
    source = np.zeros((20, 20, 1), np.uint8)
    source[10:] = 255
    random = np.random.default_rng(0)
    result = random.integers(0, 256, (80, 80, 1), np.uint8)

    matched = match_low_frequencies(result, source)

    assert matched[:20].mean() < 60
    assert matched[-20:].mean() > 195


@pytest.mark.parametrize("size", [(1, 1), (1, 393_216), (393_216, 1), (9, 1), (CELL, CELL)])
def test_any_size(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    source = random.integers(100, 150, (*size, 1), np.uint8)

    matched = match_low_frequencies(enlarged(source) - np.uint8(30), source)

    assert mean_errors(matched, source) <= 0.5
    assert np.abs(matched.astype(int) - enlarged(source)).max() <= 1


def test_an_input_is_not_written_to() -> None:
    source = np.full((4, 4, 3), 7, np.uint8)
    result = np.full((16, 16, 3), 99, np.uint8)
    result.flags.writeable = source.flags.writeable = False

    matched = match_low_frequencies(result, source)

    assert matched.flags.writeable
    assert (matched == 7).all()


@pytest.mark.parametrize(
    "source", [np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 3), np.uint16)], ids=["gray", "deep"]
)
def test_images_of_two_kinds_are_refused(source: Pixels) -> None:
    with pytest.raises(ValueError, match="3 channels of uint8 cannot take the colors"):
        match_low_frequencies(np.zeros((16, 16, 3), np.uint8), source)
