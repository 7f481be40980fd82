"""The preview of a run and its cost: it reads headers only, runs no network and spends nothing."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale.dataset.defaults import DEFAULT_SHARD_ROWS
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold.defaults import DEFAULT_LEASE_SECONDS
from beam_upscale.dataset.manifest.json_values import from_json, to_json
from beam_upscale.dataset.manifest.row import CREDITS, Status, status_of
from beam_upscale.dataset.output_hold import hold_output, untouched_on_failure
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.images.decoding.pool import DecoderPool, shared_pool
from beam_upscale.images.processes.child import usable_cores
from beam_upscale.pipeline.budget import (
    NOTHING,
    Admission,
    Claim,
    Reach,
    SettleBudget,
    order,
)
from beam_upscale.pipeline.local_runner import new_pipeline, runs_here
from beam_upscale.pipeline.one_image.header import plan_of
from beam_upscale.pipeline.read import ReadListed, write_down
from beam_upscale.pipeline.run_state.held_outputs import bind
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import USD_PER_CREDIT
from beam_upscale.planning.plan import Action
from beam_upscale.sources.inputs.found_inputs import Inputs
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files
from beam_upscale.storage.sorted_map import SortedMap
from beam_upscale.storage.uris import uris


@dataclasses.dataclass(frozen=True)
class PreviewRow:
    """The expected outcome of one input.

    Attributes:
        input_id: id of the input.
        status: the expected status by the header; damaged pixels show only in a run.
        error_code: why the input would not be upscaled; None if there is no error.
        message: the error in words.
        width: input pixels; None if the header cannot be read, or states more than 31 bits hold.
        height: as `width`.
        output_width: pixels of the result; None if there is none.
        output_height: as `output_width`.
        calls: number of priced calls.
        credits: price of the calls.
        known_from: the part of the input that was read: `header`; None if not even that can be
            read.
    """

    input_id: str
    status: Status
    error_code: ErrorCode | None = None
    message: str = ""
    width: int | None = None
    height: int | None = None
    output_width: int | None = None
    output_height: int | None = None
    calls: int = 0
    credits: Decimal = Decimal(0)
    known_from: str | None = None


@dataclasses.dataclass(frozen=True)
class StatusTotals:
    """Sums over the inputs of one status.

    Attributes:
        images: number of inputs.
        calls: number of priced calls.
        credits: price of the calls.
        usd: price of the calls in dollars.
    """

    images: int
    calls: int
    credits: Decimal
    usd: Decimal


# The folder of the rows, below the folder that a preview is written to.
_ROWS = "plan"
_SCHEMA = pa.schema(
    [
        ("input_id", pa.string()),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("output_width", pa.int32()),
        ("output_height", pa.int32()),
        ("calls", pa.int32()),
        ("credits", CREDITS),
        ("known_from", pa.string()),
    ]
)

_HEADER = "header"


def limits_of_knowledge(*, fans_out: bool, has_budget: bool) -> str:
    """Returns one line on the limits of a preview, and their effect on its numbers.

    Args:
        fans_out: whether large images are spread over the workers tile by tile.
        has_budget: whether `max_credits` is set.
    """
    price = "costs nothing"
    if fans_out:
        price += " (of one whose tiles are spread, at most the tiles before the damage)"
    if has_budget:
        price += ", which leaves its part of --max-credits unspent"
    return (
        "these numbers come from headers; no pixels were read. An image that is damaged behind its "
        f"header counts as upscaled here; in a run it fails and {price}. Pages or frames beyond "
        "the beginning of a file, and sizes that a web server does not state, show only in a run"
    )


def preview(
    sources: Inputs,
    rules: Rules,
    max_credits: Decimal | None,
    folder: str,
    beam_options: Sequence[str] = (),
    on_wait: Callable[[str], None] = lambda _: None,
) -> None:
    """Previews every input, as a Beam job, and writes the rows to a folder.

    Args:
        sources: the inputs.
        rules: the rules of the run.
        max_credits: the budget; None sets none.
        folder: a folder that all workers share, for `read_preview`.
        beam_options: Beam's own options; without `--runner`, the job runs in this process.
        on_wait: called with a message before waiting for another preview that is made there.

    Raises:
        SettingsError: OUTPUT_TAKEN, the folder has a preview or is a run's output; OUTPUT_HELD,
            another preview is made there; INVALID_OPTION, Beam knows no such runner.
    """
    is_here = runs_here(beam_options)
    with hold_output(
        folder, in_this_process=is_here, lease_seconds=DEFAULT_LEASE_SECONDS, on_wait=on_wait
    ) as dataset:
        with untouched_on_failure(dataset):
            _refuse_used(dataset)
            pipeline = new_pipeline(beam_options, usable_cores())
        assert dataset.hold is not None
        bind(pipeline, dataset.hold)
        write_down(sources, dataset, DEFAULT_SHARD_ROWS)
        rows = pipeline | ReadListed(dataset.root) | PreviewImages(rules, max_credits)
        _ = rows | WritePreview(dataset.root)
        pipeline.run().wait_until_finish()
        dataset.delete_staging()


def _refuse_used(dataset: DatasetFolder) -> None:
    """Raises an error if a folder has a preview or is a run's output.

    Raises:
        SettingsError: OUTPUT_TAKEN.
    """
    if any(True for _ in files.list_below(dataset.resolve(_ROWS))):
        raise SettingsError(
            ErrorCode.OUTPUT_TAKEN, f"{dataset.resolve(_ROWS)} has files in it; take another folder"
        )
    if files.exists(dataset.run_json):
        raise SettingsError(
            ErrorCode.OUTPUT_TAKEN,
            f"{dataset.root} is the output of a run, whose work in progress a preview would "
            "replace; take another folder",
        )


@dataclasses.dataclass(eq=False)
class PreviewImages(beam.PTransform):
    """Previews inputs by their headers and parameters.

    Attributes:
        rules: the rules of the run.
        max_credits: the budget; None sets none.

    Returns:
        One `PreviewRow` for each `SourceImage`.
    """

    rules: Rules
    max_credits: Decimal | None = None

    def expand(self, sources: Any) -> Any:
        """Previews each input, and settles the budget if there is one."""
        rows = sources | "Preview" >> beam.ParDo(_PreviewImage(self.rules))
        if self.max_credits is None:
            return rows
        settled, last = (
            rows | "Claims" >> beam.Map(_claim) | "Settle" >> SettleBudget(self.max_credits)
        )
        return rows | "Within" >> beam.Map(
            _within,
            beam.pvalue.AsSingleton(settled),
            beam.pvalue.AsSingleton(last, default_value=None),
        )


class _PreviewImage(beam.DoFn):
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def process(self, source: SourceImage) -> Iterator[PreviewRow]:
        yield _preview_row(source, self._rules, shared_pool())


@dataclasses.dataclass(eq=False)
class WritePreview(beam.PTransform):
    """Writes `PreviewRow`s as Parquet into `plan/` of a folder, for `read_preview`."""

    folder: str

    def expand(self, rows: Any) -> Any:
        """Writes the rows of each worker, in no particular order."""
        return (
            rows
            | "AsDict" >> beam.Map(dataclasses.asdict)
            | beam.io.WriteToParquet(
                uris.join(self.folder, _ROWS, "images"), _SCHEMA, file_name_suffix=".parquet"
            )
        )


class PreviewRows:
    """The rows of a preview, in the order of their ids; there may be millions.

    Args:
        parts: URIs of the preview's files.
    """

    def __init__(self, parts: Iterable[str]) -> None:
        self._rows = SortedMap(item for part in parts for item in _part_items(part))

    def __iter__(self) -> Iterator[PreviewRow]:
        return map(_from_json, self._rows.values())


def read_preview(folder: str) -> PreviewRows:
    """Reads the rows of the preview in a folder."""
    parts = files.list_below(uris.join(files.absolute(folder), _ROWS))
    return PreviewRows(part.uri for part in parts)


def _part_items(uri: str) -> Iterator[tuple[str, str]]:
    with files.open_read(uri) as file:
        for batch in pq.ParquetFile(file).iter_batches():
            for values in batch.to_pylist():
                yield values["input_id"], json.dumps(to_json(values))


def _from_json(text: str) -> PreviewRow:
    values = from_json(json.loads(text))
    code = values["error_code"]
    return PreviewRow(
        **{
            **values,
            "status": Status(values["status"]),
            "error_code": None if code is None else ErrorCode(code),
            # Normalized, as prices are written; Arrow's decimals have all places of the column.
            "credits": Decimal(f"{values['credits'].normalize():f}"),
        }
    )


def _preview_row(source: SourceImage, rules: Rules, decoders: DecoderPool) -> PreviewRow:
    try:
        plan = plan_of(source, rules, decoders)
    except ImageError as error:
        return PreviewRow(source.input_id, status_of(error.code), error.code, error.message)
    found = PreviewRow(
        input_id=source.input_id,
        status=Status.UPSCALED,
        error_code=plan.error_code,
        message=plan.message,
        width=_held(plan.input_width),
        height=_held(plan.input_height),
        known_from=_HEADER,
    )
    if plan.action is Action.SKIP:
        return dataclasses.replace(found, status=Status.SKIPPED)
    if plan.error_code is not None:
        return dataclasses.replace(found, status=status_of(plan.error_code))
    return dataclasses.replace(
        found,
        output_width=_held(plan.output_width),
        output_height=_held(plan.output_height),
        calls=plan.calls,
        credits=plan.credits,
    )


def _held(side: int) -> int | None:
    """Returns a side, or None if its column cannot hold it; the message states such a size."""
    return side if side < 2**31 else None


def _claim(row: PreviewRow) -> Claim:
    return Claim(order(row.input_id), row.credits, spent=False)


def _within(row: PreviewRow, settled: Reach, admitted: Admission | None) -> PreviewRow:
    is_upscaled = row.status is Status.UPSCALED
    last = NOTHING if admitted is None else admitted.last
    if not is_upscaled or settled.admits(order(row.input_id), last):
        return row
    return dataclasses.replace(
        row,
        status=Status.OVER_BUDGET,
        error_code=ErrorCode.OVER_BUDGET,
        message=f"{row.credits} credits would exceed --max-credits",
        calls=0,
        credits=Decimal(0),
    )


def by_status(rows: Iterable[PreviewRow]) -> dict[Status, StatusTotals]:
    """Adds up rows for each status that occurs, exact to the last digit."""
    images: Counter[Status] = Counter()
    calls: Counter[Status] = Counter()
    prices: dict[Status, Decimal] = {}
    for row in rows:
        images[row.status] += 1
        calls[row.status] += row.calls
        prices[row.status] = prices.get(row.status, Decimal(0)) + row.credits
    return {
        status: StatusTotals(
            images[status], calls[status], prices[status], prices[status] * USD_PER_CREDIT
        )
        for status in Status
        if images[status]
    }
