"""Sorts the groups of records by the shards of a new assignment.

An input's record is looked for in the folder of its shard. So when inputs were added or removed
since an interrupted run, and others have new shards by that, their records move. One process does
this, before any worker begins.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import shard_name
from beam_upscale.dataset.record_groups import (
    group_of,
    groups_of_shard,
    is_of_records,
    shards_with_groups,
)
from beam_upscale.dataset.records import Record, latest
from beam_upscale.pipeline.run_state.listing_files import ListedInput
from beam_upscale.storage import files
from beam_upscale.storage.sorted_map import SortedMap
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris


def has_groups(dataset: DatasetFolder) -> bool:
    """Checks whether there is any group of records."""
    return any(True for _ in files.list_below(dataset.groups))


def regroup(dataset: DatasetFolder, shard_of: Callable[[str], int | None]) -> None:
    """Moves records to the folders of their inputs' shards; removes those of inputs that are gone.

    New groups are written before old ones are removed, and of these the records before the images
    that they name. Interrupted in between, it leaves records in two places, and is to be repeated.

    Args:
        dataset: the output.
        shard_of: returns the shard of an input, by its id; None if the input is gone.
    """
    for name in list(shards_with_groups(dataset.groups)):
        folder = uris.join(dataset.groups, name)
        # Listed before they are read: nothing that was not read is removed.
        old = store_of(folder).names_in(folder)
        groups = groups_of_shard(folder, time.monotonic())
        ids = groups.ids()
        shards = {input_id: shard_of(input_id) for input_id in ids}
        if {None if each is None else shard_name(each) for each in shards.values()} <= {name}:
            continue
        stored = [record for input_id in ids if (record := groups.find(input_id)) is not None]
        _rewrite(name, old, stored, shards, dataset)


def shards_of(numbered: Iterable[ListedInput], committed: SortedMap) -> Callable[[str], int | None]:
    """Returns a function that gives the shard of an input, by its id; None if the input is gone.

    Args:
        numbered: the inputs of a run, with the shards of their assignment.
        committed: JSON of the committed rows, which begins with the shard, by the ids of inputs.
    """
    shards = SortedMap((each.source.input_id, str(each.source.shard)) for each in numbered)

    def shard_of(input_id: str) -> int | None:
        if (shard := shards.get(input_id)) is not None:
            return int(shard)
        found = committed.get(input_id)
        return None if found is None else int(json.loads(found)[0])

    return shard_of


def _rewrite(
    name: str,
    old: Iterable[str],
    records: Iterable[Record],
    shards: Mapping[str, int | None],
    dataset: DatasetFolder,
) -> None:
    """Distributes the records of one folder, and removes what is needed there no more."""
    folder, begun = uris.join(dataset.groups, name), time.monotonic()
    by_shard: dict[str, list[Record]] = {}
    for record in records:
        shard = shards[record.row.input_id]
        if shard is None or (
            shard_name(shard) != name and _is_there(record, shard, dataset, begun)
        ):
            continue
        moved = record if shard_name(shard) == name else _unpacked(record, dataset)
        by_shard.setdefault(shard_name(shard), []).append(moved)
    kept = {record.packed.name for record in by_shard.get(name, ()) if record.packed is not None}
    for shard_folder, several in by_shard.items():
        file, content = group_of(several)
        dataset.write(uris.join(dataset.groups, shard_folder, file), content)
        kept.add(uris.join(shard_folder, file))
    # Records first: interrupted at any point, none names an image that is gone.
    for each in sorted(old, key=lambda each: (not is_of_records(each), each)):
        if uris.join(name, each) not in kept:
            dataset.delete(uris.join(folder, each))


def _is_there(record: Record, shard: int, dataset: DatasetFolder, since: float) -> bool:
    """Checks whether a shard has this record of an input or a later one, with its image.

    An interrupted move may have left an earlier record alone where a later one was: its image must
    not replace that of the later one.
    """
    there = groups_of_shard(dataset.groups_uri(shard), since).find(record.row.input_id)
    return there is not None and latest([there, record]) is there


def _unpacked(record: Record, dataset: DatasetFolder) -> Record:
    """Gives an image a file of its own, since that of its group goes with the shard it was in."""
    if record.packed is None:
        return record
    data = files.read_range(dataset.packed_uri(record.packed.name), *record.packed[1:])
    dataset.write(dataset.waiting_image_uri(record.row.input_id), data)
    return Record(record.row, record.telemetry, record.edition)
