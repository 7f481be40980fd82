"""Cuts an image into the tiles of its plan, and stitches their results."""

import dataclasses

import numpy as np

from beam_upscale.images import resampling, tiling
from beam_upscale.inference.elements import Inference, Tile, TiledImage
from beam_upscale.pipeline.one_image.states import (
    Pixels,
    Prepared,
    identity_of,
    noted,
    plan_notes,
    stage_plan,
)
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.planning.chain import Backend
from beam_upscale.planning.plan import Plan
from beam_upscale.planning.tile_layout import Box, Piece


def tiled_image(
    prepared: Prepared, color: Pixels, alpha: Pixels | None, settings: PinnedSettings
) -> TiledImage:
    """Returns the tiles of an image for the engine of its stage."""
    stage, decision = settings.stages[prepared.stage], stage_plan(prepared)
    prepared = noted(prepared, plan_notes(decision))
    if stage.engine.is_guided:
        return _guided_tiles(prepared, color, alpha, decision, stage.engine.scale)
    if settings.rules.backend is Backend.GRPC:
        # A call for alpha would be charged, but the price is set before the pixels are decoded.
        tiled = _tiles(prepared, color, None, decision, stage.engine.scale)
        return dataclasses.replace(tiled, context=dataclasses.replace(tiled.context, alpha=alpha))
    return _tiles(prepared, color, alpha, decision, stage.engine.scale)


def _tiles(
    prepared: Prepared, color: Pixels, alpha: Pixels | None, decision: Plan, scale: int
) -> TiledImage:
    """Returns a tile for each piece, color first and then alpha; tiles are independent."""
    size = decision.work_width, decision.work_height
    tiles = [
        Tile(pixels, relative_core(piece))
        for plane in (color, alpha)
        if plane is not None
        for piece, pixels in zip(
            decision.pieces,
            tiling.split(resampling.resize(plane, *size), decision.pieces),
            strict=True,
        )
    ]
    context = dataclasses.replace(prepared, has_alpha_tiles=alpha is not None, alpha=None)
    identity, booking = identity_of(prepared), prepared.booking
    return TiledImage(tiles, scale, context=context, identity=identity, booking=booking)


def _guided_tiles(
    prepared: Prepared, color: Pixels, alpha: Pixels | None, decision: Plan, scale: int
) -> TiledImage:
    """Returns one tile, which the network itself takes in pieces: they share its noise.

    Alpha is kept aside, since a generative network would invent transparency.
    """
    assert prepared.parameters is not None
    parameters = prepared.parameters.seeded(np.ascontiguousarray(color).data, color.shape)
    size = decision.work_width, decision.work_height
    tile = Tile(resampling.resize(color, *size), Box(0, 0, *size), decision.pieces)
    row = dataclasses.replace(prepared.row, seed=parameters.seed)
    context = dataclasses.replace(prepared, row=row, has_alpha_tiles=False, alpha=alpha)
    identity, booking = identity_of(prepared), prepared.booking
    return TiledImage([tile], scale, parameters, context, identity, booking=booking)


def relative_core(piece: Piece) -> Box:
    """Returns a piece's core in the coordinates of its extended box."""
    return dataclasses.replace(
        piece.core,
        left=piece.core.left - piece.extended.left,
        top=piece.core.top - piece.extended.top,
    )


def results(prepared: Prepared, inference: Inference) -> tuple[Pixels, Pixels | None]:
    """Returns color and alpha, (H, W, C), at the stage's output size; None for no alpha."""
    decision = stage_plan(prepared)
    size = decision.output_width, decision.output_height
    if prepared.has_alpha_tiles:
        color = resampling.resize(_stitched(inference.cores, decision), *size)
        return color, resampling.resize(_stitched(inference.cores, decision), *size)
    if len(inference.cores) == 1:
        color = resampling.resize(inference.cores.pop(), *size)
    else:
        color = resampling.resize(_stitched(inference.cores, decision), *size)
    alpha = prepared.alpha
    return color, None if alpha is None else resampling.resize(alpha, *size)


def _stitched(cores: list[Pixels], decision: Plan) -> Pixels:
    """Stitches one plane and removes its cores from the list, so that each is freed once pasted."""
    scale = decision.engine_width // decision.work_width
    return tiling.stitch(
        (cores.pop(0) for _ in decision.pieces),
        decision.pieces,
        scale,
        decision.work_width,
        decision.work_height,
    )
