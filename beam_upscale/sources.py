"""Where images come from: listing, and what an earlier run into the same output already did."""

import dataclasses
import hashlib
import mimetypes
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import apache_beam as beam

from beam_upscale import storage
from beam_upscale.dataset import IMAGES, DatasetFolder, Record, safe_name, stem
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.manifest import Row, Status
from beam_upscale.plan import OutputFormat

# The standard library's own table, without what this machine's administrator added to it, and what
# stands beside images in datasets.
_MIME_TYPES = mimetypes.MimeTypes()
_SIDE_FILES = frozenset(
    {".db", ".ini", ".jsonl", ".log", ".md", ".parquet", ".toml", ".yaml", ".yml"}
)

# What results' names may end in.
_EXTENSIONS = tuple(sorted({each.extension for each in OutputFormat}))

DEFAULT_SHARD_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """An input: what `Upscale` takes.

    Attributes:
        input_id: stable identity: order, shards and request ids derive from it. Plain text.
        uri: where the bytes are, on any of Beam's file systems; None when `data` holds them.
        data: the encoded image, when it does not stand in a file of its own.
        name: the input's path relative to the dataset it comes from.
        output_name: relative path of the result without its extension.
        columns: the dataset's own columns; they reach the manifest untouched.
        shard: which shard the result belongs to; None lets the sink choose.
        earlier: the record that an earlier run wrote for this input, when it still holds.
        committed: whether that record stands in a committed shard already.
        within_budget: False marks the input as one that the budget does not reach.
        postponed: True marks the input as one that a later run is to do.
    """

    input_id: str
    uri: str | None = None
    data: bytes | None = None
    name: str = ""
    output_name: str = ""
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shard: int | None = None
    earlier: Record | None = None
    committed: bool = False
    within_budget: bool = True
    postponed: bool = False

    @property
    def source_uri(self) -> str:
        """Where the input was read, as text that every store takes."""
        return self.input_id if self.uri is None else storage.printable(self.uri)

    def read(self, max_bytes: int) -> bytes:
        """The encoded image.

        Args:
            max_bytes: a larger file is not read.

        Raises:
            ImageError: FILE_TOO_LARGE, NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
        """
        if self.data is not None:
            return self.data
        self.check_size(max_bytes)
        return storage.read(self.uri or self.input_id)

    def check_size(self, max_bytes: int) -> None:
        """Raises an ImageError, FILE_TOO_LARGE, where a file has more bytes."""
        size = None if self.data is not None else storage.size(self.uri or self.input_id)
        if size is not None and size > max_bytes:
            raise ImageError(
                ErrorCode.FILE_TOO_LARGE,
                f"the file has {size:,} bytes; at most {max_bytes:,} are read (--max-input-bytes)",
            )

    def sha256(self) -> str:
        """The SHA-256 of the encoded image, in hexadecimal; a file is not held in memory.

        Raises:
            ImageError: as `read`.
        """
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        return storage.sha256(self.uri or self.input_id)


def source_image(uri: str, name: str | None = None, **fields: Any) -> SourceImage:
    """The `SourceImage` of a file.

    Args:
        uri: the file, on any of Beam's file systems.
        name: its path relative to the dataset, from which the result's name derives; by default
            the last part of `uri`.
        **fields: further attributes of `SourceImage`.
    """
    found = name or uri.rpartition("/")[2]
    relative = safe_name(found)
    fields.setdefault("columns", {"file_name": relative})
    # Without its extension first: a name that is too long loses its end.
    output_name = safe_name(stem(found))
    return SourceImage(
        input_id=_input_id(uri), uri=uri, name=relative, output_name=output_name, **fields
    )


def _input_id(uri: str) -> str:
    printable = storage.printable(uri)
    # Two names must not become one: a UTF-8 path never begins like this.
    return printable if printable == uri else f"percent-encoded:{printable}"


def is_image_name(name: str) -> bool:
    """False for names that say they are something else: `notes.txt`, `metadata.jsonl`, `a.mp4`.

    What a file holds is told from its bytes; its name only keeps side files out of a listing.
    """
    if PurePosixPath(name).suffix.lower() in _SIDE_FILES:
        return False
    kind = _MIME_TYPES.guess_type(name)[0]
    return kind is None or kind.startswith("image/")


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a pattern names.

    Attributes:
        images: the inputs, ordered by `input_id`.
        ignored: how many files were left out because their names say they are no images.
    """

    images: tuple[SourceImage, ...]
    ignored: int


def list_images(pattern: str, exclude: str | None = None) -> Listing:
    """Lists inputs and gives each its output name.

    Args:
        pattern: a file, a folder (descended into) or a glob, on any of Beam's file systems.
        exclude: a folder to leave out, such as an output below the input.

    Returns:
        The inputs. Two that would share an output name (`a.jpg` and `a.png`) both keep their
        extension in it (`a.jpg`, `a.png`, before the new extension), and so does one whose result
        would stand where another's folder does; names that differ only in case count as one, since
        some file systems hold them for one.
    """
    outside = None if exclude is None else storage.join(storage.absolute(exclude), "")
    single = storage.absolute(pattern)
    images, ignored = [], 0
    for entry in storage.list_files(pattern):
        if outside is not None and entry.uri.startswith(outside):
            continue
        if entry.uri != single and not is_image_name(entry.name):
            ignored += 1
            continue
        images.append(source_image(entry.uri, entry.name))
    ordered = sorted(images, key=lambda image: image.input_id)
    return Listing(tuple(_with_unique_names(ordered, reserved={})), ignored)


def _with_unique_names(
    images: Iterable[SourceImage], reserved: Mapping[str, str]
) -> Iterator[SourceImage]:
    """Settles output names; `reserved` holds those that earlier results have, by `input_id`."""
    images = list(images)
    claims = Counter(image.output_name.casefold() for image in images)
    names = _Names(reserved.values(), (image.output_name for image in images))
    for image in images:
        name = reserved.get(image.input_id)
        if name is None:
            shared = claims[image.output_name.casefold()] > 1
            candidates = _output_names(image)[1 if shared else 0 :]
            name = next(filter(names.is_free, candidates), candidates[-1])
            names.take(name)
        yield dataclasses.replace(image, output_name=name)


def _output_names(image: SourceImage) -> tuple[str, ...]:
    """What a result may be called, best first; no other input's has the last."""
    mark = hashlib.sha256(image.input_id.encode()).hexdigest()[:16]
    last_part = image.name.rpartition("/")[2]
    return image.output_name, image.name, f"{image.name}-{mark}", f"{mark}-{last_part}"


class _Names:
    """Output names in use, without regard to case.

    Args:
        taken: names of results that are there.
        wanted: names whose folders will be there.
    """

    def __init__(self, taken: Iterable[str], wanted: Iterable[str]) -> None:
        taken = [name.casefold() for name in taken]
        self._taken = set(taken)
        self._folders = {
            folder
            for name in [*taken, *(name.casefold() for name in wanted)]
            for folder in _folders(name)
        }

    def is_free(self, name: str) -> bool:
        """Whether a result may have this name: no other has, and no file would be a folder."""
        folded = name.casefold()
        return (
            folded not in self._taken
            and not any(f"{folded}{end}" in self._folders for end in _EXTENSIONS)
            and not any(
                folder.endswith(end) and folder.removesuffix(end) in self._taken
                for folder in _folders(folded)
                for end in _EXTENSIONS
            )
        )

    def take(self, name: str) -> None:
        """Puts a name to use."""
        self._taken.add(name.casefold())


def _folders(name: str) -> list[str]:
    """All folders on the way to a relative path."""
    return [str(folder) for folder in PurePosixPath(name).parents if folder.name]


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
    for image in _with_unique_names(images, reserved):
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


class ListImages(beam.DoFn):
    """Turns the one element that starts a pipeline into the inputs, with their shards."""

    def __init__(self, pattern: str, dataset: DatasetFolder | None, shard_rows: int) -> None:
        self._pattern = pattern
        self._dataset = dataset
        self._shard_rows = shard_rows

    def process(self, element: object) -> Iterator[SourceImage]:
        """Lists once; what follows spreads the inputs over the workers."""
        del element
        if self._dataset is None:
            yield from list_images(self._pattern).images
            return
        listing = list_images(self._pattern, exclude=self._dataset.root)
        yield from assign_shards(listing.images, self._dataset, self._shard_rows)


class FindEarlier(beam.DoFn):
    """Keeps, or finds among the staged records, the earlier row of an input where it holds."""

    def __init__(self, dataset: DatasetFolder, retry: frozenset[Status]) -> None:
        self._dataset = dataset
        self._retry = retry

    def process(self, image: SourceImage) -> Iterator[SourceImage]:
        """Gives the input with `earlier` set, or None where there is work to do."""
        staged = self._dataset.staged_record(image.input_id)
        if staged is not None:
            image = dataclasses.replace(image, earlier=staged, committed=False)
        row = None if image.earlier is None else image.earlier.row
        if row is not None and (
            row.status in self._retry or not still_holds(image, row, self._dataset)
        ):
            image = dataclasses.replace(image, earlier=None, committed=False)
        yield image


@dataclasses.dataclass(eq=False)
class ReadImages(beam.PTransform):
    """Lists images; their bytes are read where they are upscaled.

    Attributes:
        pattern: a file, a folder (descended into) or a glob, on any of Beam's file systems.
        output: the dataset that the results go to. With it, inputs that an earlier run into it
            has done are marked, and `Upscale` passes over them.
        retry: statuses of earlier rows that are done again all the same.
        shard_rows: rows in a shard of that dataset.

    Returns:
        A PCollection of `SourceImage`, spread over the workers.
    """

    pattern: str
    output: str | None = None
    retry: Collection[Status] = ()
    shard_rows: int = DEFAULT_SHARD_ROWS

    def expand(self, root: Any) -> Any:
        """Wires listing and the search for earlier results."""
        dataset = None if self.output is None else DatasetFolder(storage.absolute(self.output))
        images = (
            root
            | "Begin" >> beam.Impulse()
            | "List" >> beam.ParDo(ListImages(self.pattern, dataset, self.shard_rows))
            | "Spread" >> beam.Reshuffle()
        )
        if dataset is None:
            return images
        return images | "FindEarlier" >> beam.ParDo(
            FindEarlier(dataset, frozenset(Status(status) for status in self.retry))
        )
