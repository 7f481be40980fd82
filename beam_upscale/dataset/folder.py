"""The output directory: paths of its files, and access to the results of earlier runs.

    README.md                        a dataset card
    images/<relative path>.<ext>     in a layout with a file for each image
    data/<shard>.<ext>               in a layout that packs a shard's images
    intermediates/<stage>/<path>     results between the engines of a chain, if they are kept
    manifest/<shard>.parquet         one row per input
    telemetry/*.parquet              measurements, which vary from run to run
    run.json                         settings, pinned choices, versions, totals
    books/                           paid calls and the known state of their charges (see `books`)
    .staging/                        work in progress, gone when a run completes

The commit point of a shard is the appearance of its manifest. Until then each finished input has a
record, alone in a file or in that of its group (see `record_groups`), and its image is durable
under its final name or, in a layout that packs it into its shard, in the staging folder.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_upscale.dataset.hold.hold import Hold
from beam_upscale.dataset.layouts.layout import Layout, shard_name
from beam_upscale.dataset.manifest.error_counts import COUNTED, ErrorTally
from beam_upscale.dataset.manifest.own_columns import from_struct_array
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.dataset.manifest.table import rows_of
from beam_upscale.dataset.manifest.totals import TOTALED, Totals, stored_totals, totals
from beam_upscale.dataset.paths.output_files import (
    HOLDS,
    MANIFEST,
    RUN_JSON,
    STAGING,
    STOP,
    TELEMETRY,
)
from beam_upscale.dataset.record_groups import groups_of_shard, shards_with_groups
from beam_upscale.dataset.records import Record, latest, record_from_json
from beam_upscale.dataset.run_json import RUN_FORMAT, RunJson
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import CHUNK_BYTES
from beam_upscale.storage.sorted_map import SortedMap
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris


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
        return uris.join(self.root, STAGING)

    @property
    def partial(self) -> str:
        """The folder in which files are written before a rename, on a local disk and on HDFS."""
        return uris.join(self.staging, "partial")

    @property
    def run_json(self) -> str:
        """The URI of `run.json`: settings, pinned choices, versions and totals."""
        return uris.join(self.root, RUN_JSON)

    @property
    def assignment_json(self) -> str:
        """The URI of the file with the inputs from which the shards in progress were assigned."""
        return uris.join(self.staging, "assignment.json")

    @property
    def listing(self) -> str:
        """The URI of the listing: the inputs, shard by shard, as the run in progress found them."""
        return uris.join(self.staging, "listing")

    @property
    def stop_file(self) -> str:
        """The URI of a file whose presence tells every worker to begin no further image."""
        return uris.join(self.staging, STOP)

    @property
    def progress(self) -> str:
        """The URI of the folder of progress, with one small file for each worker process."""
        return uris.join(self.staging, "progress")

    def manifest_uri(self, shard: int) -> str:
        """Returns the URI of a shard's manifest."""
        return uris.join(self.root, MANIFEST, f"{shard_name(shard)}.parquet")

    def telemetry_uri(self, shard: int, run_id: str) -> str:
        """Returns the URI of a run's measurements of a shard."""
        return uris.join(self.root, TELEMETRY, f"{shard_name(shard)}-{run_id}.parquet")

    def data_uri(self, shard: int, layout: Layout) -> str:
        """Returns the URI of a shard's images, in a layout that packs them."""
        return self.resolve(layout.data_path(shard))

    def resolve(self, relative: str) -> str:
        """Returns the URI of a path that is relative to the dataset's root."""
        return uris.join(self.root, relative)

    @property
    def waiting_images(self) -> str:
        """The URI of the folder of images that wait for their shards in files of their own."""
        return uris.join(self.staging, "images")

    def waiting_image_uri(self, input_id: str) -> str:
        """Returns the URI at which an image waits for the shard that it is packed into."""
        return uris.join(self.waiting_images, _key(input_id))

    @property
    def records(self) -> str:
        """The URI of the folder of records of finished inputs that have files of their own."""
        return uris.join(self.staging, "records")

    def record_uri(self, input_id: str) -> str:
        """Returns the URI at which a finished input's record waits for its shard."""
        return uris.join(self.records, _record_name(input_id))

    @property
    def groups(self) -> str:
        """The URI of the folder of groups of records; see `record_groups`."""
        return uris.join(self.staging, "groups")

    def groups_uri(self, shard: int) -> str:
        """Returns the URI of the folder of the groups of one shard."""
        return uris.join(self.groups, shard_name(shard))

    def packed_uri(self, name: str) -> str:
        """Returns the URI of the file with the name of a `PackedImage`."""
        return uris.join(self.groups, name)

    @contextlib.contextmanager
    def publish(self, uri: str) -> Iterator[IO[bytes]]:
        """Opens a file of this dataset that appears whole or not at all; see `Store.publish`.

        Raises:
            HoldLostError: the output is no longer this run's; nothing appears.
        """
        guard = None if self.hold is None else self.hold.guard
        with files.publish(uri, self.partial, guard) as file:
            yield file

    def write(self, uri: str, data: bytes) -> None:
        """Publishes a file of this dataset with these bytes; see `publish`."""
        with self.publish(uri) as file:
            file.write(data)

    def write_all(self, contents: Sequence[tuple[str, bytes]]) -> None:
        """Publishes files of this dataset, given as pairs of a URI and bytes; see `publish_all`.

        Raises:
            HoldLostError: the output is no longer this run's; the rest does not appear.
        """
        guard = None if self.hold is None else self.hold.guard
        files.publish_all(contents, self.partial, guard)

    def copy(self, file: IO[bytes], uri: str, sha256: str | None = None) -> tuple[int, str]:
        """Publishes the bytes of an open file as a file of this dataset; see `publish`.

        Args:
            file: the open file.
            uri: the URI to copy it to.
            sha256: the expected SHA-256, in hexadecimal; None expects none.

        Returns:
            The number of bytes, and their SHA-256 in hexadecimal.

        Raises:
            OSError: the bytes are not those expected; nothing appears.
        """
        digest, size = hashlib.sha256(), 0
        with self.publish(uri) as target:
            while data := file.read(CHUNK_BYTES):
                digest.update(data)
                target.write(data)
                size += len(data)
            if sha256 not in (None, digest.hexdigest()):
                raise OSError(f"the bytes for {uri} are not those that were expected")
        return size, digest.hexdigest()

    def delete(self, uri: str) -> None:
        """Removes a file or a folder of this dataset, if there is one.

        Raises:
            HoldLostError: the output is no longer this run's; nothing is removed.
        """
        files.delete(uri, None if self.hold is None else self.hold.guard)

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
        store_of(self.staging).delete_below(self.staging, guard, but_for=HOLDS)

    def committed_shards(self) -> list[int]:
        """Returns the numbers of the shards that have a manifest, in ascending order."""
        names = (entry.name for entry in files.list_below(uris.join(self.root, MANIFEST)))
        stems = (PurePosixPath(name).stem for name in names if name.endswith(".parquet"))
        return sorted(int(name) for name in stems if name.isdigit())

    def read_manifest(self, shard: int) -> list[Row]:
        """Reads the rows of a committed shard."""
        with files.open_read(self.manifest_uri(shard)) as file:
            return rows_of(pq.ParquetFile(file).read())

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
        with files.open_read(self.manifest_uri(shard)) as file:
            return int(pq.read_metadata(file).num_rows)

    def totals(self, errors: ErrorTally | None = None) -> Totals:
        """Sums up all committed rows; reads only the columns that are needed.

        Args:
            errors: a tally that also counts the rows' errors; None counts none.
        """
        columns = TOTALED if errors is None else {*TOTALED, *COUNTED}
        stored = (self._read_columns(shard, list(columns)) for shard in self.committed_shards())
        return stored_totals(stored if errors is None else errors.watch_stored(stored))

    def _read_columns(self, shard: int, columns: list[str]) -> pa.Table:
        with files.open_read(self.manifest_uri(shard)) as file:
            # Not `read_table`: it imports `pyarrow.dataset`, which takes a quarter of a second.
            return pq.ParquetFile(file).read(columns)

    def manifest_schema(self, shard: int) -> pa.Schema:
        """Reads the columns of a committed shard's manifest, `input` last, without its rows."""
        with files.open_read(self.manifest_uri(shard)) as file:
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

    def read_record(self, input_id: str) -> Record | None:
        """Reads the record of a finished input from its own file; None if there is no such file."""
        uri = self.record_uri(input_id)
        return record_from_json(files.read(uri)) if files.exists(uri) else None

    def has_single_records(self) -> bool:
        """Checks whether any record has a file of its own."""
        return any(True for _ in files.list_below(self.records))

    def unfinished_totals(self, errors: ErrorTally) -> Totals:
        """Sums up the rows of a run that was stopped, and counts their errors in `errors`."""
        return totals(errors.watch(self.unfinished_rows()))

    def unfinished_rows(self) -> Iterator[Row]:
        """Yields the rows of a run that was stopped; records replace committed rows."""
        recorded = SortedMap((entry.name, "") for entry in files.list_below(self.records))
        recorded.add((_record_name(input_id), "") for input_id in self._grouped_ids())
        committed = (
            row for _, row in self.committed_rows() if _record_name(row.input_id) not in recorded
        )
        return itertools.chain(committed, (each.row for each in self.read_records()))

    def read_records(self) -> Iterator[Record]:
        """Yields the records of all finished inputs in uncommitted shards, one of each input."""
        grouped, has_single = SortedMap(), self.has_single_records()
        for shard in shards_with_groups(self.groups):
            groups = groups_of_shard(uris.join(self.groups, shard), time.monotonic())
            for input_id in groups.ids():
                single = self.read_record(input_id) if has_single else None
                record = latest(filter(None, [groups.find(input_id), single]))
                if record is not None:
                    yield record
            grouped.add((_record_name(input_id), "") for input_id in groups.ids())
        for entry in files.list_below(self.records):
            if entry.name not in grouped:
                yield record_from_json(files.read(entry.uri))

    def _grouped_ids(self) -> Iterator[str]:
        for shard in shards_with_groups(self.groups):
            yield from groups_of_shard(uris.join(self.groups, shard), time.monotonic()).ids()

    def has_run(self) -> bool:
        """Checks whether there is a `run.json` that a run wrote, of whatever version."""
        return self._run_values() is not None

    def read_run(self) -> RunJson | None:
        """Reads `run.json`; None if there is none, or none that a run wrote.

        Raises:
            SettingsError: SETTINGS_CHANGED, a later version of this package wrote it.
        """
        values = self._run_values()
        return None if values is None else RunJson.from_json(values)

    def write_run(self, run: RunJson) -> None:
        """Publishes `run.json`."""
        self.write_json(self.run_json, run.to_json())

    def _run_values(self) -> dict[str, Any] | None:
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
        if not files.exists(uri):
            return None
        values: dict[str, Any] = json.loads(files.read(uri))
        return values


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
