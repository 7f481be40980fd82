"""Turns an input into the tiles of its first engine, or into its result if none are needed.

`prepare` turns bytes into the tiles of the first engine. `advance` turns the results of an engine
into the tiles of the next one. `finish` turns the results of the last engine into encoded bytes and
a row. RunInference runs between them; a result passes through it.
"""

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from beam_upscale.dataset.book_entries import work_of
from beam_upscale.dataset.books import RunBooks
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images import resampling
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.values import DecodedImage, ImageHeader
from beam_upscale.inference.elements import TiledImage
from beam_upscale.pipeline.one_image.file_version import file_version
from beam_upscale.pipeline.one_image.gathering import ReadInput
from beam_upscale.pipeline.one_image.header import read_large_header
from beam_upscale.pipeline.one_image.states import (
    ImageInFlight,
    LargeImage,
    ResultDraft,
    UpscaledImage,
)
from beam_upscale.pipeline.one_image.tiles import tiled_image
from beam_upscale.pipeline.run_state.booking import ImageBooking, Limit
from beam_upscale.pipeline.run_state.input_state import (
    Allowance,
    InputState,
    is_as_listed,
    state_of,
    with_state,
    without_data,
)
from beam_upscale.pipeline.run_state.resume import RequestedParameters, has_same_parameters
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.planning.chain import Backend, ChainPlan
from beam_upscale.sources.inputs.source_image import SourceImage

# Refusals by rules that a later run into the same output may change.
_REFUSALS_OF_SIZE = frozenset(
    {ErrorCode.TOO_MANY_PIXELS, ErrorCode.INPUT_TOO_LARGE, ErrorCode.OUTPUT_TOO_LARGE}
)


def prepare(
    source: SourceImage,
    settings: PinnedSettings,
    decoders: DecoderPool,
    find_done: Callable[[ResultDraft], UpscaledImage | None] | None = None,
    books: RunBooks | None = None,
    read: ReadInput | None = None,
    header: ImageHeader | None = None,
) -> UpscaledImage | TiledImage | LargeImage:
    """Turns an input into the tiles of its plan.

    Args:
        source: the input.
        settings: the settings of the run.
        decoders: the processes that decode its bytes.
        find_done: finds the result that an interrupted pipeline has left of an input; it gets the
            draft, with the hash of the input's bytes. None looks for none.
        books: the books of an input that has none; None keeps none for it.
        read: the input with its bytes, and perhaps its image; None reads them.
        header: the header of its bytes, if it has been read before; None reads it.

    Returns:
        The image with the tiles for the first engine. Its result instead, if the input was done
        before, is postponed, skipped or refused, or cannot be read, or if no decoder can be
        started. A `LargeImage` without pixels, if the settings spread an image of this size.
    """
    state = _state(source, books)
    draft = ResultDraft(without_data(source, state), settings.shared_columns, time.time())
    try:
        if state.earlier is not None:
            if _still_stands(draft.source, state.earlier.record.row, settings):
                return UpscaledImage(draft.source, state.earlier.record)
            draft.source = with_state(draft.source, dataclasses.replace(state, earlier=None))
        if state.is_postponed:
            return UpscaledImage(draft.source, None)
        _add_parameters(draft, settings)
        if (large := _large_header(source, settings, decoders)) is not None:
            return _large_image(draft, *large, settings)
        read = read or ReadInput.of(source, settings)
        data = read.read()
        _add_content(draft, state.data_sha256 or hashlib.sha256(data).hexdigest(), settings)
        if find_done is not None and (done := find_done(draft)) is not None:
            return done
        return _decode(read, header, draft, settings, decoders)
    except Exception as error:
        return draft.ended(error)


def _state(source: SourceImage, books: RunBooks | None) -> InputState:
    """Returns an input's state, with the hash of the bytes that it holds, and with books."""
    state = state_of(source)
    changes: dict[str, Any] = {}
    if source.data is not None:
        changes["data_sha256"] = hashlib.sha256(source.data).hexdigest()
    if state.books is None and books is not None:
        changes["books"] = books
    return dataclasses.replace(state, **changes) if changes else state


def _still_stands(source: SourceImage, earlier: Row, settings: PinnedSettings) -> bool:
    """Checks whether an earlier row is still right, by the present rules and content.

    A user's own step of the pipeline may have replaced the bytes or the prompt that the earlier row
    was compared with.
    """
    state = state_of(source)
    if state.data_sha256 is not None and state.data_sha256 != earlier.source_sha256:
        return False
    rules = settings.rules
    is_changed = state.listed is not None and not is_as_listed(source)
    requested = RequestedParameters(rules.parameters, rules.prompt_column)
    if rules.is_guided and is_changed and not has_same_parameters(source, earlier, requested):
        return False
    return not _is_ruled_otherwise(earlier, settings)


def _add_content(draft: ResultDraft, sha256: str, settings: PinnedSettings) -> None:
    """Adds the SHA-256 of the input's bytes, and the booking that depends on it."""
    draft.source_sha256 = sha256
    state = state_of(draft.source)
    if state.books is None or settings.rules.backend is not Backend.GRPC:
        return
    work, limit, allowance = work_of(sha256, draft.parameters), None, state.allowance
    if allowance is not None:
        is_prepaid = allowance.prepaid is not None and allowance.prepaid.work == work
        limit = Limit(is_prepaid, allowance.spare_calls)
    draft.booking = ImageBooking(state.books, draft.source.input_id, work, limit)


def _is_ruled_otherwise(row: Row, settings: PinnedSettings) -> bool:
    """Checks whether the rules refused an image for its size, and decide otherwise now.

    The code and the numbers of a message, sizes and limits, say what was decided. Its words may be
    those of an earlier version.
    """
    if row.error_code not in _REFUSALS_OF_SIZE or not row.input_width or not row.input_height:
        return False
    plan = settings.rules.plan(row.input_width, row.input_height)
    earlier = row.error_code, _numbers(row.error_message or "")
    return (plan.error_code, _numbers(plan.message)) != earlier


def _numbers(message: str) -> list[str]:
    """Returns the whole numbers in a message, as they are written there."""
    return re.findall(r"\d+(?:,\d+)*", message)


def _add_parameters(draft: ResultDraft, settings: PinnedSettings) -> None:
    rules = settings.rules
    if rules.is_guided:
        draft.parameters = draft.source.parameters(rules.parameters, rules.prompt_column)


def _decode(
    read: ReadInput,
    header: ImageHeader | None,
    draft: ResultDraft,
    settings: PinnedSettings,
    decoders: DecoderPool,
) -> UpscaledImage | TiledImage:
    options = settings.rules.options
    if draft.parameters is not None:
        # Check only now: a later run checks by the parameters and the hash whether the row is still
        # valid.
        settings.rules.check(draft.parameters)
    with decoders.opened(read.read(), header, read.image) as opened:
        draft.header = header = opened.header
        plan = settings.rules.plan(header.width, header.height, frames=header.frames)
        if (refusal := _refusal(draft, plan)) is not None:
            return refusal
        max_pixels = options.max_input_pixels or header.width * header.height
        decoded = opened.decode(max_pixels=max_pixels, animated=options.animated)
    return _decoded(draft, decoded, plan, settings)


def _refusal(draft: ResultDraft, plan: ChainPlan) -> UpscaledImage | None:
    """Returns the result if the rules or the budget leave nothing to do; else None."""
    if not plan.is_upscaled:
        return _not_upscaled(draft, plan)
    allowance = state_of(draft.source).allowance
    if allowance is not None and not _is_affordable(plan, allowance, draft.booking):
        return _over_budget(draft, plan)
    return None


def _is_affordable(plan: ChainPlan, allowance: Allowance, booking: ImageBooking | None) -> bool:
    """Checks whether the budget pays for an image.

    The image may have been priced while it could not be read, or before it was replaced.
    """
    reserve, limit = allowance.credits, None if booking is None else booking.limit
    if allowance.prepaid is not None and limit is not None and limit.is_prepaid:
        reserve += allowance.prepaid.credits
    return allowance.is_within_budget and plan.credits <= reserve


def _large_header(
    source: SourceImage, settings: PinnedSettings, decoders: DecoderPool
) -> tuple[ImageHeader, str | None] | None:
    """Reads the header of an image that the settings spread; see `read_large_header`."""
    above = settings.fan_out_above
    if above is None:
        return None
    least = above / settings.stages[0].engine.scale ** 2
    return read_large_header(source, decoders, settings.rules.options.max_input_bytes, least)


def _large_image(
    draft: ResultDraft, header: ImageHeader, sha256: str | None, settings: PinnedSettings
) -> UpscaledImage | LargeImage:
    source = draft.source
    version = file_version(source)
    _add_content(draft, sha256 or source.sha256(), settings)
    draft.header = header
    plan = settings.rules.plan(header.width, header.height, frames=header.frames)
    if (refusal := _refusal(draft, plan)) is not None:
        return refusal
    return LargeImage(draft, header, version)


def _decoded(
    draft: ResultDraft, decoded: DecodedImage, plan: ChainPlan, settings: PinnedSettings
) -> TiledImage:
    color, alpha = decoded.color, decoded.alpha
    if color.shape[:2] != (plan.input_height, plan.input_width):
        found = f"{color.shape[1]} x {color.shape[0]}"
        claimed = f"{plan.input_width} x {plan.input_height}"
        raise ImageError(ErrorCode.CORRUPT, f"the header says {claimed}, the pixels are {found}")
    if alpha is not None:
        color = resampling.fill_transparent(color, alpha)
        alpha = alpha[:, :, np.newaxis]
    image = ImageInFlight(draft, plan, decoded.metadata, decoded.notes)
    return tiled_image(image, color, alpha, settings)


def _not_upscaled(draft: ResultDraft, plan: ChainPlan) -> UpscaledImage:
    if plan.error_code is not None:
        return draft.failed(ImageError(plan.error_code, plan.message))
    return draft.result(Status.SKIPPED, (plan.message,))


def _over_budget(draft: ResultDraft, plan: ChainPlan) -> UpscaledImage:
    message = f"{plan.credits} credits would exceed --max-credits"
    return draft.failed(ImageError(ErrorCode.OVER_BUDGET, message))
