"""`Upscale`: the transform from source images to one result for each.

The transform only wires the steps of `one_image`: `prepare`, then RunInference for each engine with
`advance` between them, and `finish`. They form one chain without a branch: where branches join
again, a runner may buffer the elements in memory or on disk, and these hold pixels.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import apache_beam as beam
from apache_beam.utils.timestamp import Timestamp

from beam_upscale.dataset.books import RunBooks
from beam_upscale.dataset.held_folder import held_by_pipeline
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.inference.local_engines import LocalModel
from beam_upscale.inference.remote import checking
from beam_upscale.inference.remote_engines import RemoteModel
from beam_upscale.pipeline.local_runner import send_whole_elements
from beam_upscale.pipeline.one_image.finish import advance, finish
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.run_inference import Settle, count, run_inference
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.one_image.tiles import element
from beam_upscale.pipeline.run_state.input_state import state_of, with_state
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.upscale_options import UpscaleOptions
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.engines import DEFAULT_ENGINE
from beam_upscale.sources.inputs.source_image import SourceImage


class _Prepare(beam.DoFn):
    def __init__(self, settings: PinnedSettings, books: RunBooks | None) -> None:
        self._settings = settings
        self._books = books

    def process(
        self, source: SourceImage, timestamp: Timestamp = beam.DoFn.TimestampParam
    ) -> Iterator[TiledImage]:
        state = state_of(source)
        if state.books is None and self._books is not None:
            source = with_state(source, dataclasses.replace(state, books=self._books))
        # No variable may hold the image: the steps behind this one run during the `yield`.
        yield element(prepare(source, self._settings, shared_pool()), timestamp)


class _Advance(Settle):
    def settled(self, tiled: TiledImage, inference: Inference) -> TiledImage:
        return element(advance(tiled.context, inference, self._settings), tiled.timestamp)


class _Finish(Settle):
    def settled(self, tiled: TiledImage, inference: Inference) -> UpscaledImage:
        upscaled = finish(tiled.context, inference, self._settings)
        count(upscaled)
        return upscaled


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
        engine: str | Sequence[str] | PinnedSettings = DEFAULT_ENGINE,
        *,
        handler_options: HandlerOptions | None = None,
        books: str | None = None,
        **options: Unpack[UpscaleOptions],
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
        self.handler_options: HandlerOptions = handler_options or {}

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


def check_service(settings: PinnedSettings) -> PinnedSettings:
    """Asks the service, if the settings name one, whether it takes the key and has the engines.

    Returns:
        The settings, with the ledger of a service that charges a repeated request once; unchanged
        for all others.

    Raises:
        SettingsError: ENDPOINT_UNAVAILABLE, API_KEY_REFUSED or UNKNOWN_ENGINE.
    """
    remote = [stage.model for stage in settings.stages if isinstance(stage.model, RemoteModel)]
    found = checking.check(remote[0], [model.engine for model in remote]) if remote else None
    if found is None:
        return settings
    stages = tuple(
        dataclasses.replace(s, model=_with_ledger(s.model, found)) for s in settings.stages
    )
    return dataclasses.replace(settings, stages=stages)


def _with_ledger(
    model: LocalModel | RemoteModel, found: checking.ServiceLedger
) -> LocalModel | RemoteModel:
    if not isinstance(model, RemoteModel):
        return model
    return dataclasses.replace(model, ledger=found.ledger, replay_seconds=found.replay_seconds)
