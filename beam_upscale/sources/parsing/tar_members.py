"""Reads the members of a tar without unpacking it."""

import dataclasses
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from beam_upscale.errors import literal
from beam_upscale.sources.locations.file_parts import Extent
from beam_upscale.storage import files

IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "avif", "heic", "heif", "tif", "tiff", "bmp", "gif"),
    # Formats that are not decoded: each image is a row that says so, rather than left out.
    *("jxl", "jp2", "ppm", "pgm", "pbm", "pnm"),
)
"""Endings of image members. Of several images of one key, one with fewer dots (`a.png` before
`a.mask.jpg`) is taken, and among these the one whose ending comes first here."""

_BLOCK = 512
_MOST_EXTENDED_BYTES = 1 << 20
_LONGEST_NAME = 4096

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
class Member:
    """A member that is no folder.

    Attributes:
        name: the name as text, with bytes that are not UTF-8 as surrogates; empty if no header
            could be read.
        extent: the place of the member's bytes.
        problem: why these bytes are not those of a file; empty if they are.
        is_last: True if the archive cannot be read beyond this member.
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


def bytes_of(uri: str, file: BinaryIO, offset: int, size: int) -> bytes:
    """Reads bytes of an archive; fewer if it ends before."""
    try:
        file.seek(offset)
        return file.read(size)
    except Exception as error:
        # The clients of object stores raise errors of their own.
        raise files.read_error(uri, error) from error


def _length(uri: str, file: BinaryIO) -> int:
    try:
        return file.seek(0, 2)
    except Exception as error:
        raise files.read_error(uri, error) from error


# Headers


@dataclasses.dataclass
class _ExtendedHeader:
    """The values that extended headers state of the member that follows them.

    Attributes:
        name: name of the member; None if it is not stated.
        size: size of the member in bytes; None if it is not stated.
        problem: what is wrong with the headers or their statements; empty if nothing.
    """

    name: str | None = None
    size: int | None = None
    problem: str = ""


def members_of(uri: str, file: BinaryIO) -> Iterator[Member]:
    """Yields all members except folders, as far as the archive can be read."""
    length = _length(uri, file)
    position = 0
    extended = _ExtendedHeader()
    while True:
        block = bytes_of(uri, file, position, _BLOCK)
        if block and not block.strip(b"\0"):
            # The end of an archive; another one may follow it in the same file.
            behind = _behind_zeros(uri, file, position)
            if behind is None:
                return
            position, extended = behind, _ExtendedHeader()
            block = bytes_of(uri, file, position, _BLOCK)
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
            _read_extended(uri, file, info, data, extended)
            position = data + _rounded(info.size)
            continue
        member = _member(info, data, extended, length)
        if info.type != tarfile.DIRTYPE:
            yield member
        if member.is_last:
            return
        position = data + _rounded(member.extent.size)
        extended = _ExtendedHeader()


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
    while data := bytes_of(uri, file, position, _READ_TOGETHER):
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


def _damaged(position: int, found: str) -> Member:
    problem = f"from byte {position:,} on it cannot be read: {found}; write it again"
    return Member("", Extent(position, 0), problem, is_last=True)


def _rounded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _after_holes(uri: str, file: BinaryIO, block: bytes, data: int) -> int:
    """Returns the offset of the data of GNU's sparse files: after the blocks that list holes."""
    goes_on = block[482]
    while goes_on:
        more = bytes_of(uri, file, data, _BLOCK)
        data += _BLOCK
        goes_on = more[504] if len(more) == _BLOCK else 0
    return data


def _member(info: tarfile.TarInfo, data: int, extended: _ExtendedHeader, length: int) -> Member:
    name = info.name if extended.name is None else extended.name
    size = info.size if extended.size is None else extended.size
    if info.type in _WITHOUT_DATA:
        size = 0
    kind = _NO_FILES.get(info.type)
    if kind is None and info.type not in _WITH_DATA | {tarfile.DIRTYPE}:
        kind = (
            f"a member of a type that tars do not define ({literal(info.type.decode('latin-1'))})"
        )
    problem = extended.problem or ("" if kind is None else f"is {kind}")
    if "\0" in name:
        problem, name = "has a NUL in its name", name.replace("\0", "_")
    if len(name) > _LONGEST_NAME:
        problem = f"has a name of {len(name):,} characters; it may have {_LONGEST_NAME:,}"
        name = name[-_LONGEST_NAME:]
    is_cut = data + size > length
    if is_cut:
        there = max(0, length - data)
        problem = f"is cut off: {there:,} of its {size:,} bytes are there; write the archive again"
    return Member(name, Extent(data, size), problem, is_last=is_cut)


def _read_extended(
    uri: str, file: BinaryIO, info: tarfile.TarInfo, data: int, extended: _ExtendedHeader
) -> None:
    """Reads an extended header, which describes the next member, into `extended`."""
    if info.type in _PASSED_OVER:
        return
    if info.size > _MOST_EXTENDED_BYTES:
        extended.problem = (
            f"has an extended header of {info.size:,} bytes; it may have {_MOST_EXTENDED_BYTES:,}"
        )
        return
    content = bytes_of(uri, file, data, info.size)
    if info.type == tarfile.GNUTYPE_LONGNAME:
        extended.name = _text(content.partition(b"\0")[0])
        return
    try:
        fields = _pax_fields(content)
        if b"size" in fields:
            extended.size = _whole(fields[b"size"])
    except ValueError:
        extended.problem = "has a damaged extended header"
        return
    if b"path" in fields:
        extended.name = _text(fields[b"path"])
    if any(field.startswith(b"GNU.sparse.") for field in fields):
        extended.name = _text(fields.get(b"GNU.sparse.name", b"")) or extended.name
        extended.problem = f"is {_NO_FILES[tarfile.GNUTYPE_SPARSE]}"


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
