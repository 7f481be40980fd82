"""Completes a run whose shards are all committed: common column types, totals, card."""

import dataclasses
import hashlib
import logging
from collections.abc import Container, Iterable, Iterator, Sequence

import pyarrow as pa

from beam_upscale.dataset import book_sums, books
from beam_upscale.dataset.card import dataset_card
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout, shard_name
from beam_upscale.dataset.manifest import table
from beam_upscale.dataset.manifest.own_columns import infer_input_type, stored_type
from beam_upscale.dataset.manifest.totals import Totals
from beam_upscale.dataset.paths.output_files import CARD
from beam_upscale.dataset.run_json import CommittedShard, RunJson
from beam_upscale.errors import HoldLostError
from beam_upscale.pipeline.commit.grouping import write_incomplete
from beam_upscale.pipeline.commit.shards import Committed, commit_shard, listed_records
from beam_upscale.pipeline.run_state.arrivals import Arrivals, refuse_lost, refuse_two_shards
from beam_upscale.pipeline.run_state.listing_files import listed_shards, read_part
from beam_upscale.pipeline.run_state.stop import stop_reason
from beam_upscale.storage import files

_logger = logging.getLogger(__name__)


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
    earlier = {shard for shard, schema in schemas.items() if not table.is_of_this_version(schema)}
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


def find_shards_to_retype(
    _: object,
    shards: Iterable[Committed],
    dataset: DatasetFolder,
    layout: Layout,
    run_id: str,
    input_type: pa.StructType | None,
    may_leave_out: bool,
) -> Iterator[tuple[int, pa.StructType | None]]:
    """Yields the shards to rewrite with the common type once all shards are whole; else none.

    Before, it commits listed shards of which no input arrived.
    """
    ended = list(shards)
    if not all(each.is_whole for each in ended):
        return
    updated = {each.shard for each in ended}
    if any(each.has_unlisted for each in ended):
        refuse_two_shards(dataset)
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
        if shard in updated or (may_leave_out and shard in committed):
            continue
        listed = read_part(dataset, part)
        if not may_leave_out:
            refuse_lost(listed, nothing)
        if shard not in committed:
            records = list(listed_records(listed, dataset, nothing))
            commit_shard(shard, records, dataset, layout, run_id, input_type)


def retype(
    shard: tuple[int, pa.StructType | None], dataset: DatasetFolder, layout: Layout, run_id: str
) -> bool:
    """Rewrites a shard with another type; its manifest, and with it that type, comes last."""
    number, input_type = shard
    with dataset.shown():
        commit_shard(number, [], dataset, layout, run_id, input_type)
    return True


def complete(dataset: DatasetFolder, layout: Layout, run_json: RunJson) -> Totals:
    """Completes a run whose shards are all committed: writes totals and card, deletes staging."""
    sums = dataset.totals()
    if sums.billed_credits and not books.are_kept(dataset.read_run()):
        books.enter_missing((row for _, row in dataset.committed_rows()), dataset)
    if books.exist(dataset):
        books.close(dataset)
    sums = book_sums.with_books(sums, dataset)
    features = _features(dataset, layout)
    card = dataset_card(layout, sums.by_status, run_json.settings, features).encode()
    shards = (_committed_shard(shard, dataset, layout) for shard in dataset.committed_shards())
    completed = dataclasses.replace(
        run_json,
        layout=str(layout),
        complete=True,
        totals=sums,
        shards=tuple(shards),
        card_sha256=hashlib.sha256(card).hexdigest(),
    )
    dataset.write(dataset.resolve(CARD), card)
    dataset.write_run(completed)
    dataset.delete_staging()
    return sums


def _features(dataset: DatasetFolder, layout: Layout) -> pa.Schema | None:
    """Returns the fields of a sample; None if the data itself declares them."""
    sample_fields = layout.definition.sample_fields
    shards = dataset.committed_shards()
    if sample_fields is None or not shards:
        return None
    return sample_fields(
        dataset.output_formats(), dataset.manifest_schema(shards[0]).field("input").type
    )


def _committed_shard(shard: int, dataset: DatasetFolder, layout: Layout) -> CommittedShard:
    data = files.sha256(dataset.data_uri(shard, layout)) if layout.is_packed else None
    return CommittedShard(
        name=shard_name(shard),
        rows=dataset.committed_count(shard),
        manifest_sha256=files.sha256(dataset.manifest_uri(shard)),
        data_sha256=data,
    )


def _completed(dataset: DatasetFolder, layout: Layout, run_json: RunJson) -> Totals:
    """Completes a run, unless an earlier attempt of this step has: runners repeat steps."""
    try:
        with dataset.shown():
            return complete(dataset, layout, run_json)
    except HoldLostError:
        found = dataset.read_run()
        if found is None or not found.complete or found.at_start() != run_json.as_read():
            raise
        return book_sums.with_books(dataset.totals(), dataset)


def complete_if_all(
    _: object,
    shards: Iterable[Committed],
    retyped: Iterable[bool],
    dataset: DatasetFolder,
    layout: Layout,
    run_json: RunJson,
) -> Iterator[Totals]:
    """Completes a run whose shards are all whole and yields its totals; logs why one is not."""
    if all(each.is_whole for each in shards) and all(retyped):
        yield _completed(dataset, layout, run_json)
        return
    found = dataset.read_run()
    if found is not None and found.complete:
        # All inputs that arrived were done before, and another step has dropped the postponed ones.
        write_incomplete(run_json, dataset)
    # In a user's own pipeline, nothing else reports this.
    reason = stop_reason(dataset) or "the pipeline ended before every input had a row"
    _logger.error("%s is not complete: %s; the same pipeline goes on", dataset.root, reason)
    if dataset.hold is not None and dataset.hold.is_taken_by_workers:
        dataset.hold.release()
