"""EXIF blocks, adapted to the result: upright, without the source's thumbnail, of its size.

A block is edited in place and never rebuilt, since makers' notes refer to their parts by their
offsets.
"""

import struct
from collections.abc import Collection, Iterable, Iterator

from beam_upscale.errors import ImageError
from beam_upscale.images.containers.parts import unpack
from beam_upscale.images.metadata.directories import (
    Field,
    Layout,
    Tag,
    content_of,
    fields_by_tag,
    fields_of,
    number_of,
    numbers_of,
)
from beam_upscale.images.values import Resolution

UNREADABLE = "unreadable EXIF dropped"
"""The note on a block that cannot be read."""

LARGEST_BLOCK = 1 << 26
"""The most bytes of a block. The largest of cameras, with previews, take a few million."""

_JPEG_START = b"\xff\xd8\xff"

# Tags for how pixels are stored in the source's file; the result's file says this for its own.
_OF_STORAGE = frozenset(
    {
        *(0x00FE, 0x00FF, 0x0102, 0x0103, 0x0106, 0x010A, 0x0111, 0x0115, 0x0116, 0x0117, 0x011C),
        *(0x013D, 0x0140, 0x0142, 0x0143, 0x0144, 0x0145, 0x014A, 0x0152, 0x0153, 0x015B),
        *range(0x0200, 0x020A),
        *(Tag.XMP, Tag.IPTC, Tag.PHOTOSHOP, Tag.ICC_PROFILE),
    }
)
_OF_OLD_PIXELS = frozenset({int(Tag.SUBJECT_AREA), int(Tag.SUBJECT_LOCATION)})


def of_result(exif: bytes) -> tuple[bytes | None, tuple[str, ...]]:
    """Removes the description of the source's pixels; `with_size` adds the result's size.

    Orientation becomes 1. The thumbnail is removed, and so are maker's notes that hold a picture.

    Args:
        exif: a TIFF-structured block, without a prefix.

    Returns:
        The block, or None if it cannot be read; and notes.
    """
    layout = Layout.of(exif)
    if layout is None or layout.is_big or len(exif) > LARGEST_BLOCK:
        return None, (UNREADABLE,)
    block = bytearray(exif)
    try:
        gone = list(_thumbnail(block, layout))
        _set_numbers(block, layout, layout.first, {Tag.ORIENTATION: 1})
        gone += _remove(block, layout, layout.first, _OF_STORAGE)
        notes: tuple[str, ...] = ()
        for directory in _directories(block, layout)[1:]:
            removed = set(_OF_OLD_PIXELS)
            if _has_preview(block, layout, directory):
                removed.add(Tag.MAKER_NOTE)
                notes = ("maker notes with a preview dropped",)
            gone += _remove(block, layout, directory, removed)
        _erase(block, layout, gone)
    except ImageError:
        return None, (UNREADABLE,)
    return bytes(block), notes


def with_size(exif: bytes, width: int, height: int) -> bytes:
    """Sets the size of the result in all fields of a block that hold a size.

    Args:
        exif: a block that `of_result` returned.
        width: the width of the result, in pixels.
        height: the height of the result, in pixels.
    """
    layout = Layout.of(exif)
    if layout is None or layout.is_big:
        return exif
    block = bytearray(exif)
    try:
        for directory in _directories(block, layout):
            _set_numbers(
                block,
                layout,
                directory,
                {
                    Tag.IMAGE_WIDTH: width,
                    Tag.IMAGE_LENGTH: height,
                    Tag.PIXEL_X_DIMENSION: width,
                    Tag.PIXEL_Y_DIMENSION: height,
                    Tag.RELATED_IMAGE_WIDTH: width,
                    Tag.RELATED_IMAGE_LENGTH: height,
                },
            )
    except ImageError:
        return exif
    return bytes(block)


def without_maker_notes(exif: bytes) -> bytes:
    """Removes maker's notes from a block.

    Args:
        exif: a block that `of_result` returned.
    """
    layout = Layout.of(exif)
    if layout is None or layout.is_big:
        return exif
    block = bytearray(exif)
    try:
        gone: list[_Extent] = []
        for directory in _directories(block, layout)[1:]:
            gone += _remove(block, layout, directory, {Tag.MAKER_NOTE})
        _erase(block, layout, gone)
    except ImageError:
        return exif
    return bytes(block)


def of_resolution(resolution: Resolution) -> bytes:
    """Builds a block that holds a resolution and nothing else."""
    sides = [min(round(each * 100), 0xFFFF_FFFF) for each in (resolution.x, resolution.y)]
    fields = struct.pack("<HHII", Tag.X_RESOLUTION, 5, 1, 50)
    fields += struct.pack("<HHII", Tag.Y_RESOLUTION, 5, 1, 58)
    fields += struct.pack("<HHIHxx", Tag.RESOLUTION_UNIT, 3, 1, 2)
    values = struct.pack("<4I", sides[0], 100, sides[1], 100)
    return b"II*\0" + struct.pack("<IH", 8, 3) + fields + bytes(4) + values


def resolution_of(exif: bytes | None) -> Resolution | None:
    """Reads the resolution of a block, in pixels per inch; None if it has none."""
    layout = None if exif is None else Layout.of(exif)
    if exif is None or layout is None:
        return None
    fields = fields_by_tag(exif, layout, layout.first)
    sides = [
        numbers_of(exif, layout, fields.get(tag)) for tag in (Tag.X_RESOLUTION, Tag.Y_RESOLUTION)
    ]
    if not all(sides) or not all(0 < side[0] < 1e6 for side in sides):
        return None
    unit = number_of(exif, layout, fields.get(Tag.RESOLUTION_UNIT))
    if unit == 1:
        return None
    per_inch = 2.54 if unit == 3 else 1.0
    return Resolution(sides[0][0] * per_inch, sides[1][0] * per_inch)


def _directories(block: bytearray, layout: Layout) -> list[int]:
    """Returns the offsets of a block's directories: its own, EXIF's and interoperability's."""
    starts = [layout.first]
    fields = fields_by_tag(block, layout, layout.first)
    for tag in (Tag.EXIF_DIRECTORY, Tag.INTEROPERABILITY_DIRECTORY):
        start = number_of(block, layout, fields.get(tag))
        if not start or start in starts or start + 2 > len(block):
            break
        starts.append(start)
        fields = fields_by_tag(block, layout, start)
    return starts


def _set_numbers(block: bytearray, layout: Layout, directory: int, numbers: dict[Tag, int]) -> None:
    """Sets fields that hold one number, if the directory has them."""
    for tag, field in fields_by_tag(block, layout, directory).items():
        number = numbers.get(tag)  # type: ignore[call-overload]
        if number is None:
            continue
        is_short = number <= 0xFFFF and field.kind != 4
        code = "HHIHxx" if is_short else "HHII"
        kind = 3 if is_short else 4
        struct.pack_into(f"{layout.order}{code}", block, field.at, tag, kind, 1, number)


_Extent = tuple[int, int]


def _remove(
    block: bytearray, layout: Layout, directory: int, tags: Collection[int]
) -> list[_Extent]:
    """Removes fields from a directory; the fields behind them move up.

    Returns:
        The extents of the removed fields' values outside the directory.
    """
    fields = list(fields_of(block, layout, directory))
    kept = [field for field in fields if field.tag not in tags]
    if len(kept) == len(fields):
        return []
    end = directory + layout.head_size + len(fields) * layout.field_size
    following = bytes(block[end : end + 4])
    parts = [bytes(block[field.at : field.at + layout.field_size]) for field in kept]
    moved = b"".join((struct.pack(f"{layout.order}H", len(kept)), *parts, following))
    block[directory : directory + len(moved)] = moved
    gap = directory + len(moved)
    block[gap : end + len(following)] = bytes(end + len(following) - gap)
    return [
        (field.start, field.start + field.size)
        for field in fields
        if field.tag in tags and not 0 <= field.start - directory < end - directory
    ]


def _has_preview(block: bytearray, layout: Layout, directory: int) -> bool:
    """Checks whether the maker's notes hold a picture, which is one of the source."""
    content = content_of(block, fields_by_tag(block, layout, directory).get(Tag.MAKER_NOTE))
    return content is not None and _JPEG_START in content


def _thumbnail(block: bytearray, layout: Layout) -> Iterator[_Extent]:
    """Unlinks the thumbnail's directory; yields the extents of the directory and its parts."""
    fields = list(fields_of(block, layout, layout.first))
    link = layout.first + layout.head_size + len(fields) * layout.field_size
    if link + 4 > len(block):
        return
    (start,) = unpack(f"{layout.order}I", block, link)
    struct.pack_into(f"{layout.order}I", block, link, 0)
    if not start or start == layout.first:
        return
    found = fields_by_tag(block, layout, start)
    yield from _extents(layout, start, found.values())
    for starts, lengths in ((Tag.JPEG_START, Tag.JPEG_LENGTH), (0x0111, 0x0117)):
        places = numbers_of(block, layout, found.get(starts))
        sizes = numbers_of(block, layout, found.get(lengths))
        for place, size in zip(places, sizes, strict=False):
            yield int(place), int(place + size)


def _extents(layout: Layout, directory: int, fields: Iterable[Field]) -> Iterator[_Extent]:
    """Yields the extents of a directory and of the values of its fields."""
    fields = list(fields)
    yield directory, directory + layout.head_size + len(fields) * layout.field_size + 4
    for field in fields:
        yield field.start, field.start + field.size


def _erase(block: bytearray, layout: Layout, extents: Iterable[_Extent]) -> None:
    """Zeroes extents of a block, except what its directories use, and cuts zeros off its end."""
    erased = _joined(extents, len(block))
    if not erased:
        return
    used = [(0, 8)]
    fields = fields_by_tag(block, layout, layout.first)
    gps = number_of(block, layout, fields.get(Tag.GPS_DIRECTORY))
    for directory in (*_directories(block, layout), *([gps] if gps else [])):
        used += _extents(layout, directory, fields_by_tag(block, layout, directory).values())
    used = _joined(used, len(block))
    kept = [(start, bytes(block[start:end])) for start, end in used]
    for start, end in erased:
        block[start:end] = bytes(end - start)
    for start, content in kept:
        block[start : start + len(content)] = content
    del block[max(used[-1][1], len(block.rstrip(b"\0"))) :]


def _joined(extents: Iterable[_Extent], length: int) -> list[_Extent]:
    """Sorts extents, clips them to a length and merges overlaps, since fields may be wrong."""
    joined: list[_Extent] = []
    for start, end in sorted(extents):
        end = min(end, length)
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        elif start < end:
            joined.append((start, end))
    return joined
