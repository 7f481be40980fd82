"""`ReadImages`: inputs, with what earlier runs into the same output did for them."""

import dataclasses
import functools
import itertools
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Any

import apache_beam as beam

from beam_upscale import storage
from beam_upscale.dataset import DatasetFolder
from beam_upscale.formats import InputFormat
from beam_upscale.listing import SourceImage, list_images
from beam_upscale.locations import Cell
from beam_upscale.manifest import Status
from beam_upscale.resume import Asked, asked_by, assign_shards, still_holds

DEFAULT_SHARD_ROWS = 1000

# Inputs of one row group of a Parquet file that a worker gets: it reads their images at once. More
# would leave other workers without any, where there are few row groups.
_MOST_TOGETHER = 64


class ListImages(beam.DoFn):
    """Turns the one element that starts a pipeline into the inputs, with their shards."""

    def __init__(
        self,
        pattern: str,
        dataset: DatasetFolder | None,
        shard_rows: int,
        input_format: InputFormat | str | None = None,
        image_column: str | None = None,
    ) -> None:
        self._pattern = pattern
        self._dataset = dataset
        self._shard_rows = shard_rows
        self._input_format = input_format
        self._image_column = image_column

    def process(self, element: object) -> Iterator[SourceImage]:
        """Lists once; what follows spreads the inputs over the workers."""
        del element
        exclude = None if self._dataset is None else self._dataset.root
        listing = list_images(self._pattern, exclude, self._input_format, self._image_column)
        if self._dataset is None:
            yield from listing.images
            return
        yield from assign_shards(listing.images, self._dataset, self._shard_rows)


def together(images: Iterable[SourceImage]) -> Iterator[list[SourceImage]]:
    """Inputs in the lists that are spread over the workers.

    A worker that reads one row of a Parquet file has read its whole row group: neighbors stay
    together, up to a limit. Any other input is alone.

    Args:
        images: in the order of the listing.
    """
    for key, group in itertools.groupby(images, key=_read_with):
        size = 1 if key is None else _MOST_TOGETHER
        while batch := list(itertools.islice(group, size)):
            yield batch


def _read_with(image: SourceImage) -> Hashable:
    """What is read with an input's bytes; None for what is read by itself."""
    return (image.uri, image.part.row_group) if isinstance(image.part, Cell) else None


class _ListTogether(beam.DoFn):
    def __init__(self, listing: ListImages) -> None:
        self._listing = listing

    def process(self, element: object) -> Iterator[list[SourceImage]]:
        yield from together(self._listing.process(element))


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
        pattern: a file, a folder (descended into) or a glob, on any of Beam's file systems, or the
            URL of a file of a web server.
        output: the dataset that the results go to. With it, inputs that an earlier run into it
            has done are marked, and `Upscale` passes over them.
        retry: statuses of earlier rows that are done again all the same.
        shard_rows: rows in a shard of that dataset.
        input_format: folder, jsonl, csv, parquet or webdataset; None infers it from names, as
            `list_images` does.
        image_column: the column of tables with images; None takes one with a usual name.

    Returns:
        A PCollection of `SourceImage`, spread over the workers.
    """

    pattern: str
    output: str | None = None
    retry: Collection[Status] = ()
    shard_rows: int = DEFAULT_SHARD_ROWS
    input_format: InputFormat | str | None = None
    image_column: str | None = None

    def expand(self, root: Any) -> Any:
        """Wires listing and the search for earlier results."""
        dataset = None if self.output is None else DatasetFolder(storage.absolute(self.output))
        listing = ListImages(
            self.pattern, dataset, self.shard_rows, self.input_format, self.image_column
        )
        images = (
            root
            | "Begin" >> beam.Impulse()
            | "List" >> beam.ParDo(_ListTogether(listing))
            | "Spread" >> beam.Reshuffle()
            | "Separate" >> beam.FlatMap(list)
        )
        if dataset is None:
            return images
        return images | "FindEarlier" >> beam.ParDo(
            FindEarlier(dataset, frozenset(Status(status) for status in self.retry))
        )
