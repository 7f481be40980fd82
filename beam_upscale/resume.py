"""What earlier runs into the same output did, and which of it still holds."""

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from beam_upscale import storage
from beam_upscale.dataset import IMAGES, DatasetFolder, Record, stem
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.listing import SourceImage, with_unique_names
from beam_upscale.manifest import Row


def assign_shards(
    images: Sequence[SourceImage], dataset: DatasetFolder, shard_rows: int
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
        The inputs with `shard` and `output_name` settled, and `earlier` for committed ones.
    """
    committed = {row.input_id: (shard, row) for shard, row in dataset.committed_rows()}
    first, staged_names = _assignment(images, dataset, committed)
    settled = (row for shard, row in committed.values() if shard < first)
    reserved = staged_names | _names_of(settled)
    position = 0
    for image in with_unique_names(images, reserved):
        shard, earlier = committed.get(image.input_id, (first, None))
        if shard >= first:
            shard = first + position // shard_rows
            position += 1
        yield dataclasses.replace(
            image,
            shard=shard,
            earlier=None if earlier is None else Record(earlier, telemetry=None),
            committed=earlier is not None,
        )


def output_name(row: Row) -> str | None:
    """The name, without extension, under which a row's image stands in layout files."""
    folder, _, name = (row.output_uri or "").partition("/")
    return stem(name) if folder == IMAGES else None


def delete_image(row: Row, dataset: DatasetFolder) -> None:
    """Deletes a result's image in layout files, which no row is to account for any more."""
    if output_name(row) is not None and row.output_uri is not None:
        storage.delete(dataset.resolve(row.output_uri))


def _names_of(rows: Iterable[Row]) -> dict[str, str]:
    return {row.input_id: name for row in rows if (name := output_name(row)) is not None}


def _assignment(
    images: Sequence[SourceImage],
    dataset: DatasetFolder,
    committed: Mapping[str, tuple[int, Row]],
) -> tuple[int, dict[str, str]]:
    """The first shard of the assignment in progress, and the names that were given before it.

    Those are the names, by `input_id`, of results that a run over other inputs staged.
    """
    in_progress = dataset.read_assignment()
    if in_progress is not None:
        first = int(in_progress["first_shard"])
        if in_progress["inputs_sha256"] == _fingerprint(images, committed, first):
            return first, dict(in_progress["output_names"])
    first = 1 + max((shard for shard, _ in committed.values()), default=-1)
    staged = [record.row for record in dataset.staged_records()]
    _forget_vanished(staged, images, committed, dataset)
    staged_names = _names_of(staged)
    dataset.write_json(
        dataset.assignment_json,
        {
            "first_shard": first,
            "inputs_sha256": _fingerprint(images, committed, first),
            "output_names": staged_names,
        },
    )
    return first, staged_names


def _forget_vanished(
    staged: Iterable[Row],
    images: Iterable[SourceImage],
    committed: Collection[str],
    dataset: DatasetFolder,
) -> None:
    """Removes staged results of inputs that are no longer there and will have no row."""
    present = {image.input_id for image in images}
    for row in staged:
        if row.input_id not in present and row.input_id not in committed:
            delete_image(row, dataset)
            storage.delete(dataset.record_uri(row.input_id))


def _fingerprint(
    images: Iterable[SourceImage], committed: Mapping[str, tuple[int, Row]], first: int
) -> str:
    """A hash of the inputs that are not in shards before `first`."""
    digest = hashlib.sha256()
    for image in images:
        if committed.get(image.input_id, (first,))[0] >= first:
            digest.update(image.input_id.encode() + b"\0")
    return digest.hexdigest()


def still_holds(image: SourceImage, earlier: Row, dataset: DatasetFolder) -> bool:
    """Whether an earlier run's row is right still: the same bytes in, and its image is there.

    An input that cannot be read holds as long as it fails with the same code. One that was too
    large to be read is looked at anew.
    """
    if earlier.error_code == ErrorCode.FILE_TOO_LARGE:
        return False
    try:
        digest = image.sha256()
    except ImageError as error:
        return earlier.error_code == error.code
    if digest != earlier.source_sha256:
        return False
    if earlier.output_uri is None:
        return True
    if output_name(earlier) is not None:
        return storage.size(dataset.resolve(earlier.output_uri)) == earlier.output_bytes
    return storage.exists(dataset.staged_image_uri(image.input_id)) or storage.exists(
        dataset.resolve(earlier.output_uri)
    )
