"""The steps of one image from its bytes to its row.

`prepare` turns bytes into the tiles of the first engine. `advance` turns the results of an engine
into the tiles of the next one. `finish` turns the results of the last engine into encoded bytes and
a row. RunInference runs between them; an image without tiles passes through it.
"""

import dataclasses
import hashlib
import time

import numpy as np

from beam_upscale.dataset.book_entries import work_of
from beam_upscale.dataset.manifest.row import Row, Status, fitted
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images import resampling
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.values import DecodedImage, ImageHeader
from beam_upscale.inference.elements import TiledImage
from beam_upscale.pipeline.one_image.states import (
    Giant,
    Prepared,
    UpscaledImage,
    described,
    ended,
    failed,
    file_version,
    telemetry_of,
    without_tiles,
)
from beam_upscale.pipeline.one_image.tiles import tiled_image
from beam_upscale.pipeline.run_state.booking import ImageBooking, Limit
from beam_upscale.pipeline.run_state.resume import Asked, is_asked_alike
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.planning.chain import Backend, ChainPlan
from beam_upscale.sources.inputs.source_image import SourceImage

# Refusals by rules that may be others in a later run into the same output.
_REFUSALS_OF_SIZE = frozenset(
    {ErrorCode.TOO_MANY_PIXELS, ErrorCode.INPUT_TOO_LARGE, ErrorCode.OUTPUT_TOO_LARGE}
)


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
        **described(last, settings),
    )
    prepared = Prepared(dataclasses.replace(source, data=None), row, time.time())
    try:
        if source.earlier is not None and not _still_stands(source, source.earlier.row, settings):
            source = source.without_earlier()
            prepared = dataclasses.replace(prepared, source=prepared.source.without_earlier())
        if source.earlier is not None or source.postponed:
            return without_tiles(prepared, UpscaledImage(prepared.source, source.earlier))
        prepared = _with_parameters(prepared, settings)
        if (large := _large_header(source, settings, decoders)) is not None:
            return _giant(prepared, *large, settings)
        data = source.read(settings.rules.options.max_input_bytes)
        digest = source.data_sha256 or hashlib.sha256(data).hexdigest()
        prepared = _with_content(prepared, digest, settings)
        return _decode(data, header, prepared, settings, decoders)
    except Exception as error:
        return ended(prepared, error)


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
        return without_tiles(prepared, refusal)
    max_pixels = options.max_input_pixels or header.width * header.height
    try:
        decoded = decoders.decode(data, max_pixels=max_pixels, animated=options.animated)
        return _decoded(prepared, decoded, decision, settings)
    except Exception as error:
        # Handle it here, so that the row has what the header told.
        return ended(prepared, error)


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
        return without_tiles(prepared, refusal)
    error = ImageError(
        ErrorCode.NEEDS_FAN_OUT,
        f"the result is {decision.output_width} x {decision.output_height}; above --fan-out-above "
        "an image is spread over the workers, which only WriteDataset does: write with it, or "
        "leave the option out",
    )
    outcome = dataclasses.replace(failed(prepared, error), giant=Giant(prepared, header, version))
    return without_tiles(prepared, outcome)


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
        color = resampling.fill_transparent(color, alpha)
        alpha = alpha[:, :, np.newaxis]
    row = dataclasses.replace(prepared.row, notes=(*prepared.row.notes, *decoded.notes))
    prepared = dataclasses.replace(prepared, row=row, metadata=decoded.metadata)
    return tiled_image(prepared, color, alpha, settings)


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
