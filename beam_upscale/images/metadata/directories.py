"""Reads the directories of TIFF files and EXIF blocks: their fields and the fields' values.

No memory is allocated by the claims of a directory. A function raises an `ImageError` if the bytes
end before the part that it reads.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from beam_upscale.errors import ImageError
from beam_upscale.images.containers.parts import unpack

ByteString = bytes | bytearray
"""A file's bytes or a mapping of a file, or an EXIF block without a prefix."""


class Tag(IntEnum):
    """The fields that are read; names as in TIFF 6.0 and EXIF 2.32."""

    IMAGE_WIDTH = 0x0100
    IMAGE_LENGTH = 0x0101
    BITS_PER_SAMPLE = 0x0102
    COMPRESSION = 0x0103
    PHOTOMETRIC = 0x0106
    ORIENTATION = 0x0112
    X_RESOLUTION = 0x011A
    Y_RESOLUTION = 0x011B
    GRAY_RESPONSE_CURVE = 0x0123
    RESOLUTION_UNIT = 0x0128
    TRANSFER_FUNCTION = 0x012D
    WHITE_POINT = 0x013E
    PRIMARY_CHROMATICITIES = 0x013F
    JPEG_START = 0x0201
    JPEG_LENGTH = 0x0202
    REFERENCE_BLACK_WHITE = 0x0214
    XMP = 0x02BC
    IPTC = 0x83BB
    PHOTOSHOP = 0x8649
    EXIF_DIRECTORY = 0x8769
    ICC_PROFILE = 0x8773
    GPS_DIRECTORY = 0x8825
    MAKER_NOTE = 0x927C
    SUBJECT_AREA = 0x9214
    COLOR_SPACE = 0xA001
    PIXEL_X_DIMENSION = 0xA002
    PIXEL_Y_DIMENSION = 0xA003
    INTEROPERABILITY_DIRECTORY = 0xA005
    SUBJECT_LOCATION = 0xA214
    GAMMA = 0xA500
    # Of the interoperability directory.
    INTEROPERABILITY_INDEX = 0x0001
    RELATED_IMAGE_WIDTH = 0x1001
    RELATED_IMAGE_LENGTH = 0x1002


_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of a value of each field type that has a known size."""

_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q"}
_RATIONALS = {5: "I", 10: "i"}
_MOST_FIELDS = 65_535
_MOST_NUMBERS = 3 << 16
"""As many as the longest field of interest, a TransferFunction, has."""


@dataclass(frozen=True)
class Layout:
    """Byte order and the sizes in which classic TIFF and BigTIFF differ.

    Attributes:
        order: "<" or ">".
        is_big: True for a BigTIFF.
        first: the offset of the first directory.
    """

    order: str
    is_big: bool
    first: int

    @classmethod
    def of(cls, data: ByteString) -> "Layout | None":
        """Reads a header; None if there is none."""
        order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
        if order is None or len(data) < 8:
            return None
        (version,) = unpack(f"{order}H", data, 2)
        if version == 42:
            return cls(order, False, unpack(f"{order}I", data, 4)[0])
        if version == 43 and len(data) >= 16:
            return cls(order, True, unpack(f"{order}Q", data, 8)[0])
        return None

    @property
    def head_size(self) -> int:
        """The number of bytes of a directory before its fields."""
        return 8 if self.is_big else 2

    @property
    def field_size(self) -> int:
        """The number of bytes of a field."""
        return 20 if self.is_big else 12

    @property
    def offset(self) -> str:
        """The struct code of an offset."""
        return "Q" if self.is_big else "I"


@dataclass(frozen=True)
class Field:
    """One field of a directory.

    Attributes:
        at: its offset.
        tag: its number.
        kind: the type of its values.
        count: the number of its values.
        start: the offset of its values.
        size: the bytes of its values; 0 if the type is unknown.
    """

    at: int
    tag: int
    kind: int
    count: int
    start: int
    size: int


def fields_of(data: ByteString, layout: Layout, directory: int) -> Iterator[Field]:
    """Yields the fields of a directory, in their order."""
    head = f"{layout.order}{'Q' if layout.is_big else 'H'}"
    (count,) = unpack(head, data, directory)
    inline = 8 if layout.is_big else 4
    for number in range(min(count, _MOST_FIELDS)):
        at = directory + layout.head_size + number * layout.field_size
        tag, kind, values = unpack(f"{layout.order}HH{layout.offset}", data, at)
        start = at + layout.field_size - inline
        size = values * _SIZES.get(kind, 0)
        if size > inline:
            (start,) = unpack(f"{layout.order}{layout.offset}", data, start)
        yield Field(at, tag, kind, values, start, size)


def fields_by_tag(data: ByteString, layout: Layout, directory: int) -> dict[int, Field]:
    """Returns the fields of a directory; of a damaged one, as many as can be read."""
    found: dict[int, Field] = {}
    try:
        for field in fields_of(data, layout, directory):
            found.setdefault(field.tag, field)
    except ImageError:
        pass
    return found


def content_of(data: ByteString, field: Field | None) -> bytes | None:
    """Returns the bytes of a field; None if it is missing or not whole."""
    if field is None or field.start + field.size > len(data):
        return None
    return bytes(data[field.start : field.start + field.size])


def numbers_of(data: ByteString, layout: Layout, field: Field | None) -> tuple[float, ...]:
    """Returns the numbers of a field; none if it is missing, not whole, or holds no numbers."""
    content = content_of(data, field)
    if content is None or field is None or field.count > _MOST_NUMBERS:
        return ()
    if code := _NUMBERS.get(field.kind):
        found = struct.unpack(f"{layout.order}{field.count}{code}", content)
        return tuple(each if math.isfinite(each) else 0 for each in found)
    if code := _RATIONALS.get(field.kind):
        parts = struct.unpack(f"{layout.order}{2 * field.count}{code}", content)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return tuple(over / under if under else 0.0 for over, under in pairs)
    return ()


def number_of(data: ByteString, layout: Layout, field: Field | None) -> int | None:
    """Returns the first number of a field, as an integer; None if it has none."""
    numbers = numbers_of(data, layout, field)
    return int(numbers[0]) if numbers and math.isfinite(numbers[0]) else None


def directory_below(
    data: ByteString, layout: Layout, fields: Mapping[int, Field], tag: Tag
) -> dict[int, Field]:
    """Returns the fields of the directory that a field points to; none if there is none."""
    start = number_of(data, layout, fields.get(tag))
    return {} if not start else fields_by_tag(data, layout, start)
