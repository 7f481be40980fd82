"""Which files are inputs, who they are, and what their results are called."""

import dataclasses
import hashlib
import mimetypes
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from beam_upscale import storage
from beam_upscale.dataset import Record, mark, safe_name, stem
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.plan import OutputFormat

# The standard library's own table, without what this machine's administrator added to it, and what
# stands beside images in datasets.
_MIME_TYPES = mimetypes.MimeTypes()
_SIDE_FILES = frozenset(
    {".db", ".ini", ".jsonl", ".log", ".md", ".parquet", ".toml", ".yaml", ".yml"}
)

# What results' names may end in.
_EXTENSIONS = tuple(sorted({each.extension for each in OutputFormat}))


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
    return Listing(tuple(with_unique_names(ordered, reserved={})), ignored)


def no_input(pattern: str, listing: Listing) -> SettingsError:
    """The error of a pattern that names no image."""
    return SettingsError(
        ErrorCode.NO_INPUT, f"{pattern} holds no images ({listing.ignored} other files)"
    )


def with_unique_names(
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
    unlike = mark(image.input_id)
    last_part = image.name.rpartition("/")[2]
    return image.output_name, image.name, f"{image.name}-{unlike}", f"{unlike}-{last_part}"


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
