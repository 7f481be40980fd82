"""Turns an engine's results into the next engine's tiles, or into the encoded image and row."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from beam_upscale.dataset.manifest.row import Status
from beam_upscale.errors import BrokenProcessError
from beam_upscale.images.encoding.pool import EncoderPool
from beam_upscale.images.encoding.unencoded import EncodedFile, UnencodedImage
from beam_upscale.images.values import Pixels
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.pipeline.one_image.image_errors import as_image_error
from beam_upscale.pipeline.one_image.rows import output_columns, stage_details
from beam_upscale.pipeline.one_image.states import (
    INTERMEDIATE_FORMAT,
    ImageInFlight,
    UpscaledImage,
)
from beam_upscale.pipeline.one_image.tiles import stitched, tiled_image, unresized
from beam_upscale.pipeline.settings.pinned import PinnedSettings


def advance(
    context: UpscaledImage | ImageInFlight,
    inference: Inference,
    settings: PinnedSettings,
    encoders: EncoderPool,
) -> UpscaledImage | TiledImage:
    """Turns the results of one engine of a chain into the tiles of the next.

    Args:
        context: the context of the image's tiles; a result passes through.
        inference: the network's results for its tiles, whose cores are taken out.
        settings: the settings of the run.
        encoders: encode the result of this engine, if it is kept.

    Returns:
        The image with the tiles for the next engine; a result if the network failed,
        or if the process is broken.
    """
    if isinstance(context, UpscaledImage):
        return context
    if (ended := _without_pixels(context, inference)) is not None:
        return ended
    try:
        return _with_next_tiles(context, inference, settings, encoders)
    except Exception as error:
        return _ended(context, inference, error)


def finish(
    context: UpscaledImage | ImageInFlight,
    inference: Inference,
    settings: PinnedSettings,
    encoders: EncoderPool,
) -> UpscaledImage:
    """Turns the results of the last engine into an encoded image and its row.

    Args:
        context: the context of the image's tiles; a result passes through.
        inference: the network's results for its tiles, whose cores are taken out.
        settings: the settings of the run.
        encoders: encode the result.

    Returns:
        The result; a failed one if the network or the encoder failed, a postponed one if the
        process is broken.
    """
    if isinstance(context, UpscaledImage):
        return context
    if (ended := _without_pixels(context, inference)) is not None:
        return ended
    try:
        encoded = encoders.encode(
            lambda: _unencoded(context, *unresized(context, inference), settings.encode)
        )
        return _recorded(context, inference, settings, encoded)
    except Exception as error:
        return _ended(context, inference, error)


def finish_gathered(
    images: Sequence[tuple[ImageInFlight, Inference]],
    settings: PinnedSettings,
    encoders: EncoderPool,
) -> list[UpscaledImage]:
    """Turns the results of the last engine into encoded images and rows, as `finish` does.

    Args:
        images: the context of each image's tiles, and the network's results for them, whose cores
            are taken out.
        settings: the settings of the run.
        encoders: encode the results in one exchange, and alone what fails there.

    Returns:
        The results, in the order of the images.
    """
    if len(images) == 1:
        # Its arrays are freed before it is encoded.
        ((image, inference),) = images
        return [finish(image, inference, settings, encoders)]
    begun = [_begun(image, inference, settings) for image, inference in images]
    unencoded = [each for each in begun if isinstance(each, UnencodedImage)]
    files: Iterator[EncodedFile | BrokenProcessError | None]
    try:
        files = iter(encoders.encode_small(unencoded))
    except BrokenProcessError as error:
        # No image has to wait in vain for an encoder, one after the other.
        files = repeat(error)
    finished = []
    for (image, inference), each in zip(images, begun, strict=True):
        if isinstance(each, UnencodedImage):
            file = next(files)
            finished.append(_finished(image, inference, settings, encoders, each, file))
        else:
            finished.append(each)
    return finished


def _begun(
    image: ImageInFlight, inference: Inference, settings: PinnedSettings
) -> UnencodedImage | UpscaledImage:
    """Returns the image that is to be encoded; or its result, if there are no pixels."""
    if (ended := _without_pixels(image, inference)) is not None:
        return ended
    try:
        return _unencoded(image, *unresized(image, inference), settings.encode)
    except Exception as error:
        return _ended(image, inference, error)


def _finished(
    image: ImageInFlight,
    inference: Inference,
    settings: PinnedSettings,
    encoders: EncoderPool,
    unencoded: UnencodedImage,
    file: EncodedFile | BrokenProcessError | None,
) -> UpscaledImage:
    """Returns the result of an image: with its file, or one that is encoded alone if it is None."""
    if isinstance(file, BrokenProcessError):
        return _ended(image, inference, file)
    try:
        file = file or encoders.encode(lambda: unencoded)
        return _recorded(image, inference, settings, file)
    except Exception as error:
        return _ended(image, inference, error)


def _without_pixels(image: ImageInFlight, inference: Inference) -> UpscaledImage | None:
    """Returns the result of an image if the network gave no pixels; else None."""
    if inference.stop is not None:
        return image.draft.postponed(inference.stop)
    return None if inference.error is None else image.failed(inference.error, inference)


def _ended(image: ImageInFlight, inference: Inference, error: Exception) -> UpscaledImage:
    """Returns the result of an image that failed after its network; see `ResultDraft.ended`."""
    if isinstance(error, BrokenProcessError):
        return image.draft.postponed(error)
    return image.failed(as_image_error(error), inference)


def _with_next_tiles(
    image: ImageInFlight, inference: Inference, settings: PinnedSettings, encoders: EncoderPool
) -> TiledImage:
    color, alpha = stitched(image, inference)
    details, intermediates = stage_details(image, settings, inference), image.intermediates
    if settings.keep_intermediates:
        options = EncodeOptions(INTERMEDIATE_FORMAT, metadata=settings.encode.metadata)
        kept = encoders.encode(lambda: _unencoded(image, color, alpha, options))
        details, intermediates = details | _stored(kept), (*intermediates, kept.data)
    following = dataclasses.replace(
        image,
        notes=image.noted(inference.notes),
        done=(*image.done, details),
        inferences=(*image.inferences, inference),
        intermediates=intermediates,
    )
    return tiled_image(following, color, alpha, settings)


def _recorded(
    image: ImageInFlight, inference: Inference, settings: PinnedSettings, encoded: EncodedFile
) -> UpscaledImage:
    """Returns the result of an image with its file."""
    is_chain = len(settings.stages) > 1
    record = image.record(
        Status.UPSCALED,
        inference,
        encoded.notes,
        **output_columns(image.plan, settings),
        **_stored(encoded),
        stages=(*image.done, stage_details(image, settings, inference)) if is_chain else (),
    )
    return UpscaledImage(image.source, record, encoded.data, image.intermediates)


def _unencoded(
    image: ImageInFlight, color: Pixels, alpha: Pixels | None, options: EncodeOptions
) -> UnencodedImage:
    stage_plan = image.stage_plan
    size = stage_plan.output_width, stage_plan.output_height
    return UnencodedImage(color, alpha, *size, image.metadata, options)


def _stored(file: EncodedFile) -> dict[str, Any]:
    """Returns the columns of a row, or of a stage in it, that identify an encoded image."""
    return {"output_bytes": len(file.data), "output_sha256": file.sha256}
