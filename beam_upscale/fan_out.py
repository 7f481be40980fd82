"""What happens to a giant: an image whose tiles are spread over the workers.

`cut` has its picture read from top to bottom, once, and puts each tile where any worker finds it;
where the format lets a region be read, it leaves the picture where it is. `read_tile` gives a tile
to the network as the ordinary path would, `keep` makes its result durable, and `assemble` writes
the image from them row by row. All lie in the run's staging folder:

    giants/<key>/tiles/<index>      a tile as the network is to see it, until it is done
    giants/<key>/results/<index>    what the network made of it
    giants/<key>/failures/<index>   what a network said of one that failed, and what that cost
    giants/<key>/failed             where one of them failed, so that no further one is begun

The key tells the input, its bytes and how it is cut: what an interrupted run left is used, and what
was left of another file is not.
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

# Pixels around a core from which its alpha is enlarged: Lanczos reaches three.
_ALPHA_MARGIN = 4

# Rows of the result that are put together at a time.
_ROWS = 128

_COPIED_BYTES = 1 << 20

# Pixels of an input, where no guard is set.
_NO_LIMIT = 1 << 62


@dataclasses.dataclass(frozen=True)
class CutImage:
    """A giant whose tiles can be read.

    Attributes:
        prepared: its row, and what its file holds besides pixels. Without the plan.
        key: names its folder.
        shape: of the result.
    """

    prepared: Prepared
    key: str
    shape: Shape


@dataclasses.dataclass(frozen=True)
class GiantTile:
    """A tile of a giant, without its pixels.

    Attributes:
        source: the input, as far as its tile is read from it.
        key: of the giant.
        index: among its tiles.
        piece: where it lies.
        stored: the part of the picture that its file holds; None where it is read from the input.
        channels: of the color.
        has_alpha: whether alpha follows the color in its file.
        version: of the input when it was looked at, as of `file_version`.
        sha256: of the input.
        booking: puts a paid call for it into the books.
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
    """What became of a tile, without its pixels.

    Attributes:
        index: among the giant's tiles.
        inference: what the network said of it; None where it was not begun.
    """

    index: int
    inference: Inference | None


@dataclasses.dataclass(frozen=True)
class _WithNetwork:
    """What `keep` needs of a tile that is with a network.

    Attributes:
        tile: the tile.
        result: what became of it, where there is nothing for a network to do.
        alpha: (h, w, 1), of the core and the margin around it, where the network has none.
    """

    tile: GiantTile
    result: TileResult | None = None
    alpha: Pixels | None = None


@dataclasses.dataclass(frozen=True)
class _Folder:
    """The places of one giant's tiles."""

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
        """The tiles whose results are there."""
        return _numbers(storage.join(self.root, "results"))

    def cut(self) -> set[int]:
        """The tiles whose files are there."""
        return _numbers(storage.join(self.root, "tiles"))


def _numbers(folder: str) -> set[int]:
    return {int(entry.name) for entry in storage.list_below(folder) if entry.name.isdigit()}


def cut(
    giant: Giant, settings: PinnedSettings, dataset: DatasetFolder, decoders: DecoderPool
) -> tuple[CutImage, list[GiantTile]] | UpscaledImage:
    """Makes the tiles of a giant readable one by one.

    What an interrupted run cut is not cut again.

    Args:
        giant: the image.
        settings: of the run.
        dataset: the output.
        decoders: where its file is decoded.

    Returns:
        The image and all its tiles; or its result, which has no record where the run was asked to
        stop before its turn or has to stop, and else a failed one.

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
    # What else it has is the image's, and is not needed a thousand times.
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
    """The picture, and what of it the file of each tile holds.

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
    """A piece's extended box, or more where its halo is less than enlarging alpha needs."""
    wide = Piece.around(piece.core, _ALPHA_MARGIN, width, height).extended
    left, top = min(wide.left, piece.extended.left), min(wide.top, piece.extended.top)
    right = max(wide.right, piece.extended.right)
    bottom = max(wide.bottom, piece.extended.bottom)
    return Box(left, top, right - left, bottom - top)


def _check_version(source: SourceImage, version: tuple[object, ...], sha256: str | None) -> None:
    """Raises where an input's own file is no longer the one that was hashed.

    Raises:
        ImageError: READ_ERROR.
    """
    found = file_version(source)
    if found == version:
        return
    is_same_machine = found[:1] == version[:1]
    # Another machine sees other numbers of the same file, and its mode or a link may have changed.
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
    """Cuts rows, as they come, into tiles; each is written once its last row is there.

    Args:
        boxes: what of the picture goes into the file of each tile, by index.
        folder: where the files go.
        dataset: the output.
    """

    def __init__(self, boxes: Mapping[int, Box], folder: _Folder, dataset: DatasetFolder) -> None:
        self._boxes = boxes
        self._folder = folder
        self._dataset = dataset
        self.begin()

    def begin(self) -> None:
        """Looks for rows from the top."""
        self._row = 0
        self._parts: dict[int, list[Pixels]] = {}
        self._left = sorted(self._boxes, key=lambda index: self._boxes[index].top, reverse=True)

    def add(self, rows: Pixels) -> None:
        """Takes the next rows."""
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
        settings: of the run.
        dataset: the output.
        decoders: where the input is decoded, if its tile is read from it.

    Returns:
        An image of that tile alone, for `keep`; without tiles where there is nothing to do.
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
        # Whoever else was given this tile has done it meanwhile.
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
    """What this tile failed with, where it is among those whose failure lost the image.

    Whoever failed with it, and paid for it, may have been lost before telling.
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
    """What an earlier attempt made of a tile."""
    uri = folder.result(tile.index)
    if not storage.exists(uri):
        return None
    return TileResult(tile.index, _inference(TileFile(uri).values))


def _tile_pixels(
    tile: GiantTile, settings: PinnedSettings, folder: _Folder, decoders: DecoderPool
) -> tuple[Pixels, Pixels | None]:
    """Color and alpha, (h, w, C), of what is stored of a tile, or of its extended box."""
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
    """A part of what is stored of a tile."""
    held = tile.stored or tile.piece.extended
    if held == box:
        return pixels
    top, left = box.top - held.top, box.left - held.left
    return np.ascontiguousarray(pixels[top : top + box.height, left : left + box.width])


def keep(tiled: TiledImage, inference: Inference, dataset: DatasetFolder) -> TileResult:
    """Makes what a network made of a tile durable.

    Args:
        tiled: what `read_tile` gave.
        inference: what the network made of it.
        dataset: the output.

    Raises:
        OSError: it cannot be written.
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
    """A paid call for a further tile of an image that is lost would be for nothing."""
    if inference is None or inference.error is None:
        return
    error, values = inference.error, _values(inference)
    told = {"code": str(error.code), "message": error.message, "values": values}
    dataset.write(folder.failure(index), json.dumps(told).encode())
    # Last: who finds it is to find why.
    dataset.write(folder.failed, str(index).encode())


def _enlarged_alpha(alpha: Pixels, tile: GiantTile, scale: int) -> Pixels:
    """The alpha of a core as that of the whole image would be enlarged.

    Where the factor is a power of two, each result is the same sum wherever the picture begins.
    """
    assert tile.stored is not None
    height, width = alpha.shape[:2]
    enlarged = image.resize(alpha, width * scale, height * scale)
    core = tile.piece.core
    top, left = (core.top - tile.stored.top) * scale, (core.left - tile.stored.left) * scale
    return enlarged[top : top + core.height * scale, left : left + core.width * scale]


def _values(inference: Inference) -> dict[str, Any]:
    """What an inference says besides its cores and what ended it, as plain JSON."""
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
    """The inverse of `_values`."""
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
    """Writes a giant's result, where all its tiles are done, and its row.

    Args:
        cut_image: the giant.
        results: what became of each of its tiles, in any order; some may come twice.
        settings: of the run.
        dataset: the output.
        place: where a result's image stands, relative to the dataset's root.

    Returns:
        The result, without its bytes: they are in place.

    Raises:
        OSError: the image cannot be written.
    """
    prepared = cut_image.prepared
    assert prepared.row.input_width is not None and prepared.row.input_height is not None
    # Frames have been looked at: here they decide nothing.
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
    """What became of all tiles, as if they had been with the network together."""
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
    """The result from top to bottom; of each tile, the rows that are due are read."""
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
    """Puts a local file in place; returns its size in bytes and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source, dataset.publish(uri) as target:
        while data := source.read(_COPIED_BYTES):
            digest.update(data)
            target.write(data)
            size += len(data)
    return size, digest.hexdigest()
