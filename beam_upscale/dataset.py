"""The output directory: its files, and the reading of what an earlier run left in it.

    README.md                        a dataset card
    images/<relative path>.<ext>     layout files
    data/<shard>.parquet             layout parquet
    data/<shard>.tar                 layout webdataset
    intermediates/<stage>/<path>     results between the engines of a chain, if they are kept
    manifest/<shard>.parquet         one row per input
    telemetry/*.parquet              measurements, which vary from run to run
    run.json                         settings, pinned choices, versions, totals
    books/                           paid calls and what is known of their charges (see `books`)
    .staging/                        work in progress, gone when a run completes

The commit point of a shard is the appearance of its manifest. Until then each finished input has a
staged record, and its image is durable under its final name (layout files) or in the staging
folder (the layouts that pack images into shards).
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_upscale import storage
from beam_upscale.columns import from_struct_array
from beam_upscale.error_counts import ErrorTally
from beam_upscale.formats import Layout, shard_name
from beam_upscale.hold import HOLDS, RUN_JSON, STAGING, Hold, Kind, new_token, of_pipeline
from beam_upscale.manifest import (
    Row,
    Totals,
    row_from_dict,
    row_from_json,
    row_to_json,
    rows_of,
    totals,
)
from beam_upscale.sorted_map import SortedMap

# The folder of images in layout files, below the dataset's root.
IMAGES = "images"

# The folder of the results between the engines of a chain, if they are kept.
INTERMEDIATES = "intermediates"

# The value of `format` in run.json, by which it is told from any other.
RUN_FORMAT = "beam-upscale/1"

_LONGEST_NAME = 200

# Object stores take 1024 bytes, some of which are the output's own path.
_LONGEST_PATH = 600


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """The measurements of one input, which vary from run to run.

    Attributes:
        device_seconds: time on the device, shared out evenly over a batch.
        queue_seconds: time spent waiting for the device.
        attempts: calls made, repeated ones included.
        batch_size: the largest number of tiles that shared a batch with one of this image's.
        worker: host and process.
        started_at: seconds since the epoch.
    """

    device_seconds: float
    queue_seconds: float
    attempts: int
    batch_size: int
    worker: str
    started_at: float


@dataclasses.dataclass(frozen=True)
class Record:
    """A finished input that is not yet part of a committed shard."""

    row: Row
    telemetry: Telemetry | None

    def to_json(self) -> bytes:
        """Returns the record as UTF-8 JSON, exact to the last digit."""
        telemetry = None if self.telemetry is None else dataclasses.asdict(self.telemetry)
        return json.dumps({"row": row_to_json(self.row), "telemetry": telemetry}).encode()


def record_from_json(data: bytes) -> Record:
    """Parses a record that `Record.to_json` wrote."""
    values = json.loads(data)
    telemetry = values["telemetry"]
    return Record(
        row=row_from_json(values["row"]),
        telemetry=None if telemetry is None else Telemetry(**telemetry),
    )


def safe_name(name: str) -> str:
    """Returns a relative path that stays below the folder it is put in, whatever `name` holds.

    Parts that are empty, `.` or `..` are dropped, and NUL is replaced. A part longer than file
    systems take is cut and marked with a hash of the whole part. A path longer than stores take is
    reduced to its last part, below a folder that is named by a hash of the path.
    """
    parts = [
        part.replace("\0", "_")
        for part in storage.printable(name).split("/")
        if part not in ("", ".", "..")
    ]
    path = "/".join(_shorten(part) for part in parts) or "image"
    if len(path.encode()) <= _LONGEST_PATH:
        return path
    return f"{mark(path)}/{path.rpartition('/')[2]}"


def _shorten(part: str) -> str:
    encoded = part.encode()
    if len(encoded) <= _LONGEST_NAME:
        return part
    return f"{encoded[: _LONGEST_NAME - 17].decode(errors='ignore')}-{mark(part)}"


def mark(text: str) -> str:
    """Returns sixteen hexadecimal digits of a hash, which tell a name from similar ones."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stem(name: str) -> str:
    """Returns a relative path without its last extension: `a/b.tar.png` gives `a/b.tar`."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix else name


@contextlib.contextmanager
def held(
    output: str,
    *,
    in_this_process: bool,
    lease_seconds: float,
    on_wait: Callable[[str], None] = lambda _: None,
) -> Iterator["DatasetFolder"]:
    """Holds an output while the context lasts, so that no other run can write to it.

    Args:
        output: URI or path.
        in_this_process: True if everything that is written there comes from this process.
        lease_seconds: lease of the hold, if it is not a lock of the operating system.
        on_wait: called with a message before waiting for another run.

    Raises:
        SettingsError: OUTPUT_HELD, another run has it; OUTPUT_UNAVAILABLE, it cannot be written.
    """
    root = storage.absolute(output)
    kind = Kind.LOCK if in_this_process and storage.is_local(root) else Kind.LEASE
    hold = Hold(root, new_token(), kind, lease_seconds)
    hold.acquire(on_wait)
    try:
        yield DatasetFolder(root, hold)
    except (KeyboardInterrupt, SystemExit):
        hold.release(is_at_once=True)
        raise
    except BaseException:
        if in_this_process:
            hold.release()
        else:
            # The job may go on although this process can no longer follow it.
            hold.leave()
        raise
    hold.release()


@contextlib.contextmanager
def untouched_on_failure(dataset: "DatasetFolder") -> Iterator[None]:
    """Removes all traces of the hold on an error, so that the output is as it was before."""
    try:
        yield
    except BaseException:
        if dataset.hold is not None:
            # The user must see the error that ended the run, not one of this cleanup.
            with contextlib.suppress(Exception):
                dataset.hold.end()
        raise


def held_by_pipeline(
    pipeline: Any, output: str, lease_seconds: float | None = None
) -> "DatasetFolder":
    """Returns the output of a pipeline's transforms, under the one hold that they share.

    Args:
        pipeline: Beam's pipeline.
        output: URI or path.
        lease_seconds: of the hold; see `of_pipeline`.
    """
    root = storage.absolute(output)
    return DatasetFolder(root, of_pipeline(pipeline, root, lease_seconds))


@dataclasses.dataclass(frozen=True)
class DatasetFolder:
    """The files and folders of one output directory.

    Attributes:
        root: URI or local path, without a slash at its end.
        hold: the hold of the run that writes and deletes here; None writes without checking one,
            for outputs on which no run can be at work.
    """

    root: str
    hold: Hold | None = dataclasses.field(default=None, compare=False)

    @property
    def staging(self) -> str:
        """The URI of the folder of work in progress."""
        return storage.join(self.root, STAGING)

    @property
    def partial(self) -> str:
        """The folder in which files are written before a rename, on a local disk and on HDFS."""
        return storage.join(self.staging, "partial")

    @property
    def run_json(self) -> str:
        """The URI of `run.json`: settings, pinned choices, versions and totals."""
        return storage.join(self.root, RUN_JSON)

    @property
    def assignment_json(self) -> str:
        """The URI of the file that says from which inputs the shards in progress were assigned."""
        return storage.join(self.staging, "assignment.json")

    @property
    def listing(self) -> str:
        """The URI of the listing: the inputs, shard by shard, as the run in progress found them."""
        return storage.join(self.staging, "listing")

    @property
    def stop_file(self) -> str:
        """The URI of a file whose presence tells every worker to begin no further image."""
        return storage.join(self.staging, "stop")

    @property
    def progress(self) -> str:
        """The URI of the folder of progress, with one small file for each worker process."""
        return storage.join(self.staging, "progress")

    def manifest_uri(self, shard: int) -> str:
        """Returns the URI of a shard's manifest."""
        return storage.join(self.root, "manifest", f"{shard_name(shard)}.parquet")

    def data_uri(self, shard: int, layout: Layout) -> str:
        """Returns the URI of a shard's images, in a layout that packs them."""
        return self.resolve(layout.data_path(shard))

    def resolve(self, relative: str) -> str:
        """Returns the URI of a path that is relative to the dataset's root."""
        return storage.join(self.root, relative)

    def staged_image_uri(self, input_id: str) -> str:
        """Returns the URI at which an image waits for the shard that it is packed into."""
        return storage.join(self.staging, "images", _key(input_id))

    @property
    def records(self) -> str:
        """The URI of the folder of records of finished inputs in uncommitted shards."""
        return storage.join(self.staging, "records")

    def record_uri(self, input_id: str) -> str:
        """Returns the URI at which a finished input's record waits for its shard."""
        return storage.join(self.records, _record_name(input_id))

    @contextlib.contextmanager
    def publish(self, uri: str) -> Iterator[IO[bytes]]:
        """Opens a file of this dataset that appears whole or not at all; see `storage.publish`.

        Raises:
            HoldLostError: the output is no longer this run's; nothing appears.
        """
        guard = None if self.hold is None else self.hold.guard
        with storage.publish(uri, self.partial, guard) as file:
            yield file

    def write(self, uri: str, data: bytes) -> None:
        """Publishes a file of this dataset with these bytes; see `publish`."""
        with self.publish(uri) as file:
            file.write(data)

    def delete(self, uri: str) -> None:
        """Removes a file or a folder of this dataset, if there is one.

        Raises:
            HoldLostError: the output is no longer this run's; nothing is removed.
        """
        storage.delete(uri, None if self.hold is None else self.hold.guard)

    def shown(self) -> AbstractContextManager[None]:
        """Returns a context that shows other runs that this run is alive; see `Hold.shown`."""
        return contextlib.nullcontext() if self.hold is None else self.hold.shown()

    def delete_staging(self) -> None:
        """Removes the work in progress, and then the hold, which keeps other runs away."""
        self.clear_staging()
        if self.hold is not None:
            self.hold.end()

    def clear_staging(self) -> None:
        """Removes the work in progress, but not the hold, which keeps other runs away."""
        guard = None if self.hold is None else self.hold.guard
        storage.delete_below(self.staging, guard, but_for=HOLDS)

    def committed_shards(self) -> list[int]:
        """Returns the numbers of the shards that have a manifest, in ascending order."""
        names = (entry.name for entry in storage.list_below(storage.join(self.root, "manifest")))
        stems = (PurePosixPath(name).stem for name in names if name.endswith(".parquet"))
        return sorted(int(name) for name in stems if name.isdigit())

    def read_manifest(self, shard: int) -> list[Row]:
        """Reads the rows of a committed shard."""
        with storage.open_read(self.manifest_uri(shard)) as file:
            return rows_of(pq.read_table(file))

    def committed_rows(self) -> Iterator[tuple[int, Row]]:
        """Yields every row of every committed shard, with the shard's number."""
        for shard in self.committed_shards():
            for row in self.read_manifest(shard):
                yield shard, row

    def committed_names(self) -> Iterator[tuple[int, str, str | None]]:
        """Yields the shard's number, the input's id and the image's URI or None of every row."""
        for shard in self.committed_shards():
            stored = self._read_columns(shard, ["input_id", "output_uri"])
            pairs = zip(*(column.to_pylist() for column in stored.columns), strict=True)
            for input_id, output_uri in pairs:
                yield shard, input_id, output_uri

    def committed_count(self, shard: int) -> int:
        """Returns the number of rows in a committed shard."""
        with storage.open_read(self.manifest_uri(shard)) as file:
            return int(pq.read_metadata(file).num_rows)

    def totals(self, errors: ErrorTally | None = None) -> Totals:
        """Sums up all committed rows; reads only the columns that are needed.

        Args:
            errors: a tally that also counts the rows' errors; None counts none.
        """
        columns = ["status", "calls", "credits", "billed_credits", "usd", "output_bytes"]
        if errors is not None:
            columns += ["input_id", "error_code", "error_message"]
        rows = (
            row_from_dict({"input_id": "", "source_uri": "", **values})
            for shard in self.committed_shards()
            for values in self._read_columns(shard, columns).to_pylist()
        )
        return totals(rows if errors is None else errors.watch(rows))

    def _read_columns(self, shard: int, columns: list[str]) -> pa.Table:
        with storage.open_read(self.manifest_uri(shard)) as file:
            return pq.read_table(file, columns=columns)

    def manifest_schema(self, shard: int) -> pa.Schema:
        """Reads the columns of a committed shard's manifest, `input` last, without its rows."""
        with storage.open_read(self.manifest_uri(shard)) as file:
            return pq.read_schema(file)

    def output_formats(self) -> list[str]:
        """Returns the formats of the images in committed shards, sorted by name."""
        found: set[str] = set()
        for shard in self.committed_shards():
            stored = self._read_columns(shard, ["output_uri", "output_format"])
            images = stored.filter(pc.is_valid(stored["output_uri"]))
            found.update(images["output_format"].unique().to_pylist())
        return sorted(found)

    def columns_of_others(self, input_ids: Container[str]) -> Iterator[dict[str, Any]]:
        """Yields the columns that have a value, of each committed input not in `input_ids`."""
        for shard in self.committed_shards():
            stored = self._read_columns(shard, ["input_id", "input"])
            is_other = [each not in input_ids for each in stored["input_id"].to_pylist()]
            others = stored.filter(pa.array(is_other, pa.bool_()))
            for columns in from_struct_array(others["input"]):
                yield {name: value for name, value in columns.items() if value is not None}

    def staged_record(self, input_id: str) -> Record | None:
        """Reads the record of a finished input in an uncommitted shard; None if there is none."""
        uri = self.record_uri(input_id)
        return record_from_json(storage.read(uri)) if storage.exists(uri) else None

    def unfinished_totals(self, errors: ErrorTally) -> Totals:
        """Sums up the rows of a run that was stopped, and counts their errors in `errors`."""
        return totals(errors.watch(self.unfinished_rows()))

    def unfinished_rows(self) -> Iterator[Row]:
        """Yields the rows of a run that was stopped; a staged row replaces a committed one."""
        staged = SortedMap((entry.name, "") for entry in storage.list_below(self.records))
        committed = (
            row for _, row in self.committed_rows() if _record_name(row.input_id) not in staged
        )
        return itertools.chain(committed, (each.row for each in self.staged_records()))

    def staged_records(self) -> Iterator[Record]:
        """Yields the records of all finished inputs in uncommitted shards."""
        for entry in storage.list_below(self.records):
            yield record_from_json(storage.read(entry.uri))

    def read_run(self) -> dict[str, Any] | None:
        """Reads `run.json`; None if there is none, or none that a run wrote."""
        try:
            values = self._read_json(self.run_json)
        except ValueError:
            return None
        is_ours = isinstance(values, dict) and values.get("format") == RUN_FORMAT
        return values if is_ours else None

    def read_assignment(self) -> dict[str, Any] | None:
        """Reads the assignment in progress; None if there is none."""
        return self._read_json(self.assignment_json)

    def write_json(self, uri: str, values: Mapping[str, Any]) -> None:
        """Publishes JSON with sorted keys, so that equal values give equal bytes."""
        text = json.dumps(values, indent=2, sort_keys=True, default=_json_default) + "\n"
        self.write(uri, text.encode())

    def _read_json(self, uri: str) -> dict[str, Any] | None:
        if not storage.exists(uri):
            return None
        values: dict[str, Any] = json.loads(storage.read(uri))
        return values


class ShownBundle:
    """Shows other runs that this run is alive while a step has a bundle; see `Hold.shown`.

    Args:
        dataset: the output.
    """

    def __init__(self, dataset: DatasetFolder) -> None:
        self._dataset = dataset
        self._context: AbstractContextManager[None] | None = None

    def begin(self) -> None:
        """Begins a bundle, and ends the one before, which may have failed."""
        self.end()
        context = self._dataset.shown()
        context.__enter__()
        self._context = context

    def end(self) -> None:
        """Ends the bundle, if there is one."""
        if self._context is not None:
            context, self._context = self._context, None
            context.__exit__(None, None, None)


def _json_default(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _record_name(input_id: str) -> str:
    return f"{_key(input_id)}.json"


def _key(input_id: str) -> str:
    """Returns a short name for an input, spread over 256 folders."""
    digest = hashlib.sha256(input_id.encode()).hexdigest()
    return f"{digest[:2]}/{digest}"
