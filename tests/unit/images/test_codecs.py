"""What codecs say of damage, in plain words."""

import struct
import zlib

import pytest
import pyvips
import tiff_files
from small_images import HEIGHT, WIDTH, bmp_claiming, error_of, exif_with, gradient, rgb, saved
from tiff_files import DEFLATE, LONG, Page

from beam_upscale.errors import ImageError
from beam_upscale.images.codecs import damage_as_image_error
from beam_upscale.images.containers import png


def png_of(pixels: bytes) -> bytes:
    """A PNG of 24 x 16 gray pixels with these bytes for them."""
    data = png.PNG_SIGNATURE
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    for kind, payload in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + payload))
        data += struct.pack(">I", len(payload)) + kind + payload + checksum
    return data


def webp_of_two_sizes() -> bytes:
    data = bytearray(saved(rgb(), "WEBP", lossless=True, exif=exif_with()))
    at = data.index(b"VP8X")
    data[at + 12 : at + 15] = (99).to_bytes(3, "little")
    return bytes(data)


def test_damage_is_told_in_plain_words() -> None:
    packed = zlib.compress(bytes(HEIGHT * (WIDTH + 1)))
    taller = {257: (LONG, [2 * HEIGHT]), 278: (LONG, [2 * HEIGHT])}
    files = {
        "PNG": png_of(packed[:-4] + b"junk"),
        "WebP": webp_of_two_sizes(),
        "BMP": bmp_claiming(0, HEIGHT),
        "TIFF": tiff_files.tiff(Page(gradient(1), compression=DEFLATE, rows=HEIGHT, tags=taller)),
    }

    messages = {name: error_of(data).message for name, data in files.items()}

    assert messages == {
        "PNG": "PNG cannot be decoded: its compressed pixels are damaged, or fewer than "
        "its size takes",
        "WebP": "WEBP cannot be decoded: its canvas, its frames or its chunks contradict each "
        "other",
        "BMP": "BMP cannot be decoded: it has no width or no height",
        "TIFF": "TIFF cannot be decoded: the pixels of a strip or tile are damaged, or fewer than "
        "its size takes",
    }


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("unable to call VipsForeignLoadPngBuffer", "its header or its pixels are damaged"),
        (
            "unable to write to memory VipsJpeg: Corrupt JPEG data: found marker 0xd7 instead",
            "Corrupt JPEG data: found marker 0xd7 instead",
        ),
        (
            "unable to call VipsForeignLoadJpegBuffer VipsJpeg: two SOI markers VipsJpeg: two SOI "
            "markers",
            "two SOI markers",
        ),
        ("Unsupported color conversion request", "Unsupported color conversion request"),
    ],
)
def test_what_a_library_says_of_itself_is_left_out(said: str, told: str) -> None:
    with pytest.raises(ImageError) as caught, damage_as_image_error("png"):
        raise pyvips.Error(said)

    assert caught.value.message == f"PNG cannot be decoded: {told}"
