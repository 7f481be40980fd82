"""What the boxes of AVIF and HEIC say besides pixels (ISO/IEC 14496-12 and 23008-12)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from beam_upscale.containers import Chunk, unpack
from beam_upscale.errors import ImageError
from beam_upscale.image.color_tags import ColorTags, of_code_points

_MOST_BOXES = 65_536
_VIDEO_OF_PHOTO = b"mpvd"
"""The box behind a picture that cameras keep a video in."""
_SIGNS = {
    "gain map dropped": (b"tmap", b":hdrgainmap\0"),
    "depth map dropped": (b":auxid:2\0", b":auxiliary:depth\0", b":disparitymap\0"),
}


@dataclass(frozen=True)
class IsoInfo:
    """What an AVIF or HEIC says.

    Attributes:
        colors: by the code points of its primary picture; None where they are not told.
        is_cropped: whether only a part of the stored pixels is to be shown (clean aperture).
        notes: on what else is in it.
    """

    colors: ColorTags | None = None
    is_cropped: bool = False
    notes: tuple[str, ...] = ()


def iso_info(data: bytes) -> IsoInfo:
    """Reads what stands in the boxes before the pixels; damaged ones say nothing."""
    try:
        found = _Boxes.of(data)
        return IsoInfo() if found is None else found.info()
    except ImageError:
        return IsoInfo()


_EXIF_ITEM = re.compile(rb"(infe\x02\0\0[\0\1].{4})Exif", re.DOTALL)
_NO_ITEM = rb"\1free"


def has_exif(data: bytes) -> bool:
    """Whether an AVIF or HEIC says that it has an EXIF block."""
    return _EXIF_ITEM.search(data) is not None


def without_exif(data: bytes) -> bytes:
    """An AVIF or HEIC whose EXIF block is not found by its readers; its length stays."""
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
    """The boxes that say something, and the properties of the primary picture."""

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
            each for box in below if box.type == b"ipma" for each in _associated(data, box, primary)
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


def _associated(data: bytes, box: Chunk, item: int) -> Iterator[int]:
    """Yields the numbers of an item's properties, in their order."""
    version, flags = _number(data, box.start, 1), _number(data, box.start + 3, 1)
    item_size, number_size = (2 if version < 1 else 4), (2 if flags & 1 else 1)
    mask = 0x7FFF if flags & 1 else 0x7F
    count, at = _number(data, box.start + 4, 4), box.start + 8
    for _ in range(min(count, _MOST_BOXES)):
        if at + item_size >= box.end:
            return
        found, numbers = _number(data, at, item_size), _number(data, at + item_size, 1)
        at += item_size + 1
        if found == item:
            for place in range(at, min(at + numbers * number_size, box.end), number_size):
                yield _number(data, place, number_size) & mask
        at += numbers * number_size
