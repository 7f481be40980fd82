"""Segments of JPEGs, written by hand."""

import struct

import pytest
from written_images import exif, saved

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers import jpeg


def test_jpeg_without_a_frame() -> None:
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"

    with pytest.raises(ImageError) as caught:
        jpeg.jpeg_info(b"\xff\xd8" + scan)

    assert caught.value.code is ErrorCode.CORRUPT


def test_jpeg_with_filler_and_garbage_between_segments() -> None:
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 4, 5, 3) + bytes(9)
    odd = b"\xff\xd8" + b"garbage" + b"\xff\x00" + b"\xff\x01" + b"\xff\xff\xff" + frame

    info = jpeg.jpeg_info(odd + b"\xff\xd9")

    assert (info.width, info.height, info.components) == (5, 4, 3)


def test_only_the_first_exif_of_a_jpeg_counts() -> None:
    data = saved("JPEG", exif=b"Exif\x00\x00" + exif(6))
    second = b"Exif\x00\x00" + exif(3)
    segment = b"\xff\xe1" + struct.pack(">H", len(second) + 2) + second
    end = data.index(b"\xff\xdb")

    info = jpeg.jpeg_info(data[:end] + segment + data[end:])

    assert info.exif == exif(6)
