import dataclasses
from typing import Any

import numpy as np
import pytest
from scripted_service import noise, whole

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images import resampling
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.writing import encoding
from beam_upscale.inference.remote import results
from beam_upscale.inference.remote.results import core_of
from beam_upscale.planning.tile_layout import Box


def core(result: np.ndarray, pixels: np.ndarray, **options: Any) -> np.ndarray:
    """The core that a result gives for a tile without a halo."""
    tile = whole("a", pixels).tiles[0]
    return core_of(encoding.encode(result).data, tile, options.get("engine_scale", 2), 2)


def test_a_gray_result_of_an_rgb_tile_has_three_channels() -> None:
    gray = noise(12, 16, 1)

    result = core(gray, noise(6, 8, 3))

    assert np.array_equal(result, np.concatenate([gray] * 3, axis=2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_rgb_result_of_a_gray_tile_is_the_mean_of_its_channels(dtype: Any) -> None:
    result = noise(12, 16, 3, dtype)

    gray = core(result, noise(6, 8, 1, dtype))

    assert gray.shape == (12, 16, 1)
    assert gray.dtype == dtype
    assert np.array_equal(gray[:, :, 0], np.rint(result.mean(axis=2)))


def test_depth_is_the_tiles() -> None:
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    deep = noise(16, 16, 1, np.uint16)

    widened = core(eight, noise(8, 8, 1, np.uint16))
    narrowed = core(deep, noise(8, 8, 1))

    assert widened.dtype == np.uint16
    assert np.array_equal(widened, eight.astype(np.uint16) * 257)
    assert narrowed.dtype == np.uint8
    assert np.array_equal(narrowed, np.rint(deep / 257))


def test_what_is_transparent_in_a_result_is_left_out() -> None:
    color, alpha = noise(12, 16, 3), noise(12, 16, 1)[:, :, 0]
    tile = whole("a", noise(6, 8, 3)).tiles[0]

    result = core_of(encoding.encode(color, alpha).data, tile, 2, 2)

    assert np.array_equal(result, color)


def test_a_larger_scale_than_asked_for_is_reduced() -> None:
    made = noise(24, 32, 3)

    result = core(made, noise(6, 8, 3), engine_scale=4)

    assert np.array_equal(result, resampling.resize(made, 16, 12))


@pytest.mark.parametrize("shape", [(11, 16), (12, 15), (16, 12), (24, 32), (13, 16), (1, 1)])
def test_another_size_is_refused_with_both(shape: tuple[int, int]) -> None:
    with pytest.raises(ImageError) as refused:
        core(noise(*shape), noise(6, 8))

    assert refused.value.code is ErrorCode.WRONG_RESULT_SIZE
    assert f"{shape[1]} x {shape[0]}" in refused.value.message


def test_any_lossless_picture_will_do_and_damage_is_told() -> None:
    from beam_upscale.images.writing.encode_options import EncodeOptions
    from beam_upscale.planning.plan_options import OutputFormat

    pixels = noise(12, 16, 3)
    tile = whole("a", noise(6, 8, 3)).tiles[0]
    tiff = encoding.encode(pixels, options=EncodeOptions(OutputFormat.TIFF)).data

    assert np.array_equal(core_of(tiff, tile, 2, 2), pixels)
    with pytest.raises(ImageError) as refused:
        core_of(encoding.encode(pixels).data[:-20], tile, 2, 2)
    assert refused.value.code is ErrorCode.INVALID_RESULT
    assert "truncated" in refused.value.message


def test_what_does_not_fit_in_memory_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(DecoderPool):
        def decode(self, data: bytes, **options: Any) -> Any:
            raise ImageError(ErrorCode.OUT_OF_MEMORY, "full")

    monkeypatch.setattr(results, "shared_pool", lambda: Full(1))
    tile = whole("a").tiles[0]

    with pytest.raises(ImageError) as refused:
        core_of(b"", tile, 2, 2)

    assert refused.value.code is ErrorCode.OUT_OF_MEMORY


def test_a_core_lies_where_its_tile_says() -> None:
    made = noise(12, 16, 3)
    tile = whole("a", noise(6, 8, 3)).tiles[0]
    tile = dataclasses.replace(tile, core=Box(left=3, top=1, width=4, height=5))

    result = core_of(encoding.encode(made).data, tile, 2, 2)

    assert np.array_equal(result, made[2:12, 6:14])
