"""TIFF: header, pages, and the check that strips and tiles are in the file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers.parts import MOST_FRAMES, truncated
from beam_upscale.images.containers.png import MAX_INNER_BYTES
from beam_upscale.images.containers.tiff_fields import (
    CMYK_INKS,
    Photometric,
    SampleFormat,
    TiffLayout,
    TiffPlaces,
    TiffTags,
    count_tiff_fields,
    first_of,
    tiff_entries,
    tiff_fields,
    tiff_integers,
    tiff_layout,
)


@dataclass(frozen=True)
class TiffInfo:
    """The picture of a TIFF; names as in TIFF 6.0.

    It is the first one in the chain of directories that is marked neither as a reduced copy of
    another nor as a mask; if all are, the first.

    Attributes:
        directory: the position of its directory in the file.
        bits_per_sample: the bits of the first sample.
        has_equal_samples: True if all samples have the same bits and format.
        samples_per_pixel: the number of samples, those beyond the color included.
        extra_samples: the meaning of each sample beyond the color's own, as an `ExtraSample`.
        is_planar: True if samples lie plane by plane, False if pixel by pixel.
        ink_set: the inks of photometric interpretation 5; 1 for CMYK.
        color_map: values of a palette, 0 to 65535: all red, then all green, then all blue ones.
        orientation: 1 to 8.
        frames: pictures in the file, reduced copies of others and masks not counted.
        is_reduced_copy: True if the picture itself is marked as a reduced copy.
        reduced_copies: the number of other pictures that are marked as reduced copies.
        masks: the number of other pictures that are marked as masks.
        inner_pictures: the number of pictures that the directory's SubIFDs field points to.
        is_tiled: True if pixels lie in tiles, False if in strips.
        parts: the number of strips or tiles that the picture takes; of each plane if planar.
        has_spare_parts: True if the directory points to more strips or tiles than that.
        has_lengths: True if the directory has the lengths of the strips or tiles.
        is_big_endian_big: True if the file is a big-endian BigTIFF.
        data_end: the byte after the last byte of pixels that the directory points to.
    """

    directory: int
    width: int
    height: int
    bits_per_sample: int
    has_equal_samples: bool
    compression: int
    sample_format: int
    photometric: int
    samples_per_pixel: int
    extra_samples: tuple[int, ...]
    is_planar: bool
    ink_set: int
    color_map: tuple[int, ...]
    orientation: int
    frames: int
    is_reduced_copy: bool
    reduced_copies: int
    masks: int
    inner_pictures: int
    is_tiled: bool
    parts: int
    has_spare_parts: bool
    has_lengths: bool
    is_big_endian_big: bool
    data_end: int


TIFF_UNCOMPRESSED = 1
"""The value of TIFF's Compression for uncompressed samples."""

TIFF_OLD_JPEG = 6
"""The value of TIFF's Compression for a JPEG that other fields may point to."""

TIFF_STORAGE_TAGS = frozenset(
    {
        *(256, 257, 258, 259, 266, 273, 277, 278, 279, 292, 293, 317, 322, 323, 324, 325, 339),
        *(347, 34675),
    }
)
"""The fields that say how samples are stored, and the ICC profile."""

COLOR_TAGS = frozenset({262, 284, 338})
"""Fields that give the meaning and the order of samples."""

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255
REDUCED_COPY, MASK = 1, 4
_OLD_REDUCED_COPY = 2
_PLANAR = 2


def tiff_info(data: bytes) -> TiffInfo:
    """Reads the directories of a TIFF or BigTIFF.

    Raises:
        ImageError: CORRUPT if the file has no directory with a width and a height, or one that puts
            the same pixels into strips and tiles, or that points to fewer of these than the picture
            takes; TRUNCATED if a directory or a field's values lie beyond the end of `data`;
            UNSUPPORTED_FORMAT if a strip or tile is left out.
    """
    layout = tiff_layout(data)
    pages = tiff_pages(data, layout)
    pictures = [start for start, kind in pages if not kind & (REDUCED_COPY | MASK)]
    directory = pictures[0] if pictures else layout.first_directory
    tags, places = tiff_fields(data, layout, directory)
    width, height = first_of(tags, 256, -1), first_of(tags, 257, -1)
    if width < 0 or height < 0:
        raise ImageError(ErrorCode.CORRUPT, "TIFF directory without ImageWidth and ImageLength")
    orientation = first_of(tags, 274, 1)
    _check_tiff_parts(tags, width, height)
    _check_strips_or_tiles(tags, places)
    samples = first_of(tags, 277, 1)
    is_planar = first_of(tags, 284, 1) == _PLANAR
    starts = places.get(324, places.get(273))
    parts = _tiff_parts(tags, width, height)
    all_parts = parts * (samples if is_planar else 1)
    if starts is not None and first_of(tags, 259, TIFF_UNCOMPRESSED) != TIFF_OLD_JPEG:
        _check_tiff_starts(starts, all_parts, layout)
    is_reduced_copy = (directory, REDUCED_COPY) in [(start, kind & 1) for start, kind in pages]
    return TiffInfo(
        directory=directory,
        width=width,
        height=height,
        bits_per_sample=first_of(tags, 258, 1),
        has_equal_samples=all(len(set(tags.get(tag, ())[:samples])) <= 1 for tag in (258, 339)),
        compression=first_of(tags, 259, TIFF_UNCOMPRESSED),
        sample_format=first_of(tags, 339, SampleFormat.UNSIGNED),
        # Without the field: for gray the value that Pillow assumes, for color no valid value.
        photometric=first_of(tags, 262, Photometric.WHITE_IS_ZERO if samples == 1 else -1),
        samples_per_pixel=samples,
        extra_samples=tags.get(338, ()),
        is_planar=is_planar,
        ink_set=first_of(tags, 332, CMYK_INKS),
        color_map=tags.get(320, ()),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        frames=max(1, len(pictures)),
        is_reduced_copy=is_reduced_copy,
        reduced_copies=sum(kind & REDUCED_COPY for _, kind in pages) - is_reduced_copy,
        masks=sum(kind & MASK > 0 for start, kind in pages if start != directory),
        inner_pictures=len(tags.get(330, ())),
        is_tiled=324 in places,
        parts=parts,
        has_spare_parts=starts is not None and len(starts) > all_parts,
        has_lengths=279 in places or 325 in places,
        is_big_endian_big=(layout.order, layout.offset) == (">", "Q"),
        data_end=_tiff_data_end(places),
    )


def check_tiff(data: bytes, info: TiffInfo) -> None:
    """Checks that the pixels a TIFF points to lie within it.

    Raises:
        ImageError: TRUNCATED.
    """
    if len(data) < info.data_end:
        raise truncated("TIFF", f"has {len(data)} of {info.data_end} bytes")


def _tiff_data_end(places: TiffPlaces) -> int:
    """Returns the byte after the last byte of strips or tiles; 0 if the fields name none."""
    starts, lengths = (places.get(a, places.get(b)) for a, b in ((273, 324), (279, 325)))
    if starts is None or lengths is None:
        return 0
    count = min(len(starts), len(lengths))
    if not count:
        return 0
    # 2^62 is beyond any file, and a sum of two such values stays below 2^64.
    ends = [np.minimum(each[:count].astype(np.uint64), 1 << 62) for each in (starts, lengths)]
    return int((ends[0] + ends[1]).max())


def _check_tiff_parts(tags: TiffTags, width: int, height: int) -> None:
    """Checks that no strip or tile, each of which is decoded whole, is far larger than the picture.

    Raises:
        ImageError: UNSUPPORTED_FORMAT.
    """
    is_planar = first_of(tags, 284, 1) == _PLANAR
    bits = first_of(tags, 258, 1) * (1 if is_planar else first_of(tags, 277, 1))
    strip = width * min(height, first_of(tags, 278, height))
    tile = first_of(tags, 322, 0) * first_of(tags, 323, 0)
    size = max(strip, tile) * bits // 8
    most = max(MAX_INNER_BYTES, 32 * width * height)
    if size > most:
        what = "tiles" if tile > strip else "strips"
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"TIFF of {width} x {height} px in {what}, {size} bytes each; at most {most} are "
            "decoded at a time; save it again",
        )


def _check_strips_or_tiles(tags: TiffTags, places: TiffPlaces) -> None:
    """Checks that all fields agree on whether pixels lie in strips or in tiles.

    If they disagree, Pillow goes by the field of positions, libtiff by the presence of a tile size.

    Raises:
        ImageError: CORRUPT.
    """
    tile_sizes = {322, 323} & tags.keys()
    has_both = places.keys() >= {273, 324} or places.keys() >= {279, 325}
    if has_both or (tile_sizes and 273 in places) or (not tile_sizes and 324 in places):
        said = sorted(tile_sizes | places.keys())
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF whose fields {said} say that the same pixels lie in strips and in tiles; "
            "save it again",
        )


def _tiff_parts(tags: TiffTags, width: int, height: int) -> int:
    """Returns the number of strips or tiles that one plane of a picture takes.

    Raises:
        ImageError: CORRUPT, tiles have no width or height.
    """
    if not width or not height:
        return 0
    if not {322, 323} & tags.keys():
        # Codecs take 0 for all rows, as they do without the field.
        return -(-height // (first_of(tags, 278, 0) or height))
    across, down = first_of(tags, 322, 0), first_of(tags, 323, 0)
    if across <= 0 or down <= 0:
        raise ImageError(ErrorCode.CORRUPT, f"TIFF of tiles of {across} x {down} px")
    return -(-width // across) * -(-height // down)


def _check_tiff_starts(
    starts: NDArray[np.unsignedinteger[Any]], needed: int, layout: TiffLayout
) -> None:
    """Checks that there is data for all pixels.

    Codecs leave the pixels of a missing strip or tile black, or decode the file's header for them.

    Args:
        starts: the positions of the strips or tiles.
        needed: the number of strips or tiles that the picture takes.
        layout: the layout of the file.

    Raises:
        ImageError: CORRUPT, there are fewer; UNSUPPORTED_FORMAT, some are left out on purpose.
    """
    if len(starts) < needed:
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF that points to {len(starts)} strips or tiles; its size takes {needed}",
        )
    empty = int((starts[:needed] < layout.head_size).sum())
    if empty:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"sparse TIFF: {empty} of its {needed} strips or tiles lie nowhere in the file; save "
            "it whole, for example with gdal_translate -co SPARSE_OK=FALSE",
        )


def tiff_pages(data: bytes, layout: TiffLayout) -> list[tuple[int, int]]:
    """Returns the position and the NewSubfileType of each directory of the chain.

    A damaged or circular chain ends where it breaks.

    Raises:
        ImageError: CORRUPT where directories share their bytes: reading all would take hours.
    """
    pages: dict[int, int] = {}
    looked_at = 0
    directory = layout.first_directory
    while directory and directory not in pages and len(pages) < MOST_FRAMES:
        try:
            entries = count_tiff_fields(data, layout, directory)
            end = directory + layout.count_size + entries * layout.entry_size
            following = layout.read(layout.offset, data, end)
            pages[directory] = subfile_type(data, layout, directory)
        except ImageError:
            break
        looked_at += entries * layout.entry_size
        if looked_at > 2 * len(data):
            raise ImageError(ErrorCode.CORRUPT, "TIFF whose directories lie in one another")
        directory = following
    return list(pages.items())


def subfile_type(data: bytes, layout: TiffLayout, directory: int) -> int:
    """Returns the NewSubfileType of a directory, or its value by the older field SubfileType."""
    for field in tiff_entries(data, layout, directory):
        # Fields are sorted, and these two come first.
        if field.tag > _SUBFILE_TYPE:
            break
        if field.tag >= _NEW_SUBFILE_TYPE and field.code is not None:
            values = tiff_integers(data, field)
            value = values[0] if values else 0
            if field.tag == _NEW_SUBFILE_TYPE:
                return value
            return REDUCED_COPY if value == _OLD_REDUCED_COPY else 0
    return 0
