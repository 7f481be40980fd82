"""Gives a tile of a large image to the network, and persists its result."""

import dataclasses
import json

import numpy as np

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError
from beam_upscale.images import resampling
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.values import Pixels
from beam_upscale.inference.elements import Inference, Tile, TiledImage
from beam_upscale.pipeline.large_images.states import (
    NO_LIMIT,
    LargeImageTile,
    TileContext,
    TileResult,
)
from beam_upscale.pipeline.large_images.tile_files import TileFile, in_parts, packed
from beam_upscale.pipeline.large_images.tile_folder import (
    TileFolder,
    done_before,
    inference_of,
    values_of,
)
from beam_upscale.pipeline.one_image.file_version import check_version
from beam_upscale.pipeline.one_image.image_errors import as_image_error
from beam_upscale.pipeline.one_image.tiles import relative_core
from beam_upscale.pipeline.run_state.stop import is_stop_requested, stop_after_error
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.planning.chain import Backend
from beam_upscale.planning.tile_layout import Box
from beam_upscale.storage import files


def read_tile(
    tile: LargeImageTile, settings: PinnedSettings, scratch: DatasetFolder, decoders: DecoderPool
) -> TiledImage:
    """Gives a tile to the network as the ordinary path would.

    Args:
        tile: the tile.
        settings: the settings of the run.
        scratch: the folder whose `.staging/` holds the image's tiles.
        decoders: the processes that decode the input, if the tile is read from it.

    Returns:
        An image of that tile alone, for `persist_tile`; it has no tiles if the network has nothing
        to do.
    """
    folder = TileFolder.of(scratch, tile.key)
    done = done_before(tile, folder)
    if done is not None:
        return _without_tiles(tile, done)
    if files.exists(folder.failed):
        return _without_tiles(tile, TileResult(tile.index, _failure(tile, folder)))
    if is_stop_requested(scratch):
        return _without_tiles(tile, TileResult(tile.index, None))
    try:
        color, alpha = _tile_pixels(tile, settings, folder, decoders)
    except FileNotFoundError:
        # Another worker with the same tile has finished it meanwhile.
        done = done_before(tile, folder)
        if done is None:
            raise
        return _without_tiles(tile, done)
    except BrokenProcessError as stop:
        return _without_tiles(tile, TileResult(tile.index, Inference(stop=stop)))
    except Exception as error:
        if isinstance(error, OSError):
            raise
        inference = Inference(error=as_image_error(error))
        return _without_tiles(tile, TileResult(tile.index, inference))
    core = relative_core(tile.place)
    has_alpha_tile = alpha is not None and settings.rules.backend is Backend.LOCAL
    extended = _part(color, tile, tile.place.extended)
    tiles = [Tile(extended, core)]
    if alpha is not None and has_alpha_tile:
        tiles.append(Tile(_part(alpha, tile, tile.place.extended), core))
    context = TileContext(tile, alpha=None if has_alpha_tile else alpha)
    scale = settings.stages[0].engine.scale
    identity = tile.source.input_id, 0
    return TiledImage(
        tiles, scale, context=context, identity=identity, first=tile.index, booking=tile.booking
    )


def _failure(tile: LargeImageTile, folder: TileFolder) -> Inference | None:
    """Reads the persisted failure of a tile; None if this tile has none.

    The attempt that failed, and was charged, may have been lost before it returned its result.
    """
    uri = folder.failure(tile.index)
    if not files.exists(uri):
        return None
    failure = json.loads(files.read(uri))
    error = ImageError(ErrorCode(failure["code"]), failure["message"])
    return dataclasses.replace(inference_of(failure["values"]), error=error)


def _without_tiles(tile: LargeImageTile, result: TileResult) -> TiledImage:
    return TiledImage((), 1, context=TileContext(tile, result))


def _tile_pixels(
    tile: LargeImageTile, settings: PinnedSettings, folder: TileFolder, decoders: DecoderPool
) -> tuple[Pixels, Pixels | None]:
    """Reads color and alpha, (h, w, C), of a tile's stored box, or of its extended box."""
    if tile.stored_box is not None:
        pixels = TileFile(folder.tile(tile.index)).pixels()
        color = np.ascontiguousarray(pixels[..., : tile.channels])
        return color, np.ascontiguousarray(pixels[..., -1:]) if tile.has_alpha else None
    source, options = tile.source, settings.rules.options
    assert source.uri is not None
    check_version(source, tile.version, tile.sha256)
    with source.on_disk(tile.sha256) as held:
        _, color = decoders.read_region(
            held.path,
            tile.place.extended,
            max_pixels=options.max_input_pixels or NO_LIMIT,
            animated=options.animated,
        )
    check_version(source, tile.version, tile.sha256)
    return color, None


def _part(pixels: Pixels, tile: LargeImageTile, box: Box) -> Pixels:
    """Crops the pixels of a tile's stored or extended box to a box inside it."""
    held = tile.stored_box or tile.place.extended
    if held == box:
        return pixels
    top, left = box.top - held.top, box.left - held.left
    return np.ascontiguousarray(pixels[top : top + box.height, left : left + box.width])


def persist_tile(tiled: TiledImage, inference: Inference, scratch: DatasetFolder) -> TileResult:
    """Persists the network's result for a tile, or its failure.

    Args:
        tiled: the image that `read_tile` returned, without its tiles.
        inference: the network's outcome for it.
        scratch: the folder whose `.staging/` holds the image's tiles.

    Raises:
        OSError: the result cannot be written.
    """
    held: TileContext = tiled.context
    tile, folder = held.tile, TileFolder.of(scratch, held.tile.key)
    if held.result is not None:
        if held.result.inference is not None:
            stop_after_error(scratch, held.result.inference.stop)
        _persist_failure(tile.index, held.result.inference, folder, scratch)
        return held.result
    stop_after_error(scratch, inference.stop)
    _persist_failure(tile.index, inference, folder, scratch)
    if inference.stop is None and inference.error is None:
        planes = list(inference.cores)
        if held.alpha is not None:
            planes.append(_enlarged_alpha(held.alpha, tile, tiled.scale))
        result = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        data = packed(in_parts(result), values_of(inference))
        scratch.write(folder.result(tile.index), data)
        if tile.stored_box is not None:
            scratch.delete(folder.tile(tile.index))
    return TileResult(tile.index, dataclasses.replace(inference, cores=[]))


def _persist_failure(
    index: int, inference: Inference | None, folder: TileFolder, scratch: DatasetFolder
) -> None:
    """Persists a tile's failure, so that no other tile of the lost image is paid for."""
    if inference is None or inference.error is None:
        return
    error, values = inference.error, values_of(inference)
    failure = {"code": str(error.code), "message": error.message, "values": values}
    scratch.write(folder.failure(index), json.dumps(failure).encode())
    # Written last, so that a worker that finds it finds the reason too.
    scratch.write(folder.failed, str(index).encode())


def _enlarged_alpha(alpha: Pixels, tile: LargeImageTile, scale: int) -> Pixels:
    """Enlarges the alpha of a core exactly as that of the whole image would be.

    If the factor is a power of two, each sample is the same sum, wherever the picture begins.
    """
    assert tile.stored_box is not None
    height, width = alpha.shape[:2]
    enlarged = resampling.resize(alpha, width * scale, height * scale)
    core = tile.place.core
    top, left = (core.top - tile.stored_box.top) * scale, (core.left - tile.stored_box.left) * scale
    return enlarged[top : top + core.height * scale, left : left + core.width * scale]
