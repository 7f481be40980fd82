"""The steps of one image from its bytes to its row.

`prepare` turns bytes into the tiles of the first engine. `advance` turns the results of an engine
into the tiles of the next one. `finish` turns the results of the last engine into encoded bytes and
a row. RunInference runs between them; an image without tiles passes through it.
"""

import dataclasses
import hashlib
import os
import platform
import socket
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_upscale import image, locations, storage, tiling
from beam_upscale.booking import ImageBooking, Limit
from beam_upscale.books import work_of
from beam_upscale.chain import Backend, ChainPlan
from beam_upscale.dataset import Record, Telemetry
from beam_upscale.decoding import DecoderPool
from beam_upscale.errors import (
    FULL_DISK,
    BrokenProcessError,
    ErrorCode,
    ImageError,
    SettingsError,
    internal_error,
)
from beam_upscale.image import DecodedImage, Encoded, EncodeOptions, ImageHeader, Metadata
from beam_upscale.image.values import NO_METADATA
from beam_upscale.inference import Inference, Tile, TiledImage
from beam_upscale.listing import SourceImage
from beam_upscale.manifest import Row, Status, fitted, status_of
from beam_upscale.parameters import Parameters
from beam_upscale.plan import Action, Box, OutputFormat, Piece, Plan
from beam_upscale.resume import Asked, is_asked_alike
from beam_upscale.settings import PinnedSettings, Stage

Pixels = NDArray[np.uint8 | np.uint16]

# Refusals by rules that may be others in a later run into the same output.
_REFUSALS_OF_SIZE = frozenset(
    {ErrorCode.TOO_MANY_PIXELS, ErrorCode.INPUT_TOO_LARGE, ErrorCode.OUTPUT_TOO_LARGE}
)

INTERMEDIATE_FORMAT = OutputFormat.PNG
"""The format of results between engines: it keeps all sizes, depths and channels, without loss."""


@dataclasses.dataclass(frozen=True)
class UpscaledImage:
    """The result for one input: what `Upscale` gives.

    Attributes:
        source: the input.
        record: its row and telemetry; None if the run stopped before this input was done.
        data: the encoded image; None unless this run upscaled it.
        intermediates: the results between the engines of a chain, encoded, if they are kept.
        stop: the error for which the run must stop: a service refuses all calls, or this process
            cannot go on. None otherwise.
        giant: the large image that `WriteDataset` upscales tile by tile, over all workers; None for
            other images. `record` is the failure that applies without `WriteDataset`.
    """

    source: SourceImage
    record: Record | None
    data: bytes | None = None
    intermediates: tuple[bytes, ...] = ()
    stop: SettingsError | None = None
    giant: "Giant | None" = None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The state of an input while its tiles are with a network.

    Attributes:
        source: the input, without its bytes.
        row: its row as far as it is known.
        started_at: seconds since the epoch.
        outcome: the result, if there is nothing for a network to do; else None.
        plan: the decision of the rules; None until the input's size is known.
        parameters: of the engines that take a prompt; None if no engine does.
        metadata: of the input, for the output.
        stage: index of the engine that the tiles are for.
        has_alpha_tiles: True if the second half of the tiles is the alpha channel.
        alpha: (H, W, 1), the alpha channel if it is not among the tiles; None if there is none.
        done: details of the stages before this one, as the manifest has them.
        intermediates: the results of those stages, encoded, if they are kept.
        telemetry: of the stages before this one, without their pixels.
        timestamp: Beam's timestamp of the input's element; batches have others.
        booking: enters its paid calls in the books; None if none are made or no books are kept.
    """

    source: SourceImage
    row: Row
    started_at: float
    outcome: UpscaledImage | None = None
    plan: ChainPlan | None = None
    parameters: Parameters | None = None
    metadata: Metadata = NO_METADATA
    stage: int = 0
    has_alpha_tiles: bool = False
    alpha: Pixels | None = None
    done: tuple[Mapping[str, Any], ...] = ()
    intermediates: tuple[bytes, ...] = ()
    telemetry: Inference = dataclasses.field(default_factory=Inference)
    timestamp: Any = None
    booking: ImageBooking | None = None


@dataclasses.dataclass(frozen=True)
class Giant:
    """A large image, whose tiles are spread over the workers: all that is known but its pixels.

    Attributes:
        prepared: its state, without the plan: it follows from the header, and grows with the number
            of tiles.
        header: of its file.
        version: the result of `file_version` before its bytes were hashed.
    """

    prepared: Prepared
    header: ImageHeader
    version: tuple[object, ...]


def prepare(
    source: SourceImage,
    settings: PinnedSettings,
    decoders: DecoderPool,
    header: ImageHeader | None = None,
) -> TiledImage:
    """Turns an input into the tiles that its plan asks for.

    Args:
        source: the input.
        settings: of the run.
        decoders: the processes that decode its bytes.
        header: of its bytes, if it has been read before; None reads it.

    Returns:
        The tiles for the first engine, with a `Prepared` as context. There are no tiles if the
        input was done before, is postponed, skipped or refused, cannot be read or is a large image,
        or if no decoder can be started; `outcome` is then the result.
    """
    last = settings.stages[-1]
    if source.data is not None:
        source = dataclasses.replace(source, data_sha256=hashlib.sha256(source.data).hexdigest())
    row = Row(
        input_id=source.input_id,
        source_uri=source.source_uri,
        status=Status.UPSCALED,
        backend=str(settings.rules.backend),
        input=source.columns,
        **_described(last, settings),
    )
    prepared = Prepared(dataclasses.replace(source, data=None), row, time.time())
    try:
        if source.earlier is not None and not _still_stands(source, source.earlier.row, settings):
            source = source.without_earlier()
            prepared = dataclasses.replace(prepared, source=prepared.source.without_earlier())
        if source.earlier is not None or source.postponed:
            return _without_tiles(prepared, UpscaledImage(prepared.source, source.earlier))
        prepared = _with_parameters(prepared, settings)
        if (large := _large_header(source, settings, decoders)) is not None:
            return _giant(prepared, *large, settings)
        data = source.read(settings.rules.options.max_input_bytes)
        digest = source.data_sha256 or hashlib.sha256(data).hexdigest()
        prepared = _with_content(prepared, digest, settings)
        return _decode(data, header, prepared, settings, decoders)
    except Exception as error:
        return _ended(prepared, error)


def _still_stands(source: SourceImage, earlier: Row, settings: PinnedSettings) -> bool:
    """Checks whether an earlier row is still right, by the rules and by what has changed since.

    A user's own step of the pipeline may have replaced the bytes or the prompt that the earlier row
    was compared with.
    """
    if source.data_sha256 is not None and source.data_sha256 != earlier.source_sha256:
        return False
    rules = settings.rules
    is_changed = source.listed_as is not None and not source.is_as_listed
    asked = Asked(rules.parameters, rules.prompt_column)
    if rules.is_guided and is_changed and not is_asked_alike(source, earlier, asked):
        return False
    return not _is_ruled_otherwise(earlier, settings)


def _with_content(prepared: Prepared, sha256: str, settings: PinnedSettings) -> Prepared:
    """Adds the SHA-256 of the input's bytes, and the booking that depends on it."""
    row = dataclasses.replace(prepared.row, source_sha256=sha256)
    prepared = dataclasses.replace(prepared, row=row)
    source = prepared.source
    if source.books is None or settings.rules.backend is not Backend.GRPC:
        return prepared
    work, limit = work_of(sha256, prepared.parameters), None
    if source.claimed is not None:
        is_prepaid = source.prepaid is not None and source.prepaid.work == work
        limit = Limit(is_prepaid, source.spare_calls)
    booking = ImageBooking(source.books, source.input_id, work, limit)
    return dataclasses.replace(prepared, booking=booking)


def _is_ruled_otherwise(row: Row, settings: PinnedSettings) -> bool:
    """Checks whether the rules refused an image for its size, and decide otherwise now."""
    if row.error_code not in _REFUSALS_OF_SIZE or not row.input_width or not row.input_height:
        return False
    decision = settings.rules.plan(row.input_width, row.input_height)
    return (decision.error_code, decision.message) != (row.error_code, row.error_message)


def _described(stage: Stage, settings: PinnedSettings) -> dict[str, Any]:
    """Returns the columns of a row, or of a stage in it, that describe engine and network."""
    halo = settings.rules.options.halo
    return {
        "engine": stage.engine.name,
        **stage.model.description(),
        "halo": stage.engine.halo if halo is None else halo,
    }


def _with_parameters(prepared: Prepared, settings: PinnedSettings) -> Prepared:
    rules = settings.rules
    if not rules.is_guided:
        return prepared
    parameters = prepared.source.parameters(rules.parameters, rules.prompt_column)
    columns = dataclasses.asdict(parameters)
    row = dataclasses.replace(prepared.row, **{**columns, "seed": parameters.seed or None})
    return dataclasses.replace(prepared, row=row, parameters=parameters)


def _decode(
    data: bytes,
    header: ImageHeader | None,
    prepared: Prepared,
    settings: PinnedSettings,
    decoders: DecoderPool,
) -> TiledImage:
    options = settings.rules.options
    if prepared.parameters is not None:
        # Check only now: a later run tells by the parameters and the hash whether the row holds.
        settings.rules.check(prepared.parameters)
    header = header or decoders.read_header(data)
    decision = settings.rules.plan(header.width, header.height, frames=header.frames)
    prepared = dataclasses.replace(prepared, row=_with_header(prepared.row, header), plan=decision)
    if (refusal := _refusal(prepared, decision)) is not None:
        return _without_tiles(prepared, refusal)
    max_pixels = options.max_input_pixels or header.width * header.height
    try:
        decoded = decoders.decode(data, max_pixels=max_pixels, animated=options.animated)
        return _decoded(prepared, decoded, decision, settings)
    except Exception as error:
        # Handle it here, so that the row has what the header told.
        return _ended(prepared, error)


def _refusal(prepared: Prepared, decision: ChainPlan) -> UpscaledImage | None:
    """Returns the result if the rules or the budget leave nothing to do; else None."""
    if not decision.is_upscaled:
        return _decided(prepared, decision)
    # The image may have been priced while it could not be read, or before it was replaced.
    if not prepared.source.within_budget or _exceeds_claim(prepared, decision):
        return _over_budget(prepared, decision)
    return None


def _exceeds_claim(prepared: Prepared, decision: ChainPlan) -> bool:
    """Checks whether an image costs more than the budget sets aside for it."""
    claimed, prepaid = prepared.source.claimed, prepared.source.prepaid
    if claimed is None:
        return False
    limit = None if prepared.booking is None else prepared.booking.limit
    if prepaid is not None and limit is not None and limit.is_prepaid:
        claimed += prepaid.credits
    return decision.credits > claimed


def _large_header(
    source: SourceImage, settings: PinnedSettings, decoders: DecoderPool
) -> tuple[ImageHeader, str | None] | None:
    """Reads the header of a large image and the SHA-256 of its bytes; None for any other image.

    The hash is None if the bytes were not read as a whole. An image that is not in a file is in
    memory already, and gives None. So does an error, which shows again when the image is read.
    """
    above, uri = settings.fan_out_above, source.uri
    if above is None or uri is None or source.data is not None:
        return None
    least = above / settings.stages[0].engine.scale ** 2
    try:
        source.check_size(settings.rules.options.max_input_bytes)
        header = _early_header(source, decoders)
        if header is not None and header.width * header.height <= least:
            return None
        with source.on_disk() as held:
            header = decoders.read_file_header(held.path)
    except ImageError:
        return None
    return (header, held.sha256) if header.width * header.height > least else None


def _early_header(source: SourceImage, decoders: DecoderPool) -> ImageHeader | None:
    """Reads the header from a file's beginning; None if that is not enough.

    Raises:
        ImageError: the header cannot be read, whatever follows.
    """
    try:
        return decoders.read_header(source.read_start())
    except ImageError as error:
        if error.code is not ErrorCode.TRUNCATED:
            raise
        return None


def _giant(
    prepared: Prepared, header: ImageHeader, sha256: str | None, settings: PinnedSettings
) -> TiledImage:
    source = prepared.source
    version = file_version(source)
    prepared = _with_content(prepared, sha256 or source.sha256(), settings)
    decision = settings.rules.plan(header.width, header.height, frames=header.frames)
    prepared = dataclasses.replace(prepared, row=_with_header(prepared.row, header))
    if (refusal := _refusal(prepared, decision)) is not None:
        return _without_tiles(prepared, refusal)
    error = ImageError(
        ErrorCode.NEEDS_FAN_OUT,
        f"the result is {decision.output_width} x {decision.output_height}; above --fan-out-above "
        "an image is spread over the workers, which only WriteDataset does: write with it, or "
        "leave the option out",
    )
    outcome = dataclasses.replace(failed(prepared, error), giant=Giant(prepared, header, version))
    return _without_tiles(prepared, outcome)


def file_version(source: SourceImage) -> tuple[object, ...]:
    """Returns values that change when an input's own file is replaced; none for other inputs.

    An own file is one that is read in place. The first value is the machine's name, since machines
    may see different numbers of a file.
    """
    if source.uri is None or not locations.is_in_place(source.uri, source.part):
        return ()
    return platform.node(), *storage.version(source.uri)


def as_image_error(error: Exception) -> ImageError:
    """Converts an exception to the error of one image, so that the others of its bundle go on.

    Raises:
        SettingsError: the exception concerns all images.
        OSError: a disk is full, which is no image's fault: the run is to go on later.
    """
    if isinstance(error, ImageError):
        return error
    if isinstance(error, SettingsError):
        raise error
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        raise error
    if isinstance(error, MemoryError):
        return ImageError(ErrorCode.OUT_OF_MEMORY, "the image does not fit in memory")
    return internal_error(error)


def _with_header(row: Row, header: ImageHeader) -> Row:
    return fitted(
        dataclasses.replace(
            row,
            input_width=header.width,
            input_height=header.height,
            input_format=header.format,
            input_mode=header.mode,
        )
    )


def _decoded(
    prepared: Prepared, decoded: DecodedImage, decision: ChainPlan, settings: PinnedSettings
) -> TiledImage:
    color, alpha = decoded.color, decoded.alpha
    if color.shape[:2] != (decision.input_height, decision.input_width):
        found = f"{color.shape[1]} x {color.shape[0]}"
        claimed = f"{decision.input_width} x {decision.input_height}"
        raise ImageError(ErrorCode.CORRUPT, f"the header says {claimed}, the pixels are {found}")
    if alpha is not None:
        color = image.fill_transparent(color, alpha)
        alpha = alpha[:, :, np.newaxis]
    row = dataclasses.replace(prepared.row, notes=(*prepared.row.notes, *decoded.notes))
    prepared = dataclasses.replace(prepared, row=row, metadata=decoded.metadata)
    return _tiled(prepared, color, alpha, settings)


def _tiled(
    prepared: Prepared, color: Pixels, alpha: Pixels | None, settings: PinnedSettings
) -> TiledImage:
    """Returns the tiles of an image for the engine of its stage."""
    stage, decision = settings.stages[prepared.stage], _stage_plan(prepared)
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
            tiling.split(image.resize(plane, *size), decision.pieces),
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
    tile = Tile(image.resize(color, *size), Box(0, 0, *size), decision.pieces)
    row = dataclasses.replace(prepared.row, seed=parameters.seed)
    context = dataclasses.replace(prepared, row=row, has_alpha_tiles=False, alpha=alpha)
    identity, booking = identity_of(prepared), prepared.booking
    return TiledImage([tile], scale, parameters, context, identity, booking=booking)


def identity_of(prepared: Prepared) -> tuple[str, int]:
    """Returns the input's id and its stage, which identify the image's tiles in paid calls."""
    return prepared.source.input_id, prepared.stage


def _stage_plan(prepared: Prepared) -> Plan:
    assert prepared.plan is not None
    return prepared.plan.stages[prepared.stage]


def relative_core(piece: Piece) -> Box:
    """Returns a piece's core in the coordinates of its extended box."""
    return dataclasses.replace(
        piece.core,
        left=piece.core.left - piece.extended.left,
        top=piece.core.top - piece.extended.top,
    )


def _without_tiles(prepared: Prepared, outcome: UpscaledImage) -> TiledImage:
    return TiledImage([], 1, context=dataclasses.replace(prepared, outcome=outcome, alpha=None))


def _ended(prepared: Prepared, error: Exception) -> TiledImage:
    """Returns a failed input without tiles; it stays untried if the process is broken."""
    if isinstance(error, BrokenProcessError):
        return _without_tiles(prepared, _untried(prepared, error))
    return _without_tiles(prepared, failed(prepared, as_image_error(error)))


def failed(prepared: Prepared, error: ImageError) -> UpscaledImage:
    """Returns the result of an input that cannot be upscaled."""
    row = dataclasses.replace(
        prepared.row,
        status=status_of(error.code),
        error_code=str(error.code),
        error_message=error.message,
    )
    return UpscaledImage(prepared.source, Record(row, telemetry_of(prepared)))


def failed_at_stage(prepared: Prepared, error: ImageError) -> UpscaledImage:
    """Returns the result of an input that failed at an engine or after it, and names the stage."""
    assert prepared.plan is not None
    message = prepared.plan.at_stage(prepared.stage, error.message)
    return failed(prepared, ImageError(error.code, message))


def _decided(prepared: Prepared, decision: ChainPlan) -> UpscaledImage:
    if decision.error_code is not None:
        return failed(prepared, ImageError(decision.error_code, decision.message))
    notes = (*prepared.row.notes, decision.message)
    row = dataclasses.replace(prepared.row, status=Status.SKIPPED, notes=notes)
    return UpscaledImage(prepared.source, Record(row, telemetry_of(prepared)))


def _over_budget(prepared: Prepared, decision: ChainPlan) -> UpscaledImage:
    row = dataclasses.replace(
        prepared.row,
        status=Status.OVER_BUDGET,
        error_code=str(ErrorCode.OVER_BUDGET),
        error_message=f"{decision.credits} credits would exceed --max-credits",
    )
    return UpscaledImage(prepared.source, Record(row, telemetry_of(prepared)))


def telemetry_of(prepared: Prepared) -> Telemetry:
    """Returns the telemetry of an input so far."""
    inference = prepared.telemetry
    return Telemetry(
        device_seconds=inference.device_seconds,
        queue_seconds=inference.queue_seconds,
        attempts=inference.attempts,
        batch_size=inference.batch_size,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        started_at=prepared.started_at,
    )


def advance(tiled: TiledImage, inference: Inference, settings: PinnedSettings) -> TiledImage:
    """Turns the results of one engine of a chain into the tiles of the next.

    Args:
        tiled: the result of `prepare` or `advance`.
        inference: the network's results for its tiles.
        settings: of the run.
    """
    prepared: Prepared = tiled.context
    if prepared.outcome is not None:
        return tiled
    # Free the tiles: the caller holds the element until the next engine is done with this image.
    tiled.tiles.clear()
    prepared = with_inference(prepared, inference)
    if inference.stop is not None:
        return _without_tiles(prepared, _untried(prepared, inference.stop))
    if inference.error is not None:
        return _without_tiles(prepared, failed_at_stage(prepared, inference.error))
    try:
        color, alpha = _results(prepared, inference)
        details = _stage_details(prepared, settings, inference)
        if settings.keep_intermediates:
            options = EncodeOptions(INTERMEDIATE_FORMAT, metadata=settings.encode.metadata)
            kept = _encode(prepared, color, alpha, options).data
            prepared = dataclasses.replace(prepared, intermediates=(*prepared.intermediates, kept))
            details |= _stored(kept)
        following = dataclasses.replace(
            prepared, stage=prepared.stage + 1, done=(*prepared.done, details)
        )
        return _tiled(following, color, alpha, settings)
    except Exception as error:
        return _without_tiles(prepared, failed_at_stage(prepared, as_image_error(error)))


def finish(tiled: TiledImage, inference: Inference, settings: PinnedSettings) -> UpscaledImage:
    """Turns the results of the last engine into an encoded image and its row.

    Args:
        tiled: the result of `prepare` or `advance`.
        inference: the network's results for its tiles.
        settings: of the run.

    Returns:
        The result; a failed one where the network or the encoder failed.
    """
    prepared: Prepared = tiled.context
    if prepared.outcome is not None:
        return prepared.outcome
    tiled.tiles.clear()
    prepared = with_inference(prepared, inference)
    if inference.stop is not None:
        return _untried(prepared, inference.stop)
    if inference.error is not None:
        return failed_at_stage(prepared, inference.error)
    try:
        return _encoded(prepared, inference, settings)
    except Exception as error:
        return failed_at_stage(prepared, as_image_error(error))


def _untried(prepared: Prepared, stop: SettingsError) -> UpscaledImage:
    """Returns a result without a row, so that a later run upscales the input."""
    return UpscaledImage(prepared.source, None, stop=stop)


def with_inference(prepared: Prepared, inference: Inference) -> Prepared:
    """Adds a stage's notes, request ids, billed credits and telemetry."""
    before, row = prepared.telemetry, prepared.row
    telemetry = Inference(
        device_seconds=before.device_seconds + inference.device_seconds,
        queue_seconds=max(before.queue_seconds, inference.queue_seconds),
        batch_size=max(before.batch_size, inference.batch_size),
        attempts=max(before.attempts, inference.attempts),
    )
    row = dataclasses.replace(
        row,
        request_ids=(*row.request_ids, *inference.request_ids),
        billed_credits=row.billed_credits + inference.billed_credits,
    )
    return noted(dataclasses.replace(prepared, row=row, telemetry=telemetry), inference.notes)


def noted(prepared: Prepared, notes: tuple[str, ...]) -> Prepared:
    """Adds notes to the row, with their stage if there are several."""
    if not notes:
        return prepared
    assert prepared.plan is not None
    staged = tuple(prepared.plan.at_stage(prepared.stage, note) for note in notes)
    row = dataclasses.replace(prepared.row, notes=(*prepared.row.notes, *staged))
    return dataclasses.replace(prepared, row=row)


def _encoded(prepared: Prepared, inference: Inference, settings: PinnedSettings) -> UpscaledImage:
    decision = prepared.plan
    assert decision is not None
    encoded = _encode(prepared, *_results(prepared, inference), settings.encode)
    is_chain = len(settings.stages) > 1
    row = dataclasses.replace(
        with_output(prepared.row, decision, settings, encoded.notes),
        **_stored(encoded.data),
        stages=(*prepared.done, _stage_details(prepared, settings, inference)) if is_chain else (),
    )
    record = Record(row, telemetry_of(prepared))
    return UpscaledImage(prepared.source, record, encoded.data, prepared.intermediates)


def with_output(
    row: Row, decision: ChainPlan, settings: PinnedSettings, notes: tuple[str, ...]
) -> Row:
    """Returns the row of an image that was upscaled as planned, without its file's columns.

    Args:
        row: as far as it is known.
        decision: the plan.
        settings: of the run.
        notes: on how it was encoded.
    """
    return dataclasses.replace(
        row,
        notes=(*row.notes, *notes),
        output_width=decision.output_width,
        output_height=decision.output_height,
        output_format=str(settings.encode.format),
        calls=decision.calls,
        credits=decision.credits,
        usd=decision.usd,
    )


def _encode(
    prepared: Prepared, color: Pixels, alpha: Pixels | None, options: EncodeOptions
) -> Encoded:
    return image.encode(
        color,
        None if alpha is None else alpha[:, :, 0],
        metadata=prepared.metadata,
        options=options,
    )


def _stored(data: bytes) -> dict[str, Any]:
    """Returns the columns of a row, or of a stage in it, that identify an encoded image."""
    return {"output_bytes": len(data), "output_sha256": hashlib.sha256(data).hexdigest()}


def _results(prepared: Prepared, inference: Inference) -> tuple[Pixels, Pixels | None]:
    """Returns color and alpha, (H, W, C), at the stage's output size; None for no alpha."""
    decision = _stage_plan(prepared)
    size = decision.output_width, decision.output_height
    if prepared.has_alpha_tiles:
        color = image.resize(_stitched(inference.cores, decision), *size)
        return color, image.resize(_stitched(inference.cores, decision), *size)
    if len(inference.cores) == 1:
        color = image.resize(inference.cores.pop(), *size)
    else:
        color = image.resize(_stitched(inference.cores, decision), *size)
    alpha = prepared.alpha
    return color, None if alpha is None else image.resize(alpha, *size)


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


def _stage_details(
    prepared: Prepared, settings: PinnedSettings, inference: Inference
) -> dict[str, Any]:
    """Returns the manifest's columns for one stage of a chain."""
    stage, decision = settings.stages[prepared.stage], _stage_plan(prepared)
    return {
        **_described(stage, settings),
        "seed": prepared.row.seed if stage.engine.is_guided else None,
        "input_width": decision.input_width,
        "input_height": decision.input_height,
        "output_width": decision.output_width,
        "output_height": decision.output_height,
        "calls": decision.calls,
        "credits": decision.credits,
        "request_ids": list(inference.request_ids),
    }


def plan_notes(decision: Plan) -> tuple[str, ...]:
    """Returns the row's notes on how an image was fitted to an engine: tiled or shrunk."""
    if decision.action is Action.TILE:
        return (f"upscaled in {decision.calls} pieces",)
    if decision.action is Action.SHRINK:
        return (f"shrunk to {decision.work_width} x {decision.work_height} before upscaling",)
    return ()
