"""Converts a service's result to the core of the tile that was sent."""

import numpy as np

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.inference.elements import Tile

# Levels of 16 bits for one level of 8 bits: 65,535 / 255.
_STEP = 257


def core_of(artifact: bytes, tile: Tile, engine_scale: int, scale: int) -> np.ndarray:
    """Decodes a result, and returns the upscaled core of its tile.

    Args:
        artifact: the encoded result for the whole tile.
        tile: the tile that was sent.
        engine_scale: the engine's scale: output pixels for each input pixel along a side.
        scale: the requested scale.

    Returns:
        (core height x scale, core width x scale, C) of the tile's channels and dtype.

    Raises:
        ImageError: INVALID_RESULT, it cannot be decoded; WRONG_RESULT_SIZE.
        SettingsError: DECODER_UNAVAILABLE, ENCODER_UNAVAILABLE.
    """
    height, width, channels = tile.pixels.shape
    size = width * engine_scale, height * engine_scale
    pixels = _decoded(artifact, size)
    pixels = _with_channels(pixels, channels)
    pixels = _with_depth(pixels, tile.pixels.dtype)
    return tile.upscaled_core(pixels, scale)


def _decoded(artifact: bytes, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    try:
        color = shared_pool().decode(artifact, max_pixels=width * height).color
    except ImageError as error:
        if error.code is ErrorCode.OUT_OF_MEMORY:
            raise
        is_large = error.code is ErrorCode.TOO_MANY_PIXELS
        code = ErrorCode.WRONG_RESULT_SIZE if is_large else ErrorCode.INVALID_RESULT
        raise ImageError(
            code,
            f"the service's result of {len(artifact):,} bytes is {error.code}: {error.message}",
        ) from error
    if color.shape[:2] != (height, width):
        raise ImageError(
            ErrorCode.WRONG_RESULT_SIZE,
            f"the service's result is {color.shape[1]} x {color.shape[0]} px; "
            f"{width} x {height} were due",
        )
    return color


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    # For a gray picture, the network may return red, green and blue that differ a little.
    total: np.ndarray = pixels.sum(axis=2, keepdims=True, dtype=np.uint32)
    mean: np.ndarray = (total + 1) // 3
    return mean.astype(pixels.dtype)


def _with_depth(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if pixels.dtype == dtype:
        return pixels
    if dtype == np.uint16:
        return pixels.astype(np.uint16) * np.uint16(_STEP)
    return ((pixels.astype(np.uint32) + _STEP // 2) // _STEP).astype(np.uint8)
