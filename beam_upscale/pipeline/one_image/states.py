"""The values that pass between the steps of one image."""

import dataclasses
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from beam_upscale.dataset.manifest.row import Row, status_of
from beam_upscale.dataset.records import Record, Telemetry
from beam_upscale.errors import BrokenProcessError, ImageError, SettingsError
from beam_upscale.images.values import ImageHeader, Metadata, Pixels
from beam_upscale.inference.elements import Inference
from beam_upscale.pipeline.one_image.image_errors import as_image_error
from beam_upscale.pipeline.run_state.booking import ImageBooking
from beam_upscale.pipeline.run_state.input_state import state_of, with_state
from beam_upscale.planning.chain import ChainPlan
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan import Plan
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.sources.inputs.source_image import SourceImage

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
        is_taken_up: True if an earlier pipeline left `file` and the row in the scratch folder.
    """

    source: SourceImage
    record: Record | None
    data: bytes | None = None
    intermediates: tuple[bytes, ...] = ()
    stop: SettingsError | None = None
    file: str | None = None
    is_taken_up: bool = False

    @property
    def has_image(self) -> bool:
        """True if an encoded image comes with the result, wherever it is."""
        return self.data is not None or self.file is not None

    @property
    def is_of_earlier(self) -> bool:
        """True if an earlier run or pipeline made the result, and this one only passes it on."""
        return self.is_taken_up or state_of(self.source).earlier is not None


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

    def result(self) -> UpscaledImage:
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
        return dataclasses.replace(self, row=row).result()

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
    """An image on its way through the engines of its chain, without the tiles that a network has.

    Attributes:
        draft: its result so far.
        plan: its plan, by which it is upscaled.
        metadata: the input's metadata, for the output.
        done: details of the stages before this one, as the manifest has them.
        intermediates: the results of those stages, encoded, if they are kept.
        has_alpha_tiles: True if the second half of its tiles is the alpha channel.
        alpha: (H, W, 1), the alpha channel if it is not among the tiles; None if there is none.
    """

    draft: ResultDraft
    plan: ChainPlan
    metadata: Metadata
    done: tuple[Mapping[str, Any], ...] = ()
    intermediates: tuple[bytes, ...] = ()
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
        version: the file's `file_version` from before its bytes were hashed.
    """

    draft: ResultDraft
    header: ImageHeader
    version: tuple[object, ...]
