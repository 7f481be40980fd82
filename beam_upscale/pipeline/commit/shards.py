"""Commits one shard: its images, telemetry and, last, its manifest."""

import contextlib
import dataclasses
import datetime
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale.dataset import books
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.layouts.shard_files import read_images, write_images
from beam_upscale.dataset.manifest.own_columns import infer_input_type
from beam_upscale.dataset.manifest.row import Row, status_of
from beam_upscale.dataset.manifest.table import TELEMETRY, held_table
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import Record, record_from_json
from beam_upscale.errors import ErrorCode
from beam_upscale.pipeline.commit.persist import shard_of
from beam_upscale.pipeline.commit.waiting_images import WaitingImages
from beam_upscale.pipeline.run_state.arrivals import (
    Arrivals,
    ShardOfId,
    ShardUpdate,
    id_hash,
    refuse_lost,
    refuse_two_inputs,
)
from beam_upscale.pipeline.run_state.listing_files import ListedInput, listed_shards, read_part
from beam_upscale.pipeline.run_state.resume import delete_files, replaced
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files

_logger = logging.getLogger(__name__)

# The number of a shard's records that are read at a time.
_READERS = 16


def commit_shard(
    shard: int,
    records: Iterable[Record],
    dataset: DatasetFolder,
    layout: Layout,
    run_id: str,
    input_type: pa.StructType | None = None,
) -> None:
    """Writes a shard's images and, last, its manifest.

    Args:
        shard: its number.
        records: the records of inputs done since the shard was last committed, or of all its
            inputs.
        dataset: the output.
        layout: the way images are stored.
        run_id: the run's id, which names its telemetry.
        input_type: the type of the dataset's own columns; None infers it from the shard's rows.
    """
    given = list(records)
    rows = {row.input_id: row for row in _committed(shard, dataset)}
    # An input with a row was not left out: this is a late repeat, and the run has ended since.
    records = [
        record
        for record in given
        if record.row.input_id not in rows or record.row.error_code != ErrorCode.LEFT_OUT
    ]
    if given and not records:
        return
    for row in (record.row for record in records):
        before = rows.get(row.input_id)
        rows[row.input_id] = row if before is None else replaced(before, row, dataset)
    ordered = sorted(rows.values(), key=lambda row: row.input_id)
    if input_type is None:
        # Only some of the rows have images, but these have the columns of all rows.
        input_type = infer_input_type(row.input for row in ordered)
    if layout.is_packed:
        path = layout.data_path(shard)
        ordered = [_in_data_shard(row, path) for row in ordered]
    ordered, table = _held_rows(ordered, dataset, input_type)
    waiting = WaitingImages.of(records, dataset) if layout.is_packed else None
    if waiting is not None:
        with_images = [row for row in ordered if row.output_uri]
        _write_images(shard, with_images, dataset, layout, input_type, waiting)
    _write_telemetry(shard, records, dataset, run_id)
    with dataset.publish(dataset.manifest_uri(shard)) as file:
        pq.write_table(table, file)
    books.close_rows((record.row for record in records), dataset)
    if waiting is not None:
        # The data shard holds them now; a dataset must not take twice its size.
        waiting.delete(row.input_id for row in ordered)


def _held_rows(
    rows: list[Row], dataset: DatasetFolder, input_type: pa.StructType | None
) -> tuple[list[Row], pa.Table]:
    """Returns the rows as a manifest holds them, and their table; deletes images without a row."""
    held, table = held_table(rows, input_type)
    for before, row in zip(rows, held, strict=True):
        if row is not before:
            _logger.warning("%s: %s", row.input_id, row.error_message or row.notes[-1])
            delete_files(before, dataset, but_for=row)
    return held, table


def _committed(shard: int, dataset: DatasetFolder) -> list[Row]:
    if not files.exists(dataset.manifest_uri(shard)):
        return []
    return dataset.read_manifest(shard)


def _in_data_shard(row: Row, path: str) -> Row:
    return row if row.output_uri in (None, path) else row.changed(output_uri=path)


def _write_images(
    shard: int,
    rows: list[Row],
    dataset: DatasetFolder,
    layout: Layout,
    input_type: pa.StructType | None,
    waiting: WaitingImages,
) -> None:
    """Writes a data shard, one image after the other.

    Images that an earlier run committed are read from the existing shard, which is replaced only
    once the new one is whole.
    """
    uri = dataset.data_uri(shard, layout)
    stored = read_images(uri, layout) if files.exists(uri) else iter(())
    images = (_image_bytes(row, waiting, stored) for row in rows)
    with dataset.publish(uri) as file:
        write_images(file, layout, rows, images, input_type)


def _image_bytes(row: Row, waiting: WaitingImages, stored: Iterator[tuple[str, bytes]]) -> bytes:
    """Returns a row's image; reads `stored` as far as needed, in the same order as the rows."""
    found = waiting.read(row.input_id)
    if found is not None:
        return found
    for input_id, data in stored:
        if input_id == row.input_id:
            return data
    raise LookupError(
        f"the image of {row.input_id} is neither below .staging nor in {row.output_uri}"
    )


def _write_telemetry(
    shard: int, records: Iterable[Record], dataset: DatasetFolder, run_id: str
) -> None:
    rows = [
        {
            "input_id": record.row.input_id,
            **vars(record.telemetry),
            "started_at": _time(record.telemetry.started_at),
        }
        for record in records
        if record.telemetry is not None
    ]
    if not rows:
        return
    table = _telemetry_table(rows)
    uri = dataset.telemetry_uri(shard, run_id)
    with dataset.publish(uri) as file:
        pq.write_table(table, file)


def _time(seconds: float) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ArithmeticError, OSError, ValueError):
        return None


def _telemetry_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Makes a table of telemetry; drops values that do not fit, since no proof needs them."""
    try:
        return pa.Table.from_pylist(rows, schema=TELEMETRY)
    except Exception:
        return pa.Table.from_pylist(list(map(_held_telemetry, rows)), schema=TELEMETRY)


def _held_telemetry(values: Mapping[str, Any]) -> dict[str, Any]:
    held = {}
    for field in TELEMETRY:
        with contextlib.suppress(Exception):
            pa.scalar(values[field.name], field.type)
            held[field.name] = values[field.name]
    return held


def listed_records(
    listed: Iterable[ListedInput], dataset: DatasetFolder, arrivals: Arrivals
) -> Iterator[Record]:
    """Yields the records that a shard's commit adds to the committed rows of the shard.

    All that arrived was durable before, so the records are looked for as they are now.

    Args:
        listed: the shard's inputs in the listing.
        dataset: the output.
        arrivals: the updates of the shard that arrived.

    Yields:
        The persisted records, without those of inputs whose records came with `arrivals`. An input
        that has neither a record nor a committed row never arrived: another step of the pipeline
        left it out, and its row says so.

    Raises:
        LookupError: an input arrived, and its record is gone since.
    """
    inputs = [each for each in listed if each.source.input_id not in arrivals.unlisted]
    records = _records_of([each.source for each in inputs], dataset)
    for each, record in zip(inputs, records, strict=True):
        source = each.source
        if record is not None:
            yield record
        elif id_hash(source.input_id) in arrivals.new_hashes:
            raise LookupError(
                f"the record of {source.input_id} is gone: something else has changed "
                f"{dataset.staging} meanwhile; run the same again"
            )
        elif not each.is_committed:
            yield Record(_left_out(source), telemetry=None)


def _records_of(sources: Sequence[SourceImage], dataset: DatasetFolder) -> Iterator[Record | None]:
    """Yields the record of each input; None if there is none."""
    search = RecordSearch.begin(dataset, has_late_singles=False)

    def find(source: SourceImage) -> Record | None:
        return search.find(source.input_id, shard_of(source))

    if not search.has_singles:
        # Groups are in memory; threads would cost more than they gain.
        yield from map(find, sources)
        return
    with ThreadPoolExecutor(_READERS) as readers:
        yield from readers.map(find, sources)


def _left_out(source: SourceImage) -> Row:
    return Row(
        source.input_id,
        source.source_uri,
        status_of(ErrorCode.LEFT_OUT),
        error_code=str(ErrorCode.LEFT_OUT),
        error_message="a step of the pipeline before WriteDataset left it out",
        input=source.columns,
    )


@dataclasses.dataclass(frozen=True)
class Committed:
    """The outcome of a shard's commit.

    Attributes:
        shard: its number.
        is_whole: False if an input is left to a later run.
        has_unlisted: True if the shard got rows of inputs that differ from the listing or are not
            in it.
    """

    shard: int
    is_whole: bool
    has_unlisted: bool = False


class CommitShard(beam.DoFn):
    """Commits each shard and yields the outcome."""

    def __init__(
        self,
        dataset: DatasetFolder,
        layout: Layout,
        run_id: str,
        input_type: pa.StructType | None,
        may_leave_out: bool,
    ) -> None:
        self._dataset = dataset
        self._layout = layout
        self._run_id = run_id
        self._input_type = input_type
        self._may_leave_out = may_leave_out
        self._shard_of_id: ShardOfId | None = None

    def start_bundle(self) -> None:
        """Forgets the shards of ids: a later bundle may belong to a later run."""
        self._shard_of_id = None

    def process(self, keyed: tuple[int, Iterable[ShardUpdate]]) -> Iterator[Committed]:
        """Commits the shard that has these updates."""
        with self._dataset.shown():
            yield self._committed(keyed[0], Arrivals.of(keyed[1]))

    def _committed(self, shard: int, arrivals: Arrivals) -> Committed:
        self._refuse_lost_ids(shard, arrivals)
        if arrivals.is_postponed:
            return Committed(shard, is_whole=False)
        outcome = Committed(shard, is_whole=True, has_unlisted=bool(arrivals.new_unlisted))
        if self._may_leave_out and not arrivals.is_new:
            return outcome
        # If none of the shard's listed inputs arrived, all of them were left out.
        parts = arrivals.parts or {
            part for number, part in listed_shards(self._dataset) if number == shard
        }
        listed = [each for part in sorted(parts) for each in read_part(self._dataset, part)]
        if not self._may_leave_out:
            refuse_lost(listed, arrivals)
        if arrivals.is_new:
            records = self._records(shard, listed, arrivals)
            commit_shard(
                shard, records, self._dataset, self._layout, self._run_id, self._input_type
            )
        return outcome

    def _refuse_lost_ids(self, shard: int, arrivals: Arrivals) -> None:
        """Raises an error if an input would be lost because another has its id."""
        refuse_two_inputs(arrivals, self._dataset)
        if arrivals.new_unlisted:
            if self._shard_of_id is None:
                self._shard_of_id = ShardOfId(self._dataset)
            self._shard_of_id.refuse_others(arrivals.new_unlisted, shard)

    def _records(
        self, shard: int, listed: Iterable[ListedInput], arrivals: Arrivals
    ) -> Iterator[Record]:
        yield from listed_records(listed, self._dataset, arrivals)
        search: RecordSearch | None = None
        for input_id, several in arrivals.new_unlisted.items():
            last = None
            if len(several) > 1:
                # Of an input that came twice, the record that was written last fits its files.
                search = search or RecordSearch.begin(self._dataset, has_late_singles=False)
                last = search.find(input_id, shard)
            yield last or record_from_json(several[-1].record)
