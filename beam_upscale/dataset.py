"""The output directory: what lies where, and how a run finds what an earlier one left.

    README.md                        a dataset card
    images/<relative path>.<ext>     layout files
    data/<shard>.parquet             layout parquet
    data/<shard>.tar                 layout webdataset
    intermediates/<stage>/<path>     between the engines of a chain, where that is kept
    manifest/<shard>.parquet         one row per input
    telemetry/*.parquet              what varies from run to run
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

# The folder of what lies between the engines of a chain, where that is kept.
INTERMEDIATES = "intermediates"

# Tells a run.json of ours from any other.
RUN_FORMAT = "beam-upscale/1"

_LONGEST_NAME = 200

# Object stores take 1024 bytes, of which an output's own place needs some.
_LONGEST_PATH = 600


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """What varies from run to run.

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
        """The record as UTF-8 JSON, exact to the last digit."""
        telemetry = None if self.telemetry is None else dataclasses.asdict(self.telemetry)
        return json.dumps({"row": row_to_json(self.row), "telemetry": telemetry}).encode()


def record_from_json(data: bytes) -> Record:
    """The inverse of `Record.to_json`."""
    values = json.loads(data)
    telemetry = values["telemetry"]
    return Record(
        row=row_from_json(values["row"]),
        telemetry=None if telemetry is None else Telemetry(**telemetry),
    )


def safe_name(name: str) -> str:
    """A relative path that stays below the folder it is put in, whatever `name` says.

    Parts that are empty, `.` or `..` are dropped, NUL is replaced, and a part longer than file
    systems take is cut and marked with a hash of the whole. Of a path longer than stores take there
    is the last part, below a folder that is such a hash.
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
    """Sixteen hexadecimal digits that tell a name from others that look like it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stem(name: str) -> str:
    """A relative path without its last extension: `a/b.tar.png` gives `a/b.tar`."""
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
    """Gives an output that no other run has meanwhile.

    Args:
        output: URI or path.
        in_this_process: whether all that is written there comes from this process.
        lease_seconds: of the hold, where the operating system's locks do not tell.
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
            # A job that this process can follow no longer may well go on.
            hold.leave()
        raise
    hold.release()


@contextlib.contextmanager
def untouched_on_failure(dataset: "DatasetFolder") -> Iterator[None]:
    """Leaves no trace of a hold where it ends with an error: what was held is as it was before."""
    try:
        yield
    except BaseException:
        if dataset.hold is not None:
            # What forbids the run is what the user is to read.
            with contextlib.suppress(Exception):
                dataset.hold.end()
        raise


def held_by_pipeline(
    pipeline: Any, output: str, lease_seconds: float | None = None
) -> "DatasetFolder":
    """The output of a pipeline's transforms, under the one hold that they share.

    Args:
        pipeline: Beam's.
        output: URI or path.
        lease_seconds: of the hold; see `of_pipeline`.
    """
    root = storage.absolute(output)
    return DatasetFolder(root, of_pipeline(pipeline, root, lease_seconds))


@dataclasses.dataclass(frozen=True)
class DatasetFolder:
    """The places in one output directory.

    Attributes:
        root: URI or local path, without a slash at its end.
        hold: of the run that writes and deletes here; None writes without asking, where no run can
            be at work.
    """

    root: str
    hold: Hold | None = dataclasses.field(default=None, compare=False)

    @property
    def staging(self) -> str:
        """Work in progress."""
        return storage.join(self.root, STAGING)

    @property
    def partial(self) -> str:
        """Where files are written before they are renamed, on a local disk and on HDFS."""
        return storage.join(self.staging, "partial")

    @property
    def run_json(self) -> str:
        """Settings, pinned choices, versions and totals."""
        return storage.join(self.root, RUN_JSON)

    @property
    def assignment_json(self) -> str:
        """Which inputs the shards in progress were assigned from."""
        return storage.join(self.staging, "assignment.json")

    @property
    def listing(self) -> str:
        """The inputs, shard by shard, as the run in progress found them."""
        return storage.join(self.staging, "listing")

    @property
    def stop_file(self) -> str:
        """Its presence asks every worker to begin no further image."""
        return storage.join(self.staging, "stop")

    @property
    def progress(self) -> str:
        """One small file for each worker process, with what it has done."""
        return storage.join(self.staging, "progress")

    def manifest_uri(self, shard: int) -> str:
        """A shard's manifest."""
        return storage.join(self.root, "manifest", f"{shard_name(shard)}.parquet")

    def data_uri(self, shard: int, layout: Layout) -> str:
        """A shard's images, in a layout that packs them."""
        return self.resolve(layout.data_path(shard))

    def resolve(self, relative: str) -> str:
        """The URI of a path that is relative to the dataset's root."""
        return storage.join(self.root, relative)

    def staged_image_uri(self, input_id: str) -> str:
        """Where an image waits for the shard that it is packed into."""
        return storage.join(self.staging, "images", _key(input_id))

    @property
    def records(self) -> str:
        """Records of finished inputs whose shards are not committed."""
        return storage.join(self.staging, "records")

    def record_uri(self, input_id: str) -> str:
        """Where a finished input's record waits for its shard."""
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
        """Removes a file or a folder of this dataset, where there is one.

        Raises:
            HoldLostError: the output is no longer this run's; nothing is removed.
        """
        storage.delete(uri, None if self.hold is None else self.hold.guard)

    def shown(self) -> AbstractContextManager[None]:
        """Shows other runs that this one is there while something takes long; see `Hold.shown`."""
        return contextlib.nullcontext() if self.hold is None else self.hold.shown()

    def delete_staging(self) -> None:
        """Removes the work in progress; last, what keeps other runs away."""
        self.clear_staging()
        if self.hold is not None:
            self.hold.end()

    def clear_staging(self) -> None:
        """Removes the work in progress, and leaves what keeps other runs away."""
        guard = None if self.hold is None else self.hold.guard
        storage.delete_below(self.staging, guard, but_for=HOLDS)

    def committed_shards(self) -> list[int]:
        """The numbers of the shards that have a manifest, in order."""
        names = (entry.name for entry in storage.list_below(storage.join(self.root, "manifest")))
        stems = (PurePosixPath(name).stem for name in names if name.endswith(".parquet"))
        return sorted(int(name) for name in stems if name.isdigit())

    def read_manifest(self, shard: int) -> list[Row]:
        """A committed shard's rows."""
        with storage.open_read(self.manifest_uri(shard)) as file:
            return rows_of(pq.read_table(file))

    def committed_rows(self) -> Iterator[tuple[int, Row]]:
        """Every row of every committed shard, with the shard's number."""
        for shard in self.committed_shards():
            for row in self.read_manifest(shard):
                yield shard, row

    def committed_names(self) -> Iterator[tuple[int, str, str | None]]:
        """Of every committed row the shard's number, the input's id and the image's URI, if any."""
        for shard in self.committed_shards():
            stored = self._read_columns(shard, ["input_id", "output_uri"])
            pairs = zip(*(column.to_pylist() for column in stored.columns), strict=True)
            for input_id, output_uri in pairs:
                yield shard, input_id, output_uri

    def committed_count(self, shard: int) -> int:
        """How many rows a committed shard has."""
        with storage.open_read(self.manifest_uri(shard)) as file:
            return int(pq.read_metadata(file).num_rows)

    def totals(self, errors: ErrorTally | None = None) -> Totals:
        """Sums over all committed rows; only what is summed is read.

        Args:
            errors: also counts the rows' errors.
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
        """The columns of a committed shard's manifest, `input` last; its rows are not read."""
        with storage.open_read(self.manifest_uri(shard)) as file:
            return pq.read_schema(file)

    def output_formats(self) -> list[str]:
        """The formats of the images of committed shards, in order."""
        found: set[str] = set()
        for shard in self.committed_shards():
            stored = self._read_columns(shard, ["output_uri", "output_format"])
            images = stored.filter(pc.is_valid(stored["output_uri"]))
            found.update(images["output_format"].unique().to_pylist())
        return sorted(found)

    def columns_of_others(self, input_ids: Container[str]) -> Iterator[dict[str, Any]]:
        """The columns, without those that have no value, of committed inputs that are not these."""
        for shard in self.committed_shards():
            stored = self._read_columns(shard, ["input_id", "input"])
            is_other = [each not in input_ids for each in stored["input_id"].to_pylist()]
            others = stored.filter(pa.array(is_other, pa.bool_()))
            for columns in from_struct_array(others["input"]):
                yield {name: value for name, value in columns.items() if value is not None}

    def staged_record(self, input_id: str) -> Record | None:
        """The record of a finished input whose shard is not committed."""
        uri = self.record_uri(input_id)
        return record_from_json(storage.read(uri)) if storage.exists(uri) else None

    def unfinished_totals(self, errors: ErrorTally) -> Totals:
        """Sums over the rows of a run that was stopped, with a count of their errors."""
        return totals(errors.watch(self.unfinished_rows()))

    def unfinished_rows(self) -> Iterator[Row]:
        """The rows of a run that was stopped: a staged one stands for a committed one."""
        staged = SortedMap((entry.name, "") for entry in storage.list_below(self.records))
        committed = (
            row for _, row in self.committed_rows() if _record_name(row.input_id) not in staged
        )
        return itertools.chain(committed, (each.row for each in self.staged_records()))

    def staged_records(self) -> Iterator[Record]:
        """The records of all finished inputs whose shards are not committed."""
        for entry in storage.list_below(self.records):
            yield record_from_json(storage.read(entry.uri))

    def read_run(self) -> dict[str, Any] | None:
        """What `run.json` says; None where there is none, or none that a run wrote."""
        try:
            values = self._read_json(self.run_json)
        except ValueError:
            return None
        is_ours = isinstance(values, dict) and values.get("format") == RUN_FORMAT
        return values if is_ours else None

    def read_assignment(self) -> dict[str, Any] | None:
        """The assignment in progress; None where there is none."""
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
    """Shows other runs that this one is there while a step has a bundle; see `Hold.shown`.

    Args:
        dataset: the output.
    """

    def __init__(self, dataset: DatasetFolder) -> None:
        self._dataset = dataset
        self._context: AbstractContextManager[None] | None = None

    def begin(self) -> None:
        """A bundle has begun; the one before may have failed, and is over."""
        self.end()
        context = self._dataset.shown()
        context.__enter__()
        self._context = context

    def end(self) -> None:
        """The bundle, if there is one, has ended."""
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
    """A short name for an input, spread over 256 folders."""
    digest = hashlib.sha256(input_id.encode()).hexdigest()
    return f"{digest[:2]}/{digest}"
