"""`WriteDataset`: makes results durable one by one, and commits whole shards.

A result's image and record are written as soon as they are made; only updates of shards cross the
shuffle. One worker then writes a shard's images, in layouts where shards hold them, and last its
manifest, whose appearance commits the shard. Doing any of it twice writes the same bytes under the
same names.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_upscale import books, manifest, storage
from beam_upscale.arrivals import (
    Arrivals,
    Listed,
    Own,
    Places,
    ShardUpdate,
    key_of,
    refuse_lost,
    refuse_two_inputs,
    refuse_two_places,
)
from beam_upscale.card import dataset_card
from beam_upscale.columns import infer_input_type, stored_type
from beam_upscale.control import (
    is_stopped,
    progress_file,
    progress_of,
    request_stop,
    stop_after_failures,
    stop_reason,
)
from beam_upscale.data_shards import (
    MOST_PARQUET_BYTES,
    read_images,
    sample_fields,
    write_images,
)
from beam_upscale.dataset import (
    IMAGES,
    INTERMEDIATES,
    DatasetFolder,
    Record,
    ShownBundle,
    held_by_pipeline,
    mark,
    record_from_json,
    safe_name,
)
from beam_upscale.errors import ErrorCode, HoldLostError, SettingsError
from beam_upscale.formats import Layout, shard_name
from beam_upscale.giants import GIANTS, FanOut, refuse_packed
from beam_upscale.global_window import refuse_windows
from beam_upscale.lineage import applied_in, upscales, upstream
from beam_upscale.listed import listed_shards, read_part
from beam_upscale.listing import SourceImage
from beam_upscale.manifest import Row, Totals, fitted, status_of
from beam_upscale.places import Output
from beam_upscale.plan import OutputFormat
from beam_upscale.resume import delete_files, readdressed, relabeled, replaced
from beam_upscale.run_record import continued, differences, refuse_foreign_files, run_record
from beam_upscale.sources import ReadImages, ReadListed
from beam_upscale.stages import INTERMEDIATE_FORMAT, UpscaledImage
from beam_upscale.transforms import Upscale

_logger = logging.getLogger(__name__)

# The number of shards for results that come without one.
_SHARDS = 16

# The number of a shard's records that are read at a time.
_READERS = 16


def output_uri(source: SourceImage, row: Row, layout: Layout, shard: int) -> str:
    """Returns the path that a result's image will have, relative to the dataset's root."""
    if layout.is_packed:
        return layout.data_path(shard)
    return f"{IMAGES}/{_file_name(source, row)}"


def _file_name(source: SourceImage, row: Row) -> str:
    assert row.output_format is not None
    name = safe_name(source.output_name or source.name or source.input_id)
    if source.listed_as is None or source.listed_as.output_name != source.output_name:
        # No listing has compared this name with the names of other results.
        name = f"{name}-{mark(source.input_id)}"
    return name + OutputFormat(row.output_format).extension


def _intermediate_uri(source: SourceImage, stage: int) -> str:
    """Returns the path of a stage's intermediate image; its mark belongs to this input alone."""
    name = safe_name(source.output_name or source.name or source.input_id)
    extension = INTERMEDIATE_FORMAT.extension
    return f"{INTERMEDIATES}/{stage}/{name}-{mark(source.input_id)}{extension}"


def _with_uri(stage: Mapping[str, Any], source: SourceImage, number: int) -> dict[str, Any]:
    is_kept = stage.get("output_sha256") is not None
    return {**stage, "output_uri": _intermediate_uri(source, number) if is_kept else None}


def shard_of(source: SourceImage) -> int:
    """Returns the shard that a result belongs to; the listing decides for a listed input."""
    if source.listed_as is not None and source.listed_as.shard is not None:
        return source.listed_as.shard
    if source.shard is not None:
        return source.shard
    return int(hashlib.sha256(source.input_id.encode()).hexdigest(), 16) % _SHARDS


def stage(upscaled: UpscaledImage, dataset: DatasetFolder, layout: Layout) -> Record:
    """Makes one result durable: its image first, then its record.

    Deletes an image that an interrupted run left under another name, before the input changed.

    Raises:
        OSError: the output cannot be written; the run stops, and the next one goes on from here.
    """
    upscaled = _storable(upscaled, layout)
    source, record = upscaled.source, upscaled.record
    assert record is not None
    if upscaled.data is not None:
        row = record.row
        relative = output_uri(source, row, layout, shard_of(source))
        stages = tuple(_with_uri(each, source, number) for number, each in enumerate(row.stages, 1))
        row = dataclasses.replace(row, output_uri=relative, stages=stages)
        record = dataclasses.replace(record, row=row)
        final = dataset.resolve(relative)
        uri = dataset.staged_image_uri(row.input_id) if layout.is_packed else final
        for number, intermediate in enumerate(upscaled.intermediates, start=1):
            dataset.write(dataset.resolve(_intermediate_uri(source, number)), intermediate)
        dataset.write(uri, upscaled.data)
    if not _is_booked(source, dataset):
        books.enter_row(record.row, dataset)
    before = dataset.staged_record(source.input_id)
    if before is not None:
        row = replaced(before.row, record.row, dataset)
        telemetry = before.telemetry if row.status is not record.row.status else record.telemetry
        record = Record(row, telemetry)
    dataset.write(dataset.record_uri(source.input_id), record.to_json())
    return record


def _storable(upscaled: UpscaledImage, layout: Layout) -> UpscaledImage:
    """Fits a result to the manifest's columns; drops an image that is too large for Parquet."""
    record = upscaled.record
    assert record is not None
    row, size = fitted(record.row), len(upscaled.data or b"")
    if layout is Layout.PARQUET and size > MOST_PARQUET_BYTES:
        found = f"the result has {size:,} bytes, and a value in Parquet at most "
        message = f"{found}{MOST_PARQUET_BYTES:,}; take the layout files or webdataset"
        row = manifest.without_result(row, ErrorCode.ENCODE_ERROR, message)
        upscaled = dataclasses.replace(upscaled, data=None, intermediates=())
    if row is record.row:
        return upscaled
    return dataclasses.replace(upscaled, record=Record(row, record.telemetry))


def _is_booked(source: SourceImage, dataset: DatasetFolder) -> bool:
    """Checks whether paid calls for an input are booked in an output before they are made."""
    if source.books is None:
        return False
    root = source.books.dataset.root
    return root == dataset.root or Output(dataset.root).is_same(root)


def _place_of_giant(source: SourceImage, row: Row) -> str:
    return output_uri(source, row, Layout.FILES, shard_of(source))


class _Stage(beam.DoFn):
    def __init__(
        self,
        dataset: DatasetFolder,
        layout: Layout,
        run: Mapping[str, Any],
        run_id: str,
        most_failures: int | None,
        input_type: pa.StructType | None,
        *,
        fans_out: bool = False,
    ) -> None:
        self._fans_out = fans_out
        self._dataset = dataset
        self._layout = layout
        self._run = run
        self._run_id = run_id
        self._most_failures = most_failures
        self._input_type = input_type
        self._stop_listening: Callable[[], None] = _nothing
        self._output: Output | None = None
        self._shown = ShownBundle(dataset)
        self._updates = _BundleUpdates()
        self._is_open = False

    def start_bundle(self) -> None:
        self._shown.begin()
        self._updates = _BundleUpdates()
        run = self._dataset.read_run()
        self._is_open = run is not None and not run.get("complete")
        if run is None:
            self._open()
        # Networks of many steps report progress before this step has its first image.
        self._stop_listening = progress_file(self._dataset, self._run_id).listen()

    def process(
        self,
        upscaled: UpscaledImage,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[tuple[int, ShardUpdate]]:
        source, record = upscaled.source, upscaled.record
        if source.listed_in is None and source.uri is not None:
            self._refuse_in_output(source.uri)
        if upscaled.stop is not None and not is_stopped(self._dataset):
            request_stop(self._dataset, str(upscaled.stop))
        if upscaled.giant is not None and self._fans_out:
            yield beam.pvalue.TaggedOutput(GIANTS, upscaled.giant)
            return
        shard = shard_of(source)
        if record is None:
            self._open()
            self._updates.postponed(shard, timestamp, window)
            return
        earlier = source.earlier is not None
        is_new = not earlier or not source.committed or source.staged_otherwise
        if earlier:
            # Its columns may have changed since, but nothing that the image depends on.
            record = relabeled(record, source.columns, self._input_type)
            record = readdressed(record, source.source_uri)
            is_new = is_new or record is not source.earlier
            is_stale = source.staged_otherwise or record is not source.earlier
            if is_stale and source.listed_in is not None:
                self._open()
                self._dataset.write(self._dataset.record_uri(source.input_id), record.to_json())
        else:
            self._open()
            record = stage(upscaled, self._dataset, self._layout)
        done = progress_file(self._dataset, self._run_id).add(progress_of(record, earlier))
        stop_after_failures(self._dataset, done.failures, self._most_failures)
        if source.is_as_listed:
            self._updates.listed(source, is_new, timestamp, window)
        else:
            yield shard, Own(record.to_json(), source.fingerprint(), is_new)

    def _refuse_in_output(self, uri: str) -> None:
        """Raises an error if an input that no listing has checked is in the output."""
        if self._output is None:
            self._output = Output(self._dataset.root)
        self._output.refuse("the input is", uri)

    def _open(self) -> None:
        """Marks the run as incomplete in `run.json`, before anything is done."""
        if not self._is_open:
            _write_incomplete(self._run, self._dataset)
            self._is_open = True

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._stop_listening()
        progress_file(self._dataset, self._run_id).flush()
        yield from self._updates.values()
        self._updates = _BundleUpdates()
        self._shown.end()

    def teardown(self) -> None:
        # A bundle that fails never calls `finish_bundle`.
        self._stop_listening()
        self._shown.end()


class _BundleUpdates:
    """The updates that a bundle emits at its end, few and small: a local runner keeps them."""

    def __init__(self) -> None:
        self._postponed: dict[int, tuple[Timestamp, Any]] = {}
        self._keys: dict[tuple[int, str, bool], bytearray] = {}
        self._times: dict[tuple[int, str, bool], tuple[Timestamp, Any]] = {}

    def postponed(self, shard: int, timestamp: Timestamp, window: Any) -> None:
        """Notes that an input of a shard is left to a later run."""
        self._postponed.setdefault(shard, (timestamp, window))

    def listed(self, source: SourceImage, is_new: bool, timestamp: Timestamp, window: Any) -> None:
        """Notes that an input arrived as it is listed."""
        assert source.listed_in is not None
        place = shard_of(source), source.listed_in, is_new
        self._keys.setdefault(place, bytearray()).extend(key_of(source.input_id))
        self._times.setdefault(place, (timestamp, window))

    def values(self) -> Iterator[WindowedValue]:
        """Yields the updates, by shard."""
        for shard, (timestamp, window) in self._postponed.items():
            yield WindowedValue((shard, None), timestamp, [window])
        for place, keys in self._keys.items():
            (shard, part, is_new), (timestamp, window) = place, self._times[place]
            yield WindowedValue((shard, Listed(part, bytes(keys), is_new)), timestamp, [window])


def _write_incomplete(run: Mapping[str, Any], dataset: DatasetFolder) -> None:
    """Marks a run as incomplete in `run.json`; the entry about the books stays as it is."""
    values = {**run, "complete": False}
    if not books.are_kept(dataset.read_run()):
        values.pop(books.BOOKS, None)
    dataset.write_json(dataset.run_json, values)


def _nothing() -> None:
    """Does nothing; a default for a callback."""


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
        records: of inputs done since the shard was last committed, or of all its inputs.
        dataset: the output.
        layout: where images are stored.
        run_id: names the telemetry of this run.
        input_type: of the dataset's own columns; None infers it from the shard's rows.
    """
    told = list(records)
    rows = {row.input_id: row for row in _committed(shard, dataset)}
    # An input with a row was not left out: this is a late repeat, and the run has ended since.
    records = [
        record
        for record in told
        if record.row.input_id not in rows or record.row.error_code != ErrorCode.LEFT_OUT
    ]
    if told and not records:
        return
    for row in (record.row for record in records):
        before = rows.get(row.input_id)
        rows[row.input_id] = row if before is None else replaced(before, row, dataset)
    ordered = sorted(rows.values(), key=lambda row: row.input_id)
    if input_type is None:
        # Only some of the rows have images, but these have the columns of all rows.
        input_type = infer_input_type(row.input for row in ordered)
    if layout.is_packed:
        ordered = [_in_data_shard(row, shard, layout) for row in ordered]
    ordered, table = _held_rows(ordered, dataset, input_type)
    if layout.is_packed:
        with_images = [row for row in ordered if row.output_uri]
        _write_images(shard, with_images, dataset, layout, input_type)
    _write_telemetry(shard, records, dataset, run_id)
    with dataset.publish(dataset.manifest_uri(shard)) as file:
        pq.write_table(table, file)
    books.close_rows((record.row for record in records), dataset)
    if layout.is_packed:
        for row in ordered:
            # The data shard holds them now; a dataset must not take twice its size.
            dataset.delete(dataset.staged_image_uri(row.input_id))


def _held_rows(
    rows: list[Row], dataset: DatasetFolder, input_type: pa.StructType | None
) -> tuple[list[Row], pa.Table]:
    """Returns the rows as a manifest holds them, and their table; deletes images without a row."""
    held, table = manifest.held_table(rows, input_type)
    for before, row in zip(rows, held, strict=True):
        if row is not before:
            _logger.warning("%s: %s", row.input_id, row.error_message or row.notes[-1])
            delete_files(before, dataset, but_for=row)
    return held, table


def _committed(shard: int, dataset: DatasetFolder) -> list[Row]:
    if not storage.exists(dataset.manifest_uri(shard)):
        return []
    return dataset.read_manifest(shard)


def _in_data_shard(row: Row, shard: int, layout: Layout) -> Row:
    if row.output_uri is None:
        return row
    return dataclasses.replace(row, output_uri=layout.data_path(shard))


def _write_images(
    shard: int,
    rows: list[Row],
    dataset: DatasetFolder,
    layout: Layout,
    input_type: pa.StructType | None,
) -> None:
    """Writes a data shard, one image after the other.

    Images that an earlier run committed are read from the existing shard, which is replaced only
    once the new one is whole.
    """
    uri = dataset.data_uri(shard, layout)
    stored = read_images(uri, layout) if storage.exists(uri) else iter(())
    images = (_image_bytes(row, dataset, stored) for row in rows)
    with dataset.publish(uri) as file:
        write_images(file, layout, rows, images, input_type)


def _image_bytes(row: Row, dataset: DatasetFolder, stored: Iterator[tuple[str, bytes]]) -> bytes:
    """Returns a row's image; reads `stored` as far as needed, in the same order as the rows."""
    staged = dataset.staged_image_uri(row.input_id)
    if storage.exists(staged):
        return storage.read(staged)
    for input_id, data in stored:
        if input_id == row.input_id:
            return data
    raise LookupError(f"the image of {row.input_id} is neither staged nor in {row.output_uri}")


def _write_telemetry(
    shard: int, records: Iterable[Record], dataset: DatasetFolder, run_id: str
) -> None:
    rows = [
        {
            "input_id": record.row.input_id,
            **dataclasses.asdict(record.telemetry),
            "started_at": _time(record.telemetry.started_at),
        }
        for record in records
        if record.telemetry is not None
    ]
    if not rows:
        return
    table = _telemetry_table(rows)
    uri = storage.join(dataset.root, "telemetry", f"{shard_name(shard)}-{run_id}.parquet")
    with dataset.publish(uri) as file:
        pq.write_table(table, file)


def _time(seconds: float) -> datetime.datetime | None:
    with contextlib.suppress(ArithmeticError, OSError, ValueError):
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return None


def _telemetry_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Makes a table of telemetry; drops values that do not fit, since no proof needs them."""
    try:
        return pa.Table.from_pylist(rows, schema=manifest.TELEMETRY)
    except Exception:
        return pa.Table.from_pylist(list(map(_held_telemetry, rows)), schema=manifest.TELEMETRY)


def _held_telemetry(values: Mapping[str, Any]) -> dict[str, Any]:
    held = {}
    for field in manifest.TELEMETRY:
        with contextlib.suppress(Exception):
            pa.scalar(values[field.name], field.type)
            held[field.name] = values[field.name]
    return held


def listed_records(part: str, dataset: DatasetFolder, arrivals: Arrivals) -> Iterator[Record]:
    """Yields the records that a shard's commit adds to the committed rows of the shard.

    Args:
        part: the part of the listing with the shard's inputs.
        dataset: the output.
        arrivals: the updates of the shard that arrived.

    Yields:
        The staged records, without those of inputs whose records came with `arrivals`. An input
        that has neither a record nor a committed row never arrived: another step of the pipeline
        left it out, and its row says so.

    Raises:
        LookupError: an input arrived, and its record is gone since.
    """
    images = [image for image in read_part(dataset, part) if image.input_id not in arrivals.own]
    with ThreadPoolExecutor(_READERS) as readers:
        staged = readers.map(dataset.staged_record, [image.input_id for image in images])
        for image, record in zip(images, staged, strict=True):
            if record is not None:
                yield record
            elif key_of(image.input_id) in arrivals.new_keys:
                raise LookupError(
                    f"the record of {image.input_id} is gone: something else has changed "
                    f"{dataset.staging} meanwhile; run the same again"
                )
            elif not image.committed:
                yield Record(_left_out(image), telemetry=None)


def _left_out(image: SourceImage) -> Row:
    return Row(
        image.input_id,
        image.source_uri,
        status_of(ErrorCode.LEFT_OUT),
        error_code=str(ErrorCode.LEFT_OUT),
        error_message="a step of the pipeline before WriteDataset left it out",
        input=image.columns,
    )


@dataclasses.dataclass(frozen=True)
class _Committed:
    """The outcome of a shard's commit.

    Attributes:
        shard: its number.
        is_whole: False if an input is left to a later run.
        has_own: True if the shard got rows of inputs that differ from the listing or are not in it.
    """

    shard: int
    is_whole: bool
    has_own: bool = False


class _CommitShard(beam.DoFn):
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
        self._places: Places | None = None

    def start_bundle(self) -> None:
        """Forgets the places of results: a later bundle may belong to a later run."""
        self._places = None

    def process(self, keyed: tuple[int, Iterable[ShardUpdate]]) -> Iterator[_Committed]:
        with self._dataset.shown():
            yield self._committed(keyed[0], Arrivals.of(keyed[1]))

    def _committed(self, shard: int, arrivals: Arrivals) -> _Committed:
        self._refuse_lost_ids(shard, arrivals)
        if arrivals.is_postponed:
            return _Committed(shard, is_whole=False)
        # If none of the shard's listed inputs arrived, all of them were left out.
        parts = arrivals.parts or {
            part for number, part in listed_shards(self._dataset) if number == shard
        }
        if not self._may_leave_out:
            refuse_lost(parts, arrivals, self._dataset)
        if arrivals.is_new:
            records = self._records(parts, arrivals)
            commit_shard(
                shard, records, self._dataset, self._layout, self._run_id, self._input_type
            )
        return _Committed(shard, is_whole=True, has_own=bool(arrivals.new_own))

    def _refuse_lost_ids(self, shard: int, arrivals: Arrivals) -> None:
        """Raises an error if an input would be lost because another has its id."""
        refuse_two_inputs(arrivals, self._dataset)
        if arrivals.new_own:
            if self._places is None:
                self._places = Places(self._dataset)
            self._places.refuse_others(arrivals.new_own, shard)

    def _records(self, parts: Iterable[str], arrivals: Arrivals) -> Iterator[Record]:
        for part in sorted(parts):
            yield from listed_records(part, self._dataset, arrivals)
        for input_id, several in arrivals.new_own.items():
            # Of an input that came twice, the record that was written last fits its files.
            staged = self._dataset.staged_record(input_id) if len(several) > 1 else None
            yield staged or record_from_json(several[-1].record)


def shards_to_retype(
    dataset: DatasetFolder, input_type: pa.StructType | None = None
) -> Iterator[tuple[int, pa.StructType | None]]:
    """Yields the committed shards whose own columns differ from the common type, with that type.

    A shard that has not changed for long may lack columns that were added since, or have some that
    were removed; a shard whose type was inferred has only its own columns. A shard that an earlier
    version wrote may lack columns of the manifest. Footers show this; no row is read if they agree.

    Args:
        dataset: the output.
        input_type: the common type; None takes that of all rows, unless the shards agree.
    """
    schemas = {shard: dataset.manifest_schema(shard) for shard in dataset.committed_shards()}
    found = {shard: schema.field("input").type for shard, schema in schemas.items()}
    earlier = {
        shard for shard, schema in schemas.items() if not manifest.is_of_this_version(schema)
    }
    if input_type is None:
        if not earlier and _are_all_equal(list(found.values())):
            return
        input_type = infer_input_type(row.input for _, row in dataset.committed_rows())
    wanted = stored_type(input_type)
    for shard, kind in found.items():
        if shard in earlier or not kind.equals(wanted, check_metadata=True):
            yield shard, input_type


def _are_all_equal(kinds: Sequence[pa.DataType]) -> bool:
    return all(kind.equals(kinds[0], check_metadata=True) for kind in kinds)


def _find_shards_to_retype(
    _: object,
    shards: Iterable[_Committed],
    dataset: DatasetFolder,
    layout: Layout,
    run_id: str,
    input_type: pa.StructType | None,
    may_leave_out: bool,
) -> Iterator[tuple[int, pa.StructType | None]]:
    ended = list(shards)
    if not all(each.is_whole for each in ended):
        return
    updated = {each.shard for each in ended}
    if any(each.has_own for each in ended):
        refuse_two_places(dataset)
    _commit_without_updates(updated, dataset, layout, run_id, input_type, may_leave_out)
    yield from shards_to_retype(dataset, input_type)


def _commit_without_updates(
    updated: Container[int],
    dataset: DatasetFolder,
    layout: Layout,
    run_id: str,
    input_type: pa.StructType | None,
    may_leave_out: bool,
) -> None:
    """Commits the listed shards without updates: a step left out all inputs of these shards."""
    committed, nothing = set(dataset.committed_shards()), Arrivals.of([])
    for shard, part in listed_shards(dataset):
        if shard in updated:
            continue
        if not may_leave_out:
            refuse_lost([part], nothing, dataset)
        if shard not in committed:
            records = list(listed_records(part, dataset, nothing))
            commit_shard(shard, records, dataset, layout, run_id, input_type)


def _retype(
    shard: tuple[int, pa.StructType | None], dataset: DatasetFolder, layout: Layout, run_id: str
) -> bool:
    """Rewrites a shard with another type; its manifest, and with it that type, comes last."""
    number, input_type = shard
    with dataset.shown():
        commit_shard(number, [], dataset, layout, run_id, input_type)
    return True


def complete(dataset: DatasetFolder, layout: Layout, run: Mapping[str, Any]) -> Totals:
    """Completes a run whose shards are all committed: writes totals and card, deletes staging."""
    sums = dataset.totals()
    if sums.billed_credits and not books.are_kept(dataset.read_run()):
        books.enter_missing((row for _, row in dataset.committed_rows()), dataset)
    if books.exist(dataset):
        books.close(dataset)
    sums = books.with_books(sums, dataset)
    shards = [_shard_entry(shard, dataset, layout) for shard in dataset.committed_shards()]
    card = dataset_card(layout, sums.by_status, run, _features(dataset, layout)).encode()
    values = {
        **run,
        "layout": str(layout),
        "complete": True,
        "totals": dataclasses.asdict(sums),
        "shards": shards,
        "card_sha256": hashlib.sha256(card).hexdigest(),
    }
    dataset.write(dataset.resolve("README.md"), card)
    dataset.write_json(dataset.run_json, values)
    dataset.delete_staging()
    return sums


def _features(dataset: DatasetFolder, layout: Layout) -> pa.Schema | None:
    """Returns the fields of a sample; None if the data itself declares them."""
    shards = dataset.committed_shards()
    if layout is not Layout.WEBDATASET or not shards:
        return None
    return sample_fields(
        dataset.output_formats(), dataset.manifest_schema(shards[0]).field("input").type
    )


def _shard_entry(shard: int, dataset: DatasetFolder, layout: Layout) -> dict[str, Any]:
    manifest_uri = dataset.manifest_uri(shard)
    entry = {
        "name": shard_name(shard),
        "rows": dataset.committed_count(shard),
        "manifest_sha256": storage.sha256(manifest_uri),
    }
    if layout.is_packed:
        entry["data_sha256"] = storage.sha256(dataset.data_uri(shard, layout))
    return entry


def _completed(dataset: DatasetFolder, layout: Layout, run: Mapping[str, Any]) -> Totals:
    """Completes a run, unless an earlier attempt of this step has: runners repeat steps."""
    try:
        with dataset.shown():
            return complete(dataset, layout, run)
    except HoldLostError:
        found = dataset.read_run() or {}
        wanted = json.loads(json.dumps(run, default=str))
        if not found.get("complete") or any(found.get(name) != wanted[name] for name in wanted):
            raise
        return books.with_books(dataset.totals(), dataset)


def _complete_if_all(
    _: object,
    shards: Iterable[_Committed],
    retyped: Iterable[bool],
    dataset: DatasetFolder,
    layout: Layout,
    run: Mapping[str, Any],
) -> Iterator[Totals]:
    if all(each.is_whole for each in shards) and all(retyped):
        yield _completed(dataset, layout, run)
        return
    if (dataset.read_run() or {}).get("complete"):
        # All inputs that arrived were done before, and a step has dropped those not tried.
        _write_incomplete(run, dataset)
    # In a user's own pipeline, nothing else reports this.
    reason = stop_reason(dataset) or "the pipeline ended before every input had a row"
    _logger.error("%s is not complete: %s; the same pipeline goes on", dataset.root, reason)
    if dataset.hold is not None and dataset.hold.is_taken_by_workers:
        dataset.hold.release()


@dataclasses.dataclass(eq=False)
class WriteDataset(beam.PTransform):
    """Writes results as a dataset that survives a crash at any moment.

    Attributes:
        output: the dataset's root, on any of Beam's file systems.
        layout: images as files in the input's folder structure, embedded in Parquet, or in tars
            for WebDataset.
        input_type: of the dataset's own columns, as an Arrow struct; see `infer_input_type`. By
            default it is inferred shard by shard, and shards that differ in the end are rewritten
            with the type of all.
        run: values of `run.json` besides the totals. The defaults are the settings of the `Upscale`
            that the results come from, the layout and the versions; `run` may not contradict the
            settings and the layout.
        run_id: names this run's telemetry; by default the time of the pipeline's construction.
        most_failures: the number of failures that stops the run; None sets none.
        may_leave_out: True if steps between `ReadImages` and this one may leave inputs out, whose
            rows then say so. False fails the run if an input does not arrive: a runner lost it.
        lease_seconds: the seconds without a sign of life of this pipeline's workers after which
            another run may take the output over; None takes the value of `ReadImages`, or 30.

    Returns:
        A PCollection of the `Totals`, one element; none where the run was stopped.

    Raises:
        SettingsError: the output was begun with other settings, holds files of no run, is not
            that of the one `ReadImages` with an output, is that of another `WriteDataset`, or has
            the inputs in it; the results come from `Upscale`s with different settings, or in
            windows; when the transform is applied. DUPLICATE_ID, two inputs have one `input_id`,
            and INPUT_IN_OUTPUT, an input of any other source lies in the output; when the pipeline
            runs.
    """

    output: str
    layout: Layout | str = Layout.FILES
    input_type: pa.StructType | None = None
    run: Mapping[str, Any] | None = None
    run_id: str = dataclasses.field(default_factory=lambda: new_run_id())
    most_failures: int | None = None
    may_leave_out: bool = True
    lease_seconds: float | None = None

    def expand(self, upscaled: Any) -> Any:
        """Wires staging, the commit of shards, their common type and the end of the run."""
        dataset = held_by_pipeline(upscaled.pipeline, self.output, self.lease_seconds)
        layout = Layout(self.layout)
        refuse_windows(upscaled, "WriteDataset", "a run ends once, with all of its inputs")
        _refuse_second_sink(upscaled, dataset)
        _refuse_other_listings(upscaled, dataset)
        run = self._record(upscaled, dataset, layout)
        shards = (
            self._staged(upscaled, dataset, layout, run)
            | "ByShard" >> beam.GroupByKey()
            | "Commit"
            >> beam.ParDo(
                _CommitShard(dataset, layout, self.run_id, self.input_type, self.may_leave_out)
            )
        )
        retyped = (
            upscaled.pipeline
            | "Committed" >> beam.Impulse()
            | "FindShardsToRetype"
            >> beam.FlatMap(
                _find_shards_to_retype,
                beam.pvalue.AsIter(shards),
                dataset,
                layout,
                self.run_id,
                self.input_type,
                self.may_leave_out,
            )
            | "SpreadShards" >> beam.Reshuffle()
            | "Retype" >> beam.Map(_retype, dataset, layout, self.run_id)
        )
        return (
            upscaled.pipeline
            | "End" >> beam.Impulse()
            | "Complete"
            >> beam.FlatMap(
                _complete_if_all,
                beam.pvalue.AsIter(shards),
                beam.pvalue.AsIter(retyped),
                dataset,
                layout,
                run,
            )
        )

    def _staged(
        self, upscaled: Any, dataset: DatasetFolder, layout: Layout, run: Mapping[str, Any]
    ) -> Any:
        """Makes results durable, those of large images once their tiles are done."""
        found = upscales(upscaled)
        upscale: Upscale | None = found[0].transform if found else None
        fans_out = upscale is not None and upscale.settings.fan_out_above is not None
        stage_results = _Stage(
            dataset,
            layout,
            run,
            self.run_id,
            self.most_failures,
            self.input_type,
            fans_out=fans_out,
        )
        untried = list(_untried(upscaled, found, dataset))
        if upscale is None or not fans_out:
            staged = upscaled | "Stage" >> beam.ParDo(stage_results)
            return (staged, *untried) | "Updates" >> beam.Flatten() if untried else staged
        refuse_packed(upscale.settings, layout)
        staged = upscaled | "Stage" >> beam.ParDo(stage_results).with_outputs(GIANTS, main="small")
        fan_out = FanOut(upscale.settings, upscale.handler_options, dataset, _place_of_giant)
        fan_out.get_resource_hints().update(upscale.get_resource_hints())
        giants = staged[GIANTS] | "FanOut" >> fan_out | "StageGiants" >> beam.ParDo(stage_results)
        return (staged.small, giants, *untried) | "Staged" >> beam.Flatten()

    def _record(self, upscaled: Any, dataset: DatasetFolder, layout: Layout) -> dict[str, Any]:
        found = upscales(upscaled)
        record = run_record(found[0].transform.settings if found else None, layout)
        if self.run is not None:
            _refuse_contradiction(self.run, record, has_settings=bool(found))
            record |= self.run
        refuse_foreign_files(dataset)
        earlier = dataset.read_run()
        if earlier is not None:
            record = continued(earlier, record)
        return record


def _untried(results: Any, found: Iterable[Any], dataset: DatasetFolder) -> Iterator[Any]:
    """Reports the inputs that an `Upscale` left to a later run, where steps follow it.

    Such a step may drop results without a row, and the run would look complete.
    """
    for applied in found:
        made = applied.outputs[None]
        if made is results:
            continue
        label = applied.full_label
        yield (
            made
            | f"Untried: {label}" >> beam.ParDo(_Untried(dataset))
            | f"Together: {label}" >> beam.WindowInto(GlobalWindows())
        )


class _Untried(beam.DoFn):
    def __init__(self, dataset: DatasetFolder) -> None:
        self._dataset = dataset

    def process(self, upscaled: UpscaledImage) -> Iterator[tuple[int, ShardUpdate]]:
        if upscaled.stop is not None and not is_stopped(self._dataset):
            request_stop(self._dataset, str(upscaled.stop))
        if upscaled.record is None:
            yield shard_of(upscaled.source), None


def _refuse_contradiction(
    run: Mapping[str, Any], record: Mapping[str, Any], *, has_settings: bool
) -> None:
    """Raises an error if a record that was given by hand contradicts the pipeline.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    names = ["format", "layout", *(["settings", "endpoint"] if has_settings else [])]
    given = {name: run[name] for name in names if name in run}
    changes = differences({name: record[name] for name in given}, given)
    if changes:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            "the record that WriteDataset is given (run) contradicts the pipeline: "
            f"{'; '.join(changes)}; leave these out of it",
        )


def _refuse_second_sink(results: Any, dataset: DatasetFolder) -> None:
    """Raises an error if another `WriteDataset` of the pipeline has the same output.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    sinks = applied_in(results, WriteDataset)
    outputs = [storage.absolute(each.transform.output) for each in sinks]
    if outputs.count(dataset.root) > 1:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"two WriteDataset have the output {dataset.root}, and a run has one: flatten what "
            "they are to write into one PCollection, or give them outputs of their own",
        )


def _refuse_other_listings(results: Any, dataset: DatasetFolder) -> None:
    """Raises an error if inputs come from a listing that the commit of a shard would not find.

    Raises:
        SettingsError: INVALID_OPTION; INPUT_IN_OUTPUT, they come from the output itself.
    """
    steps = (each.transform for each in upstream(results))
    reads = [each for each in steps if isinstance(each, ReadImages | ReadListed)]
    output = Output(dataset.root)
    for each in reads:
        if isinstance(each, ReadImages):
            output.refuse("the input is", storage.start_of_listing(each.pattern))
    outputs = [storage.absolute(each.output) for each in reads if each.output is not None]
    others = [output for output in outputs if output != dataset.root]
    if others:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"ReadImages has the output {others[0]}, and WriteDataset {dataset.root}; a run goes "
            "on from one output: give both the same",
        )
    if len(outputs) > 1:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{len(outputs)} ReadImages have the output {dataset.root}, which holds one listing; "
            "read all of it with one, or write as many datasets",
        )


def new_run_id() -> str:
    """Returns a name for a run: the time, to the microsecond, in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
