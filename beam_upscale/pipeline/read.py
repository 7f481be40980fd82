"""`ReadImages`: lists the inputs, with the results of earlier runs into the same output."""

import dataclasses
import functools
from collections.abc import Collection, Iterator
from typing import Any

import apache_beam as beam

from beam_upscale.dataset.book_entries import work_of
from beam_upscale.dataset.books import RunBooks
from beam_upscale.dataset.defaults import DEFAULT_SHARD_ROWS
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.own_columns import are_stored_alike
from beam_upscale.dataset.manifest.row import Row, Status, with_earlier_billing
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import Record
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import ImageError
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.commit.persist import shard_of
from beam_upscale.pipeline.run_state.free_repeats import repeatable_entries
from beam_upscale.pipeline.run_state.held_outputs import output_of_pipeline
from beam_upscale.pipeline.run_state.input_state import (
    EarlierResult,
    InputState,
    ListingEntry,
    state_of,
    with_state,
)
from beam_upscale.pipeline.run_state.listing_files import (
    Batch,
    ListedInput,
    read_index,
    read_part,
    together,
    write_listing,
)
from beam_upscale.pipeline.run_state.resume import (
    RequestedParameters,
    assign_shards,
    requested_parameters,
    still_holds,
)
from beam_upscale.pipeline.run_state.stop import clear_stop
from beam_upscale.sources.discovery import list_images, no_input
from beam_upscale.sources.formats.input_format import InputFormat
from beam_upscale.sources.inputs.found_inputs import Inputs, Listing
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage.http import web_access
from beam_upscale.storage.http.web_access import WebAccess


@dataclasses.dataclass(frozen=True)
class ListingRequest:
    """A request to list inputs, and the output that they are for.

    Attributes:
        pattern: a file, a folder or a glob.
        input_format: the format of the inputs; None infers it.
        image_column: the column of tables with images; None takes one with a usual name.
        dataset: the output; None if there is none.
        shard_rows: the number of rows in a shard of the output.
        web_access: limits on the hosts of URLs, added to those that this process has already.
    """

    pattern: str
    input_format: InputFormat | str | None = None
    image_column: str | None = None
    dataset: DatasetFolder | None = None
    shard_rows: int = DEFAULT_SHARD_ROWS
    web_access: WebAccess = web_access.DEFAULT

    def listing(self) -> Listing:
        """Lists the inputs that exist now, without the output's own files.

        Raises:
            SettingsError: as `list_images`; NO_INPUT, there are only results of runs.
        """
        exclude = None if self.dataset is None else self.dataset.root
        with web_access.within(self.web_access):
            listing = list_images(self.pattern, exclude, self.input_format, self.image_column)
        if listing.datasets and not listing.images:
            raise no_input(self.pattern, listing)
        return listing


def write_down(sources: Inputs, dataset: DatasetFolder, shard_rows: int) -> Iterator[Batch]:
    """Writes a listing into an output, by shards, and yields its batches."""
    return write_listing(assign_shards(sources, dataset, shard_rows), len(sources), dataset)


def _list_together(_: object, request: ListingRequest) -> Iterator[list[SourceImage]]:
    sources = request.listing().images
    return together(sources, len(sources))


def _list_for(_: object, request: ListingRequest, dataset: DatasetFolder) -> Iterator[Batch]:
    with dataset.shown():
        # A request that stopped an earlier run of this pipeline must not stop this one.
        clear_stop(dataset)
        return write_down(request.listing().images, dataset, request.shard_rows)


def _batches_of(_: object, dataset: DatasetFolder) -> Iterator[Batch]:
    return read_index(dataset)


class ReadBatch(beam.DoFn):
    """The DoFn that reads a batch of an output's listing, with the rows of committed inputs."""

    def __init__(self, dataset: DatasetFolder, books: RunBooks | None = None) -> None:
        self._dataset = dataset
        self._books = books
        self._inputs: tuple[str, list[ListedInput]] = ("", [])
        self._rows: tuple[int, dict[str, Row]] = (-1, {})

    def start_bundle(self) -> None:
        """Drops the cached manifest, as a later bundle may belong to a later run."""
        self._rows = (-1, {})

    def process(self, batch: Batch) -> Iterator[SourceImage]:
        """Yields the batch's inputs; neighboring batches share a read of a part or a manifest."""
        if self._inputs[0] != batch.part:
            self._inputs = (batch.part, read_part(self._dataset, batch.part))
        for listed in self._inputs[1][batch.first : batch.first + batch.count]:
            state = InputState(
                listed=ListingEntry(batch.part, listed.source),
                earlier=self._committed(batch.shard, listed) if listed.is_committed else None,
                books=self._books,
            )
            yield with_state(listed.source, state)

    def _committed(self, shard: int, listed: ListedInput) -> EarlierResult:
        if self._rows[0] != shard:
            rows = self._dataset.read_manifest(shard)
            self._rows = (shard, {row.input_id: row for row in rows})
        row = self._rows[1][listed.source.input_id]
        return EarlierResult(Record(row, None), is_committed=True)


class FindEarlier(beam.DoFn):
    """The DoFn that finds an input's earlier row, also among records, and keeps a valid one."""

    def __init__(
        self, dataset: DatasetFolder, retry: frozenset[Status], engine: RemoteEngine | None = None
    ) -> None:
        self._dataset = dataset
        self._retry = retry
        self._engine = engine
        self._search: RecordSearch | None = None

    def start_bundle(self) -> None:
        """Forgets what was found: a repeated bundle must see what its first attempt has done."""
        self._search = None

    def process(self, source: SourceImage) -> Iterator[SourceImage]:
        """Yields the input with its valid earlier result, or with None if it is to be upscaled."""
        state = state_of(source)
        earlier = self._last(source, state.earlier)
        if earlier is not None and not self._is_valid(source, earlier.record):
            earlier = None
        if earlier is not state.earlier:
            source = with_state(source, dataclasses.replace(state, earlier=earlier))
        yield source

    def _last(self, source: SourceImage, earlier: EarlierResult | None) -> EarlierResult | None:
        """Returns the last result of an input: that of a record, else the committed one."""
        record = self._records.find(source.input_id, shard_of(source))
        if record is None:
            return earlier
        if earlier is None or not _is_committed(record.row, earlier):
            return EarlierResult(record)
        has_other = not _are_labeled_alike(record.row, earlier.record.row)
        return dataclasses.replace(earlier, has_other_record=has_other)

    @property
    def _records(self) -> RecordSearch:
        """The records as they are in this bundle.

        Where results may be paid, each look sees those of all workers up to that moment, so that no
        call is repeated without need. Those of local engines are seen as they were at the
        beginning: a bundle's inputs are in no other bundle, unless it runs twice at once, and then
        an input is done twice with the same result.
        """
        if self._search is None:
            run = self._run
            is_paid = run is None or not run.has_local_engines
            self._search = RecordSearch.begin(self._dataset, has_late_singles=is_paid)
        return self._search

    def _is_valid(self, source: SourceImage, record: Record) -> bool:
        row = record.row
        return (
            row.status not in self._retry
            and still_holds(source, row, self._dataset, self._requested, record.packed)
            and not self._is_open(source, row)
        )

    def _is_open(self, source: SourceImage, row: Row) -> bool:
        """Checks whether a free repeat may resolve an open call for an input without an image."""
        books = state_of(source).books
        if self._engine is None or books is None or row.status is Status.UPSCALED:
            return False
        known = repeatable_entries(books, self._engine)
        at = books.started_at
        groups = [
            group
            for group in known.unresolved(source.input_id)
            if group.is_repeated_free(self._engine, at)
        ]
        if not groups or row.source_sha256 is None:
            return False
        requested, parameters = self._requested, None
        try:
            if requested is not None:
                parameters = source.parameters(requested.parameters, requested.prompt_column)
        except ImageError:
            return False
        work = work_of(row.source_sha256, parameters)
        return any(group.first.work == work for group in groups)

    @functools.cached_property
    def _requested(self) -> RequestedParameters | None:
        return requested_parameters(self._run)

    @functools.cached_property
    def _run(self) -> RunJson | None:
        # Read only now: run.json is written after a pipeline is constructed, before it begins.
        return self._dataset.read_run()


class FindDone(FindEarlier):
    """The DoFn that finds results made since the inputs were read.

    A budget needs all inputs at once. So a runner materializes them there, and after the loss of a
    worker it repeats that worker's bundles from there.
    """

    def process(self, source: SourceImage) -> Iterator[SourceImage]:
        """Yields an input as `FindEarlier` does; unchanged if finished or beyond the budget."""
        state = state_of(source)
        is_within_budget = state.allowance is None or state.allowance.is_within_budget
        if state.earlier is None and is_within_budget:
            yield from super().process(source)
        else:
            yield source


def _is_committed(row: Row, earlier: EarlierResult) -> bool:
    """Checks whether the row of a record below `.staging/` is of the committed result."""
    committed = earlier.record.row
    is_same = _result(with_earlier_billing(row, committed)) == _result(committed)
    return earlier.is_committed and is_same


def _result(row: Row) -> tuple[object, ...]:
    made = row.source_sha256, row.output_sha256, row.error_code, row.error_message
    return row.status, *made, row.billed_credits, tuple(row.request_ids), tuple(row.notes)


def _are_labeled_alike(row: Row, other: Row) -> bool:
    """Checks whether two rows of one result have the same source URI and the same columns."""
    return row.source_uri == other.source_uri and are_stored_alike(row.input, other.input)


@dataclasses.dataclass(eq=False)
class ReadImages(beam.PTransform):
    """Lists images; the workers that upscale them read their bytes.

    Attributes:
        pattern: a file, a folder (descended into) or a glob, on any of Beam's file systems, or the
            URL of a file of a web server.
        output: the dataset that the results go to. If it is given, inputs that an earlier run into
            it has finished are marked, and `Upscale` skips them.
        retry: statuses of earlier rows whose inputs are upscaled again.
        shard_rows: the number of rows in a shard of that dataset.
        input_format: the format of the input; None infers it from names, as `list_images` does.
        image_column: the column of tables with images; None takes one with a usual name.
        lease_seconds: as in `WriteDataset`.
        deny_private_networks: True refuses URLs whose host is the worker's own machine or on a
            private network; Beam's option of that name does the same.
        allow_link_local: True reads URLs whose host has a link-local address, where clouds give out
            keys; Beam's option of that name does the same.

    Returns:
        A PCollection of `SourceImage`, spread over the workers.
    """

    pattern: str
    output: str | None = None
    retry: Collection[Status] = ()
    shard_rows: int = DEFAULT_SHARD_ROWS
    input_format: InputFormat | str | None = None
    image_column: str | None = None
    lease_seconds: float | None = None
    deny_private_networks: bool = False
    allow_link_local: bool = False

    def expand(self, root: Any) -> Any:
        """Wires listing and the search for earlier results."""
        dataset = None
        if self.output is not None:
            dataset = output_of_pipeline(root.pipeline, self.output, self.lease_seconds)
        own = WebAccess(self.deny_private_networks, self.allow_link_local)
        request = ListingRequest(
            self.pattern,
            self.input_format,
            self.image_column,
            dataset,
            self.shard_rows,
            web_access.asked_by(root.pipeline.options).joined(own),
        )
        begin = root | "Begin" >> beam.Impulse()
        if dataset is None:
            lists = begin | "List" >> beam.FlatMap(_list_together, request)
            return lists | "Spread" >> beam.Reshuffle() | "Separate" >> beam.FlatMap(list)
        batches = begin | "List" >> beam.FlatMap(_list_for, request, dataset)
        return batches | "Read" >> _ReadBatches(dataset, self.retry)


@dataclasses.dataclass(eq=False)
class ReadListed(beam.PTransform):
    """Reads the inputs that `write_down` wrote into an output.

    Attributes:
        output: the dataset.
        retry: as in `ReadImages`.
        engine: the service's engine; a failed input is upscaled again if a free repeat of its
            calls shows whether they were charged. None if there is no service.

    Returns:
        A PCollection of `SourceImage`, as from `ReadImages`.
    """

    output: str
    retry: Collection[Status] = ()
    engine: RemoteEngine | None = None

    def expand(self, root: Any) -> Any:
        """Wires the listing's batches and the search for earlier results."""
        dataset = output_of_pipeline(root.pipeline, self.output)
        batches = root | "Begin" >> beam.Impulse() | "Batches" >> beam.FlatMap(_batches_of, dataset)
        return batches | "Read" >> _ReadBatches(dataset, self.retry, self.engine)


@dataclasses.dataclass(eq=False)
class _ReadBatches(beam.PTransform):
    dataset: DatasetFolder
    retry: Collection[Status]
    engine: RemoteEngine | None = None

    def expand(self, batches: Any) -> Any:
        retry = frozenset(Status(status) for status in self.retry)
        return (
            batches
            | "Spread" >> beam.Reshuffle()
            | "Inputs" >> beam.ParDo(ReadBatch(self.dataset, RunBooks.begin(self.dataset)))
            | "FindEarlier" >> beam.ParDo(FindEarlier(self.dataset, retry, self.engine))
        )
