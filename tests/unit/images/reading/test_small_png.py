"""Small PNGs, each read by Pillow's decoder and by libvips."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms
from small_images import chunk

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.reading import inspection, pixels, small_png
from beam_upscale.images.values import DecodedImage
from beam_upscale.images.writing import encoding

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def samples(bands: int, height: int = 40, width: int = 52) -> Any:
    random = np.random.default_rng(bands)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 3 + y, y * 5, 255 - x, x ^ y][:bands], axis=-1)
    return (smooth + random.integers(0, 9, smooth.shape)).astype(np.uint8)


def saved(mode: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = samples(MODES[mode])
    picture = Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
    picture.save(buffer, "png", **options)
    return buffer.getvalue()


def by_libvips(bands: int, **options: Any) -> bytes:
    image = pyvips.Image.new_from_array(samples(bands))
    kind = "srgb" if bands > 2 else "b-w"
    data: bytes = image.copy(interpretation=kind).write_to_buffer(".png", keep="none", **options)
    return data


def made(
    rows: bytes,
    width: int = 4,
    height: int = 4,
    color_type: int = 2,
    bits: int = 8,
    methods: tuple[int, int, int] = (0, 0, 0),
    before: bytes = b"",
) -> bytes:
    """A PNG with this stream of rows; the methods are those of compression, filter, interlace."""
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, *methods)
    parts = chunk(b"IHDR", header), before, chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def is_small(data: bytes) -> bool:
    return small_png.read_small_png(data, inspection.read_header(data)) is not None


def outcome(data: bytes) -> tuple[Any, ...]:
    try:
        found = pixels.decode(data, max_pixels=10_000)
    except ImageError as error:
        return error.code, error.message
    return _compared(found)


def _compared(found: DecodedImage) -> tuple[Any, ...]:
    alpha = None if found.alpha is None else found.alpha.tobytes()
    shape = (found.color.shape, found.color.dtype.name)
    return found.header, found.notes, found.metadata, shape, found.color.tobytes(), alpha


def assert_read_alike(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(small_png, "_MOST_PIXELS", 0)
        expected = outcome(data)
    assert outcome(data) == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("filters", ["none", "sub", "up", "avg", "paeth", "all"])
def test_every_filter_and_mode(mode: str, filters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_libvips(MODES[mode], filter=filters)

    assert is_small(data)
    assert_read_alike(data, monkeypatch)
    decoded = pixels.decode(data, max_pixels=10_000)
    expected = samples(MODES[mode])
    np.testing.assert_array_equal(decoded.color, expected[..., : decoded.color.shape[2]])
    if decoded.alpha is not None:
        np.testing.assert_array_equal(decoded.alpha, expected[..., -1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_pillows_files_and_ours(mode: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = samples(MODES[mode])
    color = np.ascontiguousarray(pictures[..., : MODES[mode] - (mode in ("LA", "RGBA"))])
    ours = encoding.encode(color, None).data

    for data in (saved(mode, compress_level=level, dpi=(300, 300)), ours):
        assert is_small(data)
        assert_read_alike(data, monkeypatch)


def test_turned_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = saved("RGB", exif=exif.tobytes())

    assert is_small(data)
    assert_read_alike(data, monkeypatch)
    assert pixels.decode(data, max_pixels=10_000).color.shape == (52, 40, 3)


ROWS = b"\0" + bytes(range(12))
PLAIN = zlib.compress(ROWS * 4)
WIDE = b"\0" + np.random.default_rng(0).bytes(600)


OTHERS = {
    "interlaced": made(zlib.compress(bytes(1000)), methods=(0, 0, 1)),
    "four bits in one column": made(zlib.compress(b"\0\xf0" * 3), 1, 3, 0, bits=4),
    "two bits in one column": made(zlib.compress(b"\0\xc0" * 3), 1, 3, 0, bits=2),
    "one bit in one column": made(zlib.compress(b"\0\x80" * 3), 1, 3, 0, bits=1),
    "palette": made(zlib.compress(bytes(20)), color_type=3, before=chunk(b"PLTE", bytes(768))),
    "suggested palette": made(PLAIN, before=chunk(b"PLTE", bytes(768))),
    "transparent color": made(PLAIN, before=chunk(b"tRNS", bytes(6))),
    "profile": saved("RGB", icc_profile=SRGB),
    "unknown critical chunk": made(PLAIN, before=chunk(b"ABCD", b"")),
    "two headers": made(PLAIN, before=made(PLAIN)[8:33]),
    "rows apart": made(PLAIN[:9], before=chunk(b"IDAT", b"") + chunk(b"tEXt", b"a\0b")),
    "no rows": made(b""),
    "few rows": made(zlib.compress(ROWS * 3)),
    "many rows": made(zlib.compress(ROWS * 5)),
    "part of a row": made(zlib.compress(ROWS * 4)[:-9]),
    "unknown filter": made(zlib.compress(ROWS * 3 + b"\5" + bytes(12))),
    "no checksum": made(PLAIN[:-4]),
    "wrong checksum": made(PLAIN[:-1] + bytes([PLAIN[-1] ^ 1])),
    "window too small": made(b"\x08\x1d" + zlib.compress(WIDE * 2)[2:], 200, 2),
    "raw stream": made(PLAIN[2:-4]),
    "compression method": made(PLAIN, methods=(1, 0, 0)),
    "filter method": made(PLAIN, methods=(0, 1, 0)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_plain_or_in_order_is_left_to_libvips(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small_png.read_small_png(OTHERS[name], inspection.read_header(OTHERS[name])) is None
    assert_read_alike(OTHERS[name], monkeypatch)


def test_large_and_deep_pictures_are_left_to_libvips() -> None:
    assert is_small(encoding.encode(np.zeros((128, 128, 3), np.uint8)).data)
    assert not is_small(encoding.encode(np.zeros((128, 129, 3), np.uint8)).data)
    assert not is_small(encoding.encode(np.zeros((8, 8, 3), np.uint16)).data)


def test_what_follows_the_rows_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_read_alike(made(PLAIN + b"more"), monkeypatch)


@pytest.mark.parametrize("mode", MODES)
def test_damage_is_told_as_by_libvips(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(7)
    whole = saved(mode)
    start = whole.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", whole[start - 8 : start - 4])
    rows = whole[start : start + length]
    codes = set()
    for _ in range(150):
        damaged = bytearray(rows)
        for at in random.integers(0, length, random.integers(1, 4)):
            damaged[at] = random.integers(0, 256)
        data = whole[: start - 8] + chunk(b"IDAT", bytes(damaged)) + chunk(b"IEND", b"")
        assert_read_alike(data, monkeypatch)
        codes.add(outcome(data)[0])

    assert ErrorCode.CORRUPT in codes
