"""Boxes of ISO files, written by hand."""

import struct

import pytest

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers import iso


def test_boxes_of_64_bits_and_to_the_end_of_the_file() -> None:
    large = struct.pack(">I4sQ", 1, b"free", 24) + bytes(8)
    rest = struct.pack(">I4s", 0, b"mdat") + bytes(100)

    iso.check_boxes(large + rest, "avif")
    with pytest.raises(ImageError) as caught:
        iso.check_boxes(large[:20], "avif")

    assert caught.value.code is ErrorCode.TRUNCATED
    assert "20 of 24" in caught.value.message
