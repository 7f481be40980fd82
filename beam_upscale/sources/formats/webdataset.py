"""Tars in WebDataset's form: members that share a key are one input.

A member's key is its path up to the first dot of its last part: `a/cat.jpg`, `a/cat.json` and
`a/cat.txt` are one input, `a/cat`. Nothing is unpacked: headers are read, the data of members is
skipped, and an image is known by its place in the file.

The standard library parses single headers, but this module finds them and reads extended ones:
`tarfile` holds an extended header in memory whatever its size, follows chains of them by recursion,
and ends at the first that is damaged.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from beam_upscale.dataset.manifest.json_values import is_unicode, json_problem, parsed, without_deep
from beam_upscale.dataset.names import safe_name, stem
from beam_upscale.errors import ErrorCode, ImageError, shortened
from beam_upscale.sources.formats.definition import FormatDefinition, FoundFiles
from beam_upscale.sources.inputs.found_inputs import Inputs, Listing
from beam_upscale.sources.inputs.source_image import SourceImage, id_of, source_image
from beam_upscale.sources.locations.file_parts import Extent, Missing, Part
from beam_upscale.sources.parsing.tar_members import Member, bytes_of, members_of
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import FileEntry
from beam_upscale.storage.sorted_map import SortedMap
from beam_upscale.storage.uris import uris

_COLUMNS = "json"
_CAPTIONS = ("txt", "caption")
_MOST_COLUMN_BYTES = 1 << 20
_LONGEST_SHOWN = 400


@dataclasses.dataclass(frozen=True)
class TarInput:
    """An input in a tar.

    Attributes:
        name: name of the image member; empty for the rest of an archive that cannot be read.
        part: the image's bytes, or the reason why there are none.
        columns: the contents of the key's `.json` member.
        caption: the key's `.txt` or `.caption` member; None if there is none.
    """

    name: str
    part: Part
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    caption: Extent | None = None


@dataclasses.dataclass(frozen=True)
class TarListing:
    """The contents of a tar.

    Attributes:
        inputs: the inputs, in the order of their keys' first members.
        ignored: number of members that are no part of an input.
    """

    inputs: tuple[TarInput, ...]
    ignored: int


@dataclasses.dataclass
class _Sample:
    """The members of one key, while a tar is read.

    Attributes:
        suffixes: suffixes of the members so far; another member with one of them begins a new
            input.
        image: the best image so far; None if there is none.
        columns: contents of the `.json` member.
        problem: what is wrong with the `.json` member, or with a member that is cut off; else
            empty.
        captions: the captions, by the endings of their names.
    """

    suffixes: set[str] = dataclasses.field(default_factory=set)
    image: Member | None = None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem: str = ""
    captions: dict[str, Extent] = dataclasses.field(default_factory=dict)


def read_tar(uri: str) -> TarListing:
    """Lists the inputs in a tar; it is not unpacked, and no image is read.

    Args:
        uri: the tar, on any of Beam's file systems or a web server.

    Returns:
        The inputs. A link, a file with holes, or one with a broken name is an input with a
        `Missing` part, if its name is that of an image. If the archive is cut off, has no end or is
        damaged, the inputs before that are unaffected, and the rest is one more input with a
        `Missing` part, without a name, unless the image itself is cut off. Of several archives in
        one file, all are read.
    """
    try:
        with files.open_read(uri) as file:
            return _read(uri, file)
    except ImageError as error:
        return TarListing((TarInput("", Missing(error.code, error.message)),), 0)


def _read(uri: str, file: BinaryIO) -> TarListing:
    found: list[_Sample | TarInput] = []
    newest: dict[str, _Sample] = {}
    members = 0
    for member in members_of(uri, file):
        is_input = member.rank is not None and bool(member.key)
        if member.is_last and not is_input:
            belongs_to = newest.get(member.key)
            if belongs_to is not None and member.suffix in (_COLUMNS, *_CAPTIONS):
                # An image must not be upscaled without the columns or caption that guide it.
                belongs_to.problem = _missing(uri, member).message
            if belongs_to is None or belongs_to.image is None or not belongs_to.problem:
                found.append(TarInput("", _missing(uri, member)))
            continue
        members += 1
        if not member.key:
            continue
        sample = newest.get(member.key)
        if sample is None or member.suffix in sample.suffixes:
            sample = newest[member.key] = _Sample()
            found.append(sample)
        sample.suffixes.add(member.suffix)
        _put(uri, file, sample, member)
    inputs = [each if isinstance(each, TarInput) else _input(uri, each) for each in found]
    used = sum(_used(each) for each in found if isinstance(each, _Sample))
    return TarListing(tuple(each for each in inputs if each is not None), members - used)


def _used(sample: _Sample) -> int:
    """Returns the number of a sample's members that make up its input; 0 without an image."""
    if sample.image is None:
        return 0
    return 1 + (_COLUMNS in sample.suffixes) + bool(sample.captions)


def _put(uri: str, file: BinaryIO, sample: _Sample, member: Member) -> None:
    """Puts a member into its sample as image, caption or columns, by its name."""
    rank = member.rank
    if rank is not None:
        best = None if sample.image is None else sample.image.rank
        if best is None or rank < best:
            sample.image = member
    elif member.suffix in _CAPTIONS and not member.problem:
        sample.captions[member.suffix] = member.extent
    elif member.suffix == _COLUMNS:
        sample.columns, sample.problem = _columns(uri, file, member)


def _input(uri: str, sample: _Sample) -> TarInput | None:
    image = sample.image
    if image is None:
        return None
    part: Part = image.extent
    if sample.problem:
        part = Missing(ErrorCode.INVALID_ROW, sample.problem)
    if image.problem:
        part = _missing(uri, image)
    caption = next((sample.captions[each] for each in _CAPTIONS if each in sample.captions), None)
    return TarInput(image.name, part, sample.columns, caption)


def _missing(uri: str, member: Member) -> Missing:
    named = f"{_shown(member)} " if member.name else ""
    message = f"{uris.named(uri)}: {named}{member.problem}"
    return Missing(ErrorCode.INVALID_ARCHIVE, message)


def _shown(member: Member) -> str:
    return repr(shortened(member.name, _LONGEST_SHOWN))


def _columns(uri: str, file: BinaryIO, member: Member) -> tuple[Mapping[str, Any], str]:
    """Reads a `.json` member's columns; also returns what is wrong with them, empty if nothing."""
    where = f"{uris.named(uri)}: {_shown(member)}"
    if member.problem:
        return {}, f"{where} {member.problem}"
    if member.extent.size > _MOST_COLUMN_BYTES:
        found = f"has {member.extent.size:,} bytes; it may have {_MOST_COLUMN_BYTES:,}"
        return {}, f"{where} {found}"
    try:
        value = parsed(bytes_of(uri, file, member.extent.offset, member.extent.size))
    except UnicodeDecodeError:
        return {}, f"{where} is not JSON in UTF-8"
    except (ValueError, RecursionError) as error:
        return {}, f"{where} is not JSON that can be read: {json_problem(error)}"
    if not isinstance(value, dict) or not is_unicode(value):
        return {}, f"{where} is not a JSON object of valid Unicode, whose members would be columns"
    return without_deep(value), ""


def _list_tars(found: FoundFiles) -> Listing:
    left_out = 0

    def sources() -> Iterator[SourceImage]:
        nonlocal left_out
        taken = SortedMap()
        for tar in found.entries:
            listed = read_tar(tar.uri)
            left_out += listed.ignored
            for member in listed.inputs:
                yield _member_source(tar, member, taken)

    inputs = Inputs(sources())
    return Listing(inputs, left_out)


def _member_source(tar: FileEntry, member: TarInput, taken: SortedMap) -> SourceImage:
    """Makes the input of members of a tar; `taken` holds the ids of earlier inputs."""
    unmarked = input_id = id_of(tar.uri, member.name)
    times = 1
    while input_id in taken:
        # A tar may have several members of one name. A tar that grows has new members at its end.
        times += 1
        input_id = f"{unmarked}#{times}"
    taken[input_id] = ""
    name = safe_name(member.name)
    return source_image(
        tar.uri,
        # Shards mostly use the same numbers for their members.
        uris.join(stem(tar.name), member.name or "rest"),
        input_id=input_id,
        part=member.part,
        columns={"file_name": name, **member.columns},
        caption_uri=None if member.caption is None else tar.uri,
        caption_part=member.caption,
    )


DEFINITION = FormatDefinition(_list_tars, without_inputs="a tar without images", endings=(".tar",))
