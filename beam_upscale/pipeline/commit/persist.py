"""Makes results durable: first their images, then their records.

Results of local engines become durable in groups. The images of a group are written, synced
together and published; in layouts that pack images into shards they are one file for each shard.
Then the group's records are published, one object for each shard: see `dataset.record_groups`. So
a record never names an image that is not durable, and a kill costs the group that was being made
or written. Paid results become durable one by one: the image, then the record in a file of its own.

The record of an input takes account of the one before it, by `resume.replaced`. A group is compared
with the records that are durable right before its own are written. Two workers that do the same
input at the same moment may both find none; then both records are there, and `records.latest`
chooses between them.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from beam_upscale.dataset import books
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.definition import image_extension
from beam_upscale.dataset.layouts.layout import Layout, shard_name
from beam_upscale.dataset.manifest.row import Row, fitted, without_result
from beam_upscale.dataset.names import mark, safe_name
from beam_upscale.dataset.paths.output_files import IMAGES, INTERMEDIATES
from beam_upscale.dataset.places import Output
from beam_upscale.dataset.record_groups import group_of
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import FIRST, Edition, PackedImage, Record
from beam_upscale.errors import ErrorCode
from beam_upscale.pipeline.one_image.states import (
    INTERMEDIATE_FORMAT,
    ResultDraft,
    UpscaledImage,
)
from beam_upscale.pipeline.run_state.input_state import state_of
from beam_upscale.pipeline.run_state.resume import replaced
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

# The number of shards for results that come without one.
_SHARDS = 16


def output_uri(source: SourceImage, row: Row, layout: Layout, shard: int) -> str:
    """Returns the path that a result's image will have, relative to the dataset's root."""
    if layout.is_packed:
        return layout.data_path(shard)
    return _image_path(source, image_extension(row))


def _image_path(source: SourceImage, extension: str) -> str:
    name = safe_name(source.output_name or source.name or source.input_id)
    entry = state_of(source).listed
    if entry is None or entry.source.output_name != source.output_name:
        # No listing has compared this name with the names of other results.
        name = f"{name}-{mark(source.input_id)}"
    return f"{IMAGES}/{name}{extension}"


def _intermediate_uri(source: SourceImage, stage: int) -> str:
    """Returns the path of a stage's intermediate image; its mark belongs to this input alone."""
    name = safe_name(source.output_name or source.name or source.input_id)
    extension = INTERMEDIATE_FORMAT.extension
    return f"{INTERMEDIATES}/{stage}/{name}-{mark(source.input_id)}{extension}"


def _with_uri(stage: Mapping[str, Any], source: SourceImage, number: int) -> dict[str, Any]:
    is_kept = stage.get("output_sha256") is not None
    return {**stage, "output_uri": _intermediate_uri(source, number) if is_kept else None}


def shard_of(source: SourceImage) -> int:
    """Returns the shard that a result belongs to; the listing decides for a listed input."""
    entry = state_of(source).listed
    if entry is not None and entry.source.shard is not None:
        return entry.source.shard
    if source.shard is not None:
        return source.shard
    return int(hashlib.sha256(source.input_id.encode()).hexdigest(), 16) % _SHARDS


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A result, and where its files go.

    Attributes:
        source: the input.
        shard: the shard that it belongs to.
        record: its record, with the paths of its files.
        uri: the URI of its image, in a file of its own; None if it has no image.
        data: the encoded image; None if it has none, or if it is in `file`.
        file: the URI of the file that holds the encoded image; None if it is in memory.
        intermediates: the URIs and bytes of its intermediate images.
    """

    source: SourceImage
    shard: int
    record: Record
    uri: str | None = None
    data: bytes | None = None
    file: str | None = None
    intermediates: tuple[tuple[str, bytes], ...] = ()


def persist_group(
    results: Sequence[UpscaledImage], dataset: DatasetFolder, layout: Layout, search: RecordSearch
) -> list[Record]:
    """Makes results of local engines durable together, and returns their records.

    If they cannot all be written, as on a disk that fills, they are written one by one up to the
    first that cannot. Deletes images that an interrupted run left under other names.

    Args:
        results: the results, which have rows.
        dataset: the output.
        layout: the way images are stored.
        search: a search for records; it looks for groups anew.

    Raises:
        OSError: the output cannot be written; the run stops, and the next one goes on from here.
        HoldLostError: the output is no longer this run's.
    """
    try:
        return _persist_together(results, dataset, layout, search)
    except OSError:
        if layout.is_packed:
            _delete_unnamed_images(results, dataset, layout, search.again())
        if len(results) < 2:
            raise
    return [
        record
        for upscaled in results
        for record in _persist_together([upscaled], dataset, layout, search)
    ]


def _persist_together(
    results: Sequence[UpscaledImage], dataset: DatasetFolder, layout: Layout, search: RecordSearch
) -> list[Record]:
    placed = [_placed(upscaled, dataset, layout) for upscaled in results]
    contents = [each for result in placed for each in result.intermediates]
    if layout.is_packed:
        placed, packed = _packed(placed, dataset)
        contents += packed
    contents += [(each.uri, each.data) for each in placed if each.uri and each.data is not None]
    # An input may have come twice; its last result counts.
    dataset.write_all(list(dict(contents).items()))
    for each in placed:
        _copy(each, dataset)
        _enter_unbooked(each, dataset)
    records = _edited(placed, dataset, search.again())
    pairs = zip(placed, records, strict=True)
    last = {each.source.input_id: (each.shard, record) for each, record in pairs}
    dataset.write_all(_groups(last.values(), dataset))
    return records


def _delete_unnamed_images(
    results: Sequence[UpscaledImage], dataset: DatasetFolder, layout: Layout, search: RecordSearch
) -> None:
    """Deletes the files of images of a group that could not be written, to make room for others.

    A file that a record names stays: the group may have been written before, or in part.
    """
    placed = [_placed(upscaled, dataset, layout) for upscaled in results]
    names = {each.record.packed.name for each in _packed(placed, dataset)[0] if each.record.packed}
    with contextlib.suppress(OSError):
        found = (search.find(each.source.input_id, each.shard) for each in placed)
        named = {each.packed.name for each in found if each is not None and each.packed}
        for name in names - named:
            dataset.delete(dataset.packed_uri(name))


def _edited(
    placed: Sequence[_Placed], dataset: DatasetFolder, search: RecordSearch
) -> list[Record]:
    """Returns the records to write of a group, each after the one before it of the same input."""
    hold = 0 if dataset.hold is None else dataset.hold.number
    # Shard by shard, since a process keeps the records that it looked at last.
    by_shard = sorted(placed, key=lambda each: each.shard)
    inputs = [(each.source.input_id, each.shard) for each in by_shard]
    found = {input_id: search.find(input_id, shard) for input_id, shard in inputs}
    last: dict[str, Record] = {}
    records = []
    for each in placed:
        input_id = each.source.input_id
        before = last.get(input_id) or found[input_id]
        number = 0 if before is None else before.edition.number + 1
        after = _after(before, each, dataset)
        record = Record(after.row, after.telemetry, Edition(number, hold), after.packed)
        last[input_id] = record
        records.append(record)
    return records


def persist_alone(
    results: Sequence[UpscaledImage], dataset: DatasetFolder, layout: Layout, search: RecordSearch
) -> list[Record]:
    """Makes results durable one after the other, each with a record of its own.

    Args and errors are those of `persist_group`; groups are not looked for anew.
    """
    records = []
    for upscaled in results:
        placed = _placed(upscaled, dataset, layout)
        for uri, intermediate in placed.intermediates:
            dataset.write(uri, intermediate)
        if placed.uri is not None and placed.data is not None:
            dataset.write(placed.uri, placed.data)
        _copy(placed, dataset)
        _enter_unbooked(placed, dataset)
        before = search.find(placed.source.input_id, placed.shard)
        record = _after(before, placed, dataset)
        edition = FIRST
        if before is not None and before.edition != FIRST:
            edition = Edition(before.edition.number + 1, before.edition.hold)
        record = dataclasses.replace(record, edition=edition)
        dataset.write(dataset.record_uri(placed.source.input_id), record.to_json())
        records.append(record)
    return records


def persist(upscaled: UpscaledImage, dataset: DatasetFolder, layout: Layout) -> Record:
    """Persists one result by itself; see `persist_alone`."""
    search = RecordSearch.begin(dataset, has_late_singles=True)
    return persist_alone([upscaled], dataset, layout, search)[0]


def _placed(upscaled: UpscaledImage, dataset: DatasetFolder, layout: Layout) -> _Placed:
    """Decides where the files of a result go."""
    upscaled = _storable(upscaled, layout)
    source, record = upscaled.source, upscaled.record
    assert record is not None
    shard = shard_of(source)
    if not upscaled.has_image:
        return _Placed(source, shard, record)
    row = record.row
    relative = output_uri(source, row, layout, shard)
    stages = tuple(_with_uri(each, source, number) for number, each in enumerate(row.stages, 1))
    row = row.changed(output_uri=relative, stages=stages)
    uri = dataset.waiting_image_uri(row.input_id) if layout.is_packed else dataset.resolve(relative)
    intermediates = tuple(
        (dataset.resolve(_intermediate_uri(source, number)), data)
        for number, data in enumerate(upscaled.intermediates, start=1)
    )
    record = Record(row, record.telemetry)
    return _Placed(source, shard, record, uri, upscaled.data, upscaled.file, intermediates)


def _packed(
    placed: Sequence[_Placed], dataset: DatasetFolder
) -> tuple[list[_Placed], list[tuple[str, bytes]]]:
    """Packs the images in memory into one file for each shard.

    Returns:
        The results, with the places of their images; the URIs and bytes of the files.
    """
    by_shard: dict[int, list[_Placed]] = {}
    for each in placed:
        if each.data is not None:
            by_shard.setdefault(each.shard, []).append(each)
    names = {shard: _name_of_images(shard, several) for shard, several in by_shard.items()}
    ends = dict.fromkeys(by_shard, 0)
    results = []
    for each in placed:
        if each.data is not None:
            packed = PackedImage(names[each.shard], ends[each.shard], len(each.data))
            ends[each.shard] += packed.size
            record = Record(each.record.row, each.record.telemetry, packed=packed)
            each = _Placed(each.source, each.shard, record, intermediates=each.intermediates)
        results.append(each)
    return results, [
        (dataset.packed_uri(names[shard]), b"".join(each.data or b"" for each in several))
        for shard, several in by_shard.items()
    ]


def _name_of_images(shard: int, placed: Sequence[_Placed]) -> str:
    """Returns the name of the file of these images; it follows from their inputs and bytes."""
    known = [
        [each.source.input_id, each.record.row.output_sha256, len(each.data or b"")]
        for each in placed
    ]
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    return f"{shard_name(shard)}/{digest}.images"


def _groups(
    written: Iterable[tuple[int, Record]], dataset: DatasetFolder
) -> list[tuple[str, bytes]]:
    """Returns the objects that hold records, each given with its shard."""
    by_shard: dict[int, list[Record]] = {}
    for shard, record in written:
        by_shard.setdefault(shard, []).append(record)
    groups = ((shard, *group_of(records)) for shard, records in by_shard.items())
    return [(uris.join(dataset.groups_uri(shard), name), data) for shard, name, data in groups]


def _after(before: Record | None, placed: _Placed, dataset: DatasetFolder) -> Record:
    """Returns the record to keep of an input that may have one already."""
    record = placed.record
    if before is None or state_of(placed.source).earlier is not None:
        # An earlier result with the input's columns of now has all that is known of the input.
        return record
    row = replaced(before.row, record.row, dataset, before.packed)
    is_kept = row.status is not record.row.status
    kept = before if is_kept else record
    return Record(row, kept.telemetry, packed=kept.packed)


def _copy(placed: _Placed, dataset: DatasetFolder) -> None:
    """Copies an image that is in a file elsewhere to its own place in an output.

    The file elsewhere stays, so that the step can run twice.

    Raises:
        ImageError: the file cannot be read.
        OSError: the file is not the one that the row describes any more.
    """
    if placed.file is None or placed.uri is None or placed.file == placed.uri:
        return
    with files.open_read(placed.file) as file:
        dataset.copy(file, placed.uri, placed.record.row.output_sha256)


def _enter_unbooked(placed: _Placed, dataset: DatasetFolder) -> None:
    """Enters the credits of a new result in the books, unless its calls were booked before."""
    if state_of(placed.source).earlier is None and not _is_booked(placed.source, dataset):
        books.enter_row(placed.record.row, dataset)


def _storable(upscaled: UpscaledImage, layout: Layout) -> UpscaledImage:
    """Fits a result to the manifest's columns; drops an image that the layout cannot hold."""
    record = upscaled.record
    assert record is not None
    row = fitted(record.row)
    size = len(upscaled.data or b"") if upscaled.file is None else row.output_bytes or 0
    most = layout.definition.most_image_bytes
    if most is not None and size > most:
        others = [each for each in Layout if each.definition.most_image_bytes is None]
        found = (
            f"the result has {size:,} bytes, and an image in the layout {layout} at most {most:,}"
        )
        message = f"{found}; take the layout {' or '.join(others)}"
        row = without_result(row, ErrorCode.ENCODE_ERROR, message)
        upscaled = dataclasses.replace(upscaled, data=None, file=None, intermediates=())
    if row is record.row:
        return upscaled
    return dataclasses.replace(upscaled, record=dataclasses.replace(record, row=row))


def _is_booked(source: SourceImage, dataset: DatasetFolder) -> bool:
    """Checks whether paid calls for an input are booked in an output before they are made."""
    kept = state_of(source).books
    if kept is None:
        return False
    root = kept.dataset.root
    return root == dataset.root or Output(dataset.root).is_same(root)


def final_uri(draft: ResultDraft, output_format: OutputFormat, dataset: DatasetFolder) -> str:
    """Returns the URI of a result's image in the layout of files."""
    return dataset.resolve(_image_path(draft.source, output_format.extension))
