"""File structures written by hand."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers import iso, jpeg, png, tiff, tiff_views, webp


def saved(format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(buffer, format_, **options)
    return buffer.getvalue()


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    entry = struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    return mark + struct.pack(order + "IH", 8, 1) + entry + bytes(4) + b"kept"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read(order: str, orientation: int) -> None:
    assert tiff_views.exif_orientation(exif(orientation, order)) == orientation


@pytest.mark.parametrize(
    "block", [b"", b"II", b"no EXIF at all", exif(0), exif(9), exif(6)[:12], exif(6)[:18]]
)
def test_without_a_valid_orientation_a_picture_is_upright(block: bytes) -> None:
    assert tiff_views.exif_orientation(block) == 1


@given(st.binary(max_size=60))
def test_any_block_has_an_orientation(tail: bytes) -> None:
    for block in (tail, b"II*\x00" + tail, exif(3)[:10] + tail):
        assert 1 <= tiff_views.exif_orientation(block) <= 8


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


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True}])
def test_webp_of_each_kind(options: dict[str, object]) -> None:
    info = webp.webp_info(saved("WEBP", **options))

    assert (info.width, info.height, info.has_alpha) == (5, 4, False)


def test_webp_of_no_known_kind() -> None:
    with pytest.raises(ImageError) as caught:
        webp.webp_info(b"RIFF\x10\x00\x00\x00WEBPVP9 " + bytes(20))

    assert caught.value.code is ErrorCode.CORRUPT


def test_png_metadata_is_replaced() -> None:
    data = saved("PNG", exif=b"Exif\x00\x00" + exif(6), dpi=(300, 300))

    replaced = png.png_with_chunks(data, [(b"eXIf", exif(1))])
    removed = png.png_with_chunks(data, [])

    assert png.png_info(replaced).exif == exif(1)
    assert png.png_info(removed).exif is None
    for result in (replaced, removed):
        png.check_png(result)
        assert b"pHYs" not in result
        assert Image.open(io.BytesIO(result)).getpixel((0, 0)) == (255, 0, 0)


def test_boxes_of_64_bits_and_to_the_end_of_the_file() -> None:
    large = struct.pack(">I4sQ", 1, b"free", 24) + bytes(8)
    rest = struct.pack(">I4s", 0, b"mdat") + bytes(100)

    iso.check_boxes(large + rest, "avif")
    with pytest.raises(ImageError) as caught:
        iso.check_boxes(large[:20], "avif")

    assert caught.value.code is ErrorCode.TRUNCATED
    assert "20 of 24" in caught.value.message
