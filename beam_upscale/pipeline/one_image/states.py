"""The values that pass between the steps of one image."""

import dataclasses
import os
import platform
import socket
import time
from collections.abc import Mapping, Sequence
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
from beam_upscale.images.values import ImageHeader, Metadata
from beam_upscale.inference.elements import Inference, Tile
from beam_upscale.pipeline.run_state.booking import ImageBooking
from beam_upscale.pipeline.run_state.input_state import state_of, with_state
from beam_upscale.pipeline.settings.pinned import PinnedSettings, Stage
from beam_upscale.planning.chain import ChainPlan
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan import Action, Plan
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.sources.locations import reading
from beam_upscale.storage import files

Pixels = NDArray[np.uint8 | np.uint16]

INTERMEDIATE_FORMAT = OutputFormat.PNG
"""The format of results between engines: it keeps all sizes, depths and channels, without loss."""


@dataclasses.dataclass(frozen=True)
class UpscaledImage:
    """The result for one input, as `Upscale` gives it.

    Attributes:
        source: the input.
        record: its row and telemetry; None if the run stopped before this input was done.
        data: the encoded image; None unless this run upscaled it, and if it is in `file`.
        intermediates: the results between the engines of a chain, encoded, if they are kept.
        stop: the error for which the run must stop: a service refuses all calls, or this process
            cannot go on. None otherwise.
        file: URI of the file that holds the encoded image, from an `Upscale` that spreads large
            images; its size and hash are in the row. None for any other result.
    """

    source: SourceImage
    record: Record | None
    data: bytes | None = None
    intermediates: tuple[bytes, ...] = ()
    stop: SettingsError | None = None
    file: str | None = None

    @property
    def has_image(self) -> bool:
        """True if this run upscaled the input, wherever the encoded image is."""
        return self.data is not None or self.file is not None


@dataclasses.dataclass(frozen=True)
class ResultDraft:
    """The result of an input so far, while this run works on the input.

    Attributes:
        source: the input, without its bytes.
        row: its row so far.
        telemetry: its telemetry so far; the worker is filled in at the end.
        parameters: the requested parameters; None if no engine takes a prompt.
        booking: enters its paid calls in the books; None if none are made or no books are kept.
    """

    source: SourceImage
    row: Row
    telemetry: Telemetry
    parameters: Parameters | None = None
    booking: ImageBooking | None = None

    @property
    def record(self) -> Record:
        """The row and the telemetry so far, made by this process."""
        worker = f"{socket.gethostname()}:{os.getpid()}"
        return Record(self.row, dataclasses.replace(self.telemetry, worker=worker))

    def without_bytes(self) -> UpscaledImage:
        """Returns the row so far as the result of an input that is not upscaled."""
        return UpscaledImage(self.source, self.record)

    def failed(self, error: ImageError) -> UpscaledImage:
        """Returns the result of an input that cannot be upscaled."""
        row = dataclasses.replace(
            self.row,
            status=status_of(error.code),
            error_code=str(error.code),
            error_message=error.message,
        )
        return dataclasses.replace(self, row=row).without_bytes()

    def postponed(self, stop: SettingsError) -> UpscaledImage:
        """Returns a result without a row, so that a later run upscales the input."""
        return UpscaledImage(self.source, None, stop=stop)

    def ended(self, error: Exception) -> UpscaledImage:
        """Returns a failed result; a postponed one if the process is broken.

        Raises:
            SettingsError: as `as_image_error`.
            OSError: as `as_image_error`.
        """
        if isinstance(error, BrokenProcessError):
            return self.postponed(error)
        return self.failed(as_image_error(error))

    def with_inference(self, inference: Inference) -> "ResultDraft":
        """Adds the request ids, billed credits and telemetry of a network's outcome."""
        before = self.telemetry
        telemetry = dataclasses.replace(
            before,
            device_seconds=before.device_seconds + inference.device_seconds,
            queue_seconds=max(before.queue_seconds, inference.queue_seconds),
            batch_size=max(before.batch_size, inference.batch_size),
            attempts=max(before.attempts, inference.attempts),
        )
        row = dataclasses.replace(
            self.row,
            request_ids=(*self.row.request_ids, *inference.request_ids),
            billed_credits=self.row.billed_credits + inference.billed_credits,
        )
        return dataclasses.replace(self, row=row, telemetry=telemetry)

    def without_earlier(self) -> "ResultDraft":
        """Returns the draft without an earlier run's result, for an input that is to be done."""
        state = dataclasses.replace(state_of(self.source), earlier=None)
        return dataclasses.replace(self, source=with_state(self.source, state))

    def noted(self, *notes: str) -> "ResultDraft":
        """Adds notes to the row."""
        row = dataclasses.replace(self.row, notes=(*self.row.notes, *notes))
        return dataclasses.replace(self, row=row)


def begun_telemetry() -> Telemetry:
    """Returns the telemetry of an input that is begun now."""
    return Telemetry(
        device_seconds=0.0,
        queue_seconds=0.0,
        attempts=1,
        batch_size=0,
        worker="",
        started_at=time.time(),
    )


@dataclasses.dataclass(frozen=True)
class ImageInFlight:
    """An image on its way through the engines of its chain.

    Attributes:
        draft: its result so far.
        plan: its plan, by which it is upscaled.
        metadata: the input's metadata, for the output.
        done: details of the stages before this one, as the manifest has them.
        intermediates: the results of those stages, encoded, if they are kept.
        tiles: its tiles for the next engine; empty once `element` has handed them on.
        parameters: the parameters of that engine, with the seed; None if it takes no prompt.
        has_alpha_tiles: True if the second half of the tiles is the alpha channel.
        alpha: (H, W, 1), the alpha channel if it is not among the tiles; None if there is none.
    """

    draft: ResultDraft
    plan: ChainPlan
    metadata: Metadata
    done: tuple[Mapping[str, Any], ...] = ()
    intermediates: tuple[bytes, ...] = ()
    tiles: tuple[Tile, ...] = ()
    parameters: Parameters | None = None
    has_alpha_tiles: bool = False
    alpha: Pixels | None = None

    @property
    def source(self) -> SourceImage:
        """The input, without its bytes."""
        return self.draft.source

    @property
    def stage(self) -> int:
        """The index of the next engine in the chain."""
        return len(self.done)

    @property
    def stage_plan(self) -> Plan:
        """The part of the plan for the next engine."""
        return self.plan.stages[self.stage]

    def failed(self, error: ImageError) -> UpscaledImage:
        """Returns the result of an image that failed at an engine or after it; names the stage."""
        message = self.plan.at_stage(self.stage, error.message)
        return self.draft.failed(ImageError(error.code, message))

    def with_inference(self, inference: Inference) -> "ImageInFlight":
        """Adds a network's notes, request ids, billed credits and telemetry."""
        draft = self.draft.with_inference(inference)
        return dataclasses.replace(self, draft=draft).noted(inference.notes)

    def noted(self, notes: Sequence[str]) -> "ImageInFlight":
        """Adds notes to the row, with their stage if there are several."""
        if not notes:
            return self
        of_stage = (self.plan.at_stage(self.stage, note) for note in notes)
        return dataclasses.replace(self, draft=self.draft.noted(*of_stage))


@dataclasses.dataclass(frozen=True)
class LargeImage:
    """An image whose tiles are to be spread over the workers, without its pixels.

    Attributes:
        draft: its result so far, without the plan: it follows from the header, and grows with the
            number of tiles.
        header: the header of its file.
        version: the result of `file_version` before its bytes were hashed.
    """

    draft: ResultDraft
    header: ImageHeader
    version: tuple[object, ...]


def described(stage: Stage, settings: PinnedSettings) -> dict[str, Any]:
    """Returns the columns of a row, or of a stage in it, that describe engine and network."""
    halo = settings.rules.options.halo
    return {
        "engine": stage.engine.name,
        **stage.pinned.description(),
        "halo": stage.engine.halo if halo is None else halo,
    }


def file_version(source: SourceImage) -> tuple[object, ...]:
    """Returns values that change when an input's own file is replaced; none for other inputs.

    An own file is one that is read in place. The first value is the machine's name, since machines
    may see different numbers of a file.
    """
    if source.uri is None or not reading.is_in_place(source.uri, source.part):
        return ()
    return platform.node(), *files.version(source.uri)


def as_image_error(error: Exception) -> ImageError:
    """Converts an exception to the error of one image, so that the others of its bundle go on.

    Raises:
        SettingsError: the exception concerns all images.
        OSError: a disk is full, which is no image's fault: the run stops, and a later one goes on.
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


def with_output(row: Row, plan: ChainPlan, settings: PinnedSettings, notes: tuple[str, ...]) -> Row:
    """Returns the row of an image that was upscaled as planned, without its file's columns.

    Args:
        row: as far as it is known.
        plan: its plan.
        settings: the settings of the run.
        notes: on how it was encoded.
    """
    return dataclasses.replace(
        row,
        notes=(*row.notes, *notes),
        output_width=plan.output_width,
        output_height=plan.output_height,
        output_format=str(settings.encode.format),
        calls=plan.calls,
        credits=plan.credits,
        usd=plan.usd,
    )


def stage_details(
    image: ImageInFlight, settings: PinnedSettings, inference: Inference
) -> dict[str, Any]:
    """Returns the manifest's columns for one stage of a chain."""
    stage, stage_plan = settings.stages[image.stage], image.stage_plan
    return {
        **described(stage, settings),
        "seed": image.draft.row.seed if stage.engine.is_guided else None,
        "input_width": stage_plan.input_width,
        "input_height": stage_plan.input_height,
        "output_width": stage_plan.output_width,
        "output_height": stage_plan.output_height,
        "calls": stage_plan.calls,
        "credits": stage_plan.credits,
        "request_ids": list(inference.request_ids),
    }


def plan_notes(stage_plan: Plan) -> tuple[str, ...]:
    """Returns the row's notes on how an image was fitted to an engine: tiled or shrunk."""
    if stage_plan.action is Action.TILE:
        return (f"upscaled in {stage_plan.calls} tiles",)
    if stage_plan.action is Action.SHRINK:
        return (f"shrunk to {stage_plan.work_width} x {stage_plan.work_height} before upscaling",)
    return ()
