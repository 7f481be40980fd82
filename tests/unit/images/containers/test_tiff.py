"""Pages of TIFFs, written by hand."""

import struct

import pytest

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers import tiff


def bigtiff(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    directory = struct.pack("<Q", len(entries)) + b"".join(
        struct.pack("<HHQ", tag, kind, count) + value.ljust(8, b"\x00")
        for tag, kind, count, value in entries
    )
    return b"II+\x00" + struct.pack("<HHQ", 8, 0, 16) + directory + bytes(8)


def test_bigtiff() -> None:
    data = bigtiff(
        [
            (256, 16, 1, struct.pack("<Q", 70_000)),
            (257, 3, 1, struct.pack("<H", 3)),
            (258, 3, 3, struct.pack("<HHH", 16, 16, 16)),
        ]
    )

    info = tiff.tiff_info(data)

    assert (info.width, info.height, info.bits_per_sample, info.frames) == (70_000, 3, 16, 1)


def pages(*new_subfile_types: int, circular: bool = False) -> bytes:
    """A TIFF of directories with the fields NewSubfileType, ImageWidth and ImageLength."""
    size = 2 + 3 * 12 + 4
    data = b"II*\x00" + struct.pack("<I", 8)
    for index, subfile_type in enumerate(new_subfile_types):
        is_last = index == len(new_subfile_types) - 1
        following = (8 if circular else 0) if is_last else 8 + (index + 1) * size
        fields = ((254, subfile_type), (256, 5), (257, 4))
        data += struct.pack("<H", 3)
        data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
        data += struct.pack("<I", following)
    return data


def test_pages_are_counted_without_reduced_copies() -> None:
    assert tiff.tiff_info(pages(0, 1, 0, 2)).frames == 3


def test_circular_pages_come_to_an_end() -> None:
    assert tiff.tiff_info(pages(0, 0, circular=True)).frames == 2


def test_pages_beyond_the_end_are_not_counted() -> None:
    assert tiff.tiff_info(pages(0, 0, 0)[:-20]).frames == 2


def test_field_that_claims_more_values_than_the_file_has() -> None:
    data = bytearray(pages(0))
    struct.pack_into("<I", data, 8 + 2 + 12 + 4, 2**31)  # the count of ImageWidth

    with pytest.raises(ImageError) as caught:
        tiff.tiff_info(bytes(data))

    assert caught.value.code is ErrorCode.TRUNCATED


def test_tiff_without_a_size() -> None:
    with pytest.raises(ImageError) as caught:
        tiff.tiff_info(b"II*\x00" + struct.pack("<IHI", 8, 0, 0))

    assert caught.value.code is ErrorCode.CORRUPT
