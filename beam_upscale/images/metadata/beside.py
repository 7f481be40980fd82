"""The metadata beside a file's pixels: the parts to carry over, and notes on the parts left behind.

Metadata is looked for in the few segments, chunks, fields and boxes of a file. XMP is parsed only
when a picture is decoded; of a PNG's compressed texts at most 16 are decompressed.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from beam_upscale.images.containers import jpeg, parts, png, webp
from beam_upscale.images.metadata import color_tags
from beam_upscale.images.metadata.color_tags import ColorTags, PngColors
from beam_upscale.images.metadata.directories import Layout, Tag, content_of, fields_by_tag
from beam_upscale.images.metadata.exif import UNREADABLE as UNREADABLE_EXIF
from beam_upscale.images.metadata.iso_properties import IsoInfo, iso_info
from beam_upscale.images.metadata.xmp import LARGEST_PACKET
from beam_upscale.images.metadata.xmp import UNREADABLE as UNREADABLE_XMP
from beam_upscale.images.values import Resolution

COMMENT, TEXT, IPTC = "comment dropped", "text dropped", "IPTC dropped"
PHOTOSHOP, OTHERS = "Photoshop data dropped", "other metadata dropped"
CREDENTIALS, GAIN_MAP = "content credentials dropped", "gain map dropped"
TRAILER = "data after the image dropped"

LOST_EXIF = "lost_exif"
"""The key in Pillow's `info` that marks an EXIF block that Pillow cannot read."""

_METERS_PER_INCH = 0.0254


@dataclass
class Beside:
    """The metadata beside the pixels of a file.

    Attributes:
        exif: an EXIF block in a place where today's readers do not look; None if there is none.
        has_profile: whether the file holds an ICC profile, or parts of one.
        profile: an ICC profile that not all decoders find; None if there is none.
        colors: the colors that the file states without a profile; None if it states none.
        xmp: an XMP packet; None if there is none.
        resolution: the resolution stated outside of EXIF; None if there is none.
        pictures: number of pictures in the file, where decoders see one.
        notes: notes on metadata that is left behind.
        unpacked: number of a PNG's texts that were decompressed so far.
    """

    exif: bytes | None = None
    has_profile: bool = False
    profile: bytes | None = None
    colors: ColorTags | None = None
    xmp: bytes | None = None
    resolution: Resolution | None = None
    pictures: int = 1
    notes: list[str] = field(default_factory=list)
    unpacked: int = 0

    def leave(self, *notes: str) -> None:
        """Adds notes on metadata that is left behind, each of them once."""
        self.notes += [note for note in notes if note not in self.notes]


def _resolution(x: float, y: float, *, is_ratio: bool = False) -> Resolution | None:
    """Returns a resolution; None if it is not positive, or only says that pixels are square."""
    if x <= 0 or y <= 0 or (is_ratio and x == y):
        return None
    return Resolution(x, y, is_ratio)


# JPEG


_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_JPEG_SILENT = frozenset({0xE0, 0xEE})
"""Markers that need no note: APP0 (JFIF, its thumbnails) and APP14 (Adobe, applied by decoders)."""
_COMMENT_MARKER = 0xFE
_IPTC_SIGN = b"8BIM\x04\x04"


def of_jpeg(data: bytes) -> Beside:
    """Reads the metadata in the segments before a JPEG's pixels; the file's beginning is enough."""
    found = Beside()
    for marker, start, end in jpeg.jpeg_segments(data):
        if marker == 0xDA:
            break
        if marker == _COMMENT_MARKER:
            found.leave(COMMENT)
        elif 0xE0 <= marker <= 0xEF:
            _look_at_segment(found, marker, data[start:end])
    return found


def _look_at_segment(found: Beside, marker: int, content: bytes) -> None:
    if marker == 0xE0 and content.startswith(b"JFIF\0"):
        found.resolution = _jfif_resolution(content)
    elif marker == 0xE1 and content.startswith(_XMP):
        found.xmp = found.xmp or content[len(_XMP) :]
    elif marker == 0xE1 and content.startswith(_XMP_EXTENSION):
        found.leave("extended XMP dropped")
    elif marker == 0xE2:
        _look_at_app2(found, content)
    elif marker == 0xED and content.startswith(b"Photoshop 3.0\0"):
        found.leave(IPTC if _IPTC_SIGN in content else PHOTOSHOP)
    elif marker == 0xEB and b"c2pa" in content:
        found.leave(CREDENTIALS)
    elif not _is_silent(marker, content):
        found.leave(OTHERS)


def _is_silent(marker: int, content: bytes) -> bool:
    """Tells whether a segment needs no note: it concerns the encoding, or is read elsewhere."""
    if marker == 0xE1:
        return content.startswith(parts.EXIF_PREFIX)
    return marker in _JPEG_SILENT or (marker == 0xEC and content.startswith(b"Ducky"))


def _jfif_resolution(content: bytes) -> Resolution | None:
    if len(content) < 12:
        return None
    unit, x, y = struct.unpack_from(">BHH", content, 7)
    per_inch = 2.54 if unit == 2 else 1
    return _resolution(x * per_inch, y * per_inch, is_ratio=unit not in (1, 2))


def _look_at_app2(found: Beside, content: bytes) -> None:
    if content.startswith(b"ICC_PROFILE\0"):
        found.has_profile = True
    elif content.startswith(b"MPF\0"):
        found.pictures = _mpf_pictures(content[4:])
    elif content.startswith(b"urn:iso:std:iso:ts:21496:"):
        found.leave(GAIN_MAP)
    else:
        found.leave(OTHERS)


def _mpf_pictures(content: bytes) -> int:
    """Returns the number of pictures in an MPF index (CIPA DC-007); 1 if it cannot be read."""
    layout = Layout.of(content)
    if layout is None:
        return 1
    value = content_of(content, fields_by_tag(content, layout, layout.first).get(0xB001))
    return 1 if value is None or len(value) != 4 else struct.unpack(f"{layout.order}I", value)[0]


# PNG


_PNG_SILENT = frozenset(
    {
        *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"),
        *(b"bKGD", b"hIST", b"sBIT", b"sPLT", b"tIME", b"mDCV", b"cLLI", b"sTER", b"CgBI"),
        *PngColors.KINDS,
    }
)
_RAW_PROFILE = re.compile(rb"\s*+(\S++)\s++(\d++)\s++([0-9a-fA-F\s]*+)\Z")
_MOST_UNPACKED = 16
"""The most texts of a PNG that are decompressed: each may expand to some megabytes."""


def of_png(data: bytes, bit_depth: int) -> Beside:
    """Reads the metadata in the chunks of a PNG."""
    found, colors = Beside(), PngColors(bit_depth)
    for chunk in png.png_chunks(data):
        if chunk.type in _PNG_SILENT:
            if chunk.type in PngColors.KINDS:
                start = data[chunk.start : min(chunk.end, chunk.start + 40)]
                colors.chunks.setdefault(chunk.type, start)
        elif chunk.type == b"pHYs":
            found.resolution = _png_resolution(data[chunk.start : chunk.end])
        elif chunk.type in (b"tEXt", b"zTXt", b"iTXt"):
            _look_at_text(found, chunk.type, data[chunk.start : chunk.end])
        else:
            found.leave(CREDENTIALS if chunk.type == b"caBX" else OTHERS)
    found.has_profile = b"iCCP" in colors.chunks
    found.colors = colors.tags()
    if colors.has_odd_code_points:
        found.leave(color_tags.NOT_UNDERSTOOD)
    return found


def _png_resolution(content: bytes) -> Resolution | None:
    if len(content) != 9:
        return None
    x, y, unit = struct.unpack(">IIB", content)
    if unit != 1:
        return _resolution(x, y, is_ratio=True)
    return _resolution(x * _METERS_PER_INCH, y * _METERS_PER_INCH)


def _look_at_text(found: Beside, kind: bytes, content: bytes) -> None:
    keyword, _, rest = content.partition(b"\0")
    if found.unpacked >= _MOST_UNPACKED:
        found.leave(TEXT)
        return
    if keyword == b"XML:com.adobe.xmp":
        found.unpacked += 1
        found.xmp = found.xmp or _text_of(kind, rest)
        if found.xmp is None:
            found.leave(UNREADABLE_XMP)
    elif keyword.startswith(b"Raw profile type "):
        found.unpacked += 1
        _look_at_raw_profile(found, keyword[17:].strip().lower(), _text_of(kind, rest))
    else:
        found.leave(TEXT)


def _text_of(kind: bytes, content: bytes) -> bytes | None:
    """Returns a chunk's text after its keyword; None if it cannot be decompressed."""
    if kind == b"iTXt":
        return _international_text(content)
    # libvips writes XMP as zTXt.
    return _unpacked(content[1:]) if kind == b"zTXt" else content


def _international_text(content: bytes) -> bytes | None:
    """Returns the text of an iTXt chunk after its keyword; None if none can be read."""
    is_packed, text = content[:1] == b"\x01", content[2:]
    for _ in range(2):
        # A language and a translated keyword come before the text.
        _, _, text = text.partition(b"\0")
    return _unpacked(text) if is_packed else text or None


def _unpacked(packed: bytes) -> bytes | None:
    """Decompresses zlib's data; None if it is damaged or longer than 4 * LARGEST_PACKET bytes."""
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(packed, 4 * LARGEST_PACKET)
    except zlib.error:
        return None
    return None if decompressor.unconsumed_tail else text


def _look_at_raw_profile(found: Beside, kind: bytes, text: bytes | None) -> None:
    """Reads hexadecimal metadata, as ImageMagick and others wrote before PNG had chunks for it."""
    match = _RAW_PROFILE.match(text or b"")
    try:
        content = bytes.fromhex(match[3].decode()) if match else b""
    except ValueError:
        content = b""
    is_exif = content.startswith((parts.EXIF_PREFIX, b"II*\0", b"MM\0*"))
    if kind in (b"exif", b"app1") and is_exif:
        found.exif = found.exif or content.removeprefix(parts.EXIF_PREFIX)
    elif kind in (b"app1", b"xmp") and b"<" in content[:64]:
        found.xmp = found.xmp or content.removeprefix(_XMP)
    elif kind in (b"exif", b"app1"):
        found.leave(UNREADABLE_EXIF)
    else:
        found.leave(IPTC if kind in (b"iptc", b"8bim") else TEXT)


# WebP


_WEBP_SILENT = frozenset(
    {*(b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ")}
)


def of_webp(data: bytes) -> Beside:
    """Reads the metadata in the chunks of a WebP."""
    found, end = Beside(), end_of_webp(data)
    for chunk in webp.riff_chunks(data):
        if chunk.start >= end:
            break
        if chunk.type == b"XMP " and chunk.end <= len(data):
            found.xmp = found.xmp or data[chunk.start : chunk.end]
        elif chunk.type == b"ICCP":
            found.has_profile = True
        elif chunk.type not in _WEBP_SILENT:
            found.leave(CREDENTIALS if chunk.type == b"C2PA" else OTHERS)
    return found


# TIFF


_TIFF_SILENT = frozenset(
    {
        # The storage of pixels, and the picture's role among several.
        *range(254, 270),
        *(273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293, 297),
        *(301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 337),
        *range(338, 348),
        *range(512, 533),
        # Fields that go into the EXIF block, or are read here or by decoders.
        *(270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33_432, 34_665, 34_853),
        *(700, 34_675, 33_723, 34_377),
    }
)
_GEO_TAGS = frozenset({33_550, 33_922, 34_264, 34_735, 34_736, 34_737})


def of_tiff(data: bytes, directory: int) -> Beside:
    """Reads the metadata in the directory of a TIFF's picture."""
    found, layout = Beside(), Layout.of(data)
    if layout is None:
        return found
    fields = fields_by_tag(data, layout, directory)
    found.has_profile = Tag.ICC_PROFILE in fields
    found.profile = content_of(data, fields.get(Tag.ICC_PROFILE))
    found.colors = color_tags.of_tiff(data, layout, fields)
    if color_tags.has_other_levels(data, layout, fields):
        found.leave(color_tags.NOT_UNDERSTOOD)
    found.xmp = content_of(data, fields.get(Tag.XMP)) or None
    if Tag.IPTC in fields:
        found.leave(IPTC)
    if Tag.PHOTOSHOP in fields:
        found.leave(PHOTOSHOP)
    if fields.keys() & _GEO_TAGS:
        found.leave("georeference dropped")
    if fields.keys() - _TIFF_SILENT - _GEO_TAGS:
        found.leave(OTHERS)
    return found


# AVIF and HEIC, GIF and BMP


def of_heif(data: bytes, information: dict[Any, Any]) -> Beside:
    """Reads the metadata in the boxes of a HEIC, and in its reader's `info`."""
    return _of_iso(iso_info(data), information)


def of_avif(data: bytes, information: dict[Any, Any]) -> Beside:
    """Reads the metadata in an AVIF's boxes, and in the `info` of Pillow, which never crops."""
    boxes = iso_info(data)
    found = _of_iso(boxes, information)
    if information.get(LOST_EXIF):
        found.leave(UNREADABLE_EXIF)
    if boxes.is_cropped:
        found.leave("clean aperture not applied")
    return found


def _of_iso(boxes: IsoInfo, information: dict[Any, Any]) -> Beside:
    found = Beside(colors=boxes.colors, notes=list(boxes.notes))
    found.has_profile = bool(information.get("icc_profile"))
    found.xmp = information.get("xmp") or None
    return found


def of_bmp(data: bytes, information: dict[Any, Any]) -> Beside:
    """Reads the metadata in the header of a BMP, and the resolution in Pillow's `info`."""
    found = Beside()
    found.profile, found.colors = color_tags.of_bmp(data)
    found.has_profile = found.profile is not None
    if dpi := information.get("dpi"):
        found.resolution = _resolution(*dpi)
    return found


_GIF_PROFILE = b"!\xff\x0bICCRGBG1012"
_GIF_XMP = b"!\xff\x0bXMP DataXMP"


def of_gif(data: bytes, information: dict[Any, Any]) -> Beside:
    """Reads the metadata in the extensions of a GIF, and the comment in Pillow's `info`."""
    found = Beside()
    if information.get("comment"):
        found.leave(COMMENT)
    start = data.find(_GIF_PROFILE)
    if start >= 0:
        found.has_profile = True
        found.profile = b"".join(_gif_blocks(data, start + len(_GIF_PROFILE)))
    start = data.find(_GIF_XMP)
    if start >= 0:
        # The packet is not split into blocks. A countdown of bytes follows it, which ends any
        # reading of it as blocks.
        end = data.find(b"\x01\xff\xfe\xfd", start)
        found.xmp = data[start + len(_GIF_XMP) : end] if end > 0 else None
    return found


def _gif_blocks(data: bytes, at: int) -> Iterator[bytes]:
    while at < len(data) and data[at]:
        yield data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]


def end_of_webp(data: bytes) -> int:
    """Returns the offset at which a WebP file ends by its own account."""
    size = int.from_bytes(data[4:8], "little")
    return 8 + size + size % 2
