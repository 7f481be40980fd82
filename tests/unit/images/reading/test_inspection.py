"""What a header says, and what is refused by it."""

import struct
from typing import Any

import pytest
from PIL import Image
from small_images import FILES, HEIGHT, WIDTH, bmp_claiming, error_of, png_claiming, saved, tiff

from beam_upscale.errors import ErrorCode
from beam_upscale.images.reading import inspection


@pytest.mark.parametrize("format_", ["jpeg", "png", "webp", "bmp", "gif"])
def test_header_needs_only_the_beginning(format_: str) -> None:
    large = Image.effect_noise((300, 200), 50).convert("P" if format_ == "gif" else "RGB")
    data = saved(large, format_)

    header = inspection.read_header(data[: len(data) // 4])

    assert (header.format, header.width, header.height) == (format_, 300, 200)


def test_codec_that_finds_another_size_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    larger = Image.new("RGB", (WIDTH, 10 * HEIGHT))
    monkeypatch.setattr(inspection, "open_by_pillow", lambda *_: larger)

    error = error_of(FILES["webp"])

    assert error.code is ErrorCode.CORRUPT
    assert "24 x 16" in error.message
    assert "24 x 160" in error.message


def test_unexpected_mode_of_pillow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "open_by_pillow", lambda *_: Image.new("HSV", (WIDTH, HEIGHT)))

    assert error_of(FILES["webp"]).code is ErrorCode.UNSUPPORTED_FORMAT


def gif_claiming(width: int, height: int) -> bytes:
    data = bytearray(FILES["gif"])
    struct.pack_into("<HH", data, 6, width, height)
    return bytes(data)


def tiff_claiming(width: int, height: int) -> bytes:
    tags = {256: (width,), 257: (height,), 258: (8,), 262: (1,), 277: (1,)}
    return tiff(tags, bytes(100))


def webp_claiming(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(FILES["jpeg"])
    frame = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, frame + 5, height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "claiming",
    [png_claiming, gif_claiming, bmp_claiming, tiff_claiming, webp_claiming, jpeg_claiming],
)
def test_bombs_are_refused_by_their_header(claiming: Any) -> None:
    error = error_of(claiming(50_000, 50_000), max_pixels=2_499_999_999)

    assert error.code is ErrorCode.TOO_MANY_PIXELS
    assert "2500000000" in error.message
    assert "2499999999" in error.message


@pytest.mark.parametrize("claiming", [png_claiming, bmp_claiming, tiff_claiming, jpeg_claiming])
@pytest.mark.parametrize(("width", "height"), [(0, 16), (24, 0)])
def test_image_without_pixels(claiming: Any, width: int, height: int) -> None:
    assert error_of(claiming(width, height)).code is ErrorCode.EMPTY_IMAGE
