"""The size of what is coded in an AVIF, and boxes that say another one."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beam_upscale import image
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.image.av1 import CodedSize, coded_size

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
    header = image.read_header(data)
    assert (header.width, header.height) == (WIDTH, HEIGHT)

    for size in ((400, 300), (WIDTH + 1, HEIGHT)):
        with pytest.raises(ImageError) as caught:
            image.read_header(saying(data, *size))
        assert caught.value.code is ErrorCode.CORRUPT
        assert f"{size[0]} x {size[1]} px of a picture coded in 40 x 30" in caught.value.message


def test_boxes_of_a_still_picture_that_say_less() -> None:
    with pytest.raises(ImageError) as caught:
        image.read_header(saying(avif(), 20, 15))

    assert caught.value.code is ErrorCode.CORRUPT


def test_pictures_with_alpha() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (WIDTH, HEIGHT), (1, 2, 3, 100)).save(file, "AVIF")
    data = file.getvalue()
    assert image.decode(data, max_pixels=10_000).alpha is not None

    with pytest.raises(ImageError) as caught:
        image.read_header(saying(data, 80, 60))

    assert caught.value.code is ErrorCode.CORRUPT


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
