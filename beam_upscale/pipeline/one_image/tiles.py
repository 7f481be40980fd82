"""Cuts an image into the tiles of its plan, and stitches their results."""

import dataclasses
from typing import Any

import numpy as np

from beam_upscale.images import resampling, tiling
from beam_upscale.images.values import Pixels
from beam_upscale.inference.elements import Inference, Tile, TiledImage
from beam_upscale.pipeline.one_image.rows import plan_notes
from beam_upscale.pipeline.one_image.states import ImageInFlight, UpscaledImage
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.planning.chain import Backend
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan import Plan
from beam_upscale.planning.tile_layout import Box, TilePlace


def tiled_image(
    image: ImageInFlight, color: Pixels, alpha: Pixels | None, settings: PinnedSettings
) -> TiledImage:
    """Cuts an image into the tiles for its next engine.

    Args:
        image: the image.
        color: (H, W, C), the input of that engine.
        alpha: (H, W, 1); None if there is none.
        settings: the settings of the run.

    Returns:
        The element of RunInference. It alone holds the tiles; its context is the image.
    """
    image = image.noted(plan_notes(image.stage_plan))
    if settings.stages[image.stage].engine.is_guided:
        return _with_guided_tile(image, color, alpha)
    if settings.rules.backend is Backend.GRPC:
        # A call for alpha would be charged, but the price is set before the pixels are decoded.
        aside = dataclasses.replace(image, has_alpha_tiles=False, alpha=alpha)
        return _with_tiles(aside, color, None)
    image = dataclasses.replace(image, has_alpha_tiles=alpha is not None, alpha=None)
    return _with_tiles(image, color, alpha)


def _with_tiles(image: ImageInFlight, color: Pixels, alpha: Pixels | None) -> TiledImage:
    """Cuts a tile for each place, color first and then alpha; tiles are independent."""
    stage_plan = image.stage_plan
    size = stage_plan.work_width, stage_plan.work_height
    tiles = tuple(
        Tile(pixels, relative_core(place))
        for plane in (color, alpha)
        if plane is not None
        for place, pixels in zip(
            stage_plan.tiles,
            tiling.split(resampling.resize(plane, *size), stage_plan.tiles),
            strict=True,
        )
    )
    return _element(image, tiles, None)


def _with_guided_tile(image: ImageInFlight, color: Pixels, alpha: Pixels | None) -> TiledImage:
    """Makes one tile of the whole image, whose priced tiles share the network's noise.

    Alpha is kept aside, since a generative network would invent transparency.
    """
    draft, stage_plan = image.draft, image.stage_plan
    assert draft.parameters is not None
    parameters = draft.parameters.seeded(np.ascontiguousarray(color).data, color.shape)
    size = stage_plan.work_width, stage_plan.work_height
    tile = Tile(resampling.resize(color, *size), Box(0, 0, *size), stage_plan.tiles)
    draft = dataclasses.replace(draft, row=dataclasses.replace(draft.row, seed=parameters.seed))
    image = dataclasses.replace(image, draft=draft, has_alpha_tiles=False, alpha=alpha)
    return _element(image, (tile,), parameters)


def _element(
    image: ImageInFlight, tiles: tuple[Tile, ...], parameters: Parameters | None
) -> TiledImage:
    stage_plan = image.stage_plan
    return TiledImage(
        tiles,
        stage_plan.engine_width // stage_plan.work_width,
        parameters,
        context=image,
        identity=(image.source.input_id, image.stage),
        booking=image.draft.booking,
    )


def element(prepared: UpscaledImage | TiledImage, timestamp: Any = None) -> TiledImage:
    """Returns the element of RunInference; a result has no tiles and passes through.

    Args:
        prepared: the image with its tiles, as `prepare` or `advance` returned it; or its result.
        timestamp: Beam's, of the input's element; None takes that of RunInference's result.
    """
    tiled = TiledImage((), 1, context=prepared) if isinstance(prepared, UpscaledImage) else prepared
    tiled.timestamp = timestamp
    return tiled


def relative_core(place: TilePlace) -> Box:
    """Returns a place's core in the coordinates of its extended box."""
    return dataclasses.replace(
        place.core,
        left=place.core.left - place.extended.left,
        top=place.core.top - place.extended.top,
    )


def stitched(image: ImageInFlight, inference: Inference) -> tuple[Pixels, Pixels | None]:
    """Stitches the cores of an image's tiles, and takes them out of the inference.

    Returns:
        Color and alpha, (H, W, C), at the stage's output size; None for no alpha.
    """
    stage_plan = image.stage_plan
    size = stage_plan.output_width, stage_plan.output_height
    if image.has_alpha_tiles:
        color = resampling.resize(_plane(inference.cores, stage_plan), *size)
        return color, resampling.resize(_plane(inference.cores, stage_plan), *size)
    if len(inference.cores) == 1:
        color = resampling.resize(inference.cores.pop(), *size)
    else:
        color = resampling.resize(_plane(inference.cores, stage_plan), *size)
    return color, None if image.alpha is None else resampling.resize(image.alpha, *size)


def _plane(cores: list[Pixels], stage_plan: Plan) -> Pixels:
    """Stitches one plane and removes its cores from the list, so that each is freed once pasted."""
    scale = stage_plan.engine_width // stage_plan.work_width
    return tiling.stitch(
        (cores.pop(0) for _ in stage_plan.tiles),
        stage_plan.tiles,
        scale,
        stage_plan.work_width,
        stage_plan.work_height,
    )
