"""Turns an engine's results into the next engine's tiles, or into the encoded image and row."""

import dataclasses
import hashlib
from typing import Any

from beam_upscale.images.values import Pixels
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.images.writing.encoding import Encoded
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.pipeline.one_image.image_errors import as_image_error
from beam_upscale.pipeline.one_image.rows import stage_details, with_output
from beam_upscale.pipeline.one_image.states import (
    INTERMEDIATE_FORMAT,
    ImageInFlight,
    UpscaledImage,
)
from beam_upscale.pipeline.one_image.tiles import stitched, tiled_image
from beam_upscale.pipeline.settings.pinned import PinnedSettings


def advance(
    context: UpscaledImage | ImageInFlight, inference: Inference, settings: PinnedSettings
) -> UpscaledImage | TiledImage:
    """Turns the results of one engine of a chain into the tiles of the next.

    Args:
        context: the context of the image's tiles; a result passes through.
        inference: the network's results for its tiles, whose cores are taken out.
        settings: the settings of the run.

    Returns:
        The image with the tiles for the next engine; a result if the network failed.
    """
    image = _with_outcome(context, inference)
    if isinstance(image, UpscaledImage):
        return image
    try:
        return _with_next_tiles(image, inference, settings)
    except Exception as error:
        return image.failed(as_image_error(error))


def finish(
    context: UpscaledImage | ImageInFlight, inference: Inference, settings: PinnedSettings
) -> UpscaledImage:
    """Turns the results of the last engine into an encoded image and its row.

    Args:
        context: the context of the image's tiles; a result passes through.
        inference: the network's results for its tiles, whose cores are taken out.
        settings: the settings of the run.

    Returns:
        The result; a failed one if the network or the encoder failed.
    """
    image = _with_outcome(context, inference)
    if isinstance(image, UpscaledImage):
        return image
    try:
        return _encoded(image, inference, settings)
    except Exception as error:
        return image.failed(as_image_error(error))


def _with_outcome(
    context: UpscaledImage | ImageInFlight, inference: Inference
) -> UpscaledImage | ImageInFlight:
    """Adds a network's outcome to an image; returns its result if there are no pixels."""
    if isinstance(context, UpscaledImage):
        return context
    image = context.with_inference(inference)
    if inference.stop is not None:
        return image.draft.postponed(inference.stop)
    return image if inference.error is None else image.failed(inference.error)


def _with_next_tiles(
    image: ImageInFlight, inference: Inference, settings: PinnedSettings
) -> TiledImage:
    color, alpha = stitched(image, inference)
    details, intermediates = stage_details(image, settings, inference), image.intermediates
    if settings.keep_intermediates:
        options = EncodeOptions(INTERMEDIATE_FORMAT, metadata=settings.encode.metadata)
        kept = _encode(image, color, alpha, options).data
        details, intermediates = details | _stored(kept), (*intermediates, kept)
    following = dataclasses.replace(image, done=(*image.done, details), intermediates=intermediates)
    return tiled_image(following, color, alpha, settings)


def _encoded(image: ImageInFlight, inference: Inference, settings: PinnedSettings) -> UpscaledImage:
    encoded = _encode(image, *stitched(image, inference), settings.encode)
    is_chain = len(settings.stages) > 1
    row = dataclasses.replace(
        with_output(image.draft.row, image.plan, settings, encoded.notes),
        **_stored(encoded.data),
        stages=(*image.done, stage_details(image, settings, inference)) if is_chain else (),
    )
    draft = dataclasses.replace(image.draft, row=row)
    return UpscaledImage(draft.source, draft.record, encoded.data, image.intermediates)


def _encode(
    image: ImageInFlight, color: Pixels, alpha: Pixels | None, options: EncodeOptions
) -> Encoded:
    return encoding.encode(
        color,
        None if alpha is None else alpha[:, :, 0],
        metadata=image.metadata,
        options=options,
    )


def _stored(data: bytes) -> dict[str, Any]:
    """Returns the columns of a row, or of a stage in it, that identify an encoded image."""
    return {"output_bytes": len(data), "output_sha256": hashlib.sha256(data).hexdigest()}
