"""`Upscale`: the transform from source images to one result for each.

The transform only wires the steps of `one_image`: `prepare`, then RunInference for each engine with
`advance` between them, and `finish`. They form one chain without a branch: where branches join
again, a runner may buffer the elements in memory or on disk, and these hold pixels. If large images
are spread over the workers, they take a branch of their own, and the branches join once results are
in files:

    inputs → Prepare → RunInference → Finish → PersistInScratch ┬→ results, without pixels
                └ large images → SpreadTiles ───────────────────┘

The last step, `ReportPostponed`, also reports each result without a row. A `WriteDataset` takes the
reports if other steps are between it and this transform, since these may drop such a result.
"""

import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import apache_beam as beam
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_upscale.dataset.books import RunBooks
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.images.encoding.pool import ENOUGH_PIXELS, shared_encoders
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.pipeline.commit.persist import final_uri
from beam_upscale.pipeline.commit.postponed import POSTPONED, ReportPostponed
from beam_upscale.pipeline.large_images.assemble import ImageUri
from beam_upscale.pipeline.large_images.results import PersistInScratch, ScratchResults
from beam_upscale.pipeline.large_images.spread import SpreadTiles
from beam_upscale.pipeline.local_runner import send_whole_elements
from beam_upscale.pipeline.one_image import gathering
from beam_upscale.pipeline.one_image.finish import advance, finish, finish_gathered
from beam_upscale.pipeline.one_image.gathering import Gathering, InFlight, ReadInput
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.run_inference import AwaitResults, count, run_inference
from beam_upscale.pipeline.one_image.states import ImageInFlight, LargeImage, UpscaledImage
from beam_upscale.pipeline.one_image.tiles import element
from beam_upscale.pipeline.run_state.held_outputs import output_of_pipeline
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.service import check_service
from beam_upscale.pipeline.settings.upscale_options import UpscaleOptions
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.engines import DEFAULT_ENGINE
from beam_upscale.sources.inputs.source_image import SourceImage

LARGE_IMAGES = "large_images"
"""The tag of the output of `Prepare` whose elements have no pixels."""

_Gathered = tuple[ReadInput, Timestamp, Any]
_Done = tuple[ImageInFlight, Inference, Timestamp, Any]
_Finished = tuple[UpscaledImage, Timestamp, Any]

_IMAGES = "images"
_RESULTS = "results"


class Prepare(beam.DoFn):
    """The DoFn that gives inputs to the first engine, and large images to `SpreadTiles`.

    Args:
        settings: the pinned settings.
        books: the books of inputs that have none; None keeps none for them.
        results: the results of earlier pipelines in a scratch folder; None takes none up.
    """

    def __init__(
        self, settings: PinnedSettings, books: RunBooks | None, results: ScratchResults | None
    ) -> None:
        self._settings = settings
        self._books = books
        self._find_done = None if results is None else results.find
        self._gathers = gathering.gathers(settings)
        self._gathered = Gathering[_Gathered](gathering.MOST_BYTES)
        self._in_flight = InFlight[list[_Gathered]](gathering.DECODED_AHEAD)

    def start_bundle(self) -> None:
        """Forgets what a bundle that failed has left."""
        self._gathered.clear()
        self._in_flight.clear()

    def process(
        self,
        source: SourceImage,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        """Yields a `TiledImage`; a `LargeImage` with a tag of its own."""
        if not (self._gathers and gathering.is_read_ahead(source)):
            # No variable may hold the image: the steps behind this one run during the `yield`.
            yield _output_of(self._prepared(source), timestamp, self._settings)
            return
        read = ReadInput.of(source, self._settings)
        if self._gathered.add((read, timestamp, window), len(read.data or b"")):
            del read
            self._begin()
            for decoded in self._in_flight.taken():
                yield from self._outputs(decoded)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yields the rest of what was gathered."""
        self._begin()
        for decoded in self._in_flight.rest():
            yield from self._outputs(decoded)

    def _begin(self) -> None:
        """Has a child decode what was gathered, while the steps behind this one work."""
        if gathered := self._gathered.take():
            self._in_flight.begin(functools.partial(_decoded, gathered, self._settings))

    def _outputs(self, decoded: list[_Gathered]) -> Iterator[WindowedValue]:
        """Yields the outputs of inputs, whose images nothing holds here by then."""
        while decoded:
            timestamp, window = decoded[0][1:]
            yield WindowedValue(self._next_output(decoded), timestamp, [window])

    def _next_output(self, decoded: list[_Gathered]) -> Any:
        """Takes the first one of the inputs, and returns its output."""
        read, timestamp, _ = decoded.pop(0)
        return _output_of(self._prepared(read.source, read), timestamp, self._settings)

    def _prepared(
        self, source: SourceImage, read: ReadInput | None = None
    ) -> UpscaledImage | TiledImage | LargeImage:
        return prepare(source, self._settings, shared_pool(), self._find_done, self._books, read)


def _decoded(gathered: list[_Gathered], settings: PinnedSettings) -> list[_Gathered]:
    """Decodes inputs together; each keeps its timestamp and its window."""
    inputs = gathering.decoded([read for read, _, _ in gathered], settings, shared_pool())
    return [(read, *when) for read, (_, *when) in zip(inputs, gathered, strict=True)]


def _output_of(
    prepared: UpscaledImage | TiledImage | LargeImage,
    timestamp: Timestamp,
    settings: PinnedSettings,
) -> Any:
    if isinstance(prepared, LargeImage):
        return beam.pvalue.TaggedOutput(LARGE_IMAGES, prepared)
    if isinstance(prepared, TiledImage):
        # An encoder becomes ready while the network has the first image.
        plan = prepared.context.plan
        shared_encoders().expect(plan.output_width * plan.output_height, settings.encode.format)
    return element(prepared, timestamp)


class Advance(AwaitResults):
    """The DoFn that hands an engine's results to the next engine."""

    def settled(self, tiled: TiledImage, inference: Inference) -> TiledImage:
        """Returns the image with the tiles for the next engine."""
        advanced = advance(tiled.context, inference, self._settings, shared_encoders())
        return element(advanced, tiled.timestamp)


class Finish(AwaitResults):
    """The DoFn that turns the last engine's output into results."""

    def __init__(self, settings: PinnedSettings) -> None:
        super().__init__(settings)
        self._gathers = gathering.gathers(settings)
        self._gathered = Gathering[_Done](ENOUGH_PIXELS)
        self._in_flight = InFlight[list[_Finished]](gathering.ENCODED_BEHIND)

    def start_bundle(self) -> None:
        """Forgets what a bundle that failed has left."""
        super().start_bundle()
        self._gathered.clear()
        self._in_flight.clear()

    def process(
        self,
        result: PredictionResult,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        """Yields results, of this image or of earlier ones."""
        tiled: TiledImage = result.example
        if not (self._gathers and self._is_gathered(tiled.context)):
            yield from super().process(result, timestamp, window)
            return
        if tiled.timestamp is not None:
            timestamp = tiled.timestamp
        tiled.release_tiles()
        image: ImageInFlight = tiled.context
        pixels = image.plan.output_width * image.plan.output_height
        if self._gathered.add((image, result.inference, timestamp, window), pixels):
            self._begin()
            for finished in self._in_flight.taken():
                yield from self._outputs(finished)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yields the remaining results."""
        self._begin()
        for finished in self._in_flight.rest():
            yield from self._outputs(finished)
        yield from super().finish_bundle()

    def settled(self, tiled: TiledImage, inference: Inference) -> UpscaledImage:
        """Returns the result."""
        upscaled = finish(tiled.context, inference, self._settings, shared_encoders())
        count(upscaled)
        return upscaled

    def _is_gathered(self, context: UpscaledImage | ImageInFlight) -> bool:
        """Tells whether a child encodes the result of an image while the next ones are made."""
        if isinstance(context, UpscaledImage):
            return False
        pixels = context.plan.output_width * context.plan.output_height
        is_asked = shared_encoders().is_asked(pixels, self._settings.encode.format)
        return is_asked and pixels <= gathering.MOST_PIXELS_BEHIND

    def _begin(self) -> None:
        """Has a child encode what was gathered, while the steps before this one work."""
        if gathered := self._gathered.take():
            self._in_flight.begin(functools.partial(_finished, gathered, self._settings))

    def _outputs(self, finished: list[_Finished]) -> Iterator[WindowedValue]:
        """Counts and yields results."""
        for upscaled, timestamp, window in finished:
            count(upscaled)
            yield WindowedValue(upscaled, timestamp, [window])


def _finished(gathered: list[_Done], settings: PinnedSettings) -> list[_Finished]:
    """Encodes images together; each result keeps its timestamp and its window."""
    images = [(image, inference) for image, inference, _, _ in gathered]
    results = finish_gathered(images, settings, shared_encoders())
    return [
        (upscaled, timestamp, window)
        for upscaled, (_, _, timestamp, window) in zip(results, gathered, strict=True)
    ]


class Upscale(beam.PTransform):
    """Upscales images.

    Args:
        engine: an engine's name, or the names of a chain, in which each engine takes the result of
            the one before it; or settings that were pinned before.
        handler_options: Beam's own options of a model handler: `min_batch_size` and
            `max_batch_size` (in input pixels), `large_model` (share the model across processes),
            `model_copies`.
        books: the output whose books record paid calls before they are made, for inputs that do not
            come from a `ReadImages` with an output. Without books, `WriteDataset` enters the
            credits that its rows were billed, and a crash loses track of calls in flight.
        scratch: a folder that all workers reach, needed with `fan_out_above`: tiles of large images
            and the images of all results are written below its `.staging/`, and stay. A later
            pipeline with the same settings takes them up. One pipeline at a time holds the folder,
            like an output. The output of the `WriteDataset` that follows is one: the end of the
            run removes all of it.
        **options: those of `UpscaleOptions`, each described at the value of its concern:
            `PlanOptions` (`width`, `oversize`, `max_input_pixels`, `output_format`, …),
            `Parameters` (`prompt`, `steps`, `seed`, …), `EncodeOptions` (`quality`, `lossless`,
            `png_compression`, `metadata`), `LocalOptions` (`weights`, `device`, `precision`, …),
            `ServiceOptions` (`endpoint`, `api_key_file`, …), `LargeImageOptions`
            (`fan_out_above`), and `UpscaleSettings` (`backend`, `prompt_column`,
            `keep_intermediates`).

    Beam's hints for the whole pipeline (`--resource_hint accelerator=…`) put it on machines with an
    accelerator. With `with_resource_hints` on this transform alone, images would go there and come
    back over the network.

    Returns:
        One `UpscaledImage` for each `SourceImage`, whatever its status. With `fan_out_above` no
        result has `data`: its encoded image is in `file`.

    Raises:
        SettingsError: for any reason that would make every image fail; INVALID_OPTION,
            `fan_out_above` is set without `scratch`.
    """

    def __init__(
        self,
        engine: str | Sequence[str] | PinnedSettings = DEFAULT_ENGINE,
        *,
        handler_options: HandlerOptions | None = None,
        books: str | None = None,
        scratch: str | None = None,
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
        self.scratch = scratch
        if self.settings.fan_out_above is not None and scratch is None:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                "fan_out_above needs a scratch folder that all workers reach, for tiles and "
                "results: give Upscale scratch, which may be the output of WriteDataset",
            )

    def expand(self, sources: Any) -> Any:
        """Wires the steps, and the reports of inputs that are left to a later run."""
        report = beam.ParDo(ReportPostponed()).with_outputs(POSTPONED, main=_RESULTS)
        results, _ = self._results(sources) | "ReportPostponed" >> report
        return results

    def _results(self, sources: Any) -> Any:
        """Wires the steps up to the results."""
        send_whole_elements()
        if self.settings.fan_out_above is None:
            return self._chain(sources | "Prepare" >> self._prepare(sources.pipeline))
        assert self.scratch is not None
        scratch = output_of_pipeline(sources.pipeline, self.scratch)
        waiting = ScratchResults.of(scratch, self.settings)
        results, large = self._branches(sources, scratch, waiting.uri_of, waiting)
        persisted = results | "PersistInScratch" >> beam.ParDo(PersistInScratch(waiting))
        return (persisted, large) | "Results" >> beam.Flatten()

    def _branches(
        self,
        sources: Any,
        scratch: DatasetFolder,
        uri_of: ImageUri,
        waiting: ScratchResults | None = None,
    ) -> tuple[Any, Any]:
        """Wires the branches: results that hold pixels, and those of large images."""
        prepare_images = self._prepare(sources.pipeline, waiting)
        found = sources | "Prepare" >> prepare_images.with_outputs(LARGE_IMAGES, main=_IMAGES)
        spread = SpreadTiles(self.settings, self.handler_options, scratch, uri_of)
        return self._chain(found[_IMAGES]), found[LARGE_IMAGES] | "SpreadTiles" >> spread

    def _prepare(self, pipeline: Any, waiting: ScratchResults | None = None) -> Any:
        """Returns the first step, without a label."""
        books = None
        if self.books is not None:
            books = RunBooks.begin(output_of_pipeline(pipeline, self.books))
        return beam.ParDo(Prepare(self.settings, books, waiting))

    def _chain(self, tiled: Any) -> Any:
        """Wires the engines, one after the other, and the encoding of results."""
        first, *others = self.settings.stages
        inferred = tiled | "RunInference" >> run_inference(first, self.handler_options)
        for number, stage in enumerate(others, start=2):
            inferred = (
                inferred
                | f"Advance{number}" >> beam.ParDo(Advance(self.settings))
                | f"RunInference{number}" >> run_inference(stage, self.handler_options)
            )
        return inferred | "Finish" >> beam.ParDo(Finish(self.settings))


class UpscaleForRun(Upscale):
    """Upscales the images of a run, whose results go straight to `WriteDataset`, without reports.

    Large images are written at their final place. They keep a branch of their own: to join the
    other results, all results would have to be in files, and the local runner would pass them on
    only after the last one.

    Args:
        settings: the pinned settings.
        output: the output's root.

    Returns:
        The results; with `fan_out_above` two PCollections of them, those of large images last.
    """

    def __init__(self, settings: PinnedSettings, output: str) -> None:
        super().__init__(settings, scratch=output)

    def expand(self, sources: Any) -> Any:
        """Wires the steps."""
        if self.settings.fan_out_above is None:
            return self._results(sources)
        send_whole_elements()
        assert self.scratch is not None
        output = output_of_pipeline(sources.pipeline, self.scratch)
        return self._branches(sources, output, final_uri)
