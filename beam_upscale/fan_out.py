"""The steps for a large image, whose tiles are spread over the workers.

`cut` reads the picture from top to bottom, once, and writes each tile to a file that any worker can
read; if the format lets a region be read, it writes nothing. `read_tile` gives a tile to the
network as the ordinary path would, `keep` persists the tile's result, and `assemble` writes the
image from the results row by row. The files lie in the run's staging folder:

    giants/<key>/tiles/<index>      a tile's input pixels, until its result is persisted
    giants/<key>/results/<index>    a tile's result
    giants/<key>/failures/<index>   a tile's error, and what its calls cost
    giants/<key>/failed             exists once a tile has failed, so that no other tile is begun

The key is a hash of the input's id, its bytes and its tile layout. So files that an interrupted run
left are used again, but never those of another file.
"""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from beam_upscale import image, locations, storage
from beam_upscale.booking import ImageBooking
from beam_upscale.chain import Backend, ChainPlan
from beam_upscale.control import is_stopped, request_stop
from beam_upscale.dataset import DatasetFolder, Record
from beam_upscale.decoding import DecoderPool
from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError, SettingsError
from beam_upscale.image import Pixels
from beam_upscale.image.regions import Picture
from beam_upscale.image.resampling import BandedFill
from beam_upscale.image.streaming import Shape, encode_rows
from beam_upscale.inference import Inference, Tile, TiledImage
from beam_upscale.layout import Box, Piece
from beam_upscale.listing import SourceImage
from beam_upscale.manifest import Row
from beam_upscale.plan import Plan
from beam_upscale.settings import PinnedSettings
from beam_upscale.stages import (
    Giant,
    Prepared,
    UpscaledImage,
    as_image_error,
    failed,
    failed_at_stage,
    file_version,
    noted,
    plan_notes,
    relative_core,
    telemetry_of,
    with_inference,
    with_output,
)
from beam_upscale.tile_files import TileFile, in_parts, packed

# Input pixels around a core that enlarging its alpha needs: Lanczos reaches three.
_ALPHA_MARGIN = 4

# Rows of the result that are assembled at a time.
_ROWS = 128

_COPIED_BYTES = 1 << 20

# The limit on input pixels if none is set.
_NO_LIMIT = 1 << 62


@dataclasses.dataclass(frozen=True)
class CutImage:
    """A large image whose tiles can be read.

    Attributes:
        prepared: the image's row and metadata, without its plan.
        key: the name of its folder below `giants/`.
        shape: the shape of the result.
    """

    prepared: Prepared
    key: str
    shape: Shape


@dataclasses.dataclass(frozen=True)
class GiantTile:
    """A tile of a large image, without its pixels.

    Attributes:
        source: the input, with only the fields that reading the tile needs.
        key: the image's `CutImage.key`.
        index: the tile's position in the plan.
        piece: the tile's core and its extended box, in input pixels.
        stored: the box of the picture in the tile's file; None if it is read from the input.
        channels: the number of color channels.
        has_alpha: True if alpha follows the color in the tile's file.
        version: the input's `file_version` from before it was hashed.
        sha256: the SHA-256 of the input; None if unknown.
        booking: books the paid call for the tile; None if nothing is paid.
    """

    source: SourceImage
    key: str
    index: int
    piece: Piece
    stored: Box | None
    channels: int
    has_alpha: bool
    version: tuple[object, ...]
    sha256: str | None
    booking: ImageBooking | None = None


@dataclasses.dataclass(frozen=True)
class TileResult:
    """The outcome of a tile, without its pixels.

    Attributes:
        index: the tile's position in the plan.
        inference: the network's outcome, without cores; None if the tile was not begun.
    """

    index: int
    inference: Inference | None


@dataclasses.dataclass(frozen=True)
class _WithNetwork:
    """The context that `read_tile` passes to `keep` around the network.

    Attributes:
        tile: the tile.
        result: the outcome, if there is nothing for the network to do.
        alpha: (h, w, 1), the alpha of the stored box, if the network does not upscale alpha.
    """

    tile: GiantTile
    result: TileResult | None = None
    alpha: Pixels | None = None


@dataclasses.dataclass(frozen=True)
class _Folder:
    """The staging folder of one large image, with the paths of its tiles' files."""

    root: str

    @classmethod
    def of(cls, dataset: DatasetFolder, key: str) -> "_Folder":
        return cls(storage.join(dataset.staging, "giants", key))

    @property
    def failed(self) -> str:
        return storage.join(self.root, "failed")

    def tile(self, index: int) -> str:
        return storage.join(self.root, "tiles", f"{index:06d}")

    def result(self, index: int) -> str:
        return storage.join(self.root, "results", f"{index:06d}")

    def failure(self, index: int) -> str:
        return storage.join(self.root, "failures", f"{index:06d}")

    def forget_failures(self, dataset: DatasetFolder) -> None:
        dataset.delete(self.failed)
        for index in _numbers(storage.join(self.root, "failures")):
            dataset.delete(self.failure(index))

    def done(self) -> set[int]:
        """Lists the indices of the tiles whose results are persisted."""
        return _numbers(storage.join(self.root, "results"))

    def cut(self) -> set[int]:
        """Lists the indices of the tiles whose input pixels are written."""
        return _numbers(storage.join(self.root, "tiles"))


def _numbers(folder: str) -> set[int]:
    return {int(entry.name) for entry in storage.list_below(folder) if entry.name.isdigit()}


def cut(
    giant: Giant, settings: PinnedSettings, dataset: DatasetFolder, decoders: DecoderPool
) -> tuple[CutImage, list[GiantTile]] | UpscaledImage:
    """Makes the tiles of a large image readable one by one.

    Tiles that an interrupted run has written are not written again.

    Args:
        giant: the large image.
        settings: the settings of the run.
        dataset: the output.
        decoders: the processes that decode its file.

    Returns:
        The image and all its tiles. Otherwise a result: without a record if a stop was requested or
        the run has to stop, with a failed record if the picture cannot be read.

    Raises:
        OSError: a tile cannot be written.
    """
    prepared = giant.prepared
    if _is_to_stop(dataset):
        return UpscaledImage(prepared.source, None)
    plan = _chain_plan(giant.header.width, giant.header.height, giant.header.frames, settings)
    decision = plan.stages[0]
    try:
        picture, stored = _cut(giant, decision, settings, dataset, decoders)
    except ImageError as error:
        return failed(prepared, error)
    except BrokenProcessError as stop:
        return UpscaledImage(prepared.source, None, stop=stop)
    row = dataclasses.replace(prepared.row, notes=picture.notes)
    prepared = dataclasses.replace(prepared, row=row, metadata=picture.metadata)
    key = _key(giant, decision)
    shape = Shape(
        decision.output_width,
        decision.output_height,
        picture.channels,
        picture.has_alpha,
        picture.dtype,
    )
    found = prepared.source
    # Only the fields that a tile needs, as each of perhaps thousands of tiles holds a copy.
    source = SourceImage(
        found.input_id, uri=found.uri, part=found.part, web_access=found.web_access
    )
    tiles = [
        GiantTile(
            source=source,
            key=key,
            index=index,
            piece=piece,
            stored=box,
            channels=picture.channels,
            has_alpha=picture.has_alpha,
            version=giant.version,
            sha256=giant.prepared.row.source_sha256,
            booking=prepared.booking,
        )
        for index, (piece, box) in enumerate(zip(decision.pieces, stored, strict=True))
    ]
    return CutImage(prepared, key, shape), tiles


def _chain_plan(width: int, height: int, frames: int, settings: PinnedSettings) -> ChainPlan:
    return settings.rules.plan(width, height, frames=frames)


def _key(giant: Giant, decision: Plan) -> str:
    row = giant.prepared.row
    boxes = [
        (*dataclasses.astuple(piece.core), *dataclasses.astuple(piece.extended))
        for piece in decision.pieces
    ]
    text = json.dumps([row.input_id, row.source_sha256, boxes])
    return hashlib.sha256(text.encode()).hexdigest()


def _cut(
    giant: Giant,
    decision: Plan,
    settings: PinnedSettings,
    dataset: DatasetFolder,
    decoders: DecoderPool,
) -> tuple[Picture, Sequence[Box | None]]:
    """Returns the picture, and the box that each tile's file holds (None: read from the input).

    Raises:
        ImageError: the picture cannot be read.
    """
    source, options = giant.prepared.source, settings.rules.options
    assert source.uri is not None
    guards: dict[str, Any] = {
        "max_pixels": options.max_input_pixels or _NO_LIMIT,
        "animated": options.animated,
    }
    folder = _Folder.of(dataset, _key(giant, decision))
    folder.forget_failures(dataset)
    sha256 = giant.prepared.row.source_sha256
    with source.on_disk(sha256) as held:
        _check_version(source, giant.version, sha256)
        picture = decoders.read_picture(held.path, **guards)
        if picture.header != giant.header:
            raise locations.changed(source.uri)
        if picture.by_region:
            return picture, [None] * len(decision.pieces)
        keeps_alpha = picture.has_alpha and settings.rules.backend is Backend.GRPC
        boxes = [
            _with_margin(piece, giant.header.width, giant.header.height)
            if keeps_alpha
            else piece.extended
            for piece in decision.pieces
        ]
        missing = set(range(len(boxes))) - folder.done() - folder.cut()
        if missing:
            cutter = _Cutter({index: boxes[index] for index in missing}, folder, dataset)
            _read(held.path, cutter, decoders, guards, picture.has_alpha)
            _check_version(source, giant.version, sha256)
    return picture, boxes


def _with_margin(piece: Piece, width: int, height: int) -> Box:
    """Returns a tile's extended box, grown to the margin that enlarging its alpha needs."""
    wide = Piece.around(piece.core, _ALPHA_MARGIN, width, height).extended
    left, top = min(wide.left, piece.extended.left), min(wide.top, piece.extended.top)
    right = max(wide.right, piece.extended.right)
    bottom = max(wide.bottom, piece.extended.bottom)
    return Box(left, top, right - left, bottom - top)


def _check_version(source: SourceImage, version: tuple[object, ...], sha256: str | None) -> None:
    """Raises if the input's file has changed since it was hashed.

    Raises:
        ImageError: READ_ERROR.
    """
    found = file_version(source)
    if found == version:
        return
    is_same_machine = found[:1] == version[:1]
    # Another machine may see other inode numbers, and a changed mode or link is no new content.
    if found[1:3] != version[1:3] or (is_same_machine and source.sha256() != sha256):
        raise locations.changed(source.uri or source.input_id)


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
        dataset: the output.
    """

    def __init__(self, boxes: Mapping[int, Box], folder: _Folder, dataset: DatasetFolder) -> None:
        self._boxes = boxes
        self._folder = folder
        self._dataset = dataset
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
                self._dataset.write(self._folder.tile(index), packed(self._parts.pop(index)))
        self._row = bottom


def read_tile(
    tile: GiantTile, settings: PinnedSettings, dataset: DatasetFolder, decoders: DecoderPool
) -> TiledImage:
    """Gives a tile to the network as the ordinary path would.

    Args:
        tile: the tile.
        settings: the settings of the run.
        dataset: the output.
        decoders: the processes that decode the input, if the tile is read from it.

    Returns:
        An image of that tile alone, for `keep`; it has no tiles if the network has nothing to do.
    """
    folder = _Folder.of(dataset, tile.key)
    done = _done(tile, folder)
    if done is not None:
        return _without_tiles(tile, done)
    if storage.exists(folder.failed):
        return _without_tiles(tile, TileResult(tile.index, _failure(tile, folder)))
    if _is_to_stop(dataset):
        return _without_tiles(tile, TileResult(tile.index, None))
    try:
        color, alpha = _tile_pixels(tile, settings, folder, decoders)
    except FileNotFoundError:
        # Another worker with the same tile has finished it meanwhile.
        done = _done(tile, folder)
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
    core = relative_core(tile.piece)
    has_alpha_tile = alpha is not None and settings.rules.backend is Backend.LOCAL
    extended = _part(color, tile, tile.piece.extended)
    tiles = [Tile(extended, core)]
    context = _WithNetwork(tile)
    if alpha is not None and has_alpha_tile:
        tiles.append(Tile(_part(alpha, tile, tile.piece.extended), core))
    elif alpha is not None:
        context = dataclasses.replace(context, alpha=alpha)
    scale = settings.stages[0].engine.scale
    identity = tile.source.input_id, 0
    return TiledImage(
        tiles, scale, context=context, identity=identity, first=tile.index, booking=tile.booking
    )


def _failure(tile: GiantTile, folder: _Folder) -> Inference | None:
    """Reads the persisted failure of a tile; None if this tile has none.

    The attempt that failed, and was charged, may have been lost before it returned its result.
    """
    uri = folder.failure(tile.index)
    if not storage.exists(uri):
        return None
    told = json.loads(storage.read(uri))
    error = ImageError(ErrorCode(told["code"]), told["message"])
    return dataclasses.replace(_inference(told["values"]), error=error)


def _is_to_stop(dataset: DatasetFolder) -> bool:
    return is_stopped(dataset) or storage.exists(dataset.stop_file)


def _without_tiles(tile: GiantTile, result: TileResult) -> TiledImage:
    return TiledImage([], 1, context=_WithNetwork(tile, result))


def _done(tile: GiantTile, folder: _Folder) -> TileResult | None:
    """Reads the persisted result of an earlier attempt at a tile; None if there is none."""
    uri = folder.result(tile.index)
    if not storage.exists(uri):
        return None
    return TileResult(tile.index, _inference(TileFile(uri).values))


def _tile_pixels(
    tile: GiantTile, settings: PinnedSettings, folder: _Folder, decoders: DecoderPool
) -> tuple[Pixels, Pixels | None]:
    """Reads color and alpha, (h, w, C), of a tile's stored box, or of its extended box."""
    if tile.stored is not None:
        pixels = TileFile(folder.tile(tile.index)).pixels()
        color = np.ascontiguousarray(pixels[..., : tile.channels])
        return color, np.ascontiguousarray(pixels[..., -1:]) if tile.has_alpha else None
    source, options = tile.source, settings.rules.options
    assert source.uri is not None
    _check_version(source, tile.version, tile.sha256)
    with source.on_disk(tile.sha256) as held:
        _, color = decoders.read_region(
            held.path,
            tile.piece.extended,
            max_pixels=options.max_input_pixels or _NO_LIMIT,
            animated=options.animated,
        )
    _check_version(source, tile.version, tile.sha256)
    return color, None


def _part(pixels: Pixels, tile: GiantTile, box: Box) -> Pixels:
    """Crops the pixels of a tile's stored or extended box to a box inside it."""
    held = tile.stored or tile.piece.extended
    if held == box:
        return pixels
    top, left = box.top - held.top, box.left - held.left
    return np.ascontiguousarray(pixels[top : top + box.height, left : left + box.width])


def keep(tiled: TiledImage, inference: Inference, dataset: DatasetFolder) -> TileResult:
    """Persists the network's result for a tile, or its failure.

    Args:
        tiled: the image that `read_tile` returned; its tiles are cleared.
        inference: the network's outcome for it.
        dataset: the output.

    Raises:
        OSError: the result cannot be written.
    """
    held: _WithNetwork = tiled.context
    tile, folder = held.tile, _Folder.of(dataset, held.tile.key)
    if held.result is not None:
        if held.result.inference is not None:
            _stop_run(held.result.inference.stop, dataset)
        _tell_of_failure(tile.index, held.result.inference, folder, dataset)
        return held.result
    tiled.tiles.clear()
    _stop_run(inference.stop, dataset)
    _tell_of_failure(tile.index, inference, folder, dataset)
    if inference.stop is None and inference.error is None:
        planes = list(inference.cores)
        if held.alpha is not None:
            planes.append(_enlarged_alpha(held.alpha, tile, tiled.scale))
        result = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        data = packed(in_parts(result), _values(inference))
        dataset.write(folder.result(tile.index), data)
        if tile.stored is not None:
            dataset.delete(folder.tile(tile.index))
    return TileResult(tile.index, dataclasses.replace(inference, cores=[]))


def _stop_run(stop: SettingsError | None, dataset: DatasetFolder) -> None:
    if stop is not None and not is_stopped(dataset):
        request_stop(dataset, str(stop))


def _tell_of_failure(
    index: int, inference: Inference | None, folder: _Folder, dataset: DatasetFolder
) -> None:
    """Persists a tile's failure, so that no other tile of the lost image is paid for."""
    if inference is None or inference.error is None:
        return
    error, values = inference.error, _values(inference)
    told = {"code": str(error.code), "message": error.message, "values": values}
    dataset.write(folder.failure(index), json.dumps(told).encode())
    # Written last, so that a worker that finds it finds the reason too.
    dataset.write(folder.failed, str(index).encode())


def _enlarged_alpha(alpha: Pixels, tile: GiantTile, scale: int) -> Pixels:
    """Enlarges the alpha of a core exactly as that of the whole image would be.

    If the factor is a power of two, each sample is the same sum, wherever the picture begins.
    """
    assert tile.stored is not None
    height, width = alpha.shape[:2]
    enlarged = image.resize(alpha, width * scale, height * scale)
    core = tile.piece.core
    top, left = (core.top - tile.stored.top) * scale, (core.left - tile.stored.left) * scale
    return enlarged[top : top + core.height * scale, left : left + core.width * scale]


def _values(inference: Inference) -> dict[str, Any]:
    """Converts an inference to plain JSON, without its cores, its error and its stop."""
    return {
        "notes": list(inference.notes),
        "device_seconds": inference.device_seconds,
        "queue_seconds": inference.queue_seconds,
        "batch_size": inference.batch_size,
        "request_ids": list(inference.request_ids),
        "billed_credits": str(inference.billed_credits),
        "attempts": inference.attempts,
    }


def _inference(values: Mapping[str, Any]) -> Inference:
    """Creates an inference from the values that `_values` gave."""
    return Inference(
        **{
            **values,
            "notes": tuple(values["notes"]),
            "request_ids": tuple(values["request_ids"]),
            "billed_credits": Decimal(values["billed_credits"]),
        }
    )


def assemble(
    cut_image: CutImage,
    results: Sequence[TileResult],
    settings: PinnedSettings,
    dataset: DatasetFolder,
    place: Callable[[SourceImage, Row], str],
) -> UpscaledImage:
    """Writes a large image's result, if all its tiles succeeded, and creates its row.

    Args:
        cut_image: the large image.
        results: the outcomes of its tiles, in any order; a tile may come twice.
        settings: the settings of the run.
        dataset: the output.
        place: gives the path of a result's image, relative to the dataset's root.

    Returns:
        The result, without its bytes: they are published already. It has no record if a tile was
        not begun or the run has to stop.

    Raises:
        OSError: the image cannot be written.
    """
    prepared = cut_image.prepared
    assert prepared.row.input_width is not None and prepared.row.input_height is not None
    # The number of frames was checked when the image was cut; it does not matter here.
    plan = _chain_plan(prepared.row.input_width, prepared.row.input_height, 1, settings)
    decision = plan.stages[0]
    by_index = {result.index: result.inference for result in results}
    inferences = [by_index.get(index) for index in range(len(decision.pieces))]
    stops = [each.stop for each in inferences if each is not None and each.stop is not None]
    prepared = noted(dataclasses.replace(prepared, plan=plan), plan_notes(decision))
    whole = _together([each for each in inferences if each is not None])
    if whole.error is not None:
        return failed_at_stage(with_inference(prepared, whole), whole.error)
    if stops or None in inferences:
        stop = stops[0] if stops else None
        return UpscaledImage(prepared.source, None, stop=stop)
    prepared = with_inference(prepared, whole)
    try:
        return _assembled(cut_image, prepared, plan, settings, dataset, place)
    except ImageError as error:
        return failed_at_stage(prepared, error)


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
    prepared: Prepared,
    plan: ChainPlan,
    settings: PinnedSettings,
    dataset: DatasetFolder,
    place: Callable[[SourceImage, Row], str],
) -> UpscaledImage:
    shape = cut_image.shape
    rows = _rows(plan.stages[0], shape, _Folder.of(dataset, cut_image.key))
    with tempfile.TemporaryDirectory(prefix="beam-upscale-") as folder:
        path = Path(folder) / "result"
        notes = encode_rows(
            path,
            rows,
            shape,
            metadata=prepared.metadata,
            options=settings.encode,
        )
        row = with_output(prepared.row, plan, settings, notes)
        row = dataclasses.replace(row, output_uri=place(prepared.source, row))
        size, digest = _publish(path, dataset.resolve(row.output_uri or ""), dataset)
    row = dataclasses.replace(row, output_bytes=size, output_sha256=digest)
    return UpscaledImage(prepared.source, Record(row, telemetry_of(prepared)))


def _rows(decision: Plan, shape: Shape, folder: _Folder) -> Iterator[Pixels]:
    """Yields the rows of the result from top to bottom; reads only these rows of each tile."""
    scale = decision.engine_width // decision.work_width
    tops = [piece.core.top for piece in decision.pieces]
    left = sorted(range(len(tops)), key=tops.__getitem__, reverse=True)
    open_tiles: dict[int, TileFile] = {}
    for top in range(0, shape.height, _ROWS):
        bottom = min(top + _ROWS, shape.height)
        while left and tops[left[-1]] * scale < bottom:
            index = left.pop()
            open_tiles[index] = TileFile(folder.result(index))
        rows: Pixels = np.empty((bottom - top, shape.width, shape.bands), shape.dtype)
        for index, tile in list(open_tiles.items()):
            core = decision.pieces[index].core
            first, last = max(core.top * scale, top), min(core.bottom * scale, bottom)
            rows[first - top : last - top, core.left * scale : core.right * scale] = tile.rows(
                first - core.top * scale, last - core.top * scale
            )
            if core.bottom * scale <= bottom:
                del open_tiles[index]
        yield rows


def _publish(path: Path, uri: str, dataset: DatasetFolder) -> tuple[int, str]:
    """Publishes a local file at a URI; returns its size in bytes and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source, dataset.publish(uri) as target:
        while data := source.read(_COPIED_BYTES):
            digest.update(data)
            target.write(data)
            size += len(data)
    return size, digest.hexdigest()
