"""Reads the header and the fields of TIFF directories, and checks that they lie within the file.

Codec libraries hide or skip some of a file's metadata: Pillow ignores the checksums of a PNG,
allocates a canvas to read the size of a WebP, and knows only the TIFFs it can decode. The readers
of `containers` allocate nothing by the claims of a file: they cost a few reads for each chunk, box
or directory that really exists.

Whatever numbers a file holds, a reader raises nothing but an `ImageError`: it looks at bytes
through `unpack`, which checks that they are there. Any other exception is a bug.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers.parts import too_short, unpack


class Photometric(IntEnum):
    """Values of TIFF's PhotometricInterpretation (TIFF 6.0, pages 37 and following)."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    CMYK = 5
    YCBCR = 6
    LAB = 8


class SampleFormat(IntEnum):
    """Values of TIFF's SampleFormat (TIFF 6.0, page 80)."""

    UNSIGNED = 1
    SIGNED = 2
    FLOAT = 3


class ExtraSample(IntEnum):
    """Values of TIFF's ExtraSamples (TIFF 6.0, page 31)."""

    UNSPECIFIED = 0
    ASSOCIATED_ALPHA = 1
    UNASSOCIATED_ALPHA = 2


@dataclass(frozen=True)
class TiffLayout:
    """Byte order and the field sizes in which classic TIFF and BigTIFF differ."""

    order: str
    count: str
    offset: str
    first_directory: int

    @property
    def entry_size(self) -> int:
        """The bytes of one entry of a directory."""
        return 12 if self.offset == "I" else 20

    @property
    def value_size(self) -> int:
        """The bytes of an entry that hold its value, or the offset of its values."""
        return struct.calcsize(self.order + self.offset)

    @property
    def count_size(self) -> int:
        """The bytes before the entries of a directory that hold their number."""
        return struct.calcsize(self.order + self.count)

    @property
    def head_size(self) -> int:
        """The bytes of the file's header; no directory begins before its end."""
        return 8 if self.offset == "I" else 16

    def head(self, data: bytes, directory: int) -> bytes:
        """Returns the first bytes of a TIFF, changed to point to another first directory."""
        return data[: self.head_size - self.value_size] + self.pack(self.offset, [directory])

    def pack(self, format_: str, values: Sequence[int]) -> bytes:
        """Packs integers of one size.

        Raises:
            ImageError: UNSUPPORTED_FORMAT, one is too large: the file is at the limit of its kind.
        """
        try:
            return struct.pack(f"{self.order}{len(values)}{format_}", *values)
        except struct.error as error:
            raise ImageError(
                ErrorCode.UNSUPPORTED_FORMAT, f"TIFF with a field that holds {max(values)}"
            ) from error

    def read(self, format_: str, data: bytes, position: int) -> int:
        """Reads one number.

        Args:
            format_: its type as `struct` spells it, without a byte order.
            data: the file, or its beginning.
            position: the offset of the number.

        Raises:
            ImageError: TRUNCATED.
        """
        value: int
        (value,) = unpack(self.order + format_, data, position)
        return value


CMYK_INKS = 1
"""The value of TIFF's InkSet for cyan, magenta, yellow and black."""

_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
"""struct codes of the integer field types BYTE, SHORT, LONG, IFD and LONG8."""

TIFF_TYPE_BYTES = {
    type_: size
    for size, types in (
        (1, (1, 2, 6, 7)),
        (2, (3, 8)),
        (4, (4, 9, 11, 13)),
        (8, (5, 10, 12, 16, 17, 18)),
    )
    for type_ in types
}
"""Bytes of a value of each field type."""

_TIFF_TAGS = frozenset(
    {
        *(256, 257, 258, 259, 262, 274, 277, 278, 284, 320, 322, 323, 330, 332, 338, 339),
        *(34310, 50706, 50740),
    }
)
"""The fields that `tiff_info` reads. Others (XMP is one) may be as long as the file."""

_TIFF_PLACES = frozenset({273, 279, 324, 325})
"""The fields with the positions and lengths of strips and tiles."""

_MAX_TIFF_FIELDS = 65_535
_MAX_TIFF_VALUES = 3 << 16
"""The number of values in the longest palette."""


def tiff_layout(data: bytes) -> TiffLayout:
    """Reads the header of a TIFF: byte order, size of offsets, and its first directory.

    Raises:
        ImageError: CORRUPT, there is no byte order; TRUNCATED.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ImageError(ErrorCode.CORRUPT, f"TIFF byte order {data[:2]!r}, neither II nor MM")
    (version,) = unpack(order + "H", data, 2)
    if version == 43:
        (first,) = unpack(order + "Q", data, 8)
        return TiffLayout(order, "Q", "Q", first)
    (first,) = unpack(order + "I", data, 4)
    return TiffLayout(order, "H", "I", first)


def raw_entries(data: bytes, layout: TiffLayout, directory: int) -> Iterator[tuple[int, bytes]]:
    """Yields the tag and the bytes of each entry of a directory."""
    position = directory + layout.count_size
    for _ in range(count_tiff_fields(data, layout, directory)):
        yield layout.read("H", data, position), data[position : position + layout.entry_size]
        position += layout.entry_size


def count_tiff_fields(data: bytes, layout: TiffLayout, directory: int) -> int:
    """Reads the number of fields that a directory states.

    Raises:
        ImageError: CORRUPT; TRUNCATED.
    """
    count = layout.read(layout.count, data, directory)
    if count > _MAX_TIFF_FIELDS:
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF directory of {count} fields; at most {_MAX_TIFF_FIELDS} are read",
        )
    return count


TiffTags = dict[int, tuple[int, ...]]
TiffPlaces = dict[int, NDArray[np.unsignedinteger[Any]]]


@dataclass(frozen=True)
class _TiffField:
    """A directory's entry.

    Attributes:
        code: the values' struct code with their byte order; None if they are no whole numbers.
        count: the number of values.
        size: the bytes of all values.
        start: the position of the values in the file.
    """

    tag: int
    code: str | None
    count: int
    size: int
    start: int


def tiff_entries(data: bytes, layout: TiffLayout, directory: int) -> Iterator[_TiffField]:
    """Yields the entries of a directory, with the offsets of their values."""
    entry = f"{layout.order}HH{layout.offset}{layout.offset}"
    position = directory + layout.count_size
    for _ in range(count_tiff_fields(data, layout, directory)):
        tag, kind, count, start = unpack(entry, data, position)
        size = count * TIFF_TYPE_BYTES.get(kind, 1)
        if size <= layout.value_size:
            start = position + layout.entry_size - layout.value_size
        code = _TIFF_INTEGERS.get(kind)
        yield _TiffField(tag, code and layout.order + code, count, size, start)
        position += layout.entry_size


def tiff_fields(data: bytes, layout: TiffLayout, directory: int) -> tuple[TiffTags, TiffPlaces]:
    """Reads the integer fields of one directory; if a tag occurs twice, the first one.

    Raises:
        ImageError: CORRUPT where fields share their values, which every reader would copy for each;
            TRUNCATED.
    """
    tags: TiffTags = {}
    places: TiffPlaces = {}
    total = 0
    for field in tiff_entries(data, layout, directory):
        if field.code is not None and field.tag in _TIFF_TAGS and field.tag not in tags:
            tags[field.tag] = tiff_integers(data, field)
        elif field.code is not None and field.tag in _TIFF_PLACES and field.tag not in places:
            places[field.tag] = _tiff_places(data, field)
        # Readers ignore values beyond the end of the file.
        total += field.size if field.start + field.size <= len(data) else 0
    if total > 2 * len(data):
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF directory whose fields hold {total} bytes, in a file of {len(data)}",
        )
    return tags, places


def tiff_integers(data: bytes, field: _TiffField) -> tuple[int, ...]:
    """Reads the values of an integer field; of very many only the first ones."""
    assert field.code is not None
    _check_tiff_values(data, field)
    count = min(field.count, _MAX_TIFF_VALUES)
    return unpack(f"{field.code[0]}{count}{field.code[1]}", data, field.start)


def _tiff_places(data: bytes, field: _TiffField) -> NDArray[np.unsignedinteger[Any]]:
    """Reads the values of a field that may have millions of them, as an array."""
    _check_tiff_values(data, field)
    return np.frombuffer(data[field.start : field.start + field.size], field.code)


def _check_tiff_values(data: bytes, field: _TiffField) -> None:
    """Checks that a field's values lie within the file.

    Raises:
        ImageError: TRUNCATED.
    """
    end = field.start + field.size
    if end > len(data):
        raise too_short(data, field.start, end)


def first_of(tags: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    """Returns the first value of a tag; the default if the tag is not there or has none."""
    values = tags.get(tag)
    return values[0] if values else default
