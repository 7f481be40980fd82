"""`ReadImages`: inputs, with what earlier runs into the same output did for them."""

import dataclasses
import functools
from collections.abc import Collection, Iterator
from typing import Any

import apache_beam as beam

from beam_upscale import storage
from beam_upscale.dataset import DatasetFolder
from beam_upscale.listing import SourceImage, list_images
from beam_upscale.manifest import Status
from beam_upscale.resume import Asked, asked_by, assign_shards, still_holds

DEFAULT_SHARD_ROWS = 1000


class ListImages(beam.DoFn):
    """Turns the one element that starts a pipeline into the inputs, with their shards."""

    def __init__(self, pattern: str, dataset: DatasetFolder | None, shard_rows: int) -> None:
        self._pattern = pattern
        self._dataset = dataset
        self._shard_rows = shard_rows

    def process(self, element: object) -> Iterator[SourceImage]:
        """Lists once; what follows spreads the inputs over the workers."""
        del element
        if self._dataset is None:
            yield from list_images(self._pattern).images
            return
        listing = list_images(self._pattern, exclude=self._dataset.root)
        yield from assign_shards(listing.images, self._dataset, self._shard_rows)


class FindEarlier(beam.DoFn):
    """Keeps, or finds among the staged records, the earlier row of an input where it holds."""

    def __init__(self, dataset: DatasetFolder, retry: frozenset[Status]) -> None:
        self._dataset = dataset
        self._retry = retry

    def process(self, image: SourceImage) -> Iterator[SourceImage]:
        """Gives the input with `earlier` set, or None where there is work to do."""
        staged = self._dataset.staged_record(image.input_id)
        if staged is not None:
            image = dataclasses.replace(image, earlier=staged, committed=False)
        row = None if image.earlier is None else image.earlier.row
        if row is not None and (
            row.status in self._retry or not still_holds(image, row, self._dataset, self._asked)
        ):
            image = dataclasses.replace(image, earlier=None, committed=False)
        yield image

    @functools.cached_property
    def _asked(self) -> Asked | None:
        # Only now: run.json is written after a pipeline is put together, before it begins.
        return asked_by(self._dataset.read_run())


@dataclasses.dataclass(eq=False)
class ReadImages(beam.PTransform):
    """Lists images; their bytes are read where they are upscaled.

    Attributes:
        pattern: a file, a folder (descended into) or a glob, on any of Beam's file systems.
        output: the dataset that the results go to. With it, inputs that an earlier run into it
            has done are marked, and `Upscale` passes over them.
        retry: statuses of earlier rows that are done again all the same.
        shard_rows: rows in a shard of that dataset.

    Returns:
        A PCollection of `SourceImage`, spread over the workers.
    """

    pattern: str
    output: str | None = None
    retry: Collection[Status] = ()
    shard_rows: int = DEFAULT_SHARD_ROWS

    def expand(self, root: Any) -> Any:
        """Wires listing and the search for earlier results."""
        dataset = None if self.output is None else DatasetFolder(storage.absolute(self.output))
        images = (
            root
            | "Begin" >> beam.Impulse()
            | "List" >> beam.ParDo(ListImages(self.pattern, dataset, self.shard_rows))
            | "Spread" >> beam.Reshuffle()
        )
        if dataset is None:
            return images
        return images | "FindEarlier" >> beam.ParDo(
            FindEarlier(dataset, frozenset(Status(status) for status in self.retry))
        )
