"""Cuts a large image into tiles that any worker can read.

`cut` reads the picture from top to bottom, once, and writes each tile to a file; if the format lets
a region be read, it writes nothing. `read_tile` gives a tile to the network as it would get it from
a whole image, `persist_tile` persists the tile's result, and `assemble` writes the image from the
results row by row. The files are below the `.staging/` of a scratch folder:

    giants/<key>/tiles/<index>      a tile's input pixels, until its result is persisted
    giants/<key>/results/<index>    a tile's result
    giants/<key>/failures/<index>   a tile's error, and the cost of its calls
    giants/<key>/failed             exists once a tile has failed, so that no other tile is begun

The key is a hash of the input's id, its bytes, its tile layout and the engine as it is pinned. So
files that an interrupted run left are used again, but never those of another file or engine.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import BrokenProcessError, ImageError
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.reading.row_readers import Picture
from beam_upscale.images.resampling import BandedFill
from beam_upscale.images.values import Pixels, Shape
from beam_upscale.pipeline.large_images.states import NO_LIMIT, CutImage, LargeImageTile
from beam_upscale.pipeline.large_images.tile_files import packed
from beam_upscale.pipeline.large_images.tile_folder import TileFolder
from beam_upscale.pipeline.one_image.file_version import check_version
from beam_upscale.pipeline.one_image.states import LargeImage, UpscaledImage
from beam_upscale.pipeline.run_state.stop import is_stop_requested
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.settings_json import pinned_to_json
from beam_upscale.planning.chain import Backend
from beam_upscale.planning.plan import Plan
from beam_upscale.planning.tile_layout import Box, TilePlace
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.sources.locations import file_parts
from beam_upscale.storage import files

# Input pixels around a core that enlarging its alpha needs: Lanczos reaches three.
_ALPHA_MARGIN = 4


def cut(
    large: LargeImage, settings: PinnedSettings, scratch: DatasetFolder, decoders: DecoderPool
) -> tuple[CutImage, list[LargeImageTile]] | UpscaledImage:
    """Makes the tiles of a large image readable one by one.

    Tiles that an interrupted run has written are not written again.

    Args:
        large: the large image.
        settings: the settings of the run.
        scratch: the folder whose `.staging/` holds the image's tiles.
        decoders: the processes that decode its file.

    Returns:
        The image and all its tiles. Otherwise a result: without a record if a stop was requested or
        the run has to stop, with a failed record if the picture cannot be read.

    Raises:
        OSError: a tile cannot be written.
    """
    draft = large.draft
    if is_stop_requested(scratch):
        return UpscaledImage(draft.source, None)
    header = large.header
    plan = settings.rules.plan(header.width, header.height, frames=header.frames)
    stage_plan = plan.stages[0]
    key = _key(large, stage_plan, settings, scratch)
    try:
        picture, boxes = _cut(large, stage_plan, key, settings, scratch, decoders)
    except ImageError as error:
        return draft.failed(error)
    except BrokenProcessError as stop:
        return draft.postponed(stop)
    shape = Shape(
        stage_plan.output_width,
        stage_plan.output_height,
        picture.channels,
        picture.has_alpha,
        picture.dtype,
    )
    whole = draft.source
    # Only the fields that a tile needs, as each of perhaps thousands of tiles holds a copy.
    source = SourceImage(
        whole.input_id, uri=whole.uri, part=whole.part, web_access=whole.web_access
    )
    tiles = [
        LargeImageTile(
            source=source,
            key=key,
            index=index,
            place=place,
            stored_box=box,
            channels=picture.channels,
            has_alpha=picture.has_alpha,
            version=large.version,
            sha256=draft.source_sha256,
            booking=draft.booking,
        )
        for index, (place, box) in enumerate(zip(stage_plan.tiles, boxes, strict=True))
    ]
    return CutImage(draft, picture.metadata, key, shape, picture.notes), tiles


def _key(
    large: LargeImage, stage_plan: Plan, settings: PinnedSettings, scratch: DatasetFolder
) -> str:
    draft, stage = large.draft, settings.stages[0]
    boxes = [
        (*dataclasses.astuple(place.core), *dataclasses.astuple(place.extended))
        for place in stage_plan.tiles
    ]
    values = [draft.source.input_id, draft.source_sha256, boxes]
    # Earlier versions left the engine out: all images of an output have one.
    earlier = _hash_of(values)
    if any(True for _ in files.list_below(TileFolder.of(scratch, earlier).root)):
        return earlier
    return _hash_of([*values, stage.engine.name, pinned_to_json(stage.pinned)])


def _hash_of(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _cut(
    large: LargeImage,
    stage_plan: Plan,
    key: str,
    settings: PinnedSettings,
    scratch: DatasetFolder,
    decoders: DecoderPool,
) -> tuple[Picture, Sequence[Box | None]]:
    """Returns the picture, and the box that each tile's file holds (None: read from the input).

    Raises:
        ImageError: the picture cannot be read.
    """
    source, options = large.draft.source, settings.rules.options
    assert source.uri is not None
    guards: dict[str, Any] = {
        "max_pixels": options.max_input_pixels or NO_LIMIT,
        "animated": options.animated,
    }
    folder = TileFolder.of(scratch, key)
    folder.forget_failures(scratch)
    sha256 = large.draft.source_sha256
    with source.on_disk(sha256) as held:
        check_version(source, large.version, sha256)
        picture = decoders.read_picture(held.path, **guards)
        if picture.header != large.header:
            raise file_parts.changed(source.uri)
        if picture.by_region:
            return picture, [None] * len(stage_plan.tiles)
        keeps_alpha = picture.has_alpha and settings.rules.backend is Backend.GRPC
        boxes = [
            _with_margin(place, large.header.width, large.header.height)
            if keeps_alpha
            else place.extended
            for place in stage_plan.tiles
        ]
        missing = set(range(len(boxes))) - folder.done() - folder.cut()
        if missing:
            cutter = _Cutter({index: boxes[index] for index in missing}, folder, scratch)
            _read(held.path, cutter, decoders, guards, picture.has_alpha)
            check_version(source, large.version, sha256)
    return picture, boxes


def _with_margin(place: TilePlace, width: int, height: int) -> Box:
    """Returns a tile's extended box, grown to the margin that enlarging its alpha needs."""
    wide = TilePlace.around(place.core, _ALPHA_MARGIN, width, height).extended
    left, top = min(wide.left, place.extended.left), min(wide.top, place.extended.top)
    right = max(wide.right, place.extended.right)
    bottom = max(wide.bottom, place.extended.bottom)
    return Box(left, top, right - left, bottom - top)


def _read(
    path: Path,
    cutter: "_Cutter",
    decoders: DecoderPool,
    guards: Mapping[str, Any],
    has_alpha: bool,
) -> None:
    fill = BandedFill()

    def survey(_: Picture, bands: Iterator[Pixels]) -> None:
        for rows in bands:
            fill.survey(rows)

    def take(_: Picture, bands: Iterator[Pixels]) -> None:
        cutter.begin()
        for rows in fill.fill(bands) if has_alpha else bands:
            cutter.add(rows)

    if has_alpha:
        decoders.read_bands(path, BandedFill.BAND_ROWS, survey, **guards)
    decoders.read_bands(path, BandedFill.BAND_ROWS, take, **guards)


class _Cutter:
    """The writer that cuts rows into tiles; each tile is written once its last row has come.

    Args:
        boxes: the box of the picture that each tile's file holds, by the tile's index.
        folder: the folder of the image.
        scratch: the folder whose `.staging/` holds the image's tiles.
    """

    def __init__(
        self, boxes: Mapping[int, Box], folder: TileFolder, scratch: DatasetFolder
    ) -> None:
        self._boxes = boxes
        self._folder = folder
        self._scratch = scratch
        self.begin()

    def begin(self) -> None:
        """Starts again at the top row of the picture."""
        self._row = 0
        self._parts: dict[int, list[Pixels]] = {}
        self._left = sorted(self._boxes, key=lambda index: self._boxes[index].top, reverse=True)

    def add(self, rows: Pixels) -> None:
        """Adds the next rows, and writes the tiles that they complete."""
        bottom = self._row + len(rows)
        while self._left and self._boxes[self._left[-1]].top < bottom:
            self._parts[self._left.pop()] = []
        for index, parts in list(self._parts.items()):
            box = self._boxes[index]
            first, last = max(box.top, self._row) - self._row, min(box.bottom, bottom) - self._row
            # A copy: a view would keep all of the rows.
            parts.append(rows[first:last, box.left : box.right].copy())
            if box.bottom <= bottom:
                self._scratch.write(self._folder.tile(index), packed(self._parts.pop(index)))
        self._row = bottom
