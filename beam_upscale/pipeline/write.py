"""`WriteDataset`: persists results in small groups, and commits whole shards.

Images and records are written soon after they are made; only updates of shards cross the
shuffle. One worker then writes a shard's images, in layouts where shards hold them, and last its
manifest, whose appearance commits the shard. Doing any of it twice writes the same bytes under the
same names.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import DEFAULT_LAYOUT, Layout
from beam_upscale.dataset.places import Output
from beam_upscale.dataset.run_json import RunJson, given_values
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.commit.completion import complete_if_all, find_shards_to_retype, retype
from beam_upscale.pipeline.commit.grouping import Persist
from beam_upscale.pipeline.commit.postponed import TakePostponed
from beam_upscale.pipeline.commit.shards import CommitShard
from beam_upscale.pipeline.global_window import refuse_windows
from beam_upscale.pipeline.lineage import Lineage, lineage_of
from beam_upscale.pipeline.read import ReadImages
from beam_upscale.pipeline.run_state.arrivals import ShardUpdate
from beam_upscale.pipeline.run_state.held_outputs import (
    add_writer,
    output_of_pipeline,
    refuse_second_writer,
)
from beam_upscale.pipeline.settings.large_image_options import refuse_packed
from beam_upscale.pipeline.settings.run_start import (
    continue_run,
    list_differences,
    new_run,
    refuse_foreign_files,
)
from beam_upscale.planning.ranges import choice_of
from beam_upscale.storage import files


@dataclasses.dataclass(eq=False)
class WriteDataset(beam.PTransform):
    """Writes results as a dataset that survives a crash at any moment.

    It takes a PCollection of results, or a tuple of several. Each of these is persisted in a chain
    of its own, whereas a runner may hold the images of results that a Flatten has joined.

    Attributes:
        output: the dataset's root, on any of Beam's file systems.
        layout: the way images are stored; `Layout.FILES` keeps the input's folder structure.
        input_type: the type of the dataset's own columns, an Arrow struct; see `infer_input_type`.
            By default it is inferred shard by shard, and shards that differ in the end are
            rewritten with the type of all.
        run: values of `run.json`, and others to keep there. The defaults are the settings of the
            `Upscale` that the results come from, the layout and the versions; `run` may not
            contradict the settings and the layout, and what the end of a run adds to the file is
            ignored.
        run_id: the run's id, which names its telemetry; by default the time of the pipeline's
            construction.
        most_failures: the number of failures that stops the run; None sets none. The tiles of large
            images stop with it if the scratch folder of `Upscale` is the output.
        may_leave_out: True if steps between `ReadImages` and this one may leave inputs out, whose
            rows then say so. False fails the run if an input does not arrive: a runner lost it.
        lease_seconds: the seconds without a sign of life of this pipeline's workers after which
            another run may take the output over; None takes the value of `ReadImages`, or
            `DEFAULT_LEASE_SECONDS`. The first transform that names the output decides, and
            `Upscale` takes the default.

    Returns:
        A PCollection of the `Totals`, one element; none if the run was stopped.

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
        """Wires persisting, the commit of shards, their common type and the end of the run."""
        results = tuple(upscaled) if isinstance(upscaled, tuple | list) else (upscaled,)
        pipeline = results[0].pipeline
        dataset = output_of_pipeline(pipeline, self.output, self.lease_seconds)
        layout = choice_of(Layout, "layout", self.layout)
        for each in results:
            refuse_windows(each, "WriteDataset", "a run ends once, with all of its inputs")
        lineage = lineage_of(results)
        refuse_second_writer(pipeline, dataset)
        _refuse_other_listings(lineage, dataset)
        refuse_packed(lineage.settings, layout)
        run_json = self._run_json(lineage, dataset, layout)
        add_writer(pipeline, dataset)
        shards = (
            self._updates(results, lineage, dataset, layout, run_json)
            | "ByShard" >> beam.GroupByKey()
            | "Commit"
            >> beam.ParDo(
                CommitShard(dataset, layout, self.run_id, self.input_type, self.may_leave_out)
            )
        )
        retyped = (
            pipeline
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
            pipeline
            | "End" >> beam.Impulse()
            | "Complete"
            >> beam.FlatMap(
                complete_if_all,
                beam.pvalue.AsIter(shards),
                beam.pvalue.AsIter(retyped),
                dataset,
                layout,
                run_json,
            )
        )

    def _updates(
        self,
        results: Sequence[Any],
        lineage: Lineage,
        dataset: DatasetFolder,
        layout: Layout,
        run_json: RunJson,
    ) -> Any:
        """Persists the results and returns the updates of their shards."""
        persist = Persist(
            dataset, layout, run_json, self.run_id, self.most_failures, self.input_type
        )
        updates = [
            each
            | f"Persist{number or ''}"
            >> beam.ParDo(persist).with_output_types(tuple[int, ShardUpdate])
            for number, each in enumerate(results)
        ]
        updates += [
            reports
            | f"Postponed: {label}" >> beam.ParDo(TakePostponed(dataset))
            | f"Untimed: {label}" >> beam.WindowInto(GlobalWindows())
            for label, reports in lineage.postponed.items()
        ]
        return updates[0] if len(updates) == 1 else updates | "Updates" >> beam.Flatten()

    def _run_json(self, lineage: Lineage, dataset: DatasetFolder, layout: Layout) -> RunJson:
        run_json = new_run(lineage.settings, layout)
        if self.run is not None:
            values, given = run_json.to_json(), given_values(self.run)
            _refuse_contradiction(given, values, has_settings=lineage.settings is not None)
            run_json = RunJson.from_json({**values, **given})
        refuse_foreign_files(dataset)
        earlier = dataset.read_run()
        return run_json if earlier is None else continue_run(earlier, run_json)


def _refuse_contradiction(
    given: Mapping[str, Any], values: Mapping[str, Any], *, has_settings: bool
) -> None:
    """Raises an error if the given values of `run.json` contradict the pipeline.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    names = ["format", "version", "layout", *(["settings", "endpoint"] if has_settings else [])]
    both = {name: given[name] for name in names if name in given}
    changes = list_differences({name: values[name] for name in both}, both)
    if changes:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            "the argument run of WriteDataset contradicts the pipeline: "
            f"{'; '.join(changes)}; leave these out of it",
        )


def _refuse_other_listings(lineage: Lineage, dataset: DatasetFolder) -> None:
    """Raises an error if inputs come from a listing that the commit of a shard would not find.

    Raises:
        SettingsError: INVALID_OPTION; INPUT_IN_OUTPUT, they come from the output itself.
    """
    output = Output(dataset.root)
    for each in lineage.readers:
        if isinstance(each, ReadImages):
            output.refuse("the input is", files.start_of_listing(each.pattern))
    outputs = [files.absolute(each.output) for each in lineage.readers if each.output is not None]
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
