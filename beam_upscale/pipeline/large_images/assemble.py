"""Assembles a large image from its tiles' results, row by row."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import numpy as np

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.errors import ImageError
from beam_upscale.images.values import Pixels, Shape
from beam_upscale.images.writing.streaming import encode_rows
from beam_upscale.inference.elements import Inference
from beam_upscale.pipeline.large_images.states import CutImage, TileResult
from beam_upscale.pipeline.large_images.tile_files import TileFile
from beam_upscale.pipeline.large_images.tile_folder import TileFolder
from beam_upscale.pipeline.one_image.rows import output_columns, plan_notes
from beam_upscale.pipeline.one_image.states import ImageInFlight, ResultDraft, UpscaledImage
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.planning.plan import Plan
from beam_upscale.planning.plan_options import OutputFormat

ImageUri: TypeAlias = Callable[[ResultDraft, OutputFormat, DatasetFolder], str]
"""A function that returns the URI of a result's image, below the root of the folder given."""

# Rows of the result that are assembled at a time.
_ROWS = 128


def assemble(
    cut_image: CutImage,
    results: Sequence[TileResult],
    settings: PinnedSettings,
    scratch: DatasetFolder,
    uri_of: ImageUri,
) -> UpscaledImage:
    """Writes a large image's result, if all its tiles succeeded, and creates its row.

    Args:
        cut_image: the large image.
        results: the outcomes of its tiles, in any order; a tile may come twice.
        settings: the settings of the run.
        scratch: the folder with the results of its tiles.
        uri_of: returns the URI of the result's image, below the root of `scratch`.

    Returns:
        The result, whose image is in a file. It has no record if a tile was not begun or the run
        has to stop.

    Raises:
        OSError: the image cannot be written.
    """
    draft, header = cut_image.draft, cut_image.draft.header
    assert header is not None
    # The number of frames was checked when the image was cut; it does not matter here.
    plan = settings.rules.plan(header.width, header.height, frames=1)
    stage_plan = plan.stages[0]
    by_index = {result.index: result.inference for result in results}
    inferences = [by_index.get(index) for index in range(len(stage_plan.tiles))]
    stops = [each.stop for each in inferences if each is not None and each.stop is not None]
    notes = *cut_image.notes, *plan_notes(stage_plan)
    image = ImageInFlight(draft, plan, cut_image.metadata, notes)
    whole = _together([each for each in inferences if each is not None])
    if whole.error is not None:
        return image.failed(whole.error, whole)
    if stops or None in inferences:
        stop = stops[0] if stops else None
        return UpscaledImage(draft.source, None, stop=stop)
    try:
        return _assembled(cut_image, image, whole, settings, scratch, uri_of)
    except ImageError as error:
        return image.failed(error, whole)


def _together(inferences: Sequence[Inference]) -> Inference:
    """Merges the outcomes of all tiles into one, as of one call of the network."""
    notes = (note for each in inferences for note in each.notes)
    return Inference(
        error=next((each.error for each in inferences if each.error is not None), None),
        notes=tuple(dict.fromkeys(notes)),
        device_seconds=sum(each.device_seconds for each in inferences),
        queue_seconds=max((each.queue_seconds for each in inferences), default=0.0),
        batch_size=max((each.batch_size for each in inferences), default=0),
        request_ids=tuple(name for each in inferences for name in each.request_ids),
        billed_credits=sum((each.billed_credits for each in inferences), Decimal(0)),
        attempts=max((each.attempts for each in inferences), default=1),
    )


def _assembled(
    cut_image: CutImage,
    image: ImageInFlight,
    inference: Inference,
    settings: PinnedSettings,
    scratch: DatasetFolder,
    uri_of: ImageUri,
) -> UpscaledImage:
    plan, shape = image.plan, cut_image.shape
    rows = _rows(plan.stages[0], shape, TileFolder.of(scratch, cut_image.key))
    with tempfile.TemporaryDirectory(prefix="beam-upscale-") as folder:
        path = Path(folder) / "result"
        notes = encode_rows(
            path,
            rows,
            shape,
            metadata=image.metadata,
            options=settings.encode,
        )
        uri = uri_of(image.draft, settings.encode.format, scratch)
        with path.open("rb") as file:
            size, digest = scratch.copy(file, uri)
    record = image.record(
        Status.UPSCALED,
        inference,
        notes,
        **output_columns(plan, settings),
        output_bytes=size,
        output_sha256=digest,
    )
    return UpscaledImage(image.source, record, file=uri)


def _rows(stage_plan: Plan, shape: Shape, folder: TileFolder) -> Iterator[Pixels]:
    """Yields the rows of the result from top to bottom; reads only these rows of each tile."""
    scale = stage_plan.engine_width // stage_plan.work_width
    tops = [place.core.top for place in stage_plan.tiles]
    left = sorted(range(len(tops)), key=tops.__getitem__, reverse=True)
    open_tiles: dict[int, TileFile] = {}
    for top in range(0, shape.height, _ROWS):
        bottom = min(top + _ROWS, shape.height)
        while left and tops[left[-1]] * scale < bottom:
            index = left.pop()
            open_tiles[index] = TileFile(folder.result(index))
        rows: Pixels = np.empty((bottom - top, shape.width, shape.bands), shape.dtype)
        for index, tile in list(open_tiles.items()):
            core = stage_plan.tiles[index].core
            first, last = max(core.top * scale, top), min(core.bottom * scale, bottom)
            rows[first - top : last - top, core.left * scale : core.right * scale] = tile.rows(
                first - core.top * scale, last - core.top * scale
            )
            if core.bottom * scale <= bottom:
                del open_tiles[index]
        yield rows
