"""Small images in every format, by Pillow, libvips and by hand, and what they are decoded to."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pyvips
from PIL import Image, ImageCms

from beam_upscale.errors import ImageError
from beam_upscale.images.reading import pixels
from beam_upscale.images.values import DecodedImage

MAX_PIXELS = 1_000_000
WIDTH, HEIGHT = 24, 16


def gradient(bands: int, dtype: type = np.uint8) -> np.ndarray:
    """A smooth picture that lossy codecs keep well and that no symmetry maps onto itself."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [10 + x * 8, 20 + y * 12, 40 + x * 2 + y * 6, 60 + x * 7][:bands]
    scale = 257 if dtype == np.uint16 else 1
    return (np.stack(planes, axis=-1) * scale).astype(dtype)


def saved(picture: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(gradient(3))


def by_vips(samples: np.ndarray, suffix: str, **options: Any) -> bytes:
    height, width, bands = samples.shape
    kind = {np.dtype(np.uint16): "ushort", np.dtype(np.float32): "float"}[samples.dtype]
    flat = pyvips.Image.new_from_memory(np.ascontiguousarray(samples), width, height, bands, kind)
    data: bytes = flat.copy(interpretation="rgb16" if bands > 2 else "grey16").write_to_buffer(
        suffix, **options
    )
    return data


def heic(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, quality=-1, **options)
    return buffer.getvalue()


def chunk(kind: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    samples = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + samples + chunk(b"IEND", b"")


def decode(data: bytes, **options: Any) -> DecodedImage:
    return pixels.decode(data, **{"max_pixels": MAX_PIXELS, **options})


def error_of(data: bytes, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_with(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[271] = "Maker"
    exif[274] = orientation
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    return exif.tobytes()


FILES = {
    "jpeg": saved(rgb(), "JPEG", quality=100, subsampling=0),
    "png": saved(rgb(), "PNG"),
    "webp": saved(rgb(), "WEBP", lossless=True),
    "tiff": saved(rgb(), "TIFF"),
    "bmp": saved(rgb(), "BMP"),
    "gif": saved(rgb().quantize(256), "GIF"),
    "avif": saved(rgb(), "AVIF", quality=100, subsampling="4:4:4"),
    "heif": heic(rgb(), chroma=444),
}


def tiff(tags: dict[int, tuple[int, ...]], samples: bytes, order: str = "<") -> bytes:
    """A TIFF of one uncompressed strip, its fields all of type LONG."""
    fields = {**tags, 259: (1,), 273: (8,), 279: (len(samples),)}
    position = 8 + len(samples)
    body, outside = b"", b""
    values_at = position + 2 + 12 * len(fields) + 4
    for tag in sorted(fields):
        packed = struct.pack(f"{order}{len(fields[tag])}I", *fields[tag])
        if len(packed) > 4:
            body += struct.pack(order + "HHII", tag, 4, len(fields[tag]), values_at + len(outside))
            outside += packed
        else:
            body += struct.pack(order + "HHI", tag, 4, 1) + packed
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    directory = struct.pack(order + "H", len(fields)) + body + bytes(4)
    return mark + struct.pack(order + "I", position) + samples + directory + outside


def bmp_claiming(width: int, height: int) -> bytes:
    data = bytearray(FILES["bmp"])
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)
