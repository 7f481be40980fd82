"""TIFF files of every kind, made of known samples without any codec library."""

import functools
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ASCII, SHORT, LONG, RATIONAL, LONG8 = 2, 3, 4, 5, 16
NONE, LZW, DEFLATE, PACKBITS, LZMA = 1, 5, 8, 32773, 34925

Tags = Mapping[int, tuple[int, Sequence[int] | bytes]]
"""Values by tag: the type of the field and its numbers, or its bytes."""

_CODES = {SHORT: "H", LONG: "I", RATIONAL: "I", LONG8: "Q"}


@dataclass(frozen=True, eq=False)
class Page:
    """A picture and how it is to lie in the file.

    Attributes:
        samples: (height, width, samples of a pixel), each below 2 ** bits.
        extra: what the samples behind the color mean, as ExtraSamples says it.
        planes: whether samples lie plane by plane, instead of pixel by pixel.
        tile: width and height of tiles; strips where there is none.
        rows: of a strip.
        predictor: 1 for none, 2 for differences between neighbors.
        tags: further fields, or other values of those that follow from the rest.
        inner: pictures that the field SubIFDs points to.
    """

    samples: NDArray[np.uint8] | NDArray[np.uint16]
    bits: int = 8
    photometric: int = 1
    extra: tuple[int, ...] = ()
    planes: bool = False
    compression: int = NONE
    predictor: int = 1
    tile: tuple[int, int] | None = None
    rows: int = 5
    tags: Tags = field(default_factory=dict)
    inner: "tuple[Page, ...]" = ()


def tiff(*pages: Page, order: str = "<", big: bool = False) -> bytes:
    """A TIFF, or a BigTIFF, of these pages."""
    mark = b"II" if order == "<" else b"MM"
    if big:
        data = bytearray(mark + struct.pack(order + "HHHQ", 43, 8, 0, 0))
    else:
        data = bytearray(mark + struct.pack(order + "HI", 42, 0))
    link = 8 if big else 4
    for page in pages:
        link = _append(data, link, page, order, big)
    return bytes(data)


def _append(data: bytearray, link: int, page: Page, order: str, big: bool) -> int:
    """Appends a page to which the offset at `link` shall point; where its own such offset is."""
    word, count = ("Q", "Q") if big else ("I", "H")
    offsets = []
    blocks = [_stored(block, page, order) for block in _blocks(page)]
    for block in blocks:
        offsets.append(len(data))
        data += block + bytes(len(block) % 2)
    where, lengths = (324, 325) if page.tile else (273, 279)
    tags = {
        **_tags(page),
        where: (LONG, offsets),
        lengths: (LONG, [len(block) for block in blocks]),
    }
    if page.inner:
        tags[330] = (LONG, _append_inner(data, page.inner, order, big))
    tags |= page.tags
    struct.pack_into(order + word, data, link, len(data))
    size = struct.calcsize(order + word)
    after = len(data) + struct.calcsize(order + count) + len(tags) * (4 + 2 * size)
    entries, values = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        packed, length = _packed(kind, numbers, order)
        if len(packed) > size:
            place = struct.pack(order + word, after + size + len(values))
            values += packed + bytes(len(packed) % 2)
        else:
            place = packed.ljust(size, b"\x00")
        entries += struct.pack(order + "HH" + word, tag, kind, length) + place
    data += struct.pack(order + count, len(tags)) + entries + bytes(size) + values
    return after


def _append_inner(data: bytearray, pages: Sequence[Page], order: str, big: bool) -> list[int]:
    starts = []
    for page in pages:
        link = len(data)
        data += bytes(8)
        _append(data, link, page, order, big)
        starts.append(struct.unpack_from(order + ("Q" if big else "I"), data, link)[0])
    return starts


def _packed(kind: int, numbers: Sequence[int] | bytes, order: str) -> tuple[bytes, int]:
    if isinstance(numbers, bytes):
        return numbers, len(numbers)
    packed = struct.pack(f"{order}{len(numbers)}{_CODES[kind]}", *numbers)
    return packed, len(numbers) // (2 if kind == RATIONAL else 1)


def _tags(page: Page) -> dict[int, tuple[int, Sequence[int] | bytes]]:
    height, width, bands = page.samples.shape
    tags: dict[int, tuple[int, Sequence[int] | bytes]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [page.bits] * bands),
        259: (SHORT, [page.compression]),
        262: (SHORT, [page.photometric]),
        277: (SHORT, [bands]),
        284: (SHORT, [2 if page.planes else 1]),
    }
    if page.tile:
        tags |= {322: (LONG, [page.tile[0]]), 323: (LONG, [page.tile[1]])}
    else:
        tags[278] = (LONG, [page.rows])
    if page.extra:
        tags[338] = (SHORT, page.extra)
    if page.predictor != 1:
        tags[317] = (SHORT, [page.predictor])
    return tags


def _blocks(page: Page) -> Iterator[NDArray[np.uint8] | NDArray[np.uint16]]:
    """The samples of each strip or tile, in the order of the file."""
    bands = range(page.samples.shape[2])
    planes = [page.samples[..., [n]] for n in bands] if page.planes else [page.samples]
    for plane in planes:
        height, width = plane.shape[:2]
        if page.tile is None:
            for top in range(0, height, page.rows):
                yield plane[top : top + page.rows]
            continue
        across, down = page.tile
        padded = np.pad(plane, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
        for top in range(0, height, down):
            for left in range(0, width, across):
                yield padded[top : top + down, left : left + across]


def _stored(block: NDArray[np.uint8] | NDArray[np.uint16], page: Page, order: str) -> bytes:
    if page.predictor == 2:
        block = np.diff(block, axis=1, prepend=np.zeros_like(block[:, :1]))
    rows = block.reshape(len(block), -1)
    if page.bits == 16:
        raw = rows.astype(order + "u2").tobytes()
    elif page.bits == 8:
        raw = rows.astype(np.uint8).tobytes()
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., np.newaxis], axis=2)[..., -page.bits :]
        raw = np.packbits(bits.reshape(len(rows), -1), axis=1).tobytes()
    return _PACKERS.get(page.compression, bytes)(raw)


def _packbits(raw: bytes) -> bytes:
    """PackBits (TIFF 6.0, section 9) without runs."""
    parts = (raw[at : at + 128] for at in range(0, len(raw), 128))
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


def _lzw(raw: bytes) -> bytes:
    """LZW (TIFF 6.0, section 13) whose table is cleared before codes of 10 bits are needed."""
    bits = ""
    for at in range(0, len(raw), 200):
        bits += f"{256:09b}" + "".join(f"{byte:09b}" for byte in raw[at : at + 200])
    bits += f"{257:09b}"
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


_PACKERS: dict[int, Callable[[bytes], bytes]] = {
    LZW: _lzw,
    DEFLATE: zlib.compress,
    PACKBITS: _packbits,
    LZMA: functools.partial(lzma.compress, check=lzma.CHECK_NONE),
}
