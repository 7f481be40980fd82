"""Pictures read in parts, against the same pictures read whole."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import described_colors
import numpy as np
import pillow_heif
import pytest
import pyvips
from PIL import Image, ImageCms
from read_in_parts import HEIGHT, MAX_PIXELS, WIDTH, all_rows, by_pillow, pixels, turned

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.reading import inspection
from beam_upscale.images.reading.pixels import decode
from beam_upscale.images.reading.regions import open_picture, read_file_header
from beam_upscale.images.reading.row_readers import Picture
from beam_upscale.images.values import DecodedImage
from beam_upscale.planning.plan_options import Animated
from beam_upscale.planning.tile_layout import Box

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def by_vips(bands: int, suffix: str, dtype: type = np.uint16, **options: Any) -> bytes:
    samples = pixels(bands, dtype)
    kind = "ushort" if dtype == np.uint16 else "uchar"
    flat = pyvips.Image.new_from_memory(samples, WIDTH, HEIGHT, bands, kind)
    names = ("rgb16", "grey16") if dtype == np.uint16 else ("srgb", "b-w")
    data: bytes = flat.copy(interpretation=names[bands < 3]).write_to_buffer(suffix, **options)
    return data


def heic() -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels(3))).save(buffer, quality=90)
    return buffer.getvalue()


TILES = {"tile": True, "tile_width": 32, "tile_height": 48}

FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: by_pillow("RGB", "JPEG", icc_profile=SRGB),
    "jpeg 4:2:0 progressive": lambda: by_pillow("RGB", "JPEG", progressive=True, quality=80),
    "jpeg gray": lambda: by_pillow("L", "JPEG"),
    "jpeg cmyk": lambda: by_pillow("CMYK", "JPEG"),
    **{
        f"jpeg turned {n}": lambda n=n: by_pillow("RGB", "JPEG", exif=turned(n))  # type: ignore[misc]
        for n in range(2, 9)
    },
    "png": lambda: by_pillow("RGB", "PNG", icc_profile=SRGB),
    "png by primaries": lambda: described_colors.png(
        pixels(3), described_colors.chrm(described_colors.ADOBE), described_colors.gama(0.45455)
    ),
    "png by code points, with texts": lambda: (
        described_colors.png(
            pixels(1)[..., 0],
            described_colors.cicp(12, 8),
            (b"tEXt", b"Comment\0hello"),
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<a/>"),
        )
        + b"more behind it"
    ),
    "jpeg with all kinds of metadata": lambda: (
        by_pillow("RGB", "JPEG", dpi=(300, 150), xmp=b"<a/>", comment=b"hello", exif=turned(6))
        + b"more behind it"
    ),
    "jpeg with a damaged profile": lambda: by_pillow("RGB", "JPEG", icc_profile=SRGB[:-9]),
    "png gray": lambda: by_pillow("L", "PNG"),
    "png palette": lambda: by_pillow("P", "PNG"),
    "png bits": lambda: by_pillow("1", "PNG"),
    "png alpha": lambda: by_pillow("RGBA", "PNG"),
    "png gray alpha": lambda: by_pillow("LA", "PNG"),
    "png 16": lambda: by_vips(3, ".png"),
    "png 16 gray alpha": lambda: by_vips(2, ".png"),
    "png interlaced": lambda: by_vips(3, ".png", np.uint8, interlace=True),
    "png turned 6": lambda: by_pillow("RGBA", "PNG", exif=turned(6)),
    "webp": lambda: by_pillow("RGB", "WEBP", lossless=True),
    "webp alpha": lambda: by_pillow("RGBA", "WEBP", quality=80),
    "tiff": lambda: by_pillow("RGB", "TIFF", icc_profile=SRGB),
    "tiff by primaries": lambda: described_colors.tiff(
        pixels(3),
        {
            318: (5, (3127, 10_000, 3290, 10_000)),
            319: (5, (64, 100, 33, 100, 21, 100, 71, 100, 15, 100, 6, 100)),
        },
    ),
    "tiff gray": lambda: by_pillow("L", "TIFF", compression="tiff_lzw"),
    "tiff alpha": lambda: by_pillow("RGBA", "TIFF", compression="tiff_adobe_deflate"),
    "tiff jpeg": lambda: by_pillow("RGB", "TIFF", compression="jpeg"),
    "tiff palette": lambda: by_pillow("P", "TIFF"),
    "tiff cmyk": lambda: by_pillow("CMYK", "TIFF"),
    "tiff bits": lambda: by_pillow("1", "TIFF"),
    "tiff turned 8": lambda: by_pillow("RGB", "TIFF", tiffinfo={274: 8}),
    "tiff 16": lambda: by_vips(3, ".tif"),
    "tiff tiles": lambda: by_vips(3, ".tif", np.uint8, **TILES),
    "tiff tiles deflate": lambda: by_vips(
        3, ".tif", np.uint8, compression="deflate", predictor="horizontal", bigtiff=True, **TILES
    ),
    "tiff tiles gray": lambda: by_vips(1, ".tif", np.uint8, compression="lzw", **TILES),
    "tiff tiles alpha": lambda: by_vips(4, ".tif", np.uint8, **TILES),
    "tiff tiles 16": lambda: by_vips(3, ".tif", compression="deflate", **TILES),
    "tiff tiles pyramid": lambda: by_vips(3, ".tif", np.uint8, pyramid=True, **TILES),
    "bmp": lambda: by_pillow("RGB", "BMP"),
    "gif": lambda: by_pillow("P", "GIF"),
    "avif": lambda: by_pillow("RGB", "AVIF"),
    "heic": heic,
}

BY_REGION = {
    *("tiff tiles", "tiff tiles deflate", "tiff tiles gray", "tiff tiles 16", "tiff tiles pyramid"),
}


def whole(data: bytes) -> DecodedImage:
    return decode(data, max_pixels=MAX_PIXELS)


def joined(decoded: DecodedImage) -> np.ndarray:
    if decoded.alpha is None:
        return decoded.color
    return np.dstack([decoded.color, decoded.alpha])


@pytest.mark.parametrize("name", FILES)
def test_rows_are_those_of_the_whole(name: str, stored: Callable[[bytes], Path]) -> None:
    data = FILES[name]()
    expected = whole(data)

    with open_picture(stored(data), max_pixels=MAX_PIXELS) as reader:
        bands = list(reader.bands(40))
        picture = reader.picture

    height = expected.header.height
    assert [len(band) for band in bands[:-1]] == [40] * (height // 40)
    np.testing.assert_array_equal(np.concatenate(bands), joined(expected))
    assert picture == Picture(
        header=inspection.read_header(data),
        dtype=expected.color.dtype.name,
        channels=expected.color.shape[2],
        has_alpha=expected.alpha is not None,
        metadata=expected.metadata,
        notes=expected.notes,
        by_region=name in BY_REGION,
    )
    assert read_file_header(stored(data)) == expected.header


@pytest.mark.parametrize("name", sorted(BY_REGION))
@pytest.mark.parametrize(
    "box", [Box(0, 0, 10, 10), Box(33, 90, 70, 61), Box(0, 160, 150, 10), Box(149, 0, 1, 170)]
)
def test_region_is_a_part_of_the_whole(
    name: str, box: Box, stored: Callable[[bytes], Path]
) -> None:
    data = FILES[name]()

    with open_picture(stored(data), max_pixels=MAX_PIXELS) as reader:
        region = reader.region(box)

    expected = whole(data).color[box.top : box.bottom, box.left : box.right]
    np.testing.assert_array_equal(region, expected)


def noise(format_: str, **options: Any) -> bytes:
    random = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(random).save(buffer, format_, **options)
    return buffer.getvalue()


def damaged_checksum(data: bytes) -> bytes:
    position = data.rindex(b"IDAT") + 40
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", ErrorCode.EMPTY_FILE, id="empty"),
        pytest.param(b"no image at all", ErrorCode.NOT_AN_IMAGE, id="text"),
        pytest.param(noise("JPEG")[:9000], ErrorCode.TRUNCATED, id="half a JPEG"),
        pytest.param(noise("PNG")[:9000], ErrorCode.TRUNCATED, id="half a PNG"),
        pytest.param(noise("PNG")[:30], ErrorCode.TRUNCATED, id="beginning of a PNG"),
        pytest.param(noise("TIFF")[:9000], ErrorCode.TRUNCATED, id="half a TIFF"),
        pytest.param(noise("TIFF")[:20], ErrorCode.TRUNCATED, id="beginning of a TIFF"),
        pytest.param(noise("JPEG")[:100], ErrorCode.TRUNCATED, id="beginning of a JPEG"),
        pytest.param(
            damaged_checksum(noise("PNG")), ErrorCode.CHECKSUM_MISMATCH, id="PNG with a wrong bit"
        ),
    ],
)
def test_damage_has_the_code_of_the_whole(
    data: bytes, code: ErrorCode, stored: Callable[[bytes], Path]
) -> None:
    with pytest.raises(ImageError) as caught:
        all_rows(stored(data))
    with pytest.raises(ImageError) as whole_caught:
        whole(data)

    assert caught.value.code == code == whole_caught.value.code


def test_damage_in_a_tile_is_told(stored: Callable[[bytes], Path]) -> None:
    data = bytearray(by_vips(3, ".tif", np.uint8, compression="deflate", **TILES))
    data[8000:8400] = b"\xff" * 400
    path = stored(bytes(data))

    with pytest.raises(ImageError) as caught, open_picture(path, max_pixels=MAX_PIXELS) as reader:
        reader.region(Box(0, 0, WIDTH, HEIGHT))
    with pytest.raises(ImageError) as whole_caught:
        whole(bytes(data))

    assert caught.value.code is ErrorCode.CORRUPT is whole_caught.value.code


def test_guards_hold_before_pixels_are_read(stored: Callable[[bytes], Path]) -> None:
    frames = [Image.fromarray(pixels(3)), Image.fromarray(pixels(3)[::-1])]
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    path = stored(buffer.getvalue())

    with pytest.raises(ImageError) as too_many:
        all_rows(path, max_pixels=WIDTH * HEIGHT - 1)
    with pytest.raises(ImageError) as animated:
        all_rows(path, animated=Animated.REJECT)

    assert too_many.value.code is ErrorCode.TOO_MANY_PIXELS
    assert animated.value.code is ErrorCode.ANIMATED
    np.testing.assert_array_equal(np.concatenate(all_rows(path)), pixels(3))


def test_jpeg_with_a_harmless_oddity_goes_on(stored: Callable[[bytes], Path]) -> None:
    data = bytearray(by_pillow("RGB", "JPEG"))
    # The version of JFIF, which is 1.01 in every file.
    data[11:13] = b"\x09\x09"

    rows = all_rows(stored(bytes(data)))

    np.testing.assert_array_equal(np.concatenate(rows), whole(bytes(data)).color)
