"""Small valid files of every kind that is read, for tests that damage them."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pillow_heif
import pyvips
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

WIDTH, HEIGHT = 40, 24


def _samples(bands: int, dtype: type = np.uint8) -> np.ndarray:
    """Smooth in one half and busy in the other, the same on every call."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [10 + x * 5, 20 + y * 8, 40 + x * 2 + y * 4, 60 + x * 4][:bands]
    smooth = np.stack(planes, axis=-1) % 256
    noise = np.random.default_rng(1).integers(0, 256, smooth.shape)
    busy = np.where(x[..., None] < WIDTH // 2, smooth, noise)
    return (busy * (257 if dtype == np.uint16 else 1)).astype(dtype)


def _picture(mode: str) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    if mode in ("1", "P"):
        return (
            Image.fromarray(_samples(3)).quantize(16)
            if mode == "P"
            else _picture("L").convert(mode)
        )
    samples = _samples(bands)
    if bands == 1:
        return Image.fromarray(samples[..., 0])
    return Image.frombytes(mode, (WIDTH, HEIGHT), samples.tobytes())


_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_CMYK = bytes(pyvips.Operation.call("profile_load", "cmyk"))


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[271] = "Maker"
    exif[274] = orientation
    exif[282] = 72.0
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes()


def _saved(mode: str, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    _picture(mode).save(buffer, format_, **options)
    return buffer.getvalue()


def _frames(mode: str, count: int = 2) -> list[Image.Image]:
    return [_picture(mode).rotate(180 * number) for number in range(1, count + 1)]


def chunk(kind: bytes, payload: bytes) -> bytes:
    """A chunk of a PNG, with its right checksum."""
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


def _png(bits: int, color_type: int, bands: int, *extra: bytes) -> bytes:
    """A PNG by hand, with filters of every type."""
    if bits == 16:
        rows = _samples(bands, np.uint16).astype(">u2").reshape(HEIGHT, -1).view(np.uint8)
    else:
        rows = _samples(bands).reshape(HEIGHT, -1)
    if bits < 8:
        rows = rows[:, : WIDTH * bits // 8]
    raw = b"".join(bytes([number % 5]) + row.tobytes() for number, row in enumerate(rows))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color_type, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        *extra,
        chunk(b"IDAT", zlib.compress(raw)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _jpegs() -> Iterator[bytes]:
    yield _saved("RGB", "JPEG", quality=90, exif=_exif(6), icc_profile=_SRGB)
    yield _saved("RGB", "JPEG", quality=80, progressive=True)
    yield _saved("L", "JPEG", quality=90)
    yield _saved("CMYK", "JPEG", quality=90)
    yield _saved("CMYK", "JPEG", quality=90, progressive=True)
    yield _saved("RGB", "JPEG", quality=95, subsampling=0, keep_rgb=True)
    yield _saved("RGB", "JPEG", quality=70, subsampling=1, restart_marker_blocks=1)
    yield _saved("RGB", "JPEG", quality=90, optimize=True, comment=b"a comment")


def _pngs() -> Iterator[bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a" * 50, zip=True)
    text.add_itxt("Author", "someone", "en", "Author")
    yield _saved("RGB", "PNG", icc_profile=_SRGB, exif=_exif(3), pnginfo=text, dpi=(72, 72))
    yield _saved("RGBA", "PNG")
    yield _saved("LA", "PNG")
    yield _saved("1", "PNG")
    yield _saved("P", "PNG", transparency=b"\x00\x80\xff")
    yield _saved("RGB", "PNG", save_all=True, append_images=_frames("RGB"))
    gamma = chunk(b"gAMA", struct.pack(">I", 45455))
    primaries = [31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000]
    yield _png(8, 2, 3, gamma, chunk(b"cHRM", struct.pack(">8I", *primaries)))
    yield _png(16, 2, 3, chunk(b"cICP", bytes([12, 13, 0, 1])))
    yield _png(16, 6, 4, chunk(b"sRGB", b"\x00"))
    yield _png(16, 0, 1, chunk(b"tRNS", b"\x01\x01"))
    yield _png(16, 4, 2)
    yield _png(4, 0, 1)
    yield _png(2, 3, 1, chunk(b"PLTE", bytes(range(12))))
    vips = pyvips.Image.new_from_array(_samples(3))
    yield vips.copy(interpretation="srgb").write_to_buffer(".png", interlace=True)


def _webps() -> Iterator[bytes]:
    yield _saved("RGB", "WEBP", quality=80)
    yield _saved("RGB", "WEBP", lossless=True)
    yield _saved("RGBA", "WEBP", quality=60)
    yield _saved("RGBA", "WEBP", lossless=True, exif=_exif(8), icc_profile=_SRGB, xmp=b"<x/>")
    yield _saved("RGB", "WEBP", save_all=True, append_images=_frames("RGB"), quality=70)


def _tiff(samples: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


def _tiffs() -> Iterator[bytes]:
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield _saved("RGB", "TIFF", compression=compression)
    yield _saved("L", "TIFF", compression="tiff_adobe_deflate")
    yield _saved("RGB", "TIFF", exif=_exif(7), icc_profile=_SRGB)
    yield _saved("1", "TIFF", compression="group4")
    yield _saved("1", "TIFF")
    yield _saved("P", "TIFF")
    yield _saved("RGBA", "TIFF")
    yield _saved("LA", "TIFF")
    yield _saved("CMYK", "TIFF", icc_profile=_CMYK[:3000])
    yield _saved("LAB", "TIFF")
    yield _saved("RGB", "TIFF", save_all=True, append_images=_frames("RGB"))
    yield _tiff(_samples(3), photometric="rgb", byteorder=">")
    yield _tiff(_samples(3, np.uint16), photometric="rgb", compression="zlib", predictor=2)
    yield _tiff(_samples(1, np.uint16)[..., 0], byteorder=">", bigtiff=True)
    yield _tiff(_samples(3), photometric="rgb", tile=(16, 16), bigtiff=True)
    yield _tiff(_samples(3, np.uint16), photometric="rgb", tile=(16, 32), compression="zlib")
    planes = np.moveaxis(_samples(3), -1, 0)
    yield _tiff(planes, photometric="rgb", planarconfig="separate")
    yield _tiff(_samples(4), photometric="rgb", extrasamples=["assocalpha"], rowsperstrip=5)
    yield _tiff(_samples(4, np.uint16), photometric="rgb", extrasamples=["unassalpha"])
    yield _tiff(_samples(2), photometric="minisblack", extrasamples=["unspecified"])
    yield _tiff(_samples(1).astype(np.float32)[..., 0])


def _gifs() -> Iterator[bytes]:
    yield _saved("P", "GIF")
    yield _saved("P", "GIF", transparency=3, comment=b"a comment")
    yield _saved("P", "GIF", save_all=True, append_images=_frames("P"), duration=20, loop=0)
    yield _saved("L", "GIF", interlace=0)


def _bitmap(
    bits: int, rows: bytes, *, height: int = HEIGHT, palette: bytes = b"", **said: int
) -> bytes:
    compression = said.get("compression", 0)
    information = struct.pack(
        "<IiiHHIIiiII",
        40,
        WIDTH,
        height,
        1,
        bits,
        compression,
        len(rows),
        0,
        0,
        len(palette) // 4,
        0,
    )
    start = 14 + len(information) + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start)
    return head + information + palette + rows


def _bmps() -> Iterator[bytes]:
    for mode in ("RGB", "RGBA", "L", "P", "1"):
        yield _saved(mode, "BMP")
    palette = bytes(range(64))
    runs = b"".join(
        bytes([WIDTH - 4, number % 16, 0, 4, 1, 2, 3, 4, 0, 0]) for number in range(HEIGHT)
    )
    yield _bitmap(8, runs + b"\x00\x01", palette=palette, compression=1)
    yield _bitmap(4, runs + b"\x00\x01", palette=palette, compression=2)
    yield _bitmap(24, _samples(3).tobytes(), height=-HEIGHT)
    yield _bitmap(16, _samples(2).tobytes())
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    yield _bitmap(16, _samples(2).tobytes(), palette=masks, compression=3)
    core = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    head = b"BM" + struct.pack("<IHHI", 26 + WIDTH * HEIGHT * 3, 0, 0, 26)
    yield head + core + _samples(3).tobytes()


def _avifs() -> Iterator[bytes]:
    fast = {"speed": 10, "max_threads": 1}
    yield _saved("RGB", "AVIF", quality=70, exif=_exif(6), icc_profile=_SRGB, **fast)
    yield _saved("RGBA", "AVIF", quality=80, **fast)
    yield _saved("RGB", "AVIF", quality=90, subsampling="4:4:4", **fast)
    yield _saved("L", "AVIF", quality=60, subsampling="4:0:0", **fast)
    yield _saved("RGB", "AVIF", save_all=True, append_images=_frames("RGB"), **fast)


def _heics() -> Iterator[bytes]:
    def saved(picture: Any, *more: Image.Image, **options: Any) -> bytes:
        file = (
            picture
            if isinstance(picture, pillow_heif.HeifFile)
            else pillow_heif.from_pillow(picture)
        )
        for each in more:
            file.add_from_pillow(each)
        buffer = io.BytesIO()
        file.save(buffer, **options)
        return buffer.getvalue()

    yield saved(_picture("RGB"), quality=80, exif=_exif(6))
    yield saved(_picture("RGB"), quality=-1, chroma=444)
    yield saved(_picture("RGBA"), quality=70)
    yield saved(_picture("L"), quality=70)
    yield saved(_picture("RGB"), *_frames("RGB"), quality=60)
    deep = _samples(3, np.uint16).tobytes()
    yield saved(pillow_heif.from_bytes("RGB;16", (WIDTH, HEIGHT), deep), quality=70)


_MAKERS: dict[str, Callable[[], Iterator[bytes]]] = {
    "jpeg": _jpegs,
    "png": _pngs,
    "webp": _webps,
    "tiff": _tiffs,
    "gif": _gifs,
    "bmp": _bmps,
    "avif": _avifs,
    "heif": _heics,
}


def seed_images() -> dict[str, list[bytes]]:
    """Files of `WIDTH` x `HEIGHT` pixels or turned ones, by format; most of them can be decoded."""
    return {format_: list(make()) for format_, make in _MAKERS.items()}
