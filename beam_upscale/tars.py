"""Tars in WebDataset's form: members that share a key are one input.

A member's key is its path up to the first dot of its last part: `a/cat.jpg`, `a/cat.json` and
`a/cat.txt` are one input, `a/cat`. Nothing is unpacked: headers are read, the data of members is
skipped, and an image is known by its place in the file.

The standard library parses single headers, but this module finds them and reads extended ones:
`tarfile` holds an extended header in memory whatever its size, follows chains of them by recursion,
and ends at the first that is damaged.
"""

import dataclasses
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from beam_upscale import storage
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.json_values import is_unicode, json_problem, parsed, without_deep
from beam_upscale.literal import literal, shortened
from beam_upscale.locations import Extent, Missing, Part

IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "avif", "heic", "heif", "tif", "tiff", "bmp", "gif"),
    # Formats that are not decoded: each image is a row that says so, rather than left out.
    *("jxl", "jp2", "ppm", "pgm", "pbm", "pnm"),
)
"""Endings of image members. Of several images of one key, one with fewer dots (`a.png` before
`a.mask.jpg`) is taken, and among these the one whose ending comes first here."""

_COLUMNS = "json"
_CAPTIONS = ("txt", "caption")

_BLOCK = 512
_MOST_EXTENDED_BYTES = 1 << 20
_MOST_COLUMN_BYTES = 1 << 20
_LONGEST_NAME = 4096
_LONGEST_SHOWN = 400

# Bytes, in whole blocks, that are read at once while only zeros are expected.
_READ_TOGETHER = 2048 * _BLOCK

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

_EXTENDED = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
# Long names of links are not needed, as links are not followed; global headers name no member.
_PASSED_OVER = frozenset({tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK})
_WITH_DATA = frozenset({*tarfile.REGULAR_TYPES, tarfile.GNUTYPE_SPARSE})
_WITHOUT_DATA = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
    | {tarfile.CHRTYPE, tarfile.BLKTYPE}
)
_NO_FILES = {
    tarfile.LNKTYPE: "a link, and links are not followed",
    tarfile.SYMTYPE: "a link, and links are not followed",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.GNUTYPE_SPARSE: "a file with holes, which is not read",
}


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


@dataclasses.dataclass(frozen=True)
class _Member:
    """A member that is no folder.

    Attributes:
        name: the name as text, with bytes that are not UTF-8 as surrogates; empty if no header
            could be read.
        extent: the place of the member's bytes.
        problem: why these bytes are not those of a file; empty if they are.
        is_last: whether the archive cannot be read beyond this member.
    """

    name: str
    extent: Extent
    problem: str = ""
    is_last: bool = False

    @property
    def suffix(self) -> str:
        """The ending after the first dot of the name's last part, in lower case."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()

    @property
    def key(self) -> str:
        """The key that members of one input share; empty for hidden names and those with no dot."""
        folder, slash, last = self.name.rpartition("/")
        base, dot, _ = last.partition(".")
        return f"{folder}{slash}{base}" if base and dot else ""

    @property
    def rank(self) -> tuple[int, int] | None:
        """The order among the images of one key, best first; None if the name is no image's."""
        last = self.suffix.rpartition(".")[2]
        if last not in IMAGE_SUFFIXES:
            return None
        return self.suffix.count("."), IMAGE_SUFFIXES.index(last)


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
        captions: the captions, by their endings.
    """

    suffixes: set[str] = dataclasses.field(default_factory=set)
    image: _Member | None = None
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
        with storage.open_read(uri) as file:
            return _read(uri, file)
    except ImageError as error:
        return TarListing((TarInput("", Missing(error.code, error.message)),), 0)


def _read(uri: str, file: BinaryIO) -> TarListing:
    found: list[_Sample | TarInput] = []
    newest: dict[str, _Sample] = {}
    members = 0
    for member in _members(uri, file):
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


def _put(uri: str, file: BinaryIO, sample: _Sample, member: _Member) -> None:
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


def _missing(uri: str, member: _Member) -> Missing:
    named = f"{_shown(member)} " if member.name else ""
    message = f"{storage.named(uri)}: {named}{member.problem}"
    return Missing(ErrorCode.INVALID_ARCHIVE, message)


def _shown(member: _Member) -> str:
    return repr(shortened(member.name, _LONGEST_SHOWN))


def _columns(uri: str, file: BinaryIO, member: _Member) -> tuple[Mapping[str, Any], str]:
    """Reads a `.json` member's columns; also returns what is wrong with them, empty if nothing."""
    where = f"{storage.named(uri)}: {_shown(member)}"
    if member.problem:
        return {}, f"{where} {member.problem}"
    if member.extent.size > _MOST_COLUMN_BYTES:
        found = f"has {member.extent.size:,} bytes; it may have {_MOST_COLUMN_BYTES:,}"
        return {}, f"{where} {found}"
    try:
        value = parsed(_bytes(uri, file, member.extent.offset, member.extent.size))
    except UnicodeDecodeError:
        return {}, f"{where} is no JSON in UTF-8"
    except (ValueError, RecursionError) as error:
        return {}, f"{where} is no JSON that can be read: {json_problem(error)}"
    if not isinstance(value, dict) or not is_unicode(value):
        return {}, f"{where} is no JSON object of valid Unicode, whose members would be columns"
    return without_deep(value), ""


def _bytes(uri: str, file: BinaryIO, offset: int, size: int) -> bytes:
    """Reads bytes of an archive; fewer if it ends before."""
    try:
        file.seek(offset)
        return file.read(size)
    except Exception as error:
        # The clients of object stores raise errors of their own.
        raise storage.read_error(uri, error) from error


def _length(uri: str, file: BinaryIO) -> int:
    try:
        return file.seek(0, 2)
    except Exception as error:
        raise storage.read_error(uri, error) from error


# Headers


@dataclasses.dataclass
class _Said:
    """The statements of extended headers about the member that follows them.

    Attributes:
        name: name of the member; None if it is not stated.
        size: size of the member in bytes; None if it is not stated.
        problem: what is wrong with the headers or their statements; empty if nothing.
    """

    name: str | None = None
    size: int | None = None
    problem: str = ""


def _members(uri: str, file: BinaryIO) -> Iterator[_Member]:
    """Yields all members except folders, as far as the archive can be read."""
    length = _length(uri, file)
    position = 0
    said = _Said()
    while True:
        block = _bytes(uri, file, position, _BLOCK)
        if block and not block.strip(b"\0"):
            # The end of an archive; another one may follow it in the same file.
            behind = _behind_zeros(uri, file, position)
            if behind is None:
                return
            position, said = behind, _Said()
            block = _bytes(uri, file, position, _BLOCK)
        try:
            info = _header(block)
        except (tarfile.HeaderError, ValueError) as error:
            yield _damaged(position, _found_instead(block, position, error))
            return
        data = position + _BLOCK
        if info.type == tarfile.GNUTYPE_SPARSE:
            data = _after_holes(uri, file, block, data)
        if info.type in _EXTENDED or info.type in (tarfile.GNUTYPE_LONGNAME, *_PASSED_OVER):
            if data + info.size > length:
                yield _damaged(position, "the archive is cut off")
                return
            _hear(uri, file, info, data, said)
            position = data + _rounded(info.size)
            continue
        member = _member(info, data, said, length)
        if info.type != tarfile.DIRTYPE:
            yield member
        if member.is_last:
            return
        position = data + _rounded(member.extent.size)
        said = _Said()


def _header(block: bytes) -> tarfile.TarInfo:
    """Parses a header.

    Raises:
        tarfile.HeaderError, ValueError: the block is no header.
    """
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if info.size < 0:
        raise tarfile.HeaderError("a negative size")
    return info


def _behind_zeros(uri: str, file: BinaryIO, position: int) -> int | None:
    """Returns the offset of the first block that is not all zeros; None if there is none."""
    while data := _bytes(uri, file, position, _READ_TOGETHER):
        zeros = len(data) - len(data.lstrip(b"\0"))
        if zeros < len(data):
            return position + zeros - zeros % _BLOCK
        position += len(data)
    return None


def _found_instead(block: bytes, position: int, error: Exception) -> str:
    """Describes what is found in place of the next header."""
    if not block:
        return "the archive is cut off there, or its writer left out the zeros that end one"
    if position == 0:
        for start, name in _COMPRESSED.items():
            if block.startswith(start):
                return f"the archive is compressed ({name}), and tars are read as they are"
    return f"no header of a tar is there ({error})"


def _damaged(position: int, found: str) -> _Member:
    problem = f"from byte {position:,} on it cannot be read: {found}; write it anew"
    return _Member("", Extent(position, 0), problem, is_last=True)


def _rounded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _after_holes(uri: str, file: BinaryIO, block: bytes, data: int) -> int:
    """Returns the offset of the data of GNU's sparse files: after the blocks that list holes."""
    goes_on = block[482]
    while goes_on:
        more = _bytes(uri, file, data, _BLOCK)
        data += _BLOCK
        goes_on = more[504] if len(more) == _BLOCK else 0
    return data


def _member(info: tarfile.TarInfo, data: int, said: _Said, length: int) -> _Member:
    name = info.name if said.name is None else said.name
    size = info.size if said.size is None else said.size
    if info.type in _WITHOUT_DATA:
        size = 0
    kind = _NO_FILES.get(info.type)
    if kind is None and info.type not in _WITH_DATA | {tarfile.DIRTYPE}:
        kind = (
            f"a member of a type that tars do not define ({literal(info.type.decode('latin-1'))})"
        )
    problem = said.problem or ("" if kind is None else f"is {kind}")
    if "\0" in name:
        problem, name = "has a NUL in its name", name.replace("\0", "_")
    if len(name) > _LONGEST_NAME:
        problem = f"has a name of {len(name):,} characters; it may have {_LONGEST_NAME:,}"
        name = name[-_LONGEST_NAME:]
    is_cut = data + size > length
    if is_cut:
        there = max(0, length - data)
        problem = f"is cut off: {there:,} of its {size:,} bytes are there; write the archive anew"
    return _Member(name, Extent(data, size), problem, is_last=is_cut)


def _hear(uri: str, file: BinaryIO, info: tarfile.TarInfo, data: int, said: _Said) -> None:
    """Reads the statements of an extended header about the member that follows it into `said`."""
    if info.type in _PASSED_OVER:
        return
    if info.size > _MOST_EXTENDED_BYTES:
        said.problem = (
            f"has an extended header of {info.size:,} bytes; it may have {_MOST_EXTENDED_BYTES:,}"
        )
        return
    content = _bytes(uri, file, data, info.size)
    if info.type == tarfile.GNUTYPE_LONGNAME:
        said.name = _text(content.partition(b"\0")[0])
        return
    try:
        fields = _pax_fields(content)
        if b"size" in fields:
            said.size = _whole(fields[b"size"])
    except ValueError:
        said.problem = "has a damaged extended header"
        return
    if b"path" in fields:
        said.name = _text(fields[b"path"])
    if any(field.startswith(b"GNU.sparse.") for field in fields):
        said.name = _text(fields.get(b"GNU.sparse.name", b"")) or said.name
        said.problem = f"is {_NO_FILES[tarfile.GNUTYPE_SPARSE]}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _pax_fields(content: bytes) -> dict[bytes, bytes]:
    """Parses the fields of a PAX header: `length key=value`, each on a line (POSIX.1-2001).

    Raises:
        ValueError: the header is not of that form.
    """
    fields: dict[bytes, bytes] = {}
    position = 0
    while position < len(content) and content[position]:
        digits = content[position : position + 20].partition(b" ")[0]
        end = position + _whole(digits)
        field = content[position + len(digits) + 1 : end]
        key, equals, value = field.removesuffix(b"\n").partition(b"=")
        if end > len(content) or not field.endswith(b"\n") or not equals:
            raise ValueError("a field that ends elsewhere than it says")
        fields[key] = value
        position = end
    return fields


def _whole(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise ValueError("no whole number")
    return int(digits)
