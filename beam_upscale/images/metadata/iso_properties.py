"""The properties in the boxes of AVIF and HEIC files (ISO/IEC 14496-12 and 23008-12)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers.av1 import CodedSize, coded_size
from beam_upscale.images.containers.parts import unpack
from beam_upscale.images.containers.png import Chunk
from beam_upscale.images.metadata.color_tags import ColorTags, of_code_points

_MOST_BOXES = 65_536
_VIDEO_OF_PHOTO = b"mpvd"
"""The box behind a picture in which cameras store a video."""
_SIGNS = {
    "gain map dropped": (b"tmap", b":hdrgainmap\0"),
    "depth map dropped": (b":auxid:2\0", b":auxiliary:depth\0", b":disparitymap\0"),
}


@dataclass(frozen=True)
class IsoInfo:
    """The properties of an AVIF or HEIC file.

    Attributes:
        colors: the colors by the code points of the primary picture; None if there are none.
        is_cropped: True if only a part of the stored pixels is to be shown (clean aperture).
        notes: on the contents that are dropped, such as a gain map or a video.
    """

    colors: ColorTags | None = None
    is_cropped: bool = False
    notes: tuple[str, ...] = ()


def iso_info(data: bytes) -> IsoInfo:
    """Reads the properties of an AVIF or HEIC file; damaged boxes give the defaults."""
    try:
        found = _Boxes.of(data)
        return IsoInfo() if found is None else found.info()
    except ImageError:
        return IsoInfo()


_EXIF_ITEM = re.compile(rb"(infe\x02\0\0[\0\1].{4})Exif", re.DOTALL)
_NO_ITEM = rb"\1free"


def has_exif(data: bytes) -> bool:
    """Checks whether an AVIF or HEIC file declares an EXIF block."""
    return _EXIF_ITEM.search(data) is not None


def without_exif(data: bytes) -> bytes:
    """Hides the EXIF block of an AVIF or HEIC file from its readers; the length stays."""
    return _EXIF_ITEM.sub(_NO_ITEM, data, count=1)


def _boxes(data: bytes, start: int, end: int) -> Iterator[Chunk]:
    """Yields the boxes in a part of a file."""
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        size, kind = unpack(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = unpack(">Q", data, start + 8)
            head = 16
        stop = end if size == 0 else start + size
        if stop > end or stop < start + head:
            return
        yield Chunk(kind, start + head, stop)
        start = stop


def _first(data: bytes, kind: bytes, start: int, end: int) -> Chunk | None:
    return next((box for box in _boxes(data, start, end) if box.type == kind), None)


@dataclass(frozen=True)
class _Boxes:
    """The `meta` box of a file, and the property boxes of its primary picture."""

    data: bytes
    meta: Chunk
    properties: tuple[Chunk, ...]

    @classmethod
    def of(cls, data: bytes) -> "_Boxes | None":
        meta = _first(data, b"meta", 0, len(data))
        if meta is None:
            return None
        inside = {box.type: box for box in _boxes(data, meta.start + 4, meta.end)}
        if b"pitm" not in inside or b"iprp" not in inside:
            return cls(data, meta, ())
        start = inside[b"pitm"].start
        primary = _number(data, start + 4, 4 if _number(data, start, 1) else 2)
        below = list(_boxes(data, inside[b"iprp"].start, inside[b"iprp"].end))
        known = [
            each
            for box in below
            if box.type == b"ipco"
            for each in _boxes(data, box.start, box.end)
        ]
        numbers = [
            number
            for box in below
            if box.type == b"ipma"
            for item, own in _associations(data, box)
            if item == primary
            for number in own
        ]
        return cls(data, meta, tuple(known[n - 1] for n in numbers if 1 <= n <= len(known)))

    def info(self) -> IsoInfo:
        meta = self.data[self.meta.start : self.meta.end]
        notes = [note for note, signs in _SIGNS.items() if any(sign in meta for sign in signs)]
        if _first(self.data, _VIDEO_OF_PHOTO, 0, len(self.data)) is not None:
            notes.append("video dropped")
        return IsoInfo(self._colors(), self._is_cropped(), tuple(notes))

    def _colors(self) -> ColorTags | None:
        for box in self.properties:
            if box.type == b"colr" and self.data[box.start : box.start + 4] == b"nclx":
                return of_code_points(*unpack(">HH", self.data, box.start + 4))
        return None

    def _is_cropped(self) -> bool:
        found = {box.type: box for box in self.properties}
        if b"clap" not in found or b"ispe" not in found:
            return False
        sizes = unpack(">II", self.data, found[b"ispe"].start + 4)
        width, of_width, height, of_height = unpack(">IIII", self.data, found[b"clap"].start)
        return (width, height) != (sizes[0] * of_width, sizes[1] * of_height)


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _associations(data: bytes, box: Chunk) -> Iterator[tuple[int, list[int]]]:
    """Yields each item with the numbers of its properties, in their order."""
    version, flags = _number(data, box.start, 1), _number(data, box.start + 3, 1)
    item_size, number_size = (2 if version < 1 else 4), (2 if flags & 1 else 1)
    mask = 0x7FFF if flags & 1 else 0x7F
    count, at = _number(data, box.start + 4, 4), box.start + 8
    for _ in range(min(count, _MOST_BOXES)):
        if at + item_size >= box.end:
            return
        item, numbers = _number(data, at, item_size), _number(data, at + item_size, 1)
        at += item_size + 1
        places = range(at, min(at + numbers * number_size, box.end), number_size)
        yield item, [_number(data, place, number_size) & mask for place in places]
        at += numbers * number_size


@dataclass(frozen=True)
class _Claim:
    """The size that boxes declare for a picture, and the extent of its AV1 stream."""

    width: int
    height: int
    start: int
    end: int


def check_coded_sizes(data: bytes) -> None:
    """Checks that the pictures in an AVIF are coded in the sizes that its boxes declare.

    Decoders silently stretch pictures to the declared sizes.

    Raises:
        ImageError: CORRUPT.
    """
    for claim in _claims(data):
        coded = _coded_size(data, claim)
        if coded is not None and not coded.is_of(claim.width, claim.height):
            raise ImageError(
                ErrorCode.CORRUPT,
                f"AVIF that says {claim.width} x {claim.height} px of a picture coded in "
                f"{coded.width} x {coded.height}",
            )


def _coded_size(data: bytes, claim: _Claim) -> CodedSize | None:
    try:
        return coded_size(data, claim.start, claim.end)
    except ImageError:
        # The decoder has a better message about missing data.
        return None


def _claims(data: bytes) -> list[_Claim]:
    """Lists the declared sizes of all pictures; an empty list if a box is damaged."""
    found: list[_Claim] = []
    try:
        for box in _boxes(data, 0, len(data)):
            if box.type == b"meta":
                found += _item_claims(data, box)
            elif box.type == b"moov":
                tracks = (each for each in _boxes(data, box.start, box.end) if each.type == b"trak")
                found += [claim for track in tracks if (claim := _track_claim(data, track))]
    except ImageError:
        return []
    return found


def _item_claims(data: bytes, meta: Chunk) -> Iterator[_Claim]:
    inside = {box.type: box for box in _boxes(data, meta.start + 4, meta.end)}
    if b"iprp" not in inside or b"iloc" not in inside:
        return
    places = _item_places(data, inside[b"iloc"], inside.get(b"idat"))
    below = list(_boxes(data, inside[b"iprp"].start, inside[b"iprp"].end))
    known = [p for box in below if box.type == b"ipco" for p in _boxes(data, box.start, box.end)]
    for box in below:
        if box.type != b"ipma":
            continue
        for item, numbers in _associations(data, box):
            own = {known[n - 1].type: known[n - 1] for n in numbers if 1 <= n <= len(known)}
            if item in places and own.keys() >= {b"av1C", b"ispe"}:
                width, height = unpack(">II", data, own[b"ispe"].start + 4)
                yield _Claim(width, height, *places[item])


def _item_places(data: bytes, iloc: Chunk, idat: Chunk | None) -> dict[int, tuple[int, int]]:
    """Finds the first extent of each item in the file (ISO/IEC 14496-12, 8.11.3)."""
    version, sizes = unpack(">B3xH", data, iloc.start)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version in (1, 2) else 0
    id_size = 2 if version < 2 else 4
    count, at = _number(data, iloc.start + 6, id_size), iloc.start + 6 + id_size
    found: dict[int, tuple[int, int]] = {}
    for _ in range(min(count, _MOST_BOXES)):
        item, method = _number(data, at, id_size), 0
        at += id_size
        if version in (1, 2):
            method = _number(data, at, 2) & 15
            at += 2
        base = _number(data, at + 2, base_size)
        at += 2 + base_size
        extents = _number(data, at, 2)
        first = at + 2 + index_size
        start = base + _number(data, first, offset_size)
        length = _number(data, first + offset_size, length_size)
        at += 2 + extents * (index_size + offset_size + length_size)
        if at > iloc.end:
            break
        # Method 0 counts from the beginning of the file, 1 from that of the box for small items.
        if extents and (method == 0 or (method == 1 and idat is not None)):
            start += idat.start if method == 1 and idat is not None else 0
            found.setdefault(item, (start, start + length if length else len(data)))
    return found


def _track_claim(data: bytes, track: Chunk) -> _Claim | None:
    """Reads the claim of a sequence of pictures; None if it is not AV1."""
    header = _first(data, b"tkhd", track.start, track.end)
    table: Chunk | None = track
    for kind in (b"mdia", b"minf", b"stbl"):
        table = table and _first(data, kind, table.start, table.end)
    if header is None or table is None:
        return None
    inside = {box.type: box for box in _boxes(data, table.start, table.end)}
    kinds, chunks = inside.get(b"stsd"), inside.get(b"stco") or inside.get(b"co64")
    if kinds is None or chunks is None or data[kinds.start + 12 : kinds.start + 16] != b"av01":
        return None
    (start,) = unpack(">I" if chunks.type == b"stco" else ">Q", data, chunks.start + 8)
    # Width and height are the last numbers of the box, with 16 bits before and behind the point.
    width, height = unpack(">II", data, header.end - 8)
    return _Claim(width >> 16, height >> 16, start, len(data))
