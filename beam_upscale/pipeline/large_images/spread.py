"""`FanOut`: giants in, one result for each out, their tiles spread over the workers.

The transform only wires steps, each a function of `fan_out`. What crosses a shuffle is where a tile
is and what became of it, some hundred bytes; from a tile's pixels to its durable result there is
one chain without a branch, as in `Upscale`.
"""

import ctypes
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.held_folder import ShownBundle
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.pipeline.large_images.assemble import assemble
from beam_upscale.pipeline.large_images.cut import cut
from beam_upscale.pipeline.large_images.states import CutImage, GiantTile, TileResult
from beam_upscale.pipeline.large_images.tiles import keep, read_tile
from beam_upscale.pipeline.one_image.run_inference import Settle, count, run_inference
from beam_upscale.pipeline.one_image.states import Giant, UpscaledImage
from beam_upscale.pipeline.run_state.arrivals import refuse_two_sources
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.sources.inputs.source_image import SourceImage

GIANTS = "giants"
"""The tag of an output with giants."""

# Of glibc's malloc.h.
_M_MMAP_THRESHOLD = -3
_LARGE_BLOCK_BYTES = 128 << 10

_IMAGES = "images"
_NOT_CUT = "not_cut"
_RESULTS = "results"


def refuse_packed(settings: PinnedSettings | None, layout: Layout) -> None:
    """Raises where a giant's result would have to be packed with others, which are held for that.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    if settings is not None and settings.fan_out_above is not None and layout.is_packed:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"fan_out_above does not go with the layout {layout}: an image that is too large to be "
            "held cannot be packed with others; take the layout files",
        )


def give_memory_back() -> None:
    """Has the C library return large blocks to the system when they are freed.

    glibc keeps ever larger ones once some were freed, for each thread: of a giant's rows and tiles,
    which come and go in the hundreds, that is a gigabyte. Other libraries have no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if sys.platform == "linux" and mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


class _Cut(beam.DoFn):
    def __init__(self, settings: PinnedSettings, dataset: DatasetFolder) -> None:
        self._settings = settings
        self._dataset = dataset

    def setup(self) -> None:
        give_memory_back()

    def process(self, giant: Giant) -> Iterator[Any]:
        with self._dataset.shown():
            found = cut(giant, self._settings, self._dataset, shared_pool())
        if isinstance(found, UpscaledImage):
            count(found)
            yield beam.pvalue.TaggedOutput(_NOT_CUT, found)
            return
        image, tiles = found
        yield beam.pvalue.TaggedOutput(_IMAGES, (image.key, image))
        yield from tiles


class _ReadTile(beam.DoFn):
    def __init__(self, settings: PinnedSettings, dataset: DatasetFolder) -> None:
        self._settings = settings
        self._dataset = dataset

    def setup(self) -> None:
        give_memory_back()

    def process(self, tile: GiantTile) -> Iterator[TiledImage]:
        yield read_tile(tile, self._settings, self._dataset, shared_pool())


class _Keep(Settle):
    def __init__(self, settings: PinnedSettings, dataset: DatasetFolder) -> None:
        super().__init__(settings)
        self._dataset = dataset
        self._shown = ShownBundle(dataset)

    def start_bundle(self) -> None:
        super().start_bundle()
        self._shown.begin()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from super().finish_bundle()
        self._shown.end()

    def teardown(self) -> None:
        self._shown.end()

    def settled(self, tiled: TiledImage, inference: Inference) -> tuple[str, TileResult]:
        return tiled.context.tile.key, keep(tiled, inference, self._dataset)


class _Assemble(beam.DoFn):
    def __init__(
        self,
        settings: PinnedSettings,
        dataset: DatasetFolder,
        place: Callable[[SourceImage, Row], str],
    ) -> None:
        self._settings = settings
        self._dataset = dataset
        self._place = place

    def process(self, keyed: tuple[str, Mapping[str, Iterable[Any]]]) -> Iterator[UpscaledImage]:
        # A step that ran twice gives equal images.
        images: list[CutImage] = list(keyed[1][_IMAGES])
        refuse_two_sources(each.draft.source for each in images)
        image = images[0]
        results = list(keyed[1][_RESULTS])
        with self._dataset.shown():
            upscaled = assemble(image, results, self._settings, self._dataset, self._place)
        count(upscaled)
        yield upscaled


@dataclasses.dataclass(eq=False)
class FanOut(beam.PTransform):
    """Upscales giants.

    Attributes:
        settings: of the run, as `Upscale` has them.
        handler_options: likewise.
        dataset: the output, whose staging folder holds what is not done.
        place: where a result's image stands, relative to the dataset's root.

    Returns:
        For each `Giant` one `UpscaledImage`. Its image is in place already.
    """

    settings: PinnedSettings
    handler_options: HandlerOptions
    dataset: DatasetFolder
    place: Callable[[SourceImage, Row], str]

    def expand(self, giants: Any) -> Any:
        """Wires the steps."""
        settings, dataset = self.settings, self.dataset
        found = (
            giants
            | "SpreadGiants" >> beam.Reshuffle()
            | "Cut"
            >> beam.ParDo(_Cut(settings, dataset)).with_outputs(_IMAGES, _NOT_CUT, main="tiles")
        )
        results = (
            found.tiles
            | "SpreadTiles" >> beam.Reshuffle()
            | "ReadTile" >> beam.ParDo(_ReadTile(settings, dataset))
            | "RunInference" >> run_inference(settings.stages[0], self.handler_options)
            | "Keep" >> beam.ParDo(_Keep(settings, dataset))
        )
        assembled = (
            {_IMAGES: found[_IMAGES], _RESULTS: results}
            | "ByImage" >> beam.CoGroupByKey()
            | "Assemble" >> beam.ParDo(_Assemble(settings, dataset, self.place))
        )
        return (assembled, found[_NOT_CUT]) | "All" >> beam.Flatten()
