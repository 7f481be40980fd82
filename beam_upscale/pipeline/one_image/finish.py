"""Turns an engine's results into the next engine's tiles, or into the encoded image and row."""

import dataclasses
import hashlib
from typing import Any

from beam_upscale.dataset.records import Record
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encoding import Encoded, EncodeOptions
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.pipeline.one_image.states import (
    INTERMEDIATE_FORMAT,
    Pixels,
    Prepared,
    UpscaledImage,
    as_image_error,
    failed_at_stage,
    stage_details,
    telemetry_of,
    untried,
    with_inference,
    with_output,
    without_tiles,
)
from beam_upscale.pipeline.one_image.tiles import results, tiled_image
from beam_upscale.pipeline.settings.pinned import PinnedSettings


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
        return without_tiles(prepared, untried(prepared, inference.stop))
    if inference.error is not None:
        return without_tiles(prepared, failed_at_stage(prepared, inference.error))
    try:
        color, alpha = results(prepared, inference)
        details = stage_details(prepared, settings, inference)
        if settings.keep_intermediates:
            options = EncodeOptions(INTERMEDIATE_FORMAT, metadata=settings.encode.metadata)
            kept = _encode(prepared, color, alpha, options).data
            prepared = dataclasses.replace(prepared, intermediates=(*prepared.intermediates, kept))
            details |= _stored(kept)
        following = dataclasses.replace(
            prepared, stage=prepared.stage + 1, done=(*prepared.done, details)
        )
        return tiled_image(following, color, alpha, settings)
    except Exception as error:
        return without_tiles(prepared, failed_at_stage(prepared, as_image_error(error)))


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
        return untried(prepared, inference.stop)
    if inference.error is not None:
        return failed_at_stage(prepared, inference.error)
    try:
        return _encoded(prepared, inference, settings)
    except Exception as error:
        return failed_at_stage(prepared, as_image_error(error))


def _encoded(prepared: Prepared, inference: Inference, settings: PinnedSettings) -> UpscaledImage:
    decision = prepared.plan
    assert decision is not None
    encoded = _encode(prepared, *results(prepared, inference), settings.encode)
    is_chain = len(settings.stages) > 1
    row = dataclasses.replace(
        with_output(prepared.row, decision, settings, encoded.notes),
        **_stored(encoded.data),
        stages=(*prepared.done, stage_details(prepared, settings, inference)) if is_chain else (),
    )
    record = Record(row, telemetry_of(prepared))
    return UpscaledImage(prepared.source, record, encoded.data, prepared.intermediates)


def _encode(
    prepared: Prepared, color: Pixels, alpha: Pixels | None, options: EncodeOptions
) -> Encoded:
    return encoding.encode(
        color,
        None if alpha is None else alpha[:, :, 0],
        metadata=prepared.metadata,
        options=options,
    )


def _stored(data: bytes) -> dict[str, Any]:
    """Returns the columns of a row, or of a stage in it, that identify an encoded image."""
    return {"output_bytes": len(data), "output_sha256": hashlib.sha256(data).hexdigest()}
