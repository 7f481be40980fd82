"""The values that pass between the steps of one image."""

import dataclasses
import functools
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any

from beam_upscale.dataset.manifest.row import Row, Status, fitted_numbers, status_of
from beam_upscale.dataset.records import Record, Telemetry
from beam_upscale.errors import BrokenProcessError, ImageError, SettingsError
from beam_upscale.images.values import ImageHeader, Metadata, Pixels
from beam_upscale.inference.elements import Inference
from beam_upscale.pipeline.one_image.image_errors import as_image_error
from beam_upscale.pipeline.run_state.booking import ImageBooking
from beam_upscale.pipeline.run_state.input_state import state_of
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


@dataclasses.dataclass(slots=True)
class ResultDraft:
    """The facts about an input before a network runs, of which its result is made.

    `prepare` fills it in as things are found out, so that the row of an input that fails at any
    moment has what was known by then. No later step changes it. The row is made once, with the
    result: a row has some forty columns, and a copy for each step would take longer than the steps.

    Attributes:
        source: the input, without its bytes.
        shared: the columns that all rows of the run share; see `PinnedSettings.shared_columns`.
        started_at: the time at which it was begun, in seconds since the epoch.
        source_sha256: the SHA-256 of the input's bytes; None until they are read.
        parameters: the requested parameters; None until they are known, and if no engine takes a
            prompt.
        booking: enters its paid calls in the books; None if none are made or no books are kept.
        header: the header of its bytes; None until it is read.
    """

    source: SourceImage
    shared: Mapping[str, Any]
    started_at: float
    source_sha256: str | None = None
    parameters: Parameters | None = None
    booking: ImageBooking | None = None
    header: ImageHeader | None = None

    def record(
        self,
        status: Status,
        notes: Iterable[str] = (),
        inferences: Sequence[Inference] = (),
        **columns: Any,
    ) -> Record:
        """Makes the row and the telemetry, as of this process.

        Args:
            status: the outcome.
            notes: the row's notes, without those on the header.
            inferences: the outcomes of the networks that were called, in order.
            **columns: the columns that are not known before a network runs.
        """
        known = self._columns()
        # Before the header is read, no number is the claim of a file.
        too_large, found = ({}, ()) if self.header is None else fitted_numbers(known)
        known |= too_large
        known |= {
            "status": status,
            "notes": (*found, *notes),
            "request_ids": tuple(chain.from_iterable(each.request_ids for each in inferences)),
            "billed_credits": sum((each.billed_credits for each in inferences), Decimal(0)),
        }
        return Record(Row.of(known | columns), _telemetry(self.started_at, inferences))

    def _columns(self) -> dict[str, Any]:
        """Returns the columns that are known before a network runs."""
        source, parameters, header = self.source, self.parameters, self.header
        columns: dict[str, Any] = {
            **self.shared,
            "input_id": source.input_id,
            "source_uri": source.source_uri,
            "source_sha256": self.source_sha256,
            "input": source.columns,
        }
        if parameters is not None:
            columns |= dataclasses.asdict(parameters)
            columns["seed"] = parameters.seed or None
        if header is not None:
            columns["input_width"] = header.width
            columns["input_height"] = header.height
            columns["input_format"] = header.format
            columns["input_mode"] = header.mode
        return columns

    def result(self, status: Status, notes: Iterable[str] = (), **columns: Any) -> UpscaledImage:
        """Returns the result of an input that no network has seen; see `record`."""
        return UpscaledImage(self.source, self.record(status, notes, **columns))

    def failed(self, error: ImageError) -> UpscaledImage:
        """Returns the result of an input that cannot be upscaled."""
        return self.result(status_of(error.code), **_error_columns(error))

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


def _error_columns(error: ImageError) -> dict[str, Any]:
    return {"error_code": str(error.code), "error_message": error.message}


def _telemetry(started_at: float, inferences: Sequence[Inference]) -> Telemetry:
    """Returns the telemetry of an image after the networks that were called."""
    seconds, queued, attempts, batch = 0.0, 0.0, 1, 0
    for each in inferences:
        seconds += each.device_seconds
        queued = max(queued, each.queue_seconds)
        attempts = max(attempts, each.attempts)
        batch = max(batch, each.batch_size)
    return Telemetry(seconds, queued, attempts, batch, f"{_host()}:{os.getpid()}", started_at)


@functools.cache
def _host() -> str:
    return socket.gethostname()


@dataclasses.dataclass(frozen=True)
class ImageInFlight:
    """An image on its way through the engines of its chain, without the tiles that a network has.

    Attributes:
        draft: what was known of it before the first network.
        plan: its plan, by which it is upscaled.
        metadata: the input's metadata, for the output.
        notes: the row's notes so far, without those on the header.
        seed: the seed of the last engine that takes one; None if there is none so far.
        done: details of the stages before this one, as the manifest has them.
        inferences: the outcomes of those stages' networks, whose cores are taken out.
        intermediates: the results of those stages, encoded, if they are kept.
        has_alpha_tiles: True if the second half of its tiles is the alpha channel.
        alpha: (H, W, 1), the alpha channel if it is not among the tiles; None if there is none.
    """

    draft: ResultDraft
    plan: ChainPlan
    metadata: Metadata
    notes: tuple[str, ...] = ()
    seed: int | None = None
    done: tuple[Mapping[str, Any], ...] = ()
    inferences: tuple[Inference, ...] = ()
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

    def record(
        self, status: Status, inference: Inference, notes: Iterable[str] = (), **columns: Any
    ) -> Record:
        """Makes the row and the telemetry after the next engine.

        Args:
            status: the outcome.
            inference: the outcome of the next engine's network.
            notes: further notes, besides those of the network.
            **columns: the columns that the draft has not.
        """
        if self.seed is not None:
            columns["seed"] = self.seed
        return self.draft.record(
            status,
            (*self.noted(inference.notes), *notes),
            (*self.inferences, inference),
            **columns,
        )

    def failed(self, error: ImageError, inference: Inference) -> UpscaledImage:
        """Returns the result of an image that failed at the next engine or after it."""
        message = self.plan.at_stage(self.stage, error.message)
        columns = _error_columns(ImageError(error.code, message))
        record = self.record(status_of(error.code), inference, **columns)
        return UpscaledImage(self.source, record)

    def noted(self, notes: Iterable[str]) -> tuple[str, ...]:
        """Returns the notes so far and further ones, with their stage if there are several."""
        return (*self.notes, *(self.plan.at_stage(self.stage, note) for note in notes))


@dataclasses.dataclass(frozen=True)
class LargeImage:
    """An image whose tiles are to be spread over the workers, without its pixels.

    Attributes:
        draft: what is known of it, without the plan: it follows from the header, and grows with
            the number of tiles.
        header: the header of its file.
        version: the file's `file_version` from before its bytes were hashed.
    """

    draft: ResultDraft
    header: ImageHeader
    version: tuple[object, ...]
