"""`Upscale`: source images in, one result for each out.

The transform only wires three steps, each a function of its own: `prepare` (bytes to tiles, or a
row where there is nothing to upscale), RunInference, and `finish` (tiles to bytes and a row). They
form one chain without a branch: where paths part and join again, a runner may write what flows
there to memory or disk, and that would be pixels.
"""

import dataclasses
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import PredictionResult, RunInference
from numpy.typing import NDArray

from beam_upscale import image, tiling
from beam_upscale.dataset import Record, Telemetry
from beam_upscale.decoding import DecoderPool, shared_pool
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.image import DecodedImage, ImageHeader
from beam_upscale.inference import METRICS, Inference, Tile, TiledImage, UpscaleModelHandler
from beam_upscale.listing import SourceImage
from beam_upscale.manifest import Row, Status, status_of
from beam_upscale.plan import Action, Box, Piece, Plan, plan
from beam_upscale.settings import PinnedSettings, UpscaleSettings

Pixels = NDArray[np.uint8 | np.uint16]


@dataclasses.dataclass(frozen=True)
class UpscaledImage:
    """The result for one input: what `Upscale` gives.

    Attributes:
        source: the input.
        record: its row; None where the run was asked to stop before this input's turn.
        data: the encoded image; None unless this run upscaled it.
    """

    source: SourceImage
    record: Record | None
    data: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `finish` needs of an input once its tiles are done.

    Attributes:
        source: the input, without its bytes.
        row: its row as far as it is known.
        outcome: the result, where there is nothing for the network to do.
        plan: what the rules say.
        icc_profile: of the input, for the output.
        exif: likewise.
        has_alpha: whether the second half of the tiles is the alpha channel.
        started_at: seconds since the epoch.
    """

    source: SourceImage
    row: Row
    started_at: float
    outcome: UpscaledImage | None = None
    plan: Plan | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    has_alpha: bool = False


def prepare(source: SourceImage, settings: PinnedSettings, decoders: DecoderPool) -> TiledImage:
    """Turns an input into the tiles that its plan asks for.

    Args:
        source: the input.
        settings: of the run.
        decoders: where its bytes are decoded.

    Returns:
        The tiles, color first and then alpha, with a `Prepared` as context. Without tiles where the
        input was done before, is skipped, refused or cannot be read: `outcome` says so.
    """
    row = Row(
        input_id=source.input_id,
        source_uri=source.source_uri,
        status=Status.UPSCALED,
        engine=settings.engine.name,
        backend="local",
        model=settings.model.name,
        weights_sha256=settings.model.weights_sha256,
        device_type=str(settings.model.device),
        precision=str(settings.model.precision),
        halo=settings.engine.halo if settings.plan.halo is None else settings.plan.halo,
        input=source.columns,
    )
    prepared = Prepared(dataclasses.replace(source, data=None), row, time.time())
    if source.earlier is not None or source.postponed:
        return _without_tiles(prepared, UpscaledImage(prepared.source, source.earlier))
    try:
        data = source.read(settings.plan.max_input_bytes)
    except Exception as error:
        return _refused(prepared, _as_image_error(error))
    row = dataclasses.replace(row, source_sha256=hashlib.sha256(data).hexdigest())
    prepared = dataclasses.replace(prepared, row=row)
    try:
        return _decode(data, prepared, settings, decoders)
    except Exception as error:
        return _refused(prepared, _as_image_error(error))


def _decode(
    data: bytes, prepared: Prepared, settings: PinnedSettings, decoders: DecoderPool
) -> TiledImage:
    header = decoders.read_header(data)
    row = _with_header(prepared.row, header)
    decision = plan(
        settings.engine, header.width, header.height, settings.plan, frames=header.frames
    )
    prepared = dataclasses.replace(prepared, row=row, plan=decision)
    if decision.action in (Action.SKIP, Action.REJECT):
        return _without_tiles(prepared, _decided(prepared, decision))
    if not prepared.source.within_budget:
        return _without_tiles(prepared, _over_budget(prepared, decision))
    max_pixels = settings.plan.max_input_pixels or header.width * header.height
    try:
        decoded = decoders.decode(data, max_pixels=max_pixels, animated=settings.plan.animated)
        return _tiled(prepared, decoded, decision, settings.engine.scale)
    except Exception as error:
        # Here, so that the row has what the header told.
        return _refused(prepared, _as_image_error(error))


def _as_image_error(error: Exception) -> ImageError:
    """What one image's row says of an exception: no surprise may cost the others of its bundle.

    Raises:
        SettingsError: it concerns all images.
    """
    if isinstance(error, ImageError):
        return error
    if isinstance(error, SettingsError):
        raise error
    if isinstance(error, MemoryError):
        return ImageError(ErrorCode.OUT_OF_MEMORY, "the image does not fit in memory")
    return ImageError(ErrorCode.INTERNAL_ERROR, f"{type(error).__name__}: {error}")


def _with_header(row: Row, header: ImageHeader) -> Row:
    return dataclasses.replace(
        row,
        input_width=header.width,
        input_height=header.height,
        input_format=header.format,
        input_mode=header.mode,
    )


def _tiled(prepared: Prepared, decoded: DecodedImage, decision: Plan, scale: int) -> TiledImage:
    color, alpha = decoded.color, decoded.alpha
    if color.shape[:2] != (decision.input_height, decision.input_width):
        found = f"{color.shape[1]} x {color.shape[0]}"
        claimed = f"{decision.input_width} x {decision.input_height}"
        raise ImageError(ErrorCode.CORRUPT, f"the header says {claimed}, the pixels are {found}")
    if alpha is not None:
        color = image.fill_transparent(color, alpha)
    planes = [color] if alpha is None else [color, alpha[:, :, np.newaxis]]
    size = (decision.work_width, decision.work_height)
    tiles = [
        Tile(pixels, _relative_core(piece))
        for plane in planes
        for piece, pixels in zip(
            decision.pieces,
            tiling.split(image.resize(plane, *size), decision.pieces),
            strict=True,
        )
    ]
    context = dataclasses.replace(
        prepared,
        row=dataclasses.replace(prepared.row, notes=(*decoded.notes, *_notes(decision))),
        icc_profile=decoded.icc_profile,
        exif=decoded.exif,
        has_alpha=alpha is not None,
    )
    return TiledImage(tuple(tiles), scale, context)


def _relative_core(piece: Piece) -> Box:
    return dataclasses.replace(
        piece.core,
        left=piece.core.left - piece.extended.left,
        top=piece.core.top - piece.extended.top,
    )


def _without_tiles(prepared: Prepared, outcome: UpscaledImage) -> TiledImage:
    return TiledImage((), 1, dataclasses.replace(prepared, outcome=outcome))


def _refused(prepared: Prepared, error: ImageError) -> TiledImage:
    return _without_tiles(prepared, _failed(prepared, error))


def _failed(prepared: Prepared, error: ImageError) -> UpscaledImage:
    row = dataclasses.replace(
        prepared.row,
        status=status_of(error.code),
        error_code=str(error.code),
        error_message=error.message,
    )
    return UpscaledImage(prepared.source, Record(row, _telemetry(prepared, Inference())))


def _decided(prepared: Prepared, decision: Plan) -> UpscaledImage:
    if decision.error_code is not None:
        return _failed(prepared, ImageError(decision.error_code, decision.message))
    row = dataclasses.replace(prepared.row, status=Status.SKIPPED, notes=(decision.message,))
    return UpscaledImage(prepared.source, Record(row, _telemetry(prepared, Inference())))


def _over_budget(prepared: Prepared, decision: Plan) -> UpscaledImage:
    row = dataclasses.replace(
        prepared.row,
        status=Status.OVER_BUDGET,
        error_code=str(ErrorCode.OVER_BUDGET),
        error_message=f"{decision.credits} credits would exceed --max-credits",
    )
    return UpscaledImage(prepared.source, Record(row, _telemetry(prepared, Inference())))


def _telemetry(prepared: Prepared, inference: Inference) -> Telemetry:
    return Telemetry(
        device_seconds=inference.device_seconds,
        queue_seconds=inference.queue_seconds,
        attempts=1,
        batch_size=inference.batch_size,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        started_at=prepared.started_at,
    )


def finish(tiled: TiledImage, inference: Inference, settings: PinnedSettings) -> UpscaledImage:
    """Turns upscaled tiles into an encoded image and its row.

    Args:
        tiled: what `prepare` gave.
        inference: what the network made of its tiles.
        settings: of the run.

    Returns:
        The result; a failed one where the network or the encoder failed.
    """
    prepared: Prepared = tiled.context
    if prepared.outcome is not None:
        return prepared.outcome
    if inference.error is not None:
        return _failed(prepared, inference.error)
    try:
        return _encoded(prepared, inference, settings)
    except Exception as error:
        return _failed(prepared, _as_image_error(error))


def _encoded(prepared: Prepared, inference: Inference, settings: PinnedSettings) -> UpscaledImage:
    decision = prepared.plan
    assert decision is not None
    color = _stitched(inference.cores, decision)
    alpha = _stitched(inference.cores, decision)[:, :, 0] if prepared.has_alpha else None
    encoded = image.encode(
        color,
        alpha,
        icc_profile=prepared.icc_profile,
        exif=prepared.exif,
        options=settings.encode,
    )
    row = dataclasses.replace(
        prepared.row,
        notes=(*prepared.row.notes, *encoded.notes),
        output_width=encoded.width,
        output_height=encoded.height,
        output_format=str(settings.encode.format),
        output_bytes=len(encoded.data),
        output_sha256=hashlib.sha256(encoded.data).hexdigest(),
        calls=decision.calls,
        credits=decision.credits,
        usd=decision.usd,
    )
    record = Record(row, _telemetry(prepared, inference))
    return UpscaledImage(prepared.source, record, encoded.data)


def _stitched(cores: list[Pixels], decision: Plan) -> Pixels:
    """Stitches one plane and takes its cores off the list, which frees each as it is pasted."""
    scale = decision.engine_width // decision.work_width
    whole = tiling.stitch(
        (cores.pop(0) for _ in decision.pieces),
        decision.pieces,
        scale,
        decision.work_width,
        decision.work_height,
    )
    return image.resize(whole, decision.output_width, decision.output_height)


def _notes(decision: Plan) -> tuple[str, ...]:
    if decision.action is Action.TILE:
        return (f"upscaled in {decision.calls} pieces",)
    if decision.action is Action.SHRINK:
        return (f"shrunk to {decision.work_width} x {decision.work_height} before upscaling",)
    return ()


class _Prepare(beam.DoFn):
    def __init__(self, settings: PinnedSettings) -> None:
        self._settings = settings

    def process(self, source: SourceImage) -> Iterator[TiledImage]:
        yield prepare(source, self._settings, shared_pool())


class _Finish(beam.DoFn):
    def __init__(self, settings: PinnedSettings) -> None:
        self._settings = settings

    def process(self, result: PredictionResult) -> Iterator[UpscaledImage]:
        upscaled = finish(result.example, result.inference, self._settings)
        _count(upscaled)
        yield upscaled


def _count(upscaled: UpscaledImage) -> None:
    if upscaled.record is None or upscaled.source.earlier is not None:
        return
    row = upscaled.record.row
    Metrics.counter(METRICS, f"images_{row.status}").inc()
    if row.status is Status.UPSCALED:
        pixels = (row.input_width or 0) * (row.input_height or 0)
        Metrics.counter(METRICS, "input_pixels").inc(pixels)
        Metrics.counter(METRICS, "calls").inc(row.calls)


class Upscale(beam.PTransform):
    """Upscales images.

    Args:
        engine: an engine's name, or settings that were pinned before.
        handler_options: Beam's own options of a model handler: `min_batch_size` and
            `max_batch_size` (in input pixels), `large_model` (share the model across processes),
            `model_copies`.
        **options: of `PlanOptions` (`width`, `height`, `short_side`, `long_side`, `oversize`,
            `min_side`, `skip_larger_than`, `max_input_pixels`, `output_format`) and of
            `UpscaleSettings` (`weights`, `device`, `precision`, `quality`, …).

    Beam's `with_resource_hints` puts it on machines with an accelerator.

    Returns:
        For each `SourceImage` one `UpscaledImage`, whatever became of it.

    Raises:
        SettingsError: what would make every image fail alike.
    """

    def __init__(
        self,
        engine: str | PinnedSettings = "esrgan-v1-x2plus",
        *,
        handler_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(engine, PinnedSettings):
            self.settings = engine
        else:
            self.settings = UpscaleSettings.of(engine, **options).pin()
        self._handler_options = handler_options or {}

    def expand(self, images: Any) -> Any:
        """Wires the three steps."""
        handler = UpscaleModelHandler(self.settings.model, **self._handler_options)
        return (
            images
            | "Prepare" >> beam.ParDo(_Prepare(self.settings))
            | "RunInference" >> RunInference(handler, model_identifier=_identifier(self.settings))
            | "Finish" >> beam.ParDo(_Finish(self.settings))
        )


def _identifier(settings: PinnedSettings) -> str:
    """Names the loaded model: steps with the same network share one in a process."""
    return hashlib.sha256(repr(settings.model).encode()).hexdigest()
