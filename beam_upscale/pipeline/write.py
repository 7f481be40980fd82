"""`WriteDataset`: makes results durable one by one, and commits whole shards.

A result's image and record are written as soon as they are made; only updates of shards cross the
shuffle. One worker then writes a shard's images, in layouts where shards hold them, and last its
manifest, whose appearance commits the shard. Doing any of it twice writes the same bytes under the
same names.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.held_folder import held_by_pipeline
from beam_upscale.dataset.layouts.layout import DEFAULT_LAYOUT, Layout
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.dataset.places import Output
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.commit.completion import complete_if_all, find_shards_to_retype, retype
from beam_upscale.pipeline.commit.persist import Stage, output_uri, shard_of
from beam_upscale.pipeline.commit.shards import CommitShard
from beam_upscale.pipeline.global_window import refuse_windows
from beam_upscale.pipeline.large_images.spread import GIANTS, FanOut, refuse_packed
from beam_upscale.pipeline.lineage import applied_in, upscales, upstream
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.read import ReadImages, ReadListed
from beam_upscale.pipeline.run_state.arrivals import ShardUpdate
from beam_upscale.pipeline.run_state.control import is_stopped, request_stop
from beam_upscale.pipeline.settings.run_record import (
    continue_record,
    list_differences,
    refuse_foreign_files,
    run_record,
)
from beam_upscale.pipeline.upscale import Upscale
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import walking
from beam_upscale.storage.uris import uris


def _place_of_giant(source: SourceImage, row: Row) -> str:
    return output_uri(source, row, Layout.FILES, shard_of(source))


@dataclasses.dataclass(eq=False)
class WriteDataset(beam.PTransform):
    """Writes results as a dataset that survives a crash at any moment.

    Attributes:
        output: the dataset's root, on any of Beam's file systems.
        layout: how images are stored; `Layout.FILES` keeps the input's folder structure.
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
    layout: Layout | str = DEFAULT_LAYOUT
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
                CommitShard(dataset, layout, self.run_id, self.input_type, self.may_leave_out)
            )
        )
        retyped = (
            upscaled.pipeline
            | "Committed" >> beam.Impulse()
            | "FindShardsToRetype"
            >> beam.FlatMap(
                find_shards_to_retype,
                beam.pvalue.AsIter(shards),
                dataset,
                layout,
                self.run_id,
                self.input_type,
                self.may_leave_out,
            )
            | "SpreadShards" >> beam.Reshuffle()
            | "Retype" >> beam.Map(retype, dataset, layout, self.run_id)
        )
        return (
            upscaled.pipeline
            | "End" >> beam.Impulse()
            | "Complete"
            >> beam.FlatMap(
                complete_if_all,
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
        stage_results = Stage(
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
            record = continue_record(earlier, record)
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
    names = ["format", "version", "layout", *(["settings", "endpoint"] if has_settings else [])]
    given = {name: run[name] for name in names if name in run}
    changes = list_differences({name: record[name] for name in given}, given)
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
    outputs = [uris.absolute(each.transform.output) for each in sinks]
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
            output.refuse("the input is", walking.start_of_listing(each.pattern))
    outputs = [uris.absolute(each.output) for each in reads if each.output is not None]
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
