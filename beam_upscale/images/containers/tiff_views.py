"""Parts of a TIFF as files of their own, for codecs that read only those."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers.tiff import COLOR_TAGS, TIFF_STORAGE_TAGS, TiffInfo
from beam_upscale.images.containers.tiff_fields import (
    TIFF_TYPE_BYTES,
    ExtraSample,
    Photometric,
    TiffLayout,
    raw_entries,
    tiff_fields,
    tiff_layout,
)

_ORIENTATION_TAG = 0x0112

_COPIED_TYPES = frozenset({1, 2, 3, 4, 7, 13, 16})
"""The types of whole numbers, ASCII and UNDEFINED."""


@dataclass(frozen=True)
class TiffView:
    """A TIFF that shares most bytes of an original one.

    Attributes:
        head: replaces the first bytes of the original.
        tail_start: the position of `tail`, at or after the end of the original.
        tail: the bytes that follow the original.
    """

    head: bytes
    tail_start: int
    tail: bytes


def tiff_views(data: bytes, info: TiffInfo) -> tuple[TiffView, ...]:
    """Makes TIFFs of the same samples that do not declare the samples' meaning.

    A codec returns such samples unchanged. For many kinds of color and alpha, it would guess how to
    join or convert the samples.

    Args:
        data: a whole TIFF.
        info: the fields of the TIFF.

    Returns:
        One gray TIFF for each plane where samples lie plane by plane; else one in which all
        samples but the first are unspecified extra ones.

    Raises:
        ImageError: CORRUPT, the TIFF has too few strips or tiles for its planes.
    """
    layout = tiff_layout(data)
    planes = info.samples_per_pixel if info.is_planar else 1
    bands = info.samples_per_pixel // planes
    kept = _entries_with_values(data, layout, info.directory)
    where, lengths = (324, 325) if info.is_tiled else (273, 279)
    _, places = tiff_fields(data, layout, info.directory)
    blocks = info.parts
    found = [len(places.get(tag, ())) for tag in (where, lengths)]
    if min(found) < blocks * planes:
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF of {planes} planes in {found[0]} strips or tiles, with {found[1]} lengths; "
            f"each plane takes {blocks}",
        )
    kept |= {
        258: (3, bands, layout.pack("H", [info.bits_per_sample] * bands)),
        262: (3, 1, layout.pack("H", [Photometric.BLACK_IS_ZERO])),
        277: (3, 1, layout.pack("H", [bands])),
        284: (3, 1, layout.pack("H", [1])),
        # libtiff warns of a field with values for more samples than there are.
        339: (3, bands, layout.pack("H", [info.sample_format] * bands)),
    }
    if bands > 1:
        extra = [ExtraSample.UNSPECIFIED] * (bands - 1)
        kept[338] = (3, bands - 1, layout.pack("H", extra))
    kind = 16 if layout.offset == "Q" else 4
    views = []
    for first in range(0, blocks * planes, blocks):
        own = {
            tag: (
                kind,
                blocks,
                layout.pack(layout.offset, places[tag][first : first + blocks].tolist()),
            )
            for tag in (where, lengths)
        }
        views.append(_view(data, layout, {**kept, **own}))
    return tuple(views)


def tiff_jpegs(data: bytes, info: TiffInfo) -> Iterator[bytes]:
    """Yields the JPEGs that hold a TIFF's samples, one for each strip or tile (TIFF Technote 2).

    Args:
        data: a whole TIFF, compressed by JPEG.
        info: the fields of the TIFF.
    """
    layout = tiff_layout(data)
    _, _, tables = _entries_with_values(data, layout, info.directory).get(347, (0, 0, b""))
    tables = tables.removeprefix(_JPEG_START).removesuffix(_JPEG_END)
    _, places = tiff_fields(data, layout, info.directory)
    starts, lengths = (places.get(a, places.get(b, ())) for a, b in ((273, 324), (279, 325)))
    for start, length in zip(map(int, starts), map(int, lengths), strict=False):
        part = data[start : start + length].removeprefix(_JPEG_START)
        if part:
            # libtiff does not need an end marker.
            end = b"" if _JPEG_END in part[-_PADDING:] else _JPEG_END
            yield _JPEG_START + tables + part + end


def tiff_plain_view(data: bytes, info: TiffInfo) -> TiffView:
    """Returns the view of a TIFF's picture without any field that its samples do not need.

    libtiff warns of unknown fields in the same way as of damage.
    """
    layout = tiff_layout(data)
    return _view(data, layout, _entries_with_values(data, layout, info.directory, COLOR_TAGS))


def tiff_view_at(data: bytes, directory: int) -> TiffView | None:
    """Returns the view of a TIFF that begins with this directory; None if the TIFF itself does."""
    layout = tiff_layout(data)
    if directory == layout.first_directory:
        return None
    return TiffView(layout.head(data, directory), len(data), b"")


_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PADDING = 64
"""The most bytes of padding after the data in a strip or tile."""

_Field = tuple[int, int, bytes]
"""The type, the number of values and the values' bytes of a field."""


def _entries_with_values(
    data: bytes, layout: TiffLayout, directory: int, further: frozenset[int] = frozenset()
) -> dict[int, _Field]:
    """Returns the fields of a directory on the storage of samples, and some further ones."""
    fields = {}
    for tag, entry in raw_entries(data, layout, directory):
        kind = layout.read("H", entry, 2)
        count = layout.read(layout.offset, entry, 4)
        if tag not in TIFF_STORAGE_TAGS | further or kind not in _COPIED_TYPES:
            continue
        size, start = count * TIFF_TYPE_BYTES[kind], 4 + layout.value_size
        if size <= layout.value_size:
            value = entry[start : start + size]
        else:
            start = layout.read(layout.offset, entry, start)
            value = data[start : start + size]
        if count and len(value) == size:
            fields[tag] = (kind, count, value)
    return fields


def _view(data: bytes, layout: TiffLayout, fields: dict[int, _Field]) -> TiffView:
    start = len(data) + len(data) % 2
    end = start + layout.count_size + len(fields) * layout.entry_size + layout.value_size
    entries, values = layout.pack(layout.count, [len(fields)]), b""
    for tag, (kind, count, value) in sorted(fields.items()):
        entries += layout.pack("H", [tag, kind]) + layout.pack(layout.offset, [count])
        if len(value) <= layout.value_size:
            entries += value.ljust(layout.value_size, b"\x00")
        else:
            entries += layout.pack(layout.offset, [end + len(values)])
            values += value + b"\x00" * (len(value) % 2)
    tail = entries + bytes(layout.value_size) + values
    return TiffView(layout.head(data, start), start, tail)


def exif_orientation(exif: bytes) -> int:
    """Returns the orientation in an EXIF block: 1 (upright) to 8; 1 if it states none."""
    position = _orientation_position(exif)
    if position is None:
        return 1
    value = tiff_layout(exif).read("H", exif, position)
    return value if 1 <= value <= 8 else 1


def tiff_with_tags(data: bytes, tags: bytes) -> bytes:
    """Appends a directory to a TIFF that holds its own tags and further ones.

    Args:
        data: a classic TIFF with one directory.
        tags: a directory in the form for the end of `data` (at an even offset: pad first),
            with the values it points to; tags that `data` has already are left out.

    Returns:
        `data`, `tags` and the joint directory, to which the header points.
    """
    layout = tiff_layout(data)
    whole = data + tags
    entries = dict(raw_entries(whole, layout, len(data)))
    entries |= dict(raw_entries(whole, layout, layout.first_directory))
    padding = b"\x00" * (len(whole) % 2)
    directory = struct.pack(layout.order + "H", len(entries))
    directory += b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    header = data[:4] + struct.pack(layout.order + "I", len(whole) + len(padding))
    return b"".join((header, memoryview(whole)[8:], padding, directory))


def _orientation_position(exif: bytes) -> int | None:
    """Returns the position of the orientation's value in an EXIF block; None if not readable."""
    try:
        layout = tiff_layout(exif)
        position = layout.first_directory + layout.count_size
        for tag, entry in raw_entries(exif, layout, layout.first_directory):
            if tag == _ORIENTATION_TAG and layout.read("H", entry, 2) == 3:
                return position + 8 if position + 10 <= len(exif) else None
            position += layout.entry_size
    except ImageError:
        return None
    return None
