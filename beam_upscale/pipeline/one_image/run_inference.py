"""RunInference for one engine, and the base of the DoFns that take its results once done."""

import abc
import hashlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import PredictionResult, RunInference
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_upscale.dataset.manifest.row import Status
from beam_upscale.errors import BrokenProcessError
from beam_upscale.inference.elements import METRICS, Inference, PendingInference, TiledImage
from beam_upscale.inference.handlers import remote
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.inference.handlers.registry import handler_for
from beam_upscale.inference.local_engines import LocalEngine
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.settings.pinned import PinnedSettings, Stage

_SECONDS_BETWEEN_LOOKS = 0.05


class AwaitResults(beam.DoFn, abc.ABC):
    """Passes on the results of RunInference; pending ones as soon as they are done.

    A call over the network takes long and costs no CPU: the next images are sent meanwhile, and
    none waits for the slowest of those before it.
    """

    def __init__(self, settings: PinnedSettings) -> None:
        self._settings = settings
        self._pending: list[tuple[PredictionResult, Timestamp, Any]] = []

    @abc.abstractmethod
    def settled(self, tiled: TiledImage, inference: Inference) -> Any:
        """Makes the step's output for an image, whose tiles are released already."""

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
        if result.example.timestamp is not None:
            timestamp = result.example.timestamp
        if isinstance(result.inference, Inference):
            yield self._output(result.example, result.inference, timestamp, window)
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
            yield self._output(result.example, _result(result.inference), timestamp, window)

    def _output(
        self, tiled: TiledImage, inference: Inference, timestamp: Timestamp, window: Any
    ) -> WindowedValue:
        tiled.release_tiles()
        # A TimestampedValue would be assigned to windows again.
        return WindowedValue(self.settled(tiled, inference), timestamp, [window])


def _result(pending: PendingInference) -> Inference:
    """Takes an image's result; if this process can decode none, the result stops the run."""
    try:
        return pending.result()
    except BrokenProcessError as stop:
        return Inference(stop=stop)


def count(upscaled: UpscaledImage) -> None:
    """Adds a result to the metrics, if this run made it."""
    if upscaled.record is None or upscaled.is_of_earlier:
        return
    row = upscaled.record.row
    Metrics.counter(METRICS, f"images_{row.status}").inc()
    if row.status is Status.UPSCALED:
        pixels = (row.input_width or 0) * (row.input_height or 0)
        Metrics.counter(METRICS, "input_pixels").inc(pixels)
        Metrics.counter(METRICS, "calls").inc(row.calls)


def run_inference(stage: Stage, handler_options: HandlerOptions) -> RunInference:
    """Returns the step in which one engine upscales tiles.

    Args:
        stage: the engine.
        handler_options: Beam's own options, as `Upscale` takes them.
    """
    pinned = stage.pinned
    if isinstance(pinned, RemoteEngine):
        # Beam would keep a window that has an identifier, and a later run would find it stopped.
        return RunInference(remote.RemoteHandler(pinned, stage.engine, **handler_options))
    return RunInference(
        handler_for(pinned, **handler_options), model_identifier=_identifier(pinned)
    )


def _identifier(pinned: LocalEngine) -> str:
    """Returns the identifier by which steps with the same network share one in a process."""
    return hashlib.sha256(repr(pinned).encode()).hexdigest()
