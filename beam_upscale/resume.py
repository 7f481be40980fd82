"""What earlier runs into the same output did, and which of it still holds."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from beam_upscale import storage, urls
from beam_upscale.columns import are_stored_alike
from beam_upscale.dataset import IMAGES, DatasetFolder, Record, stem
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.listing import SourceImage, source_from_json, wish_of
from beam_upscale.manifest import Row, Status, with_earlier_billing
from beam_upscale.output_names import unique_names
from beam_upscale.parameters import Parameters
from beam_upscale.sorted_map import SortedMap

# What is wrong with an image's parameters, and with the file of its caption or its own.
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
    {ErrorCode.FILE_TOO_LARGE, ErrorCode.LEFT_OUT, ErrorCode.INTERNAL_ERROR}
)
_READING_CODES = frozenset({ErrorCode.NOT_FOUND, ErrorCode.PERMISSION_DENIED, ErrorCode.READ_ERROR})


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a run asks of engines that take parameters.

    Attributes:
        parameters: of every image whose own columns and caption say nothing else.
        prompt_column: the column that holds an image's prompt.
    """

    parameters: Parameters
    prompt_column: str = "prompt"


def asked_by(run: Mapping[str, Any] | None) -> Asked | None:
    """What a dataset's `run.json` says was asked; None where no engine takes parameters."""
    settings = (run or {}).get("settings") or {}
    parameters = settings.get("parameters")
    if parameters is None:
        return None
    return Asked(Parameters(**parameters), settings.get("prompt_column") or "prompt")


def assign_shards(
    images: Collection[SourceImage], dataset: DatasetFolder, shard_rows: int
) -> Iterator[SourceImage]:
    """Gives each input its shard, the same on every run over the same inputs.

    Inputs of shards that earlier runs completed stay where they are. The others are counted off in
    order into new shards. That assignment is written down before it is used, so that a run that
    was interrupted goes on with it; it is made anew only when the inputs have changed since.

    Args:
        images: the inputs, ordered by `input_id`.
        dataset: the output.
        shard_rows: rows in a shard.

    Yields:
        The inputs by shard and `input_id`, with `shard`, `output_name` and `committed` settled.
    """
    committed = SortedMap(
        (input_id, json.dumps([shard, output_uri]))
        for shard, input_id, output_uri in dataset.committed_names()
    )
    first, reserved = _assignment(images, dataset, committed, shard_rows)
    for input_id, text in committed.items():
        shard, output_uri = json.loads(text)
        name = _name_in_layout_files(output_uri)
        if shard < first and name is not None:
            reserved[input_id] = name
    names = unique_names(lambda: map(wish_of, images), reserved)
    by_shard = SortedMap(
        (f"{image.shard:012} {image.input_id}", image.to_json())
        for image in _numbered(zip(images, names, strict=True), committed, first, shard_rows)
    )
    return map(source_from_json, by_shard.values())


def _numbered(
    named: Iterable[tuple[SourceImage, str]], committed: SortedMap, first: int, shard_rows: int
) -> Iterator[SourceImage]:
    position = 0
    for image, name in named:
        found = committed.get(image.input_id)
        shard = first if found is None else json.loads(found)[0]
        if shard >= first:
            shard = first + position // shard_rows
            position += 1
        yield dataclasses.replace(image, shard=shard, output_name=name, committed=found is not None)


def output_name(row: Row) -> str | None:
    """The name, without extension, under which a row's image stands in layout files."""
    return _name_in_layout_files(row.output_uri)


def _name_in_layout_files(output_uri: str | None) -> str | None:
    folder, _, name = (output_uri or "").partition("/")
    return stem(name) if folder == IMAGES else None


def delete_files(row: Row, dataset: DatasetFolder, but_for: Row | None = None) -> None:
    """Deletes the files that a row accounts for, which it is to do no more.

    Args:
        row: its image in layout files, and intermediates in any layout.
        dataset: the output.
        but_for: the row that takes its place; what that accounts for stays.
    """
    kept = set() if but_for is None else _files(but_for)
    for uri in _files(row) - kept:
        dataset.delete(dataset.resolve(uri))


def replaced(before: Row, row: Row, dataset: DatasetFolder) -> Row:
    """The row of an input that had one before, with what both were billed for.

    An attempt that failed takes no image away that is there: the row before it stays. Otherwise the
    new row does, and files that only the other one accounts for are deleted.

    Args:
        before: the earlier row.
        row: the new one.
        dataset: the output.
    """
    if _outlives(before, row) and _has_files(before, dataset):
        kept = with_earlier_billing(before, row)
        billed = max(before.billed_credits, kept.billed_credits)
        return dataclasses.replace(kept, billed_credits=billed)
    row = with_earlier_billing(row, before)
    delete_files(before, dataset, but_for=row)
    return row


def _outlives(before: Row, row: Row) -> bool:
    """Whether a row has an image of what a later row, which has none, is about."""
    is_lost = before.status is Status.UPSCALED and row.status is not Status.UPSCALED
    names = ("source_sha256", "prompt", "negative_prompt", "cfg_scale", "steps", "noise_level")
    is_same = all(getattr(before, name) == getattr(row, name) for name in names)
    seeds = [{"seed": each.input.get("seed")} for each in (before, row)]
    # A seed that is to be derived is not known before the image is read.
    has_same_seed = row.seed == before.seed or (row.seed is None and are_stored_alike(*seeds))
    return is_lost and is_same and row.source_sha256 is not None and has_same_seed


def _has_files(row: Row, dataset: DatasetFolder) -> bool:
    """Whether the image of a row and its intermediates are there."""
    for stage in row.stages:
        kept = stage.get("output_uri")
        if kept is not None and storage.size(dataset.resolve(kept)) != stage["output_bytes"]:
            return False
    if row.output_uri is None:
        return False
    if output_name(row) is not None:
        return storage.size(dataset.resolve(row.output_uri)) == row.output_bytes
    return storage.exists(dataset.staged_image_uri(row.input_id)) or storage.exists(
        dataset.resolve(row.output_uri)
    )


def _files(row: Row) -> set[str]:
    """The files of a row's own, relative to the dataset's root."""
    uris = {stage["output_uri"] for stage in row.stages if stage.get("output_uri") is not None}
    if output_name(row) is not None and row.output_uri is not None:
        uris.add(row.output_uri)
    return uris


def _assignment(
    images: Iterable[SourceImage], dataset: DatasetFolder, committed: SortedMap, shard_rows: int
) -> tuple[int, SortedMap]:
    """The first shard of the assignment in progress, and the names that were given before it.

    Those are the names, by `input_id`, of results that a run over other inputs staged.
    """
    in_progress = dataset.read_assignment()
    if in_progress is not None:
        first = int(in_progress["first_shard"])
        if in_progress["inputs_sha256"] == _fingerprint(images, committed, first, shard_rows):
            return first, SortedMap(in_progress["output_names"].items())
    shards = (json.loads(text)[0] for text in committed.values())
    first = 1 + max(shards, default=-1)
    names = {}
    present = SortedMap((image.input_id, "") for image in images)
    for record in dataset.staged_records():
        row = record.row
        if row.input_id not in present and row.input_id not in committed:
            # No longer there, and it will have no row.
            delete_files(row, dataset)
            dataset.delete(dataset.record_uri(row.input_id))
        elif (name := output_name(row)) is not None:
            names[row.input_id] = name
    dataset.write_json(
        dataset.assignment_json,
        {
            "first_shard": first,
            "inputs_sha256": _fingerprint(images, committed, first, shard_rows),
            "output_names": names,
        },
    )
    return first, SortedMap(names.items())


def _fingerprint(
    images: Iterable[SourceImage], committed: SortedMap, first: int, shard_rows: int
) -> str:
    """A hash of what decides on shards and names: the inputs that are not in shards before `first`.

    Names are part of it: rows of a table that was sorted have each other's.
    """
    digest = hashlib.sha256(f"{shard_rows}\0".encode())
    for image in images:
        found = committed.get(image.input_id)
        if found is None or json.loads(found)[0] >= first:
            text = f"{image.input_id}\0{image.name}\0"
            digest.update(text.encode(errors="surrogateescape"))
    return digest.hexdigest()


def still_holds(
    image: SourceImage, earlier: Row, dataset: DatasetFolder, asked: Asked | None = None
) -> bool:
    """Whether an earlier run's row is right still.

    It is while the same bytes go in, the same is asked of them, and the image that came out is
    there. An input that cannot be read, or whose parameters are wrong, holds as long as it fails
    alike. One that was too large to be read, that another step left out, or at which our own code
    failed (which may be mended by now) is looked at anew. What was read from a web server once
    holds where the server gives it no more: links rot, and what was made of them is not to go.

    Args:
        image: the input, with its columns and caption of now.
        earlier: its row.
        dataset: the output.
        asked: of every image; None where no engine takes parameters.
    """
    if earlier.error_code in _LOOKED_AT_ANEW:
        return False
    if asked is not None and _concerns_parameters(earlier):
        try:
            now = image.parameters(asked.parameters, asked.prompt_column)
        except ImageError as error:
            # They are looked at before the image is read.
            return (earlier.error_code, earlier.error_message) == (error.code, error.message)
        if not _asks_the_same(image, earlier, now):
            return False
    try:
        digest = image.sha256()
    except ImageError as error:
        # A row's number may be that of another URL by now.
        is_same_url = urls.is_web(image.uri or "") and earlier.source_uri == image.source_uri
        if earlier.source_sha256 is None or not is_same_url:
            return earlier.error_code == error.code
        digest = earlier.source_sha256
    if digest != earlier.source_sha256:
        return False
    return earlier.output_uri is None or _has_files(earlier, dataset)


def is_asked_alike(image: SourceImage, earlier: Row, asked: Asked) -> bool:
    """Whether an image's parameters are, or are wrong, as they were for its earlier row."""
    if not _concerns_parameters(earlier):
        return True
    try:
        now = image.parameters(asked.parameters, asked.prompt_column)
    except ImageError as error:
        return (earlier.error_code, earlier.error_message) == (error.code, error.message)
    return _asks_the_same(image, earlier, now)


def _concerns_parameters(row: Row) -> bool:
    """Whether an input came as far as its parameters; what is skipped or refused may not have."""
    return row.prompt is not None or row.error_code in _PARAMETER_CODES | _READING_CODES


def _asks_the_same(image: SourceImage, earlier: Row, now: Parameters) -> bool:
    """Whether an image's parameters, which are sound now, are those of its earlier row."""
    if earlier.prompt is None:
        # The image may have been what could not be read, which shows when it is read again.
        return earlier.error_code in _READING_CODES and earlier.source_sha256 is None
    return (
        earlier.prompt == now.prompt
        and earlier.negative_prompt == now.negative_prompt
        and earlier.cfg_scale == now.cfg_scale
        and earlier.steps == now.steps
        and earlier.noise_level == now.noise_level
        and _has_same_seed(image, earlier, now.seed)
    )


def _has_same_seed(image: SourceImage, earlier: Row, seed: int) -> bool:
    """Whether a row's seed is the one that is asked for now, or was derived as it would be now."""
    if seed:
        return earlier.seed == seed
    # A seed that no one asked for comes from the pixels and the other parameters.
    before = earlier.input.get("seed")
    if are_stored_alike({"seed": image.columns.get("seed")}, {"seed": before}):
        return True
    try:
        return not Parameters().overridden({"seed": before}).seed
    except ImageError:
        return False


def readdressed(record: Record, source_uri: str) -> Record:
    """An earlier record with where its input is now; the record itself where it has not moved.

    A table may name the same bytes elsewhere.
    """
    if record.row.source_uri == source_uri:
        return record
    return dataclasses.replace(record, row=dataclasses.replace(record.row, source_uri=source_uri))


def relabeled(
    record: Record, columns: Mapping[str, Any], input_type: pa.StructType | None = None
) -> Record:
    """An earlier record with an input's columns of now; the record itself where they are the same.

    Columns that guide nothing, such as a label, may change without the image being made again.
    They are the same where they are stored alike: a manifest gives back whole numbers among
    fractions as fractions, and None for a column that only other inputs have.

    Args:
        record: the earlier record.
        columns: the input's own, of now.
        input_type: that they are stored by; None where it is inferred shard by shard.
    """
    if are_stored_alike(columns, record.row.input, input_type):
        return record
    return dataclasses.replace(record, row=dataclasses.replace(record.row, input=columns))
