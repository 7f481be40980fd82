"""The size of what is coded in an AVIF, and boxes that say another one."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers.av1 import CodedSize, coded_size
from beam_upscale.images.reading import inspection, pixels

WIDTH, HEIGHT = 40, 30


def avif(**options: Any) -> bytes:
    ramp = np.arange(WIDTH * HEIGHT * 3, dtype=np.uint32).reshape(HEIGHT, WIDTH, 3) // 15
    picture, file = Image.fromarray(ramp.astype(np.uint8)), io.BytesIO()
    picture.save(file, "AVIF", **options)
    return file.getvalue()


def animated() -> bytes:
    return avif(save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT), "red")])


def saying(data: bytes, width: int, height: int) -> bytes:
    """An AVIF all boxes of which say another size."""
    for unit in (1, 1 << 16):
        said = struct.pack(">II", WIDTH * unit, HEIGHT * unit)
        data = data.replace(said, struct.pack(">II", width * unit, height * unit))
    return data


@pytest.mark.parametrize("data", [avif(), animated()], ids=["still", "animated"])
def test_boxes_that_say_more_than_is_coded(data: bytes) -> None:
    header = inspection.read_header(data)
    assert (header.width, header.height) == (WIDTH, HEIGHT)

    for size in ((400, 300), (WIDTH + 1, HEIGHT)):
        with pytest.raises(ImageError) as caught:
            inspection.read_header(saying(data, *size))
        assert caught.value.code is ErrorCode.CORRUPT
        assert f"{size[0]} x {size[1]} px of a picture coded in 40 x 30" in caught.value.message


def test_boxes_of_a_still_picture_that_say_less() -> None:
    with pytest.raises(ImageError) as caught:
        inspection.read_header(saying(avif(), 20, 15))

    assert caught.value.code is ErrorCode.CORRUPT


def test_pictures_with_alpha() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (WIDTH, HEIGHT), (1, 2, 3, 100)).save(file, "AVIF")
    data = file.getvalue()
    assert pixels.decode(data, max_pixels=10_000).alpha is not None

    with pytest.raises(ImageError) as caught:
        inspection.read_header(saying(data, 80, 60))

    assert caught.value.code is ErrorCode.CORRUPT


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full_box(kind: bytes, version: int, *parts: bytes) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]), *parts)


def box_in(data: bytes, kind: bytes) -> bytes:
    start = data.index(kind) - 4
    return data[start : start + int.from_bytes(data[start : start + 4], "big")]


def grid_of_two(size: tuple[int, int], cell: tuple[int, int], in_meta: bool) -> bytes:
    """An AVIF of two cells, each coded in 64 x 64, side by side (ISO/IEC 23008-12, 6.6.2.3).

    Args:
        size: that its box says of the whole.
        cell: that its box says of a cell.
        in_meta: whether the streams lie in the box that describes them.
    """
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "AVIF")
    single = file.getvalue()
    stream = single[single.index(b"mdat") + 4 :]
    grid = bytes([0, 0, 0, 1]) + struct.pack(">HH", 128, 64)

    def head(start: int) -> bytes:
        starts = (start, start + len(grid), start + len(grid) + len(stream))
        lengths = (len(grid), len(stream), len(stream))
        places = b"".join(
            struct.pack(">HHHHII", item, in_meta, 0, 1, offset, length)
            for item, offset, length in zip((1, 2, 3), starts, lengths, strict=True)
        )
        items = b"".join(
            full_box(b"infe", 2, struct.pack(">HH4sB", item, 0, kind, 0))
            for item, kind in ((1, b"grid"), (2, b"av01"), (3, b"av01"))
        )
        sizes = [full_box(b"ispe", 0, struct.pack(">II", *each)) for each in (size, cell)]
        known = box(b"ipco", *sizes, box_in(single, b"av1C"), box_in(single, b"pixi"))
        own = struct.pack(">IHBBB", 3, 1, 2, 1, 4)
        own += b"".join(struct.pack(">HBBBB", item, 3, 2, 0x83, 4) for item in (2, 3))
        return full_box(
            b"meta",
            0,
            full_box(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", 0, struct.pack(">H", 1)),
            full_box(b"iloc", 1, b"\x44\0", struct.pack(">H", 3), places),
            full_box(b"iinf", 0, struct.pack(">H", 3), items),
            full_box(b"iref", 0, box(b"dimg", struct.pack(">HHHH", 1, 2, 2, 3))),
            box(b"iprp", known, full_box(b"ipma", 0, own)),
            box(b"idat", grid, stream, stream) if in_meta else b"",
        )

    kind = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    if in_meta:
        return kind + head(0)
    return kind + head(len(kind) + len(head(0)) + 8) + box(b"mdat", grid, stream, stream)


@pytest.mark.parametrize("in_meta", [False, True])
def test_cells_of_a_grid(in_meta: bool) -> None:
    data = grid_of_two((128, 64), (64, 64), in_meta)
    assert pixels.decode(data, max_pixels=10_000).color.shape == (64, 128, 3)

    with pytest.raises(ImageError) as caught:
        inspection.read_header(grid_of_two((256, 128), (128, 128), in_meta))

    assert caught.value.code is ErrorCode.CORRUPT
    assert "128 x 128 px of a picture coded in 64 x 64" in caught.value.message


def unit(*fields: tuple[int, int]) -> bytes:
    """A delimiter and a sequence header of these numbers and their bits."""
    bits = "".join(f"{number:0{count}b}" for number, count in fields)
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\x12\x00" + bytes([0x0A, len(body)]) + body


def test_sequence_headers_of_all_kinds() -> None:
    size = [(9, 4), (8, 4), (639, 10), (479, 9)]
    point, tier_point = [(0, 12), (3, 5)], [(0, 12), (9, 5), (1, 1)]
    timing = [(1, 1), (7, 32), (7, 32), (1, 1), (0b00101, 5)]
    model = [(1, 1), (4, 5), (7, 32), (3, 5), (3, 5)]
    kinds = [
        (unit((0, 3), (1, 1), (1, 1), (3, 5), *size), True),
        (unit((0, 3), (0, 1), (0, 1), (0, 1), (0, 1), (0, 5), *point, *size), False),
        (
            unit(
                *[(0, 3), (0, 1), (0, 1), *timing, *model, (1, 1), (1, 5)],
                *[*point, (1, 1), (9, 5), (9, 5), (1, 1), (1, 1), (5, 4)],
                *[*tier_point, (0, 1), (0, 1), *size],
            ),
            False,
        ),
    ]

    for data, is_exact in kinds:
        assert coded_size(b"x" + data, 1, 1 + len(data)) == CodedSize(640, 480, is_exact)


@pytest.mark.parametrize("stream", [b"", b"\x12\x00", b"\x32\x05hello"])
def test_streams_without_a_sequence_header(stream: bytes) -> None:
    assert coded_size(stream, 0, len(stream)) is None
