"""Reports of inputs that an `Upscale` left to a later run.

A step behind an `Upscale` may drop a result that has no row, and the run would look complete. So
the last step of `Upscale` reports such a result apart, without pixels, and `WriteDataset` takes the
reports in where other steps follow the `Upscale`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import SettingsError
from beam_upscale.pipeline.commit.persist import shard_of
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.arrivals import ShardUpdate
from beam_upscale.pipeline.run_state.stop import stop_after_error

POSTPONED = "postponed"
"""The tag of the reports, beside the results."""


@dataclasses.dataclass(frozen=True)
class Postponed:
    """The report of one input that is left to a later run.

    Attributes:
        shard: the shard that the input's result belongs to.
        stop: the error for which the run must stop; None if it was asked to stop before.
    """

    shard: int
    stop: SettingsError | None


class ReportPostponed(beam.DoFn):
    """The DoFn that passes results on, and reports those without a row.

    Its output with the tag `POSTPONED` has the reports.
    """

    def process(self, upscaled: UpscaledImage) -> Iterator[Any]:
        """Yields the result; before it, a `Postponed` with a tag of its own if it has no row."""
        if upscaled.record is None:
            report = Postponed(shard_of(upscaled.source), upscaled.stop)
            yield beam.pvalue.TaggedOutput(POSTPONED, report)
        yield upscaled


def reports_beside(results: Any) -> Any:
    """Returns the reports that were made with results; None if `ReportPostponed` made neither."""
    return results.producer.outputs.get(POSTPONED)


class TakePostponed(beam.DoFn):
    """The DoFn that keeps the shards of postponed inputs from being committed."""

    def __init__(self, dataset: DatasetFolder) -> None:
        self._dataset = dataset

    def process(self, report: Postponed) -> Iterator[tuple[int, ShardUpdate]]:
        """Yields the update of the input's shard; asks the run to stop if the report says so."""
        stop_after_error(self._dataset, report.stop)
        yield report.shard, None
