"""The repair of JPEGs that are odd but whole: oddities that libjpeg skips or corrects are removed.

A picture is decoded so that every warning of libjpeg is an error, for most warn of lost pixels. The
table tells which of them cost pixels (libjpeg-turbo 3.1, `jerror.h`):

| warning | cause | pixels lost | what `mended` does |
| --- | --- | --- | --- |
| EXTRANEOUS_DATA | bytes before a marker: in the header | none | takes them out |
| | behind a scan or a restart interval that is whole | none | takes them out |
| | behind one that is not: its bytes were damaged | some | nothing |
| MUST_RESYNC | a restart marker out of order, between whole intervals | none | numbers it |
| | an interval is missing or damaged | some | nothing |
| JFIF_MAJOR | an unknown version of JFIF | none | sets 1.02 |
| ADOBE_XFORM | an unknown color transform in Adobe's segment | none | sets libjpeg's choice |
| NOT_SEQUENTIAL | a sequential scan with parameters of a progressive one | none | sets its own |
| BOGUS_ICC | a damaged ICC profile; neither codec here lets libjpeg read it | none | nothing |
| HIT_MARKER | "premature end of data segment" | some | nothing |
| JPEG_EOF | "premature end of JPEG file" | some, or the end marker | nothing |
| HUFF_BAD_CODE, ARITH_BAD_CODE | codes that do not exist | some | nothing |
| BOGUS_PROGRESSION | scans that do not go on from each other | some | nothing |
| TOO_MUCH_DATA | a mistake in a program that writes | none | nothing |

So a JPEG is upscaled if libjpeg warns of nothing after this repair. libjpeg reports only the first
warning of a file: that this one is harmless says nothing about the others.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from beam_upscale.errors import ImageError
from beam_upscale.images.containers import jpeg
from beam_upscale.images.reading.jpeg_scan import (
    Component,
    CutError,
    DamagedError,
    Scan,
    is_padded,
    lookup,
)

_TEM, _SOI, _EOI, _SOS, _DHT, _DRI = 0x01, 0xD8, 0xD9, 0xDA, 0xC4, 0xDD
_APP0, _APP14 = 0xE0, 0xEE
_RESTARTS = range(0xD0, 0xD8)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2

_MAX_WALKED_BYTES = 2 << 20
_MAX_WALKED_BLOCKS = 4 << 20
"""The most entropy-coded bytes and blocks in which ends of intervals are looked for: seconds of
work."""

# A match begins with the first of its fill bytes: a search from each of them would take hours.
_END_OF_SCAN = re.compile(rb"(?<!\xff)\xff++[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A marker that ends entropy-coded data, and fill bytes before it."""
_RESTART = re.compile(rb"(?<!\xff)\xff++[\xd0-\xd7]")

EXTRANEOUS = "extraneous bytes skipped"
RENUMBERED = "restart markers renumbered"
ODD_VERSION = "unknown JFIF version ignored"
ODD_TRANSFORM = "unknown Adobe color transform ignored"
ODD_SCAN = "odd scan parameters ignored"

_KNOWN_TRANSFORMS = {3: (0, 1), 4: (0, 2)}
"""Color transforms of Adobe's segment by components; libjpeg takes the last for an unknown one."""


@dataclass(frozen=True)
class Mended:
    """A JPEG of the same pixels, without the oddities that libjpeg would warn of and skip.

    Attributes:
        data: the repaired file; the original bytes if nothing was odd.
        notes: notes on the oddities.
        is_plain: whether the file has one scan and no restart markers. libjpeg reads nothing after
            such a scan.
    """

    data: bytes
    notes: tuple[str, ...]
    is_plain: bool


def mended(data: bytes, *, deeply: bool = False) -> Mended | None:
    """Removes or corrects the oddities of a JPEG that cost no pixel.

    Args:
        data: the whole file, or a mapping of it.
        deeply: whether to find the ends of scans and restart intervals, too, which takes seconds
            for a megabyte.

    Returns:
        The repaired file; None if it is damaged, or of an unknown kind.
    """
    try:
        return _Mender(data, deeply).mend()
    except (DamagedError, ImageError):
        return None


def is_cut(data: bytes) -> bool:
    """Tells whether a JPEG ends before its end marker, or before the stated end of a segment.

    Args:
        data: the whole file, or a mapping of it.
    """
    try:
        _Mender(data, deeply=False).mend()
    except CutError:
        return True
    except (DamagedError, ImageError):
        return False
    return False


class _Mender:
    """One pass over a JPEG, which mends it."""

    def __init__(self, data: bytes, deeply: bool) -> None:
        self._data = data
        self._deeply = deeply
        self._info = jpeg.jpeg_info(data)
        self._parts: list[bytes | range] = [data[:2]]
        self._notes: dict[str, None] = {}
        self._scans = 0
        self._walked_bytes = 0
        self._walked_blocks = 0
        self._doubts = 0
        self._interval = 0
        self._had_restarts = False
        self._tables: dict[int, Sequence[int]] = {}
        self._frame = -1
        self._units = 0
        self._components: dict[int, Component] = {}

    def mend(self) -> Mended:
        position = 2
        while True:
            marker, position = self._next_marker(position)
            if marker == _EOI:
                return self._end()
            if marker == _SOI:
                raise DamagedError
            if marker == _TEM or marker in _RESTARTS:
                continue
            end = position + max(2, int.from_bytes(self._data[position : position + 2], "big"))
            if end > len(self._data):
                raise CutError
            payload = self._segment(marker, bytes(self._data[position + 2 : end]))
            self._parts.append(struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload)
            position = self._scan(end, payload) if marker == _SOS else end

    def _end(self) -> Mended:
        # Bytes after an interval may look like blocks by chance: the file counts as damaged only
        # if most of them do.
        if self._doubts > 0:
            raise DamagedError
        is_plain = self._scans == 1 and not self._had_restarts
        if not self._notes:
            return Mended(self._data, (), is_plain)
        kept = (
            self._data[part.start : part.stop] if isinstance(part, range) else part
            for part in (*self._parts, b"\xff\xd9")
        )
        return Mended(b"".join(kept), tuple(self._notes), is_plain)

    def _next_marker(self, start: int) -> tuple[int, int]:
        """Finds a marker as libjpeg does; returns its code, and the offset of its end."""
        data, position = self._data, start
        while True:
            first = position = data.find(b"\xff", position)
            if position < 0:
                raise CutError
            while position < len(data) and data[position] == 0xFF:
                position += 1
            if position == len(data):
                raise CutError
            if data[position] != 0:
                if first > start:
                    self._notes[EXTRANEOUS] = None
                return data[position], position + 1

    def _segment(self, marker: int, payload: bytes) -> bytes:
        """Reads a segment's payload; returns it with its oddities corrected."""
        if marker == _APP0 and payload[:5] == b"JFIF\x00" and payload[5:6] != b"\x01":
            self._notes[ODD_VERSION] = None
            return payload[:5] + b"\x01\x02" + payload[7:]
        if marker == _APP14 and payload[:5] == b"Adobe" and len(payload) >= 12:
            known = _KNOWN_TRANSFORMS.get(self._info.components)
            if known and payload[11] not in known:
                self._notes[ODD_TRANSFORM] = None
                return payload[:11] + bytes([known[-1]]) + payload[12:]
        elif marker in _FRAMES:
            self._set_frame(marker, payload)
        elif marker == _DHT:
            self._set_tables(payload)
        elif marker == _DRI:
            self._interval = int.from_bytes(payload[:2], "big")
            self._had_restarts = self._had_restarts or self._interval > 0
        elif marker == _SOS:
            self._scans += 1
            if self._frame in _SEQUENTIAL and payload[-3:] != b"\x00\x3f\x00":
                self._notes[ODD_SCAN] = None
                return payload[:-3] + b"\x00\x3f\x00"
        return payload

    def _set_frame(self, marker: int, payload: bytes) -> None:
        if self._frame >= 0 or len(payload) < 6 or len(payload) < 6 + 3 * payload[5]:
            raise DamagedError
        self._frame = marker
        _, height, width, count = struct.unpack_from(">BHHB", payload)
        kinds = {payload[at]: payload[at + 1] for at in range(6, 6 + 3 * count, 3)}
        highest = [
            max((kind >> shift & 15 for kind in kinds.values()), default=0) for shift in (4, 0)
        ]
        if not all(highest):
            raise DamagedError
        across, down = highest
        self._units = -(-width // (8 * across)) * -(-height // (8 * down))
        for name, kind in kinds.items():
            own_width = -(-width * (kind >> 4) // across)
            own_height = -(-height * (kind & 15) // down)
            blocks = -(-own_width // 8) * -(-own_height // 8)
            self._components[name] = Component(kind >> 4, kind & 15, blocks)

    def _set_tables(self, payload: bytes) -> None:
        """Reads Huffman tables (ITU-T T.81, B.2.4.2 and C)."""
        position = 0
        while self._deeply and position < len(payload):
            counts = payload[position + 1 : position + 17]
            values = payload[position + 17 : position + 17 + sum(counts)]
            if len(counts) < 16 or len(values) < sum(counts):
                raise DamagedError
            self._tables[payload[position]] = lookup(counts, values)
            position += 17 + len(values)

    def _scan(self, start: int, header: bytes) -> int:
        """Reads the entropy-coded data after a scan's header; returns the offset of its end."""
        found = _END_OF_SCAN.search(self._data, start)
        if found is None:
            raise CutError
        end = found.start()
        if not self._deeply:
            self._parts.append(range(start, end))
            return end
        scan = self._read_scan(header)
        self._walked_bytes += end - start
        self._walked_blocks += scan.units * scan.blocks
        if self._walked_bytes > _MAX_WALKED_BYTES or self._walked_blocks > _MAX_WALKED_BLOCKS:
            raise DamagedError
        intervals = list(_intervals(bytes(self._data[start:end])))
        length = self._interval or scan.units
        if not scan.units or len(intervals) != -(-scan.units // length):
            raise DamagedError
        for number, (marker, coded) in enumerate(intervals):
            wanted = 0xD0 + (number - 1) % 8
            if number > 0:
                if marker != wanted:
                    self._notes[RENUMBERED] = None
                self._parts.append(bytes([0xFF, wanted]))
            units = range(number * length, min(scan.units, (number + 1) * length))
            self._parts.append(self._whole(scan, coded, units))
        return end

    def _whole(self, scan: "Scan", coded: bytes, units: range) -> bytes:
        """Returns the bytes of an interval that hold its units, without extra bytes after them."""
        plain = coded.replace(b"\xff\x00", b"\xff")
        used = scan.read(plain, units)
        size = -(-used // 8)
        if size > len(plain):
            raise DamagedError
        if size == len(plain):
            return coded
        # Damage makes units longer or shorter, and then bytes of the last ones are left over.
        if not is_padded(plain[:size], used):
            raise DamagedError
        is_blank = not plain[size:].strip(_BLANKS)
        self._doubts += -1 if is_blank or not scan.goes_on(plain, used) else 1
        self._notes[EXTRANEOUS] = None
        return plain[:size].replace(b"\xff", b"\xff\x00")

    def _read_scan(self, header: bytes) -> "Scan":
        count = header[0] if header else 0
        if self._frame not in (*_SEQUENTIAL, _PROGRESSIVE) or len(header) < 4 + 2 * count:
            raise DamagedError
        parts = []
        for at in range(1, 1 + 2 * count, 2):
            component = self._components.get(header[at])
            if component is None:
                raise DamagedError
            tables = header[at + 1]
            dc, ac = self._tables.get(tables >> 4), self._tables.get(0x10 | tables & 15)
            parts.append((component, dc or (), ac or ()))
        first, last, approximation = header[1 + 2 * count : 4 + 2 * count]
        return Scan(
            tuple(parts),
            self._units if count > 1 else parts[0][0].blocks if parts else 0,
            self._frame == _PROGRESSIVE,
            first,
            last,
            approximation >> 4,
        )


_BLANKS = b"\x00\t\n\r "
"""Bytes that tools append to files, and that seldom end entropy-coded data."""


def _intervals(coded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the restart intervals of a scan, each after the marker before it, 0 for the first."""
    marker, start = 0, 0
    for found in _RESTART.finditer(coded):
        yield marker, coded[start : found.start()]
        marker, start = coded[found.end() - 1], found.end()
    yield marker, coded[start:]
