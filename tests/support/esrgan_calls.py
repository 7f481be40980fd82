"""Images that are given to the handler of ESRGAN."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_upscale.inference.elements import Inference, Tile, TiledImage
from beam_upscale.inference.handlers.esrgan import EsrganHandler
from beam_upscale.planning.tile_layout import Box


def whole(pixels: np.ndarray, context: Any = None) -> TiledImage:
    """An image in one tile."""
    core = Box(0, 0, pixels.shape[1], pixels.shape[0])
    return TiledImage([Tile(pixels, core)], scale=2, context=context)


def infer(handler: EsrganHandler, images: Sequence[TiledImage]) -> list[Inference]:
    results = list(handler.run_inference(images, handler.load_model()))
    assert [result.example for result in results] == list(images)
    return [result.inference for result in results]
