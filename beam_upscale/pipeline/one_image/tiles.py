"""Cuts an image into the tiles of its plan, and stitches their results."""

import dataclasses
from collections.abc import Iterable
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
    is_guided = settings.stages[image.stage].engine.is_guided
    # A generative network would invent transparency. A call for alpha would be charged, but the
    # price is set before the pixels are decoded.
    is_alpha_aside = is_guided or settings.rules.backend is Backend.GRPC
    planes = [color] if alpha is None or is_alpha_aside else [color, alpha]
    parameters = _seeded(image, color) if is_guided else None
    image = dataclasses.replace(
        image,
        notes=image.noted(plan_notes(image.stage_plan)),
        seed=image.seed if parameters is None else parameters.seed,
        has_alpha_tiles=len(planes) == 2,
        alpha=alpha if is_alpha_aside else None,
    )
    tiles = _guided_tile(image.stage_plan, color) if is_guided else _tiles(image.stage_plan, planes)
    return _element(image, tiles, parameters)


def _seeded(image: ImageInFlight, color: Pixels) -> Parameters:
    """Returns the parameters of an image for an engine whose input is `color`."""
    assert image.draft.parameters is not None
    return image.draft.parameters.seeded(np.ascontiguousarray(color).data, color.shape)


def _tiles(stage_plan: Plan, planes: Iterable[Pixels]) -> tuple[Tile, ...]:
    """Cuts a tile for each place, color first and then alpha; tiles are independent."""
    size = stage_plan.work_width, stage_plan.work_height
    return tuple(
        Tile(pixels, relative_core(place))
        for plane in planes
        for place, pixels in zip(
            stage_plan.tiles,
            tiling.split(resampling.resize(plane, *size), stage_plan.tiles),
            strict=True,
        )
    )


def _guided_tile(stage_plan: Plan, color: Pixels) -> tuple[Tile, ...]:
    """Makes one tile of the whole image, whose priced tiles share the network's noise."""
    size = stage_plan.work_width, stage_plan.work_height
    return (Tile(resampling.resize(color, *size), Box(0, 0, *size), stage_plan.tiles),)


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
    core, extended = place.core, place.extended
    return Box(core.left - extended.left, core.top - extended.top, core.width, core.height)


def stitched(image: ImageInFlight, inference: Inference) -> tuple[Pixels, Pixels | None]:
    """Stitches the cores of an image's tiles, and takes them out of the inference.

    Returns:
        Color and alpha, (H, W, C), at the stage's output size; None for no alpha.
    """
    color, alpha = unresized(image, inference)
    size = image.stage_plan.output_width, image.stage_plan.output_height
    color = resampling.resize(color, *size)
    return color, None if alpha is None else resampling.resize(alpha, *size)


def unresized(image: ImageInFlight, inference: Inference) -> tuple[Pixels, Pixels | None]:
    """Stitches the cores of an image's tiles as `stitched` does, at the sizes that they have.

    Returns:
        Color and alpha, (H, W, C): color at the scale of the engine, alpha too or at the size of
        the input; None for no alpha.
    """
    if image.has_alpha_tiles:
        color = _plane(inference.cores, image.stage_plan)
        return color, _plane(inference.cores, image.stage_plan)
    if len(inference.cores) == 1:
        return inference.cores.pop(), image.alpha
    return _plane(inference.cores, image.stage_plan), image.alpha


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
