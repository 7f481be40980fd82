"""Decides which inputs are done: finds results of earlier runs, and checks that they are valid."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.own_columns import are_stored_alike
from beam_upscale.dataset.manifest.row import Row, Status, with_earlier_billing
from beam_upscale.dataset.names import other_names, stem
from beam_upscale.dataset.paths.output_files import IMAGES
from beam_upscale.dataset.records import PackedImage, Record
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.pipeline.run_state.listing_files import ListedInput, listed_from_json
from beam_upscale.pipeline.run_state.regrouping import has_groups, regroup, shards_of
from beam_upscale.pipeline.settings.settings_json import read_parameters
from beam_upscale.planning.parameters import Parameters
from beam_upscale.sources.inputs.found_inputs import Inputs
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files
from beam_upscale.storage.sorted_map import SortedMap
from beam_upscale.storage.stores import store_of

# Error codes of an image's parameters; of rows that are never valid; and of reading an image's file
# or its caption.
_PARAMETER_CODES = frozenset(
    {
        ErrorCode.INVALID_PROMPT,
        ErrorCode.INVALID_CFG_SCALE,
        ErrorCode.INVALID_STEPS,
        ErrorCode.INVALID_SEED,
        ErrorCode.INVALID_NOISE_LEVEL,
    }
)
_LOOKED_AT_ANEW = frozenset(
    {
        ErrorCode.FILE_TOO_LARGE,
        ErrorCode.LEFT_OUT,
        ErrorCode.INTERNAL_ERROR,
        ErrorCode.NEEDS_FAN_OUT,
    }
)
_READING_CODES = frozenset({ErrorCode.NOT_FOUND, ErrorCode.PERMISSION_DENIED, ErrorCode.READ_ERROR})


@dataclasses.dataclass(frozen=True)
class RequestedParameters:
    """The parameters that a run requests of engines that take parameters.

    Attributes:
        parameters: the defaults for all images; an image's columns and caption override them.
        prompt_column: the column that holds an image's prompt.
    """

    parameters: Parameters
    prompt_column: str


def requested_parameters(run_json: RunJson | None) -> RequestedParameters | None:
    """Reads the requested parameters from `run.json`; None if no engine takes parameters."""
    found = None if run_json is None else read_parameters(run_json.settings)
    return None if found is None else RequestedParameters(*found)


def assign_shards(
    sources: Inputs, dataset: DatasetFolder, shard_rows: int
) -> Iterator[ListedInput]:
    """Assigns each input to a shard, the same on every run over the same inputs.

    Inputs of shards that earlier runs completed keep their shard. The others fill new shards in
    order. This assignment is written before it is used, so that a later run continues it after an
    interruption; it changes only if the inputs have changed since.

    Args:
        sources: the inputs.
        dataset: the output.
        shard_rows: the number of rows in a shard.

    Yields:
        The inputs as they are listed, ordered by shard and `input_id`, with `shard` and
        `output_name` set.
    """
    committed = SortedMap(
        (input_id, json.dumps([shard, output_uri]))
        for shard, input_id, output_uri in dataset.committed_names()
    )
    first, reserved = _assignment(sources, dataset, committed, shard_rows)
    for input_id, text in committed.items():
        shard, output_uri = json.loads(text)
        name = _name_in_layout_files(output_uri)
        if shard < first and name is not None:
            reserved[input_id] = name
    numbered = _numbered(_named(sources, reserved), committed, first, shard_rows)
    if not committed:
        return numbered
    by_shard = SortedMap(
        (f"{listed.source.shard:012} {listed.source.input_id}", listed.to_json())
        for listed in numbered
    )
    return map(listed_from_json, by_shard.values())


def _named(sources: Inputs, reserved: SortedMap) -> Iterator[SourceImage]:
    """Yields the inputs, those named by `reserved` with that name, and others with a free one."""
    # Without names to regard, those of the inputs are unique already.
    renamed = SortedMap(other_names(sources.requested_names, reserved) if reserved else ())
    for source in sources:
        name = renamed.get(source.input_id)
        yield source if name is None else dataclasses.replace(source, output_name=name)


def _numbered(
    sources: Iterator[SourceImage], committed: SortedMap, first: int, shard_rows: int
) -> Iterator[ListedInput]:
    position = 0
    for source in sources:
        found = committed.get(source.input_id)
        shard = first if found is None else json.loads(found)[0]
        if shard >= first:
            shard = first + position // shard_rows
            position += 1
        in_shard = dataclasses.replace(source, shard=shard)
        yield ListedInput(in_shard, is_committed=found is not None)


def output_name(row: Row) -> str | None:
    """Returns the name, without extension, of a row's image in layout files; None elsewhere."""
    return _name_in_layout_files(row.output_uri)


def _name_in_layout_files(output_uri: str | None) -> str | None:
    folder, _, name = (output_uri or "").partition("/")
    return stem(name) if folder == IMAGES else None


def delete_files(row: Row, dataset: DatasetFolder, but_for: Row | None = None) -> None:
    """Deletes the files that belong to a row: its image in layout files, and all intermediates.

    Args:
        row: the row, which is dropped or replaced.
        dataset: the output.
        but_for: the row that replaces it, whose files stay; None if there is none.
    """
    kept = set() if but_for is None else _files(but_for)
    for uri in _files(row) - kept:
        dataset.delete(dataset.resolve(uri))


def replaced(
    before: Row, row: Row, dataset: DatasetFolder, packed: PackedImage | None = None
) -> Row:
    """Chooses the row to keep of an input with an earlier row; it includes the billing of both.

    A failed attempt does not remove an existing image: the earlier row stays. Otherwise the new row
    stays, and files that belong only to the earlier row are deleted.

    Args:
        before: the earlier row.
        row: the new one.
        dataset: the output.
        packed: the place at which the earlier row's image waits among others.
    """
    if _outlives(before, row) and _has_files(before, dataset, packed):
        kept = with_earlier_billing(before, row)
        billed = max(before.billed_credits, kept.billed_credits)
        return kept.changed(billed_credits=billed)
    row = with_earlier_billing(row, before)
    delete_files(before, dataset, but_for=row)
    return row


def _outlives(before: Row, row: Row) -> bool:
    """Checks whether a row has the image of the same request for which a later row has none."""
    is_lost = before.status is Status.UPSCALED and row.status is not Status.UPSCALED
    names = ("source_sha256", "prompt", "negative_prompt", "cfg_scale", "steps", "noise_level")
    is_same = all(getattr(before, name) == getattr(row, name) for name in names)
    seeds = [{"seed": each.input.get("seed")} for each in (before, row)]
    # A derived seed is not known before the image is read.
    has_same_seed = row.seed == before.seed or (row.seed is None and are_stored_alike(*seeds))
    return is_lost and is_same and row.source_sha256 is not None and has_same_seed


def _has_files(row: Row, dataset: DatasetFolder, packed: PackedImage | None) -> bool:
    """Checks whether the image of a row and its intermediates exist."""
    for stage in row.stages:
        kept = stage.get("output_uri")
        if kept is not None and files.size(dataset.resolve(kept)) != stage["output_bytes"]:
            return False
    if row.output_uri is None:
        return False
    if output_name(row) is not None:
        return files.size(dataset.resolve(row.output_uri)) == row.output_bytes
    if packed is not None and files.exists(dataset.packed_uri(packed.name)):
        return True
    return files.exists(dataset.waiting_image_uri(row.input_id)) or files.exists(
        dataset.resolve(row.output_uri)
    )


def _files(row: Row) -> set[str]:
    """Returns the paths of the files that belong to a row, relative to the dataset's root."""
    uris = {stage["output_uri"] for stage in row.stages if stage.get("output_uri") is not None}
    if output_name(row) is not None and row.output_uri is not None:
        uris.add(row.output_uri)
    return uris


def _assignment(
    sources: Inputs, dataset: DatasetFolder, committed: SortedMap, shard_rows: int
) -> tuple[int, SortedMap]:
    """Returns the first shard of the assignment in progress, and the output names already in use.

    These are the names, by `input_id`, of results that a run over other inputs has persisted.
    """
    in_progress = dataset.read_assignment()
    if in_progress is not None:
        first = int(in_progress["first_shard"])
        if in_progress["inputs_sha256"] == _fingerprint(sources, committed, first, shard_rows):
            return first, SortedMap(in_progress["output_names"].items())
    shards = (json.loads(text)[0] for text in committed.values())
    first = 1 + max(shards, default=-1)
    names = {}
    for record in dataset.read_records():
        row = record.row
        if row.input_id not in sources.ids and row.input_id not in committed:
            # The input no longer exists, so it will have no row.
            delete_files(row, dataset)
            dataset.delete(dataset.record_uri(row.input_id))
        elif (name := output_name(row)) is not None:
            names[row.input_id] = name
    if has_groups(dataset):
        # Without it, a run after an interruption here sorts them again, whatever its inputs are.
        dataset.delete(dataset.assignment_json)
        numbered = _numbered(iter(sources), committed, first, shard_rows)
        regroup(dataset, shards_of(numbered, committed))
    dataset.write_json(
        dataset.assignment_json,
        {
            "first_shard": first,
            "inputs_sha256": _fingerprint(sources, committed, first, shard_rows),
            "output_names": names,
        },
    )
    return first, SortedMap(names.items())


def _fingerprint(sources: Inputs, committed: SortedMap, first: int, shard_rows: int) -> str:
    """Hashes the inputs that are not in shards before `first`; they decide on shards and names.

    The hash includes names: in a table that was sorted, rows have the names of other rows.
    """
    digest = hashlib.sha256(f"{shard_rows}\0".encode())
    for each in sources.requested_names():
        found = committed.get(each.input_id)
        if found is None or json.loads(found)[0] >= first:
            text = f"{each.input_id}\0{each.source_name}\0"
            digest.update(text.encode(errors="surrogateescape"))
    return digest.hexdigest()


def still_holds(
    source: SourceImage,
    earlier: Row,
    dataset: DatasetFolder,
    requested: RequestedParameters | None = None,
    packed: PackedImage | None = None,
) -> bool:
    """Checks whether an earlier run's row is still valid.

    It is valid while the input's bytes and parameters are the same and the output image exists. The
    row of an input that cannot be read, or whose parameters are wrong, is valid while the error
    stays the same. The row of an input that was too large to be read or, for an earlier version, to
    be upscaled, that another step left out, or on which our own code failed (which may be fixed by
    now) is never valid. An input from a web server that no longer serves it stays valid: links rot,
    and results must not be lost with them.

    Args:
        source: the input, with its current columns and caption.
        earlier: its earlier row.
        dataset: the output.
        requested: the run's requested parameters; None if no engine takes parameters.
        packed: the place at which the row's image waits among others; None if it does not.
    """
    if earlier.error_code in _LOOKED_AT_ANEW:
        return False
    if requested is not None and _concerns_parameters(earlier):
        try:
            now = source.parameters(requested.parameters, requested.prompt_column)
        except ImageError as error:
            # Parameters are checked before the image is read.
            return _is_same_error(earlier, error)
        if not _are_same_parameters(source, earlier, now):
            return False
    try:
        digest = source.sha256()
    except ImageError as error:
        # The input_id, a row's number, may belong to another URL by now.
        is_withdrawn = (
            not store_of(source.uri or "").keeps_files and earlier.source_uri == source.source_uri
        )
        if earlier.source_sha256 is None or not is_withdrawn:
            return earlier.error_code == error.code
        digest = earlier.source_sha256
    if digest != earlier.source_sha256:
        return False
    return earlier.output_uri is None or _has_files(earlier, dataset, packed)


def has_same_parameters(source: SourceImage, earlier: Row, requested: RequestedParameters) -> bool:
    """Checks whether an image's parameters, or their error, equal those of its earlier row."""
    if not _concerns_parameters(earlier):
        return True
    try:
        now = source.parameters(requested.parameters, requested.prompt_column)
    except ImageError as error:
        return _is_same_error(earlier, error)
    return _are_same_parameters(source, earlier, now)


def _is_same_error(earlier: Row, error: ImageError) -> bool:
    """Checks whether a row has this error of the input's parameters.

    The whole message is compared, as values of any type stand in it. If a later version words it
    otherwise, the input is looked at anew, which makes no call: the error comes before all of them.
    """
    return (earlier.error_code, earlier.error_message) == (error.code, error.message)


def _concerns_parameters(row: Row) -> bool:
    """Checks whether an input's parameters were checked; skipped or rejected ones may not be."""
    return row.prompt is not None or row.error_code in _PARAMETER_CODES | _READING_CODES


def _are_same_parameters(source: SourceImage, earlier: Row, now: Parameters) -> bool:
    """Checks whether an image's valid parameters equal those of its earlier row."""
    if earlier.prompt is None:
        # Perhaps the image could not be read, not the caption; reading it again shows that.
        return earlier.error_code in _READING_CODES and earlier.source_sha256 is None
    return (
        earlier.prompt == now.prompt
        and earlier.negative_prompt == now.negative_prompt
        and earlier.cfg_scale == now.cfg_scale
        and earlier.steps == now.steps
        and earlier.noise_level == now.noise_level
        and _has_same_seed(source, earlier, now.seed)
    )


def _has_same_seed(source: SourceImage, earlier: Row, seed: int) -> bool:
    """Checks whether a row's seed is the requested one, or was derived and would be again."""
    if seed:
        return earlier.seed == seed
    # Without a requested seed, it is derived from the pixels and the other parameters.
    before = earlier.input.get("seed")
    if are_stored_alike({"seed": source.columns.get("seed")}, {"seed": before}):
        return True
    try:
        return not Parameters().overridden({"seed": before}).seed
    except ImageError:
        return False


def readdressed(record: Record, source_uri: str) -> Record:
    """Returns an earlier record with the input's current URI; itself if that is the same.

    A table may name the same bytes by another URI than before.
    """
    if record.row.source_uri == source_uri:
        return record
    return dataclasses.replace(record, row=record.row.changed(source_uri=source_uri))


def relabeled(
    record: Record, columns: Mapping[str, Any], input_type: pa.StructType | None = None
) -> Record:
    """Returns an earlier record with the input's current columns; itself if they are the same.

    Columns that are no parameters, such as a label, may change without a new upscaling. Columns are
    compared as they are stored: a manifest gives back integers among floats as floats, and None for
    a column that only other inputs have.

    Args:
        record: the earlier record.
        columns: the input's current columns.
        input_type: the type they are stored with; None if it is inferred for each shard.
    """
    if are_stored_alike(columns, record.row.input, input_type):
        return record
    return dataclasses.replace(record, row=record.row.changed(input=columns))
