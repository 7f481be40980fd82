"""XMP packets that speak of the result: upright, of its size, without what stays in its source.

A packet is changed where it stands: all else keeps its bytes, its prefixes and its order.
"""

import re
import xml.parsers.expat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

UNREADABLE = "unreadable XMP dropped"
"""The note on a packet that is no XML."""

LARGEST_PACKET = 1 << 20
"""Bytes; a longer one is dropped. It is text that describes one picture, and takes time to read."""

TOO_LONG = "XMP of more than 1 MiB dropped"

_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
_MICROSOFT_REGIONS = "http://ns.microsoft.com/photo/1.2/"

# What is said of other things in the source's file, which the result's does not have.
_OF_FILE = (
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.apple.com/HDRGainMap/1.0/",
    "http://ns.apple.com/pixeldatainfo/1.0/",
    "http://ns.google.com/photos/1.0/audio/",
    "http://ns.google.com/photos/1.0/camera/",
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/depthmap/",
    "http://ns.google.com/photos/1.0/image/",
    "http://ns.google.com/photos/dd/1.0/",
)
_OF_STORAGE = frozenset(
    {
        *(_TIFF + name for name in ("BitsPerSample", "Compression", "PhotometricInterpretation")),
        *(_TIFF + name for name in ("PlanarConfiguration", "SamplesPerPixel", "YCbCrSubSampling")),
        "http://ns.adobe.com/xap/1.0/Thumbnails",
        # Places in the source's pixels.
        _EXIF + "SubjectArea",
        _EXIF + "SubjectLocation",
        # They name a part that JPEG keeps apart from the packet.
        "http://ns.adobe.com/xmp/note/HasExtendedXMP",
    }
)
_UPRIGHT = {_TIFF + "Orientation": "1"}
_SIGNS = {
    "gain map dropped": _OF_FILE[:3],
    "audio dropped": (_OF_FILE[3],),
    "depth map dropped": (_OF_FILE[6], _OF_FILE[8]),
}
_VIDEO_SIGN = re.compile(rb"MotionPhoto|MicroVideo")


def of_result(packet: bytes, *, is_turned: bool) -> tuple[bytes | None, tuple[str, ...]]:
    """Takes out of a packet what describes its source's pixels; `with_size` adds the result's size.

    Args:
        packet: as it was found.
        is_turned: whether pixels were turned or mirrored; places in them are then others.

    Returns:
        The packet, None where it cannot be read, and notes.
    """
    removed = (_REGIONS, _MICROSOFT_REGIONS + "RegionInfo") if is_turned else ()
    if len(packet) > LARGEST_PACKET:
        return None, (TOO_LONG,)
    found = _edited(packet.rstrip(b"\0"), _UPRIGHT, (*_OF_FILE, *removed))
    if found is None:
        return None, (UNREADABLE,)
    has_regions = is_turned and any(
        space.encode() in packet for space in (_REGIONS, _MICROSOFT_REGIONS)
    )
    return found, (*_signs(packet), *(("image regions dropped",) if has_regions else ()))


def _signs(packet: bytes) -> tuple[str, ...]:
    """Notes on what a packet says is in its file."""
    notes = [
        note for note, spaces in _SIGNS.items() if any(space.encode() in packet for space in spaces)
    ]
    if _VIDEO_SIGN.search(packet):
        notes.append("video dropped")
    return tuple(notes)


def with_size(packet: bytes, width: int, height: int) -> bytes:
    """Gives a packet the size of the result wherever it speaks of one.

    Args:
        packet: as `of_result` gave it.
        width: of the result, in pixels.
        height: likewise.
    """
    if not any(name in packet for name in (b"Dimension", b"ImageWidth", b"ImageLength")):
        return packet
    sizes = {
        _TIFF + "ImageWidth": str(width),
        _TIFF + "ImageLength": str(height),
        _EXIF + "PixelXDimension": str(width),
        _EXIF + "PixelYDimension": str(height),
    }
    return _edited(packet, sizes, ()) or packet


_TAG = re.compile(rb"<(?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_ATTRIBUTE = re.compile(rb"(?<!\s)\s++([^\s=<>/\"']+)\s*=\s*(\"[^\"]*\"|'[^']*')")


@dataclass
class _Edits:
    """What is to be changed in a packet, found while it is parsed.

    Attributes:
        packet: its bytes.
        texts: new texts of properties, by their expanded names.
        removed: beginnings of the expanded names of properties that go.
        found: (start, end, text) of each change, in order.
        scopes: prefixes that are known, within each open element.
        gone_since: where an element begins that goes, and how deep it lies.
        text_since: where the text of an element begins that is replaced, its depth, the new text.
    """

    packet: bytes
    texts: Mapping[str, str]
    removed: tuple[str, ...]
    found: list[tuple[int, int, bytes]] = field(default_factory=list)
    scopes: list[dict[str, str]] = field(default_factory=lambda: [{}])
    gone_since: tuple[int, int] | None = None
    text_since: tuple[int, int, str] | None = None

    def is_removed(self, name: str) -> bool:
        """Whether a property goes."""
        return name in _OF_STORAGE or name.startswith(self.removed)


class _OddTagError(Exception):
    """A tag is not where the parser sees one, or lies too deep."""


def _edited(packet: bytes, texts: Mapping[str, str], removed: tuple[str, ...]) -> bytes | None:
    """A packet with other texts of some properties and without others; None where it is no XML."""
    # Entities may unfold without end. Zeros are another encoding than UTF-8.
    if not packet or any(each in packet for each in (b"<!DOCTYPE", b"<!ENTITY", b"\0")):
        return None
    edits = _Edits(packet, texts, removed)
    try:
        _parse(edits)
    except (xml.parsers.expat.ExpatError, _OddTagError):
        return None
    parts, end = [], 0
    for start, stop, text in edits.found:
        parts += [packet[end:start], text]
        end = stop
    return _without_padding(b"".join((*parts, packet[end:])))


def _without_padding(packet: bytes) -> bytes:
    """A packet without the room that is left in it for changes in place."""
    trailer = packet.rfind(b"<?xpacket end")
    if trailer < 0:
        return packet
    text = packet[:trailer].rstrip()
    return packet if trailer - len(text) < 64 else text + b"\n" + packet[trailer:]


def _parse(edits: _Edits) -> None:
    parser = xml.parsers.expat.ParserCreate("utf-8")

    def start(name: str, _: dict[str, str]) -> None:
        _open_element(edits, parser.CurrentByteIndex, name)

    def end(_: str) -> None:
        _close_element(edits, parser.CurrentByteIndex)

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.Parse(edits.packet, True)


def _open_element(edits: _Edits, at: int, name: str) -> None:
    tag = _TAG.match(edits.packet, at)
    if tag is None or len(edits.scopes) > 200:
        raise _OddTagError("no tag where the parser sees one, or too many in one another")
    attributes = list(_attributes(edits.packet, at, tag.end()))
    scope = edits.scopes[-1]
    if named := {n[6:]: value for n, value, _, _ in attributes if n.startswith("xmlns:")}:
        scope = {**scope, **named}
    edits.scopes.append(scope)
    if edits.gone_since is not None or edits.text_since is not None:
        return
    depth, expanded = len(edits.scopes), _expanded(name, scope)
    is_empty = tag[0].endswith(b"/>")
    if edits.is_removed(expanded):
        if is_empty:
            edits.found.append((at, tag.end(), b""))
        else:
            edits.gone_since = at, depth
        return
    if expanded in edits.texts and not is_empty:
        edits.text_since = tag.end(), depth, edits.texts[expanded]
    for attribute, _, first, last in attributes:
        expanded = _expanded(attribute, scope)
        if edits.is_removed(expanded):
            edits.found.append((first, last, b""))
        elif expanded in edits.texts:
            text = f' {attribute}="{edits.texts[expanded]}"'.encode()
            edits.found.append((first, last, text))


def _close_element(edits: _Edits, at: int) -> None:
    depth = len(edits.scopes)
    edits.scopes.pop()
    tag = _TAG.match(edits.packet, at)
    if edits.gone_since is not None and edits.gone_since[1] == depth:
        if tag is None:
            raise _OddTagError("no tag where the parser sees one")
        edits.found.append((edits.gone_since[0], tag.end(), b""))
        edits.gone_since = None
    elif edits.text_since is not None and edits.text_since[1] == depth:
        start, _, text = edits.text_since
        edits.text_since = None
        edits.found.append((start, at, text.encode()))


def _attributes(packet: bytes, start: int, end: int) -> Iterator[tuple[str, str, int, int]]:
    """Yields (name, value, start, end) of the attributes of a tag."""
    for found in _ATTRIBUTE.finditer(packet, start, end):
        value = found[2][1:-1].decode(errors="replace")
        yield found[1].decode(errors="replace"), value, found.start(), found.end()


def _expanded(name: str, scope: Mapping[str, str]) -> str:
    """A name with its namespace in the place of its prefix."""
    prefix, colon, local = name.partition(":")
    return scope.get(prefix, "") + local if colon else name
