"""One image, before and after a network that doubles it."""

import io
from typing import Any

import numpy as np
from PIL import Image

from beam_upscale.dataset.manifest.row import Row
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.images.encoding.pool import shared_encoders
from beam_upscale.inference.elements import Inference, Tile, TiledImage
from beam_upscale.pipeline.one_image.finish import finish
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.one_image.tiles import element
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.sources.inputs.source_image import SourceImage

ENGINE = "esrgan-v1-x2plus"
LATENT = "stable-diffusion-x4-latent-upscaler"


def encoded(picture: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def source(data: bytes, **fields: Any) -> SourceImage:
    return SourceImage("gs://bucket/a.png", data=data, name="a.png", output_name="a", **fields)


def double(tiled: TiledImage) -> Inference:
    """What a network that repeats every pixel would make of an image."""

    def core(tile: Tile) -> np.ndarray:
        box = tile.core
        kept = tile.pixels[box.top : box.top + box.height, box.left : box.left + box.width]
        return kept.repeat(2, axis=0).repeat(2, axis=1)

    return Inference([core(tile) for tile in tiled.tiles], batch_size=1)


def prepared(source: SourceImage, settings: PinnedSettings) -> TiledImage:
    return element(prepare(source, settings, shared_pool()))


def upscale(source: SourceImage, settings: PinnedSettings) -> UpscaledImage:
    tiled = prepared(source, settings)
    return finished(tiled, double(tiled), settings)


def finished(tiled: TiledImage, inference: Inference, settings: PinnedSettings) -> UpscaledImage:
    """The result of an image whose tiles a network has seen."""
    return finish(tiled.context, inference, settings, shared_encoders())


def row_of(upscaled: UpscaledImage) -> Row:
    assert upscaled.record is not None
    return upscaled.record.row


def pixels_of(upscaled: UpscaledImage) -> np.ndarray:
    assert upscaled.data is not None
    return np.asarray(Image.open(io.BytesIO(upscaled.data)))


def oversized() -> np.ndarray:
    """A little more than 1024 x 1024."""
    return np.random.default_rng(0).integers(0, 256, (1030, 1100), np.uint8)
