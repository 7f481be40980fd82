"""Recognizes camera raw files among TIFFs."""

from enum import IntEnum

from beam_upscale.errors import ImageError
from beam_upscale.images.containers.tiff import (
    MASK,
    REDUCED_COPY,
    TIFF_UNCOMPRESSED,
    subfile_type,
    tiff_pages,
)
from beam_upscale.images.containers.tiff_fields import (
    TiffLayout,
    first_of,
    raw_entries,
    tiff_fields,
    tiff_layout,
)


class _RawPhotometric(IntEnum):
    """Values of PhotometricInterpretation for raw sensor data (DNG 1.7.1, page 24)."""

    COLOR_FILTER_ARRAY = 32803
    LINEAR_RAW = 34892


_RAW_COMPRESSIONS = frozenset({32767, 32769, 32770, 32772, 34713, 65000, 65535})
"""Compressions of raw sensor data by Sony, Samsung, Nikon, Kodak and Pentax."""

_RAW_TAGS = {50706: "DNG", 50740: "with DNGPrivateData", 34310: "Leaf"}
"""Fields that only camera raw files have in their first directory."""

_MAKE = 271
_LOOKED_AT = 16
"""The most directories that are searched for signs of a camera raw file."""


def camera_raw(data: bytes) -> str | None:
    """Names the kind of a TIFF that holds raw sensor data beside previews; else returns None.

    Raises:
        ImageError: as `tiff_info`.
    """
    layout = tiff_layout(data)
    if layout.first_directory != 8:
        if data[8:10] == b"CR":
            return "Canon CR2"
        if data[8:12] in (b"IIII", b"MMMM"):
            return "Phase One IIQ"
    first, _ = tiff_fields(data, layout, layout.first_directory)
    for tag, name in _RAW_TAGS.items():
        if tag in first:
            return name
    pages = tiff_pages(data, layout)
    outer = [start for start, _ in pages[1:_LOOKED_AT]]
    inner = [start for start in first.get(330, ()) if start < len(data)][:_LOOKED_AT]
    further = (tags for start in (*outer, *inner) if (tags := _some_tags(data, layout, start)))
    if _is_of_a_sensor(first) or any(map(_is_of_a_sensor, further)):
        return _make(data, layout)
    # If the chain has only reduced copies, the picture is where only the maker's programs look.
    if all(kind & REDUCED_COPY for _, kind in pages) and any(
        not subfile_type(data, layout, start) & (REDUCED_COPY | MASK) for start in inner
    ):
        return _make(data, layout)
    return None


def _some_tags(data: bytes, layout: TiffLayout, directory: int) -> dict[int, tuple[int, ...]]:
    """Returns the integer fields of a directory; none of a damaged one."""
    try:
        return tiff_fields(data, layout, directory)[0]
    except ImageError:
        return {}


def _is_of_a_sensor(tags: dict[int, tuple[int, ...]]) -> bool:
    return (
        first_of(tags, 262, -1) in tuple(_RawPhotometric)
        or first_of(tags, 259, TIFF_UNCOMPRESSED) in _RAW_COMPRESSIONS
    )


def _make(data: bytes, layout: TiffLayout) -> str:
    """Returns the camera's maker from the first directory, or "unnamed maker"."""
    for tag, entry in raw_entries(data, layout, layout.first_directory):
        if tag == _MAKE:
            count = layout.read(layout.offset, entry, 4)
            start = layout.read(layout.offset, entry, 4 + layout.value_size)
            value = data[start : start + min(count, 40)] if count > layout.value_size else b""
            name = value.split(b"\x00")[0].decode("ascii", "ignore")
            return " ".join("".join(filter(str.isprintable, name)).split()) or "unnamed maker"
    return "unnamed maker"
