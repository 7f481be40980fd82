"""`Upscale`: the transform from source images to one result for each.

The transform only wires steps, each a function of `stages`: `prepare`, then RunInference for each
engine with `advance` between them, and `finish`. They form one chain without a branch: where
branches join again, a runner may buffer the elements in memory or on disk, and these hold pixels.
"""

import abc
import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import PredictionResult, RunInference
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_upscale.booking import RunBooks
from beam_upscale.dataset import held_by_pipeline
from beam_upscale.decoding import shared_pool
from beam_upscale.errors import BrokenProcessError
from beam_upscale.grpc_api import client
from beam_upscale.inference import METRICS, Inference, PendingInference, TiledImage, handler_for
from beam_upscale.listing import SourceImage
from beam_upscale.local_models import LocalModel
from beam_upscale.local_runner import send_whole_elements
from beam_upscale.manifest import Status
from beam_upscale.remote_models import RemoteModel
from beam_upscale.settings import PinnedSettings, Stage, UpscaleSettings
from beam_upscale.stages import UpscaledImage, advance, finish, prepare

_SECONDS_BETWEEN_LOOKS = 0.05


class _Prepare(beam.DoFn):
    def __init__(self, settings: PinnedSettings, books: RunBooks | None) -> None:
        self._settings = settings
        self._books = books

    def process(
        self, source: SourceImage, timestamp: Timestamp = beam.DoFn.TimestampParam
    ) -> Iterator[TiledImage]:
        if source.books is None and self._books is not None:
            source = dataclasses.replace(source, books=self._books)
        tiled = prepare(source, self._settings, shared_pool())
        # RunInference's batches have the time of their window's end.
        context = dataclasses.replace(tiled.context, timestamp=timestamp)
        yield dataclasses.replace(tiled, context=context)


class Settle(beam.DoFn, abc.ABC):
    """Passes on the results of RunInference; pending ones as soon as they are done.

    A call over the network takes long and costs no CPU: the next images are sent meanwhile, and
    none waits for the slowest of those before it.
    """

    def __init__(self, settings: PinnedSettings) -> None:
        self._settings = settings
        self._pending: list[tuple[PredictionResult, Timestamp, Any]] = []

    @abc.abstractmethod
    def settled(self, tiled: TiledImage, inference: Inference) -> Any:
        """Makes the step's output for an image, once the engine is done with the image."""

    def time_of(self, tiled: TiledImage, timestamp: Timestamp) -> Timestamp:
        """Returns the timestamp of an image's output: by default that of RunInference's result."""
        return timestamp

    def start_bundle(self) -> None:
        """Clears the pending results: those that a failed bundle left do not belong to this one."""
        self._pending = []

    def process(
        self,
        result: PredictionResult,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        """Yields the outputs that are done, of this image or of earlier ones."""
        timestamp = self.time_of(result.example, timestamp)
        if isinstance(result.inference, Inference):
            # A TimestampedValue would be assigned to windows again.
            value = self.settled(result.example, result.inference)
            yield WindowedValue(value, timestamp, [window])
            return
        self._pending.append((result, timestamp, window))
        yield from self._done()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yields the remaining outputs as they are done."""
        while self._pending:
            before = len(self._pending)
            # One by one: all finished outputs together would take much memory.
            yield from self._done()
            if len(self._pending) == before:
                self._pending[0][0].inference.wait(_SECONDS_BETWEEN_LOOKS)

    def _done(self) -> Iterator[WindowedValue]:
        looked_at = [(pending, pending[0].inference.done()) for pending in self._pending]
        self._pending = [pending for pending, is_done in looked_at if not is_done]
        for result, timestamp, window in (pending for pending, is_done in looked_at if is_done):
            value = self.settled(result.example, _result(result.inference))
            yield WindowedValue(value, timestamp, [window])


def _result(pending: PendingInference) -> Inference:
    """Takes an image's result; if this process can decode none, the result stops the run."""
    try:
        return pending.result()
    except BrokenProcessError as stop:
        return Inference(stop=stop)


class _Advance(Settle):
    def settled(self, tiled: TiledImage, inference: Inference) -> TiledImage:
        return advance(tiled, inference, self._settings)


class _Finish(Settle):
    def time_of(self, tiled: TiledImage, timestamp: Timestamp) -> Timestamp:
        own: Timestamp | None = tiled.context.timestamp
        return timestamp if own is None else own

    def settled(self, tiled: TiledImage, inference: Inference) -> UpscaledImage:
        upscaled = finish(tiled, inference, self._settings)
        count(upscaled)
        return upscaled


def count(upscaled: UpscaledImage) -> None:
    """Adds a result to the metrics."""
    done_elsewhere = upscaled.source.earlier is not None or upscaled.giant is not None
    if upscaled.record is None or done_elsewhere:
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
        engine: an engine's name, or the names of a chain, in which each engine takes the result of
            the one before it; or settings that were pinned before.
        handler_options: Beam's own options of a model handler: `min_batch_size` and
            `max_batch_size` (in input pixels), `large_model` (share the model across processes),
            `model_copies`.
        books: the output whose books record paid calls before they are made, for inputs that do not
            come from a `ReadImages` with an output. Without books, `WriteDataset` enters what its
            rows were billed, and a crash loses what was in flight.
        **options: of `PlanOptions` (`width`, `height`, `short_side`, `long_side`, `oversize`,
            `min_side`, `skip_larger_than`, `max_input_pixels`, `output_format`), of `Parameters`
            (`prompt`, `negative_prompt`, `cfg_scale`, `steps`, `seed`, `noise_level`) and of
            `UpscaleSettings` (`weights`, `device`, `precision`, `backend`, `endpoint`, `quality`,
            `fan_out_above`, …).

    Beam's hints for the whole pipeline (`--resource_hint accelerator=…`) put it on machines with an
    accelerator. With `with_resource_hints` on this transform alone, images would go there and come
    back over the network.

    Returns:
        One `UpscaledImage` for each `SourceImage`, whatever its status.

    Raises:
        SettingsError: for any reason that would make every image fail alike.
    """

    def __init__(
        self,
        engine: str | Sequence[str] | PinnedSettings = "esrgan-v1-x2plus",
        *,
        handler_options: dict[str, Any] | None = None,
        books: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.books = books
        if isinstance(engine, PinnedSettings):
            self.settings = engine
        else:
            asked = UpscaleSettings.of(engine, **options)
            if asked.warning is not None:
                warnings.warn(asked.warning, stacklevel=2)
            self.settings = check_service(asked.pin())
        self.handler_options = handler_options or {}

    def expand(self, images: Any) -> Any:
        """Wires the steps."""
        send_whole_elements()
        books = None
        if self.books is not None:
            books = RunBooks.begin(held_by_pipeline(images.pipeline, self.books))
        tiled = images | "Prepare" >> beam.ParDo(_Prepare(self.settings, books))
        first, *others = self.settings.stages
        inferred = tiled | "RunInference" >> run_inference(first, self.handler_options)
        for number, stage in enumerate(others, start=2):
            inferred = (
                inferred
                | f"Advance{number}" >> beam.ParDo(_Advance(self.settings))
                | f"RunInference{number}" >> run_inference(stage, self.handler_options)
            )
        return inferred | "Finish" >> beam.ParDo(_Finish(self.settings))


def run_inference(stage: Stage, handler_options: dict[str, Any]) -> RunInference:
    """Returns the step in which one engine upscales tiles.

    Args:
        stage: the engine.
        handler_options: Beam's own options, as `Upscale` takes them.
    """
    model = stage.model
    if isinstance(model, RemoteModel):
        # Beam keeps a model that has an identifier, and a later run would find it stopped, as this
        # run left it.
        return RunInference(client.RemoteHandler(model, stage.engine, **handler_options))
    return RunInference(handler_for(model, **handler_options), model_identifier=_identifier(model))


def _identifier(model: LocalModel) -> str:
    """Names the loaded model: steps with the same network share one in a process."""
    return hashlib.sha256(repr(model).encode()).hexdigest()


def check_service(settings: PinnedSettings) -> PinnedSettings:
    """Asks the service, if the settings name one, whether it takes the key and has the engines.

    Returns:
        The settings, with the ledger of a service that charges a repeated request once; unchanged
        for all others.

    Raises:
        SettingsError: ENDPOINT_UNAVAILABLE, API_KEY_REFUSED or UNKNOWN_ENGINE.
    """
    remote = [stage.model for stage in settings.stages if isinstance(stage.model, RemoteModel)]
    found = client.check(remote[0], [model.engine for model in remote]) if remote else None
    if found is None:
        return settings
    stages = tuple(
        dataclasses.replace(s, model=_with_ledger(s.model, found)) for s in settings.stages
    )
    return dataclasses.replace(settings, stages=stages)


def _with_ledger(
    model: LocalModel | RemoteModel, found: client.ServiceLedger
) -> LocalModel | RemoteModel:
    if not isinstance(model, RemoteModel):
        return model
    return dataclasses.replace(model, ledger=found.ledger, replay_seconds=found.replay_seconds)
