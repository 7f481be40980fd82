"""`SpreadTiles`: upscales large images, whose tiles are spread over the workers.

The transform only wires the steps of this package. Only the location of a tile and its outcome
cross a shuffle, some hundred bytes. From a tile's pixels to its durable result there is one chain
without a branch, as for images that are not spread.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.output_hold import ShownBundle
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.pipeline.large_images.assemble import ImageUri, assemble
from beam_upscale.pipeline.large_images.cut import cut
from beam_upscale.pipeline.large_images.memory import give_memory_back
from beam_upscale.pipeline.large_images.states import CutImage, LargeImageTile, TileResult
from beam_upscale.pipeline.large_images.tiles import persist_tile, read_tile
from beam_upscale.pipeline.one_image.run_inference import AwaitResults, count, run_inference
from beam_upscale.pipeline.one_image.states import LargeImage, UpscaledImage
from beam_upscale.pipeline.run_state.arrivals import refuse_two_sources
from beam_upscale.pipeline.settings.pinned import PinnedSettings

_IMAGES = "images"
_NOT_CUT = "not_cut"
_RESULTS = "results"


class _Cut(beam.DoFn):
    def __init__(self, settings: PinnedSettings, scratch: DatasetFolder) -> None:
        self._settings = settings
        self._scratch = scratch

    def setup(self) -> None:
        give_memory_back()

    def process(
        self, large: LargeImage, timestamp: Timestamp = beam.DoFn.TimestampParam
    ) -> Iterator[Any]:
        with self._scratch.shown():
            found = cut(large, self._settings, self._scratch, shared_pool())
        if isinstance(found, UpscaledImage):
            count(found)
            yield beam.pvalue.TaggedOutput(_NOT_CUT, found)
            return
        cut_image, tiles = found
        yield beam.pvalue.TaggedOutput(_IMAGES, (cut_image.key, (cut_image, timestamp)))
        yield from tiles


class ReadTile(beam.DoFn):
    """The DoFn that gives a tile's pixels to the network."""

    def __init__(self, settings: PinnedSettings, scratch: DatasetFolder) -> None:
        self._settings = settings
        self._scratch = scratch

    def setup(self) -> None:
        """Makes large blocks of memory return to the system."""
        give_memory_back()

    def process(self, tile: LargeImageTile) -> Iterator[TiledImage]:
        """Yields an image that consists of this tile alone."""
        yield read_tile(tile, self._settings, self._scratch, shared_pool())


class PersistTile(AwaitResults):
    """The DoFn that persists a tile's result; its outcome has no pixels."""

    def __init__(self, settings: PinnedSettings, scratch: DatasetFolder) -> None:
        super().__init__(settings)
        self._scratch = scratch
        self._shown = ShownBundle(scratch)

    def start_bundle(self) -> None:
        """Shows that the run is alive."""
        super().start_bundle()
        self._shown.begin()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yields the outcomes of the remaining tiles as they are done."""
        yield from super().finish_bundle()
        self._shown.end()

    def teardown(self) -> None:
        """Cleans up after a bundle that failed."""
        self._shown.end()

    def settled(self, tiled: TiledImage, inference: Inference) -> tuple[str, TileResult]:
        """Persists a tile's result; returns the key of its image and its outcome."""
        return tiled.context.tile.key, persist_tile(tiled, inference, self._scratch)


class _Assemble(beam.DoFn):
    def __init__(self, settings: PinnedSettings, scratch: DatasetFolder, uri_of: ImageUri) -> None:
        self._settings = settings
        self._scratch = scratch
        self._uri_of = uri_of

    def process(
        self, keyed: tuple[str, Mapping[str, Iterable[Any]]], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[WindowedValue]:
        # If the step before this one ran twice, its images are equal.
        cut_images: list[tuple[CutImage, Timestamp]] = list(keyed[1][_IMAGES])
        refuse_two_sources(cut_image.draft.source for cut_image, _ in cut_images)
        cut_image, timestamp = cut_images[0]
        results = list(keyed[1][_RESULTS])
        with self._scratch.shown():
            upscaled = assemble(cut_image, results, self._settings, self._scratch, self._uri_of)
        count(upscaled)
        # The group has its window's end as its time; the result gets the time of its input.
        yield WindowedValue(upscaled, timestamp, [window])


@dataclasses.dataclass(eq=False)
class SpreadTiles(beam.PTransform):
    """Upscales large images; the tiles of each are spread over all workers.

    Attributes:
        settings: the pinned settings of the run.
        handler_options: Beam's own options, as for `Upscale`.
        scratch: the folder whose `.staging/` holds tiles and their results.
        uri_of: returns the URI of a result's image.

    Returns:
        One `UpscaledImage` for each `LargeImage`; its encoded image is in a file.
    """

    settings: PinnedSettings
    handler_options: HandlerOptions
    scratch: DatasetFolder
    uri_of: ImageUri

    def expand(self, large_images: Any) -> Any:
        """Wires the steps."""
        settings, scratch = self.settings, self.scratch
        found = (
            large_images
            | "SpreadImages" >> beam.Reshuffle()
            | "Cut"
            >> beam.ParDo(_Cut(settings, scratch)).with_outputs(_IMAGES, _NOT_CUT, main="tiles")
        )
        results = (
            found.tiles
            | "Spread" >> beam.Reshuffle()
            | "ReadTile" >> beam.ParDo(ReadTile(settings, scratch))
            | "RunInference" >> run_inference(settings.stages[0], self.handler_options)
            | "PersistTile" >> beam.ParDo(PersistTile(settings, scratch))
        )
        assembled = (
            {_IMAGES: found[_IMAGES], _RESULTS: results}
            | "ByImage" >> beam.CoGroupByKey()
            | "Assemble" >> beam.ParDo(_Assemble(settings, scratch, self.uri_of))
        )
        return (assembled, found[_NOT_CUT]) | "All" >> beam.Flatten()
