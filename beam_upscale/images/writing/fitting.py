"""Fits metadata to an output's format; leaves out, with a note, the parts that it cannot hold."""

import dataclasses
import functools
from collections.abc import Callable

import deflate

from beam_upscale.images.codecs import matching_profile
from beam_upscale.images.metadata import exif, xmp
from beam_upscale.images.values import NO_METADATA, Metadata, Resolution
from beam_upscale.planning.plan_options import MetadataRule, OutputFormat

# A JPEG segment's length field counts itself and ends at 65,535; a prefix names its content.
_JPEG_EXIF_LIMIT = 65_533 - len(b"Exif\0\0")
_JPEG_XMP_LIMIT = 65_533 - len(b"http://ns.adobe.com/xap/1.0/\0")
_JPEG_MOST_DENSITY = 65_535
# Pillow opens no PNG with a longer profile (`PngImagePlugin.MAX_TEXT_CHUNK`).
_PNG_PROFILE_LIMIT = 1 << 20


def fit(
    metadata: Metadata,
    format_: OutputFormat,
    rule: MetadataRule,
    *,
    width: int,
    height: int,
    channels: int,
) -> tuple[Metadata, tuple[str, ...]]:
    """Fits a source's metadata to its result and the result's format; no encoder fails on it then.

    Args:
        metadata: the source's metadata.
        format_: format of the result.
        rule: the metadata to keep.
        width: width of the result, in pixels.
        height: height of the result, in pixels.
        channels: color channels of the result, 1 or 3.

    Returns:
        The fitted metadata, and notes on the parts that are left out.
    """
    profile = matching_profile(metadata.icc_profile, channels)
    if rule is MetadataRule.STRIP:
        return _FITTED[format_](Metadata(profile))
    if metadata == NO_METADATA:
        return metadata, ()
    block, packet = metadata.exif, metadata.xmp
    if block is not None:
        block = exif.with_size(block, width, height)
    if packet is not None:
        packet = xmp.with_size(packet, width, height)
    return _FITTED[format_](Metadata(profile, block, packet, metadata.resolution))


def _in_png(metadata: Metadata) -> tuple[Metadata, tuple[str, ...]]:
    if metadata.icc_profile is None or len(metadata.icc_profile) <= _PNG_PROFILE_LIMIT:
        return metadata, ()
    return dataclasses.replace(metadata, icc_profile=None), (
        "ICC profile too long for PNG dropped",
    )


def _in_webp(metadata: Metadata) -> tuple[Metadata, tuple[str, ...]]:
    """Writes the resolution into EXIF, as WebP has no other place for it."""
    resolution = metadata.resolution
    if resolution is None or exif.resolution_of(metadata.exif) is not None:
        return metadata, ()
    if metadata.exif is None and not resolution.is_ratio:
        return dataclasses.replace(metadata, exif=exif.of_resolution(resolution)), ()
    return metadata, ("resolution not kept in WebP",)


def _in_tiff(metadata: Metadata) -> tuple[Metadata, tuple[str, ...]]:
    """Leaves out maker notes: a TIFF's fields are rewritten, and offsets in notes would break."""
    if metadata.exif is None:
        return metadata, ()
    block = exif.without_maker_notes(metadata.exif)
    if block == metadata.exif:
        return metadata, ()
    return dataclasses.replace(metadata, exif=block), ("maker notes not kept in TIFF",)


def _in_jpeg(metadata: Metadata) -> tuple[Metadata, tuple[str, ...]]:
    notes: tuple[str, ...] = ()
    if metadata.exif is not None and len(metadata.exif) > _JPEG_EXIF_LIMIT:
        metadata = dataclasses.replace(metadata, exif=None)
        notes = ("EXIF too long for JPEG dropped",)
    if metadata.xmp is not None and len(metadata.xmp) > _JPEG_XMP_LIMIT:
        metadata = dataclasses.replace(metadata, xmp=None)
        notes = (*notes, "XMP too long for JPEG dropped")
    if metadata.resolution is not None and _density(metadata.resolution) is None:
        metadata = dataclasses.replace(metadata, resolution=None)
        notes = (*notes, "resolution not kept in JPEG")
    return metadata, notes


_FITTED: dict[OutputFormat, Callable[[Metadata], tuple[Metadata, tuple[str, ...]]]] = {
    OutputFormat.JPEG: _in_jpeg,
    OutputFormat.PNG: _in_png,
    OutputFormat.TIFF: _in_tiff,
    OutputFormat.WEBP: _in_webp,
}


def _density(resolution: Resolution) -> tuple[int, int] | None:
    """Returns a resolution in whole numbers; None if a JPEG's header has no room for it."""
    x, y = round(resolution.x), round(resolution.y)
    return (x, y) if 1 <= x <= _JPEG_MOST_DENSITY and 1 <= y <= _JPEG_MOST_DENSITY else None


def jpeg_with_resolution(data: bytes, resolution: Resolution | None) -> bytes:
    """Writes a resolution into the JFIF header with which a JPEG begins."""
    density = None if resolution is None else _density(resolution)
    if density is None or resolution is None or data[6:11] != b"JFIF\0":
        return data
    unit = b"\0" if resolution.is_ratio else b"\1"
    sides = b"".join(each.to_bytes(2, "big") for each in density)
    return b"".join((data[:13], unit, sides, memoryview(data)[18:]))


_INCHES_PER_METER = 39.37007874015748
_MOST_PNG_DENSITY = 2**31 - 1


def png_chunks(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Returns the types and payloads of a PNG's chunks that hold metadata."""
    chunks = []
    if metadata.icc_profile is not None:
        profile = metadata.icc_profile
        compress = _deflated if len(profile) <= _REMEMBERED_BYTES else _deflated.__wrapped__
        chunks.append((b"iCCP", b"icc\0\0" + compress(profile)))
    if metadata.resolution is not None:
        chunks.append((b"pHYs", _png_resolution(metadata.resolution)))
    if metadata.xmp is not None:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    if metadata.exif is not None:
        chunks.append((b"eXIf", metadata.exif))
    return chunks


_REMEMBERED_BYTES = 1 << 20


@functools.lru_cache(maxsize=16)
def _deflated(icc_profile: bytes) -> bytes:
    """Compresses a profile; the images of a dataset mostly share a few."""
    return bytes(deflate.zlib_compress(icc_profile, 6))


def _png_resolution(resolution: Resolution) -> bytes:
    scale = 1.0 if resolution.is_ratio else _INCHES_PER_METER
    sides = (
        min(max(1, round(each * scale)), _MOST_PNG_DENSITY) for each in (resolution.x, resolution.y)
    )
    unit = b"\0" if resolution.is_ratio else b"\1"
    return b"".join(each.to_bytes(4, "big") for each in sides) + unit


def tiff_resolution(metadata: Metadata) -> Resolution | None:
    """Returns the resolution for a TIFF's fields: the file's, or else EXIF's; None for a ratio."""
    resolution = metadata.resolution or exif.resolution_of(metadata.exif)
    return None if resolution is None or resolution.is_ratio else resolution
