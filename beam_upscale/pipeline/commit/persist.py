"""Persists one result: its image first, then its record."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_upscale.dataset import books
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.definition import image_extension
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Row, fitted, without_result
from beam_upscale.dataset.names import mark, safe_name
from beam_upscale.dataset.output_hold import ShownBundle
from beam_upscale.dataset.paths.output_files import IMAGES, INTERMEDIATES
from beam_upscale.dataset.places import Output
from beam_upscale.dataset.records import Record
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import ErrorCode
from beam_upscale.pipeline.one_image.states import INTERMEDIATE_FORMAT, UpscaledImage
from beam_upscale.pipeline.run_state.arrivals import (
    ListedArrivals,
    ShardUpdate,
    UnlistedArrival,
    id_hash,
)
from beam_upscale.pipeline.run_state.input_state import fingerprint, is_as_listed, state_of
from beam_upscale.pipeline.run_state.progress import progress_file, progress_of
from beam_upscale.pipeline.run_state.resume import readdressed, relabeled, replaced
from beam_upscale.pipeline.run_state.stop import stop_after_error, stop_after_failures
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files

# The number of shards for results that come without one.
_SHARDS = 16


def output_uri(source: SourceImage, row: Row, layout: Layout, shard: int) -> str:
    """Returns the path that a result's image will have, relative to the dataset's root."""
    if layout.is_packed:
        return layout.data_path(shard)
    return f"{IMAGES}/{_file_name(source, row)}"


def _file_name(source: SourceImage, row: Row) -> str:
    name = safe_name(source.output_name or source.name or source.input_id)
    entry = state_of(source).listed
    if entry is None or entry.source.output_name != source.output_name:
        # No listing has compared this name with the names of other results.
        name = f"{name}-{mark(source.input_id)}"
    return name + image_extension(row)


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
    entry = state_of(source).listed
    if entry is not None and entry.source.shard is not None:
        return entry.source.shard
    if source.shard is not None:
        return source.shard
    return int(hashlib.sha256(source.input_id.encode()).hexdigest(), 16) % _SHARDS


def persist(upscaled: UpscaledImage, dataset: DatasetFolder, layout: Layout) -> Record:
    """Persists one result: its image first, then its record.

    Deletes an image that an interrupted run left under another name, before the input changed.

    Raises:
        OSError: the output cannot be written; the run stops, and the next one goes on from here.
    """
    upscaled = _storable(upscaled, layout)
    source, record = upscaled.source, upscaled.record
    assert record is not None
    if upscaled.has_image:
        row = record.row
        relative = output_uri(source, row, layout, shard_of(source))
        stages = tuple(_with_uri(each, source, number) for number, each in enumerate(row.stages, 1))
        row = dataclasses.replace(row, output_uri=relative, stages=stages)
        record = dataclasses.replace(record, row=row)
        final = dataset.resolve(relative)
        uri = dataset.waiting_image_uri(row.input_id) if layout.is_packed else final
        for number, intermediate in enumerate(upscaled.intermediates, start=1):
            dataset.write(dataset.resolve(_intermediate_uri(source, number)), intermediate)
        _write_image(upscaled, uri, dataset)
    if not _is_booked(source, dataset):
        books.enter_row(record.row, dataset)
    before = dataset.read_record(source.input_id)
    if before is not None:
        row = replaced(before.row, record.row, dataset)
        telemetry = before.telemetry if row.status is not record.row.status else record.telemetry
        record = Record(row, telemetry)
    dataset.write(dataset.record_uri(source.input_id), record.to_json())
    return record


def _write_image(upscaled: UpscaledImage, uri: str, dataset: DatasetFolder) -> None:
    """Writes a result's image to a URI in an output, unless its file is there already.

    A file elsewhere stays, so that the step can run twice.

    Raises:
        ImageError: the file cannot be read.
        OSError: the file is not the one that the row describes any more.
    """
    if upscaled.data is not None:
        dataset.write(uri, upscaled.data)
    elif upscaled.file is not None and upscaled.file != uri:
        assert upscaled.record is not None
        with files.open_read(upscaled.file) as file:
            dataset.copy(file, uri, upscaled.record.row.output_sha256)


def _storable(upscaled: UpscaledImage, layout: Layout) -> UpscaledImage:
    """Fits a result to the manifest's columns; drops an image that the layout cannot hold."""
    record = upscaled.record
    assert record is not None
    row = fitted(record.row)
    size = len(upscaled.data or b"") if upscaled.file is None else row.output_bytes or 0
    most = layout.definition.most_image_bytes
    if most is not None and size > most:
        others = [each for each in Layout if each.definition.most_image_bytes is None]
        found = (
            f"the result has {size:,} bytes, and an image in the layout {layout} at most {most:,}"
        )
        message = f"{found}; take the layout {' or '.join(others)}"
        row = without_result(row, ErrorCode.ENCODE_ERROR, message)
        upscaled = dataclasses.replace(upscaled, data=None, file=None, intermediates=())
    if row is record.row:
        return upscaled
    return dataclasses.replace(upscaled, record=Record(row, record.telemetry))


def _is_booked(source: SourceImage, dataset: DatasetFolder) -> bool:
    """Checks whether paid calls for an input are booked in an output before they are made."""
    kept = state_of(source).books
    if kept is None:
        return False
    root = kept.dataset.root
    return root == dataset.root or Output(dataset.root).is_same(root)


def final_uri(source: SourceImage, row: Row, dataset: DatasetFolder) -> str:
    """Returns the URI of a result's image in the layout of files."""
    return dataset.resolve(output_uri(source, row, Layout.FILES, shard_of(source)))


class Persist(beam.DoFn):
    """The DoFn that persists results, and yields the updates of their shards."""

    def __init__(
        self,
        dataset: DatasetFolder,
        layout: Layout,
        run_json: RunJson,
        run_id: str,
        most_failures: int | None,
        input_type: pa.StructType | None,
    ) -> None:
        self._dataset = dataset
        self._layout = layout
        self._run_json = run_json
        self._run_id = run_id
        self._most_failures = most_failures
        self._input_type = input_type
        self._stop_listening: Callable[[], None] = _nothing
        self._output: Output | None = None
        self._shown = ShownBundle(dataset)
        self._updates = _BundleUpdates()
        self._is_open = False

    def start_bundle(self) -> None:
        """Shows that the run is alive, and begins the run in `run.json` if nothing has yet."""
        self._shown.begin()
        self._updates = _BundleUpdates()
        found = self._dataset.read_run()
        self._is_open = found is not None and not found.complete
        if found is None:
            self._open()
        # Networks of many steps report progress before this step has its first image.
        self._stop_listening = progress_file(self._dataset, self._run_id).listen()

    def process(
        self,
        upscaled: UpscaledImage,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[tuple[int, ShardUpdate]]:
        """Persists a result; yields its shard and record, unless its input is as listed."""
        source, record = upscaled.source, upscaled.record
        state = state_of(source)
        if state.listed is None and source.uri is not None:
            self._refuse_in_output(source.uri)
        stop_after_error(self._dataset, upscaled.stop)
        shard = shard_of(source)
        if record is None:
            self._open()
            self._updates.postponed(shard, timestamp, window)
            return
        earlier = state.earlier
        if earlier is not None:
            # Its columns may have changed since, but nothing that the image depends on.
            record = relabeled(record, source.columns, self._input_type)
            record = readdressed(record, source.source_uri)
            is_stale = earlier.has_other_record or record is not earlier.record
            is_new = is_stale or not earlier.is_committed
            if is_stale and state.listed is not None:
                self._open()
                self._dataset.write(self._dataset.record_uri(source.input_id), record.to_json())
        else:
            is_new = True
            self._open()
            record = persist(upscaled, self._dataset, self._layout)
        progress = progress_of(record, upscaled.is_of_earlier)
        done = progress_file(self._dataset, self._run_id).add(progress)
        stop_after_failures(self._dataset, done.failures, self._most_failures)
        if state.listed is not None and is_as_listed(source):
            self._updates.listed(
                shard, state.listed.part, source.input_id, is_new, timestamp, window
            )
        else:
            yield shard, UnlistedArrival(record.to_json(), fingerprint(source), is_new)

    def _refuse_in_output(self, uri: str) -> None:
        """Raises an error if an input that no listing has checked is in the output."""
        if self._output is None:
            self._output = Output(self._dataset.root)
        self._output.refuse("the input is", uri)

    def _open(self) -> None:
        """Marks the run as incomplete in `run.json`, before anything is done."""
        if not self._is_open:
            write_incomplete(self._run_json, self._dataset)
            self._is_open = True

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yields the updates of the inputs that are as listed, together for each shard."""
        self._stop_listening()
        progress_file(self._dataset, self._run_id).flush()
        yield from self._updates.values()
        self._updates = _BundleUpdates()
        self._shown.end()

    def teardown(self) -> None:
        """Cleans up after a failed bundle, for which `finish_bundle` is never called."""
        self._stop_listening()
        self._shown.end()


class _BundleUpdates:
    """The updates that a bundle emits at its end, few and small: a local runner keeps them."""

    def __init__(self) -> None:
        self._postponed: dict[int, tuple[Timestamp, Any]] = {}
        self._hashes: dict[tuple[int, str, bool], bytearray] = {}
        self._times: dict[tuple[int, str, bool], tuple[Timestamp, Any]] = {}

    def postponed(self, shard: int, timestamp: Timestamp, window: Any) -> None:
        """Notes that an input of a shard is left to a later run."""
        self._postponed.setdefault(shard, (timestamp, window))

    def listed(
        self,
        shard: int,
        part: str,
        input_id: str,
        is_new: bool,
        timestamp: Timestamp,
        window: Any,
    ) -> None:
        """Notes that an input arrived as it is listed in a part of the listing."""
        key = shard, part, is_new
        self._hashes.setdefault(key, bytearray()).extend(id_hash(input_id))
        self._times.setdefault(key, (timestamp, window))

    def values(self) -> Iterator[WindowedValue]:
        """Yields the updates, by shard."""
        for shard, (timestamp, window) in self._postponed.items():
            yield WindowedValue((shard, None), timestamp, [window])
        for key, hashes in self._hashes.items():
            (shard, part, is_new), (timestamp, window) = key, self._times[key]
            yield WindowedValue(
                (shard, ListedArrivals(part, bytes(hashes), is_new)), timestamp, [window]
            )


def write_incomplete(run_json: RunJson, dataset: DatasetFolder) -> None:
    """Marks a run as incomplete in `run.json`; the entry about the books stays as it is."""
    if not books.are_kept(dataset.read_run()):
        run_json = dataclasses.replace(run_json, books=None)
    dataset.write_run(run_json)


def _nothing() -> None:
    """Does nothing; a default for a callback."""
