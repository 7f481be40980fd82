"""The step that persists results, in groups where no result is paid."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_upscale.dataset import books
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.output_hold import ShownBundle
from beam_upscale.dataset.places import Output
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import Record
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.pipeline.commit.group import Groups
from beam_upscale.pipeline.commit.persist import persist_alone, persist_group, shard_of
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.arrivals import (
    ListedArrivals,
    UnlistedArrival,
    id_hash,
)
from beam_upscale.pipeline.run_state.input_state import fingerprint, is_as_listed, state_of
from beam_upscale.pipeline.run_state.progress import Progress, progress_file, progress_of
from beam_upscale.pipeline.run_state.resume import readdressed, relabeled
from beam_upscale.pipeline.run_state.stop import stop_after_error, stop_after_failures


@dataclasses.dataclass(frozen=True)
class _Result:
    """A result that is to be durable.

    Attributes:
        upscaled: the result.
        is_new: True if it was made after the last commit of its shard.
        timestamp: its timestamp in the pipeline.
        window: its window in the pipeline.
    """

    upscaled: UpscaledImage
    is_new: bool
    timestamp: Timestamp
    window: Any


@dataclasses.dataclass(frozen=True)
class _Durable:
    """A result that is durable, and its record."""

    result: _Result
    record: Record


class Persist(beam.DoFn):
    """The DoFn that persists results, and yields the updates of their shards.

    Results of local engines are persisted in groups; an update leaves the step only after its
    group is durable. Paid results are persisted one by one, and so are all where it is not known
    that no service is called.
    """

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
        self._groups: Groups[_Result, _Durable] | None = None
        self._search: RecordSearch | None = None
        self._is_open = False

    def start_bundle(self) -> None:
        """Shows that the run is alive, and begins the run in `run.json` if nothing has yet."""
        self._shown.begin()
        self._updates = _BundleUpdates()
        self._abandon_group()
        self._groups = Groups(self._make_durable)
        self._search = None
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
    ) -> Iterator[Any]:
        """Adds a result to the group; yields the updates of inputs that are not as listed."""
        source, record = upscaled.source, upscaled.record
        state = state_of(source)
        if state.listed is None and source.uri is not None:
            self._refuse_in_output(source.uri)
        stop_after_error(self._dataset, upscaled.stop)
        assert self._groups is not None
        if record is None:
            # The run stops, perhaps soon: what is made becomes durable now.
            self._groups.flush()
            yield from self._pass_on()
            self._open()
            self._updates.postponed(shard_of(source), timestamp, window)
            return
        earlier = state.earlier
        if earlier is None:
            result = _Result(upscaled, True, timestamp, window)
        else:
            # Its columns may have changed since, but nothing that the image depends on.
            record = relabeled(record, source.columns, self._input_type)
            record = readdressed(record, source.source_uri)
            is_stale = earlier.has_other_record or record is not earlier.record
            is_new = is_stale or not earlier.is_committed
            again = dataclasses.replace(upscaled, record=record)
            result = _Result(again, is_new, timestamp, window)
            if not is_stale or state.listed is None:
                self._count([_Durable(result, record)])
                yield from self._update_of(result, record)
                return
        self._open()
        size = len(upscaled.data or b"") + sum(map(len, upscaled.intermediates))
        self._groups.add(result, size, is_urgent=self._must_be_durable_now(upscaled))
        yield from self._pass_on()

    def _must_be_durable_now(self, upscaled: UpscaledImage) -> bool:
        """Checks whether a result is paid, in a file, or a failure that may have to stop the run.

        What is in a file is large, and took long to make.
        """
        assert upscaled.record is not None
        may_stop = self._most_failures is not None and upscaled.record.row.status is Status.FAILED
        return may_stop or upscaled.file is not None or not self._run_json.has_local_engines

    def _make_durable(self, results: Sequence[_Result]) -> list[_Durable]:
        """Makes results durable, and counts them."""
        is_grouped = self._run_json.has_local_engines
        if self._search is None:
            self._search = RecordSearch.begin(self._dataset, has_late_singles=not is_grouped)
        persist = persist_group if is_grouped else persist_alone
        upscaled = [result.upscaled for result in results]
        records = persist(upscaled, self._dataset, self._layout, self._search)
        durable = list(map(_Durable, results, records))
        self._count(durable)
        return durable

    def _count(self, durable: Iterable[_Durable]) -> None:
        """Adds results to the progress of the run, and stops the run after too many failures."""
        each = (progress_of(one.record, one.result.upscaled.is_of_earlier) for one in durable)
        done = progress_file(self._dataset, self._run_id).add(sum(each, Progress()))
        stop_after_failures(self._dataset, done.failures, self._most_failures)

    def _pass_on(self) -> Iterator[WindowedValue]:
        """Yields the updates of inputs that are not as listed, of results that became durable."""
        assert self._groups is not None
        for durable in self._groups.take():
            yield from self._update_of(durable.result, durable.record)

    def _update_of(self, result: _Result, record: Record) -> Iterator[WindowedValue]:
        """Yields the update of a durable result, unless its input is as listed."""
        source = result.upscaled.source
        state = state_of(source)
        shard, when = shard_of(source), (result.timestamp, result.window)
        if state.listed is not None and is_as_listed(source):
            part = state.listed.part
            self._updates.listed(shard, part, source.input_id, result.is_new, *when)
            return
        update = UnlistedArrival(record.to_json(), fingerprint(source), result.is_new)
        yield WindowedValue((shard, update), result.timestamp, [result.window])

    def _abandon_group(self) -> None:
        """Drops the last group of a bundle that failed: the runner repeats its inputs."""
        if self._groups is not None:
            self._groups.abandon()
            self._groups = None

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
        """Makes the last group durable, and yields the updates of the inputs that are as listed."""
        assert self._groups is not None
        self._groups.flush()
        yield from self._pass_on()
        self._stop_listening()
        progress_file(self._dataset, self._run_id).flush()
        yield from self._updates.values()
        self._updates = _BundleUpdates()
        self._shown.end()

    def teardown(self) -> None:
        """Cleans up after a failed bundle, for which `finish_bundle` is never called."""
        self._abandon_group()
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
