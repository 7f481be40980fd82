"""`Upscale`: source images in, one result for each out.

The transform only wires steps, each a function of `stages`: `prepare`, then RunInference for each
engine with `advance` between them, and `finish`. They form one chain without a branch: where paths
part and join again, a runner may write what flows there to memory or disk, and that would be
pixels.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import PredictionResult, RunInference

from beam_upscale.decoding import shared_pool
from beam_upscale.inference import METRICS, TiledImage, handler_for
from beam_upscale.listing import SourceImage
from beam_upscale.local_models import LocalModel
from beam_upscale.manifest import Status
from beam_upscale.settings import PinnedSettings, UpscaleSettings
from beam_upscale.stages import UpscaledImage, advance, finish, prepare


class _Prepare(beam.DoFn):
    def __init__(self, settings: PinnedSettings) -> None:
        self._settings = settings

    def process(self, source: SourceImage) -> Iterator[TiledImage]:
        yield prepare(source, self._settings, shared_pool())


class _Advance(beam.DoFn):
    def __init__(self, settings: PinnedSettings) -> None:
        self._settings = settings

    def process(self, result: PredictionResult) -> Iterator[TiledImage]:
        yield advance(result.example, result.inference, self._settings)


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
        engine: an engine's name, or those of a chain: each takes what the one before it made. Or
            settings that were pinned before.
        handler_options: Beam's own options of a model handler: `min_batch_size` and
            `max_batch_size` (in input pixels), `large_model` (share the model across processes),
            `model_copies`.
        **options: of `PlanOptions` (`width`, `height`, `short_side`, `long_side`, `oversize`,
            `min_side`, `skip_larger_than`, `max_input_pixels`, `output_format`), of `Parameters`
            (`prompt`, `negative_prompt`, `cfg_scale`, `steps`, `seed`, `noise_level`) and of
            `UpscaleSettings` (`weights`, `device`, `precision`, `quality`, …).

    Beam's `with_resource_hints` puts it on machines with an accelerator.

    Returns:
        For each `SourceImage` one `UpscaledImage`, whatever became of it.

    Raises:
        SettingsError: what would make every image fail alike.
    """

    def __init__(
        self,
        engine: str | Sequence[str] | PinnedSettings = "esrgan-v1-x2plus",
        *,
        handler_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(engine, PinnedSettings):
            self.settings = engine
        else:
            asked = UpscaleSettings.of(engine, **options)
            if asked.warning is not None:
                warnings.warn(asked.warning, stacklevel=2)
            self.settings = asked.pin()
        self._handler_options = handler_options or {}

    def expand(self, images: Any) -> Any:
        """Wires the steps."""
        tiled = images | "Prepare" >> beam.ParDo(_Prepare(self.settings))
        first, *others = self.settings.stages
        inferred = tiled | "RunInference" >> self._inference(first.model)
        for number, stage in enumerate(others, start=2):
            inferred = (
                inferred
                | f"Advance{number}" >> beam.ParDo(_Advance(self.settings))
                | f"RunInference{number}" >> self._inference(stage.model)
            )
        return inferred | "Finish" >> beam.ParDo(_Finish(self.settings))

    def _inference(self, model: LocalModel) -> RunInference:
        handler = handler_for(model, **self._handler_options)
        return RunInference(handler, model_identifier=_identifier(model))


def _identifier(model: LocalModel) -> str:
    """Names the loaded model: steps with the same network share one in a process."""
    return hashlib.sha256(repr(model).encode()).hexdigest()
