"""Damage to image files: any bytes, numbers at their extremes, or bytes that decoders use.

Half of the changes leave a file sound (other samples, tables, palettes or metadata, with checksums
and sizes put right), so that decoders get beyond the headers. The others cut, splice and lie.
"""

import functools
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seed_images import chunk

Chance = random.Random
Spans = list[tuple[int, int]]

_NUMBERS = (0, 1, 2, 3, 8, 16, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32)
_LONG_NUMBERS = (*_NUMBERS, 2**48, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Form:
    """How files of one format are taken apart.

    Attributes:
        spans: the file's parts (chunks, segments, boxes, fields), as offsets of begin and end.
        altered: other bytes that its decoder uses, where the file stays sound.
        lying: a number of its structure at an extreme, or work that is asked for many times.
        repaired: its checksums and sizes put right, as far as that makes sense.
    """

    spans: Callable[[bytes], Spans]
    altered: Callable[[Chance, bytes], bytes]
    lying: Callable[[Chance, bytes], bytes]
    repaired: Callable[[bytes], bytes]


def mutated(chance: Chance, format_: str, seeds: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """A file that is nearly one of a format.

    Args:
        chance: what it depends on.
        format_: of the file.
        seeds: valid files of the format.
        others: files of any format, parts of which are spliced in.
    """
    form, data = FORMS[format_], chance.choice(seeds)
    if chance.random() < 0.55:
        data = form.altered(chance, data)
        if chance.random() < 0.9:
            return data
    if chance.random() < 0.3:
        data = form.lying(chance, data)
    else:
        data = damaged(chance, form, data, (*seeds, *others))
    return form.repaired(data) if chance.random() < 0.7 else data


# Any file


def damaged(chance: Chance, form: Form, data: bytes, others: Sequence[bytes]) -> bytes:
    """A file after one to four changes of any kind.

    Args:
        chance: what it depends on.
        form: of the file.
        data: the file.
        others: parts of them are spliced in.
    """
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = chance.choice(_CHANGES)(chance, form, data, chance.choice(others))
    return data


def with_bytes(chance: Chance, data: bytes, start: int, end: int, most: int = 8) -> bytes:
    """Sets some bytes of a range."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, most) if start < end <= len(data) else 0):
        changed[chance.randrange(start, end)] = chance.randrange(256)
    return bytes(changed)


def _flip(chance: Chance, _: Form, data: bytes, __: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 40)) if data else 0):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _number(chance: Chance, data: bytes, at: int) -> bytes:
    size = chance.choice((1, 2, 2, 4, 4, 4, 8))
    number = chance.choice(_LONG_NUMBERS if size == 8 else _NUMBERS)
    order = chance.choice(("big", "little"))
    return data[:at] + (number % 256**size).to_bytes(size, order) + data[at + size :]


def _set_number(chance: Chance, form: Form, data: bytes, _: bytes) -> bytes:
    """A number at an extreme, in a header or near the beginning of a part."""
    spans = form.spans(data)
    start, end = chance.choice(spans) if spans else (0, len(data))
    at = start + chance.randrange(max(1, min(end - start, 40)))
    return _number(chance, data, at)


def _cut(chance: Chance, _: Form, data: bytes, __: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _leave_out(chance: Chance, _: Form, data: bytes, __: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at + chance.choice((1, 2, 4, 8, 100)) :]


def _put_in(chance: Chance, _: Form, data: bytes, other: bytes) -> bytes:
    at, start = chance.randrange(len(data) + 1), chance.randrange(len(other) + 1)
    return data[:at] + other[start : start + chance.choice((1, 2, 4, 50, 1000))] + data[at:]


def _splice(chance: Chance, _: Form, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _move_part(chance: Chance, form: Form, data: bytes, _: bytes) -> bytes:
    """A part left out, repeated, moved or put in another's place."""
    spans = form.spans(data)
    if len(spans) < 2:
        return data
    (start, end), (other, other_end) = chance.choice(spans), chance.choice(spans)
    part = data[start:end]
    match chance.randrange(4):
        case 0:
            return data[:start] + data[end:]
        case 1:
            return data[:other] + part * chance.choice((1, 1, 2, 30)) + data[other:]
        case 2:
            return data[:other] + part + data[other_end:]
    return data[:start] + data[other:other_end] + data[end:]


def _take_part(chance: Chance, form: Form, data: bytes, other: bytes) -> bytes:
    """A part of another file of the format."""
    mine, theirs = form.spans(data), form.spans(other)
    if not mine or not theirs:
        return data
    at = chance.choice(mine)[chance.randrange(2)]
    start, end = chance.choice(theirs)
    return data[:at] + other[start:end] + data[at:]


_CHANGES: tuple[Callable[[Chance, Form, bytes, bytes], bytes], ...] = (
    _flip,
    _set_number,
    _set_number,
    _set_number,
    _cut,
    _leave_out,
    _put_in,
    _splice,
    _move_part,
    _move_part,
    _take_part,
)


def as_it_is(data: bytes) -> bytes:
    return data


def _u(data: bytes, at: int, size: int, order: str = "big") -> int:
    return int.from_bytes(data[at : at + size], "big" if order == "big" else "little")


def _replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


_SIDES = (0, 1, 2, 23, 25, 39, 41, 255, 1000, 1023, 1024, 4096, 16383, 16384, 65535, 65536)


def _side(chance: Chance) -> int:
    return chance.choice((*_SIDES, *_NUMBERS))


# PNG


def _png_spans(data: bytes) -> Spans:
    spans, at = [], 8
    while at + 12 <= len(data):
        end = at + 12 + _u(data, at, 4)
        spans.append((at, min(end, len(data))))
        at = end
    return spans


def _png_repaired(data: bytes) -> bytes:
    """Every chunk with its checksum."""
    parts, done = [data[:8]], 8
    for start, end in _png_spans(data):
        whole = end - start == 12 + _u(data, start, 4)
        parts.append(
            chunk(data[start + 4 : start + 8], data[start + 8 : end - 4])
            if whole
            else data[start:end]
        )
        done = end
    return b"".join(parts) + data[max(done, 8) :]


_PNG_BESIDE = (b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"eXIf", b"cICP")


def _png_altered(chance: Chance, data: bytes) -> bytes:
    """Other samples under other filters, or another palette or chunk that tells of color."""
    by_kind: dict[bytes, Spans] = {}
    for start, end in _png_spans(data):
        by_kind.setdefault(data[start + 4 : start + 8], []).append((start, end))
    beside = [span for kind in _PNG_BESIDE for span in by_kind.get(kind, ())]
    if beside and chance.random() < 0.4:
        start, end = chance.choice(beside)
        return _png_repaired(with_bytes(chance, data, start + 8, end - 4))
    pixels = by_kind[b"IDAT"]
    raw = zlib.decompress(b"".join(data[start + 8 : end - 4] for start, end in pixels))
    rows = bytearray(with_bytes(chance, raw, 0, len(raw), 60))
    if not data[28]:  # Rows of an interlaced picture begin elsewhere.
        for at in range(0, len(rows), len(rows) // _u(data, 20, 4)):
            rows[at] %= 5
    packed = zlib.compress(bytes(rows), chance.randrange(10))
    cut = chance.randrange(len(packed))
    behind = data[pixels[-1][1] :]
    return (
        data[: pixels[0][0]] + chunk(b"IDAT", packed[:cut]) + chunk(b"IDAT", packed[cut:]) + behind
    )


@functools.cache
def _packed_zeros(count: int) -> bytes:
    return zlib.compress(bytes(count))


def _png_lying(chance: Chance, data: bytes) -> bytes:
    """Another header, or a chunk that holds little and says much."""
    if chance.random() < 0.4:
        sides = struct.pack(">II", _side(chance) % 2**32, _side(chance) % 2**32)
        if chance.random() < 0.5:
            return _png_repaired(_replaced(data, 16, sides))
        kinds = bytes(chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(2))
        return _png_repaired(_replaced(data, 24, kinds + bytes([0, 0, chance.randrange(3)])))
    zeros = _packed_zeros(chance.choice((10, 10**5, 3 * 10**7)))
    extra = chance.choice(
        (
            chunk(b"iCCP", b"name\0\0" + zeros),
            chunk(b"zTXt", b"name\0\0" + zeros),
            chunk(b"iTXt", b"name\0\1\0\0\0" + zeros),
            chunk(b"acTL", struct.pack(">II", chance.choice(_NUMBERS) % 2**32, 0)),
            chunk(b"fcTL", struct.pack(">7I", *(_side(chance) % 2**32 for _ in range(7)))[:26]),
            chunk(b"eXIf", _looping_tiff(chance)),
            chunk(b"gAMA", struct.pack(">I", chance.choice(_NUMBERS) % 2**32)),
            chunk(b"cHRM", bytes(32)),
            chunk(b"tRNS", bytes(chance.choice((0, 1, 2, 6, 300)))),
            chunk(b"tEXt", b"a\0b") * 3000,
        )
    )
    return data[:33] + extra + data[33:]


def _looping_tiff(chance: Chance) -> bytes:
    """An EXIF block whose directories lead to each other, or nowhere."""
    targets = [chance.choice((0, 8, 8, 26, 44, 2**31, 2**32 - 1)) for _ in range(3)]
    tags = (0x8769, 0x8825, 0xA005)
    directories = [
        struct.pack("<HHHII", 1, tag, 4, 1, target) + struct.pack("<I", chance.choice(targets))
        for tag, target in zip(tags, targets, strict=True)
    ]
    return b"II*\0\x08\0\0\0" + b"".join(directories)


# JPEG


def _jpeg_spans(data: bytes) -> Spans:
    spans, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xD9:
            break
        end = at + 2 + _u(data, at + 2, 2)
        if data[at + 1] == 0xDA:
            found = data.find(b"\xff", end)
            while 0 <= found < len(data) - 1 and (
                data[found + 1] == 0 or 0xD0 <= data[found + 1] <= 0xD7
            ):
                found = data.find(b"\xff", found + 2)
            end = found if found >= 0 else len(data)
        spans.append((at, min(end, len(data))))
        at = end
    return spans


def _jpeg_altered(chance: Chance, data: bytes) -> bytes:
    """Other quantization, other bits of coefficients, other EXIF."""
    spans = _jpeg_spans(data)
    wanted = chance.choice((0xDB, 0xDB, 0xDB, 0xDA, 0xE1, 0xC4))
    found = [span for span in spans if data[span[0] + 1] == wanted]
    if not found:
        found = [span for span in spans if data[span[0] + 1] == 0xDB]
    start, end = chance.choice(found)
    if data[start + 1] == 0xDB:
        changed = bytearray(data)
        for _ in range(chance.randint(1, 20)):
            at = chance.randrange(start + 4, end)
            if (at - start - 4) % 65:
                changed[at] = chance.randint(1, 255)
        return bytes(changed)
    if data[start + 1] == 0xDA:
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(start + 2 + _u(data, start + 2, 2), end)
            value = changed[at] ^ (1 << chance.randrange(8))
            if 0xFF not in (value, changed[at], changed[at - 1]):
                changed[at] = value
        return bytes(changed)
    return with_bytes(chance, data, start + 4, end, 3)


_FRAMES = frozenset({0xC0, 0xC1, 0xC2})


def _jpeg_lying(chance: Chance, data: bytes) -> bytes:
    """Another frame header, scans many times over, or segments that lie."""
    spans = _jpeg_spans(data)
    kinds = [data[start + 1] for start, _ in spans]
    frame = next(start for (start, _), kind in zip(spans, kinds, strict=True) if kind in _FRAMES)
    scans = [span for span, kind in zip(spans, kinds, strict=True) if kind == 0xDA]
    match chance.randrange(6):
        case 0:
            sides = struct.pack(">HH", _side(chance) % 2**16, _side(chance) % 2**16)
            return _replaced(data, frame + 5, sides)
        case 1:  # Sampling factors, and which table each component takes.
            at = frame + 10 + chance.randrange(3 * data[frame + 9])
            return _replaced(data, at, bytes([chance.choice((0, 0x11, 0x44, 0x14, 0xFF, 1, 5))]))
        case 2:
            start, end = chance.choice(scans)
            return data[:end] + data[start:end] * chance.choice((1, 10, 300)) + data[end:]
        case 3:
            every = struct.pack(">HHH", 0xFFDD, 4, chance.choice((0, 1, 2, 65535)))
            return data[:frame] + every + data[frame:]
        case 4:
            exif = b"Exif\0\0" + _looping_tiff(chance)
            return data[:2] + struct.pack(">HH", 0xFFE1, len(exif) + 2) + exif + data[2:]
    numbers = bytes([chance.choice((0, 1, 2, 255)), chance.choice((0, 1, 2, 255))])
    piece = b"ICC_PROFILE\0" + numbers + chance.randbytes(chance.choice((0, 10, 200)))
    segment = struct.pack(">HH", 0xFFE2, len(piece) + 2) + piece
    return data[:2] + segment * chance.choice((1, 2, 300)) + data[2:]


# WebP


def _riff_spans(data: bytes) -> Spans:
    spans, at = [], 12
    while at + 8 <= len(data):
        size = _u(data, at + 4, 4, "little")
        end = at + 8 + size + size % 2
        spans.append((at, min(end, len(data))))
        at = end
    return spans


def _webp_repaired(data: bytes) -> bytes:
    return (
        data[:4] + struct.pack("<I", max(0, len(data) - 8)) + data[8:] if len(data) >= 12 else data
    )


def _webp_altered(chance: Chance, data: bytes) -> bytes:
    first = {b"VP8 ": 18, b"VP8L": 13, b"ALPH": 9, b"ANMF": 50, b"EXIF": 8}
    found = [span for span in _riff_spans(data) if data[span[0] : span[0] + 4] in first]
    start, end = chance.choice(found)
    at = start + first[data[start : start + 4]]
    if data[start : start + 4] == b"VP8L":
        # Before the last third stand the codes of what is in it.
        at = end - (end - at) // 3
    return with_bytes(chance, data, at, end, 4)


def _webp_lying(chance: Chance, data: bytes) -> bytes:
    """Another canvas, other frames, or frames many times over."""
    spans = [span for span in _riff_spans(data) if data[span[0] : span[0] + 4] != b"ICCP"]
    start, end = chance.choice(spans)
    match data[start : start + 4]:
        case b"VP8X":
            sides = b"".join((_side(chance) % 2**24).to_bytes(3, "little") for _ in range(2))
            data = _replaced(data, start + 12, sides)
        case b"ANMF" if chance.random() < 0.5:
            places = (_side(chance) % 2**24 for _ in range(4))
            data = _replaced(data, start + 8, b"".join(n.to_bytes(3, "little") for n in places))
        case b"VP8 ":
            sides = struct.pack("<HH", _side(chance) % 2**16, _side(chance) % 2**16)
            data = _replaced(data, start + 14, sides)
        case b"VP8L":
            data = _replaced(data, start + 9, struct.pack("<I", chance.choice(_NUMBERS) % 2**32))
        case _:
            data = data[:end] + data[start:end] * chance.choice((1, 50, 2000)) + data[end:]
    return _webp_repaired(data)


# TIFF


@dataclass(frozen=True)
class _Field:
    at: int
    tag: int
    kind: int
    count: int
    value: int  # Where it stands.


_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 13: 4, 16: 8}
"""Bytes of a value by its type."""


class _Tiff:
    """The fields of a TIFF's first directory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "little" if data[:2] == b"II" else "big"
        self.is_big = self.read(2, 2) == 43
        self.fields: dict[int, _Field] = {}
        self.entry, value = (20, 8) if self.is_big else (12, 4)
        at = self.read(8, 8) if self.is_big else self.read(4, 4)
        count = self.read(at, 8 if self.is_big else 2)
        at += 8 if self.is_big else 2
        for number in range(min(count, 100)):
            place = at + number * self.entry
            tag, kind, many = (
                self.read(place, 2),
                self.read(place + 2, 2),
                self.read(place + 4, value),
            )
            where = place + 4 + value
            if _TIFF_SIZES.get(kind, 1) * many > value:
                where = self.read(where, value)
            self.fields[tag] = _Field(place, tag, kind, many, where)

    def read(self, at: int, size: int) -> int:
        return _u(self.data, at, size, self.order)

    def numbers(self, tag: int) -> list[int]:
        field = self.fields.get(tag)
        if field is None or field.kind not in (1, 3, 4, 16):
            return []
        size = _TIFF_SIZES[field.kind]
        return [self.read(field.value + n * size, size) for n in range(min(field.count, 1000))]

    def with_number(self, tag: int, number: int) -> bytes:
        field = self.fields[tag]
        size = _TIFF_SIZES.get(field.kind, 1)
        packed = number.to_bytes(size, "little" if self.order == "little" else "big")
        return self.data[: field.value] + packed + self.data[field.value + size :]


def _tiff_spans(data: bytes) -> Spans:
    if len(data) < 16:
        return []
    tiff = _Tiff(data)
    entries = [(each.at, each.at + tiff.entry) for each in tiff.fields.values()]
    return [span for span in (*entries, (0, 16)) if span[1] <= len(data)]


def _tiff_altered(chance: Chance, data: bytes) -> bytes:
    tiff = _Tiff(data)
    if chance.random() < 0.25:
        tag, numbers = chance.choice(
            (
                (274, range(1, 9)),
                (262, (0, 1, 2, 3, 5, 8)),
                (317, (1, 2)),
                (338, (0, 1, 2)),
                (266, (1, 2)),
            )
        )
        if tag in tiff.fields and len(tiff.numbers(tag)) == 1:
            return tiff.with_number(tag, chance.choice(numbers))
    if 320 in tiff.fields and chance.random() < 0.5:
        field = tiff.fields[320]
        return with_bytes(chance, data, field.value, field.value + 2 * field.count, 30)
    starts = tiff.numbers(273) or tiff.numbers(324)
    lengths = tiff.numbers(279) or tiff.numbers(325)
    number = chance.randrange(len(starts))
    start, end = starts[number], starts[number] + lengths[number]
    if (tiff.numbers(259) or [1])[0] not in (8, 32946):
        few = 2 if (tiff.numbers(259) or [1])[0] > 1 else 40
        return with_bytes(chance, data, start, end, few)
    # Deflated samples go behind the end.
    raw = zlib.decompress(data[start:end])
    packed = zlib.compress(with_bytes(chance, raw, 0, len(raw), 40))
    if len(starts) > 1:
        return data[:start] + packed + data[end:] if len(packed) == end - start else data
    places = 273 if 273 in tiff.fields else 324
    moved = _Tiff(tiff.with_number(places, len(data)))
    return moved.with_number(279 if places == 273 else 325, len(packed)) + packed


_TIFF_TAGS = (
    254,
    256,
    257,
    258,
    259,
    262,
    266,
    273,
    274,
    277,
    278,
    279,
    284,
    317,
    320,
    322,
    323,
    324,
    325,
    330,
    338,
    339,
    347,
    530,
    34665,
    34675,
)


def _tiff_lying(chance: Chance, data: bytes) -> bytes:
    """A field with another value, count or type, or a directory that leads to itself."""
    tiff = _Tiff(data)
    order = "<" if tiff.order == "little" else ">"
    if chance.random() < 0.1:
        last = max(each.at for each in tiff.fields.values()) + tiff.entry
        first = _u(data, 8, 8, tiff.order) if tiff.is_big else _u(data, 4, 4, tiff.order)
        there = chance.choice((first, 8, len(data), 2**32 - 1, 2**31))
        return _replaced(data, last, struct.pack(f"{order}{'Q' if tiff.is_big else 'I'}", there))
    field = chance.choice(list(tiff.fields.values()))
    number = chance.choice((*_SIDES, *_LONG_NUMBERS))
    match chance.randrange(5):
        case 0:
            return _replaced(data, field.at, struct.pack(f"{order}H", chance.choice(_TIFF_TAGS)))
        case 1:
            kind = chance.choice((0, 1, 2, 3, 4, 5, 7, 11, 12, 13, 16, 17, 255))
            return _replaced(data, field.at + 2, struct.pack(f"{order}H", kind))
        case 2:
            count = struct.pack(f"{order}Q", number) if tiff.is_big else None
            return _replaced(data, field.at + 4, count or struct.pack(f"{order}I", number % 2**32))
    size = _TIFF_SIZES.get(field.kind, 1)
    return tiff.with_number(field.tag, number % 256**size)


# GIF


def _gif_spans(data: bytes) -> Spans:
    """The header, then each block with its descriptor."""
    if len(data) < 13:
        return []
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    spans = [(6, 13), (13, at)]
    while at < len(data) and data[at] in (0x21, 0x2C):
        start = at
        if data[at] == 0x2C:
            flags = data[at + 9] if at + 9 < len(data) else 0
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        else:
            at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
        spans.append((start, min(at, len(data))))
    return spans


def _gif_altered(chance: Chance, data: bytes) -> bytes:
    spans = _gif_spans(data)
    if chance.random() < 0.4:
        return with_bytes(chance, data, *spans[1], 30)
    start, end = next(span for span in spans[2:] if data[span[0]] == 0x2C)
    # Behind the descriptor, a palette of its own and the first length.
    return with_bytes(chance, data, min(start + 16, end - 1), end, 3)


def _gif_lying(chance: Chance, data: bytes) -> bytes:
    """Another screen, another frame, or frames many times over."""
    start, end = chance.choice([span for span in _gif_spans(data)[2:] if data[span[0]] == 0x2C])
    match chance.randrange(3):
        case 0:
            sides = struct.pack("<HH", _side(chance) % 2**16, _side(chance) % 2**16)
            return _replaced(data, 6, sides)
        case 1:
            return _replaced(
                data, start + 1, struct.pack("<4H", *(_side(chance) % 2**16 for _ in range(4)))
            )
    return data[:end] + data[start:end] * chance.choice((1, 50, 2000)) + data[end:]


# BMP


def _bmp_spans(data: bytes) -> Spans:
    return [(at, at + 4) for at in range(2, min(len(data) - 4, 70), 4)]


def _bmp_altered(chance: Chance, data: bytes) -> bytes:
    pixels = _u(data, 10, 4, "little")
    palette = 14 + _u(data, 14, 4, "little")
    if palette < pixels and chance.random() < 0.3:
        return with_bytes(chance, data, palette, pixels, 20)
    return with_bytes(chance, data, pixels, len(data), 40)


def _bmp_lying(chance: Chance, data: bytes) -> bytes:
    """A field of the header at an extreme."""
    at, size = chance.choice(
        ((10, 4), (14, 4), (18, 4), (22, 4), (28, 2), (30, 4), (34, 4), (46, 4))
    )
    number = chance.choice((*_SIDES, *_NUMBERS, *(-n for n in _SIDES)))
    return _replaced(data, at, (number % 256**size).to_bytes(size, "little"))


# AVIF and HEIC


_CONTAINERS = {
    b"meta": 12,
    b"iprp": 8,
    b"ipco": 8,
    b"moov": 8,
    b"trak": 8,
    b"mdia": 8,
    b"minf": 8,
    b"stbl": 8,
}


def _box_spans(data: bytes, start: int = 0, end: int | None = None) -> Spans:
    """All boxes, those within others too."""
    spans, at, end = [], start, len(data) if end is None else end
    while at + 8 <= end and len(spans) < 1000:
        size, kind = _u(data, at, 4), data[at + 4 : at + 8]
        stop = min(at + size, end) if size >= 8 else end
        spans.append((at, stop))
        if kind in _CONTAINERS:
            spans += _box_spans(data, at + _CONTAINERS[kind], stop)
        at = stop
    return spans


def _box_altered(chance: Chance, data: bytes) -> bytes:
    boxes = {data[start + 4 : start + 8]: (start, end) for start, end in _box_spans(data)}
    kind = chance.choice((b"mdat", b"mdat", b"mdat", b"mdat", b"colr", b"irot", b"imir", b"pixi"))
    start, end = boxes.get(kind, boxes[b"mdat"])
    if kind == b"mdat" or kind not in boxes:
        # The first bytes are a codec's headers.
        return with_bytes(chance, data, min(start + 8 + (end - start) // 3, end - 1), end, 3)
    if kind == b"colr":
        return with_bytes(chance, data, start + 12, end, 3)
    return with_bytes(chance, data, start + 8, end, 1)


def _box_lying(chance: Chance, data: bytes) -> bytes:
    """Numbers of a box that says sizes and places, or a box that is there many times."""
    told = (
        b"ispe",
        b"iloc",
        b"ipma",
        b"iinf",
        b"infe",
        b"pitm",
        b"iref",
        b"clap",
        b"stsz",
        b"stco",
        b"tkhd",
    )
    spans = _box_spans(data)
    found = [span for span in spans if data[span[0] + 4 : span[0] + 8] in told]
    start, end = chance.choice(found or spans)
    if chance.random() < 0.1:
        return data[:end] + data[start:end] * chance.choice((1, 50, 1000)) + data[end:]
    size = chance.choice((1, 2, 4, 4))
    at = chance.randrange(start + 8, max(end - size, start + 8) + 1)
    return _replaced(data, at, (_side(chance) % 256**size).to_bytes(size, "big"))


FORMS: dict[str, Form] = {
    "jpeg": Form(_jpeg_spans, _jpeg_altered, _jpeg_lying, as_it_is),
    "png": Form(_png_spans, _png_altered, _png_lying, _png_repaired),
    "webp": Form(_riff_spans, _webp_altered, _webp_lying, _webp_repaired),
    "tiff": Form(_tiff_spans, _tiff_altered, _tiff_lying, as_it_is),
    "gif": Form(_gif_spans, _gif_altered, _gif_lying, as_it_is),
    "bmp": Form(_bmp_spans, _bmp_altered, _bmp_lying, as_it_is),
    "avif": Form(_box_spans, _box_altered, _box_lying, as_it_is),
    "heif": Form(_box_spans, _box_altered, _box_lying, as_it_is),
}
