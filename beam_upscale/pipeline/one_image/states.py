"""The values that pass between the steps of one image."""

import dataclasses
import os
import platform
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_upscale.dataset.manifest.row import Row, status_of
from beam_upscale.dataset.records import Record, Telemetry
from beam_upscale.errors import (
    FULL_DISK,
    BrokenProcessError,
    ErrorCode,
    ImageError,
    SettingsError,
    internal_error,
)
from beam_upscale.images.values import NO_METADATA, ImageHeader, Metadata
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.pipeline.run_state.booking import ImageBooking
from beam_upscale.pipeline.settings.pinned import PinnedSettings, Stage
from beam_upscale.planning.chain import ChainPlan
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan import Action, Plan
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.sources.locations import locations
from beam_upscale.storage import files

Pixels = NDArray[np.uint8 | np.uint16]

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


def described(stage: Stage, settings: PinnedSettings) -> dict[str, Any]:
    """Returns the columns of a row, or of a stage in it, that describe engine and network."""
    halo = settings.rules.options.halo
    return {
        "engine": stage.engine.name,
        **stage.model.description(),
        "halo": stage.engine.halo if halo is None else halo,
    }


def file_version(source: SourceImage) -> tuple[object, ...]:
    """Returns values that change when an input's own file is replaced; none for other inputs.

    An own file is one that is read in place. The first value is the machine's name, since machines
    may see different numbers of a file.
    """
    if source.uri is None or not locations.is_in_place(source.uri, source.part):
        return ()
    return platform.node(), *files.version(source.uri)


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


def identity_of(prepared: Prepared) -> tuple[str, int]:
    """Returns the input's id and its stage, which identify the image's tiles in paid calls."""
    return prepared.source.input_id, prepared.stage


def stage_plan(prepared: Prepared) -> Plan:
    assert prepared.plan is not None
    return prepared.plan.stages[prepared.stage]


def without_tiles(prepared: Prepared, outcome: UpscaledImage) -> TiledImage:
    return TiledImage([], 1, context=dataclasses.replace(prepared, outcome=outcome, alpha=None))


def ended(prepared: Prepared, error: Exception) -> TiledImage:
    """Returns a failed input without tiles; it stays untried if the process is broken."""
    if isinstance(error, BrokenProcessError):
        return without_tiles(prepared, untried(prepared, error))
    return without_tiles(prepared, failed(prepared, as_image_error(error)))


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


def untried(prepared: Prepared, stop: SettingsError) -> UpscaledImage:
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


def stage_details(
    prepared: Prepared, settings: PinnedSettings, inference: Inference
) -> dict[str, Any]:
    """Returns the manifest's columns for one stage of a chain."""
    stage, decision = settings.stages[prepared.stage], stage_plan(prepared)
    return {
        **described(stage, settings),
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
