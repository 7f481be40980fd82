"""XMP packets adapted to the result: its size, upright, without data that only the source has.

A packet is edited in place: everything else keeps its bytes, its prefixes and its order.
"""

import re
import xml.parsers.expat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

UNREADABLE = "unreadable XMP dropped"
"""The note on a packet that is not well-formed XML, has entities, or is nested too deep."""

LARGEST_PACKET = 1 << 20
"""The longest packet in bytes; a longer one is dropped, as parsing it would take too long."""

TOO_LONG = "XMP of more than 1 MiB dropped"

_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
_MICROSOFT_REGIONS = "http://ns.microsoft.com/photo/1.2/"

# Namespaces that describe other data in the source's file, which the result's file lacks.
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
        # Positions in the source's pixels.
        _EXIF + "SubjectArea",
        _EXIF + "SubjectLocation",
        # The id of a second part that JPEG stores apart from the packet.
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
    """Removes the properties that describe the source's pixels; `with_size` sets the new size.

    Args:
        packet: the source's packet.
        is_turned: True if pixels were turned or mirrored, which moves all positions in them.

    Returns:
        The packet and its notes; None for a packet that cannot be read or is too long.
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
    """Returns notes on the data in the source's file, named by the packet, that are dropped."""
    notes = [
        note for note, spaces in _SIGNS.items() if any(space.encode() in packet for space in spaces)
    ]
    if _VIDEO_SIGN.search(packet):
        notes.append("video dropped")
    return tuple(notes)


def with_size(packet: bytes, width: int, height: int) -> bytes:
    """Sets the size of the result in a packet, wherever the packet states a size.

    Args:
        packet: a packet that `of_result` returned.
        width: the result's width in pixels.
        height: the result's height in pixels.
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
    """The changes to a packet, found while it is parsed.

    Attributes:
        packet: its bytes.
        texts: new texts of properties, by their expanded names.
        removed: prefixes of the expanded names of properties to remove.
        found: (start, end, new text) of each change in byte offsets, in order.
        scopes: for each open element, the namespaces by their prefixes.
        gone_since: (start, depth) of the open element that is being removed; None if there is none.
        text_since: (start of its text, depth, new text) of the open element whose text is being
            replaced; None if there is none.
    """

    packet: bytes
    texts: Mapping[str, str]
    removed: tuple[str, ...]
    found: list[tuple[int, int, bytes]] = field(default_factory=list)
    scopes: list[dict[str, str]] = field(default_factory=lambda: [{}])
    gone_since: tuple[int, int] | None = None
    text_since: tuple[int, int, str] | None = None

    def is_removed(self, name: str) -> bool:
        """Checks whether a property is to be removed."""
        return name in _OF_STORAGE or name.startswith(self.removed)


class _OddTagError(Exception):
    """The error for a tag that is not where the parser reports it, or is nested too deep."""


def _edited(packet: bytes, texts: Mapping[str, str], removed: tuple[str, ...]) -> bytes | None:
    """Returns a packet with some properties replaced or removed; None if it is not valid XML."""
    # Entities may expand without end. Zero bytes mean an encoding other than UTF-8.
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
    """Returns a packet without the padding that is left in it for in-place changes."""
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
    """Yields (name, value, start, end) for each attribute of a tag."""
    for found in _ATTRIBUTE.finditer(packet, start, end):
        value = found[2][1:-1].decode(errors="replace")
        yield found[1].decode(errors="replace"), value, found.start(), found.end()


def _expanded(name: str, scope: Mapping[str, str]) -> str:
    """Returns a name with its prefix replaced by the namespace."""
    prefix, colon, local = name.partition(":")
    return scope.get(prefix, "") + local if colon else name
