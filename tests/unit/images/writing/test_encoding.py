"""Arrays written and read back by Pillow and vips."""

import io
import itertools
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.images.reading import pixels
from beam_upscale.images.values import Metadata, Pixels
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import OutputFormat

WIDTH, HEIGHT = 40, 30
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def smooth(bands: int, dtype: type = np.uint8) -> Any:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [x * 6, y * 8, 255 - x * 3 - y * 4][:bands]
    scale = 257 if dtype == np.uint16 else 1
    return (np.stack(planes, axis=-1) * scale).astype(dtype)


def some_exif() -> bytes:
    exif = Image.Exif()
    exif[271] = "Maker"
    exif[305] = "odd"  # three letters and a NUL fit into a field's own four bytes
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes().removeprefix(b"Exif\x00\x00")


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def encode(color: Pixels, alpha: Pixels | None = None, **options: Any) -> encoding.Encoded:
    names = ("icc_profile", "exif", "xmp", "resolution")
    metadata = Metadata(**{key: options.pop(key) for key in names if key in options})
    return encoding.encode(color, alpha, metadata=metadata, options=EncodeOptions(**options))


@pytest.mark.parametrize("format_", [OutputFormat.PNG, OutputFormat.TIFF])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("has_alpha", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_and_tiff_keep_every_sample(
    format_: OutputFormat, bands: int, has_alpha: bool, dtype: type
) -> None:
    color = smooth(bands, dtype)
    alpha = smooth(2, dtype)[..., 1] if has_alpha else None

    encoded = encode(color, alpha, format=format_)
    decoded = pixels.decode(encoded.data, max_pixels=10_000)

    assert (encoded.width, encoded.height, encoded.notes) == (WIDTH, HEIGHT, ())
    assert decoded.header.format == format_
    assert decoded.color.dtype == dtype
    assert np.array_equal(decoded.color, color)
    assert (decoded.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(decoded.alpha, alpha)


@pytest.mark.parametrize("format_", OutputFormat)
@pytest.mark.parametrize("bands", [1, 3])
def test_other_readers_agree(format_: OutputFormat, bands: int) -> None:
    color = smooth(bands)

    data = encode(color, format=format_).data

    expected = color if format_ is not OutputFormat.WEBP else np.broadcast_to(color, (30, 40, 3))
    for read in (
        np.asarray(opened(data)).reshape(expected.shape),
        pyvips.Image.new_from_buffer(data, "").numpy().reshape(expected.shape),
    ):
        assert np.abs(read.astype(int) - expected).max() <= 16


def test_lossless_webp_keeps_colors_below_transparency() -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)

    encoded = encode(smooth(3), alpha, format=OutputFormat.WEBP, lossless=True)

    samples = np.asarray(opened(encoded.data))
    assert np.array_equal(samples[..., :3], smooth(3))
    assert np.array_equal(samples[..., 3], alpha)


@pytest.mark.parametrize("format_", OutputFormat)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_icc_profile_and_exif_are_carried(format_: OutputFormat, dtype: type) -> None:
    data = encode(smooth(3, dtype), format=format_, icc_profile=SRGB, exif=some_exif()).data

    picture = opened(data)
    exif = picture.getexif()
    assert picture.info["icc_profile"] == SRGB
    assert (exif[271], exif[305]) == ("Maker", "odd")
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert exif.get_ifd(0x8825)[1] == "N"
    # And the pixels are still where the file says.
    levels = 65_535 if dtype == np.uint16 and format_ in ("png", "tiff") else 255
    reread = pixels.decode(data, max_pixels=10_000).color
    assert np.abs(reread / levels - smooth(3) / 255).max() < 0.06


@pytest.mark.parametrize("format_", OutputFormat)
def test_without_metadata_nothing_is_made_up(format_: OutputFormat) -> None:
    picture = opened(encode(smooth(3), format=format_).data)

    made_up = set(picture.info) & {"icc_profile", "exif", "xmp"}
    assert made_up == set()
    if format_ is OutputFormat.PNG:
        assert "dpi" not in picture.info


def test_profile_of_another_color_space_is_not_written() -> None:
    assert "icc_profile" not in opened(encode(smooth(1), icc_profile=SRGB).data).info


def test_exif_too_long_for_jpeg_is_dropped() -> None:
    exif = some_exif() + bytes(70_000)

    encoded = encode(smooth(3), format=OutputFormat.JPEG, exif=exif)

    assert encoded.notes == ("EXIF too long for JPEG dropped",)
    assert "exif" not in opened(encoded.data).info


def test_longest_exif_that_jpeg_takes() -> None:
    exif = some_exif()
    exif += bytes(65_527 - len(exif))

    encoded = encode(smooth(3), format=OutputFormat.JPEG, exif=exif)

    assert encoded.notes == ()
    assert opened(encoded.data).getexif()[271] == "Maker"


def test_unreadable_exif_is_not_written_to_tiff() -> None:
    encoded = encode(smooth(3), format=OutputFormat.TIFF, exif=b"II*\x00")

    assert encoded.notes == ("unreadable EXIF dropped",)
    assert np.array_equal(pixels.decode(encoded.data, max_pixels=10_000).color, smooth(3))


@pytest.mark.parametrize("format_", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_sixteen_bits_are_rounded_to_eight(format_: OutputFormat) -> None:
    options = {"lossless": True} if format_ is OutputFormat.WEBP else {"quality": 100}
    deep = (smooth(3, np.uint16).astype(int) - 120).clip(0).astype(np.uint16)

    encoded = encode(deep, format=format_, **options)

    assert encoded.notes == ("reduced to 8 bits",)
    read = np.asarray(opened(encoded.data)).astype(float)
    assert np.abs(read - deep / 257).max() <= (0.5 if options.get("lossless") else 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_jpeg_is_put_on_white(dtype: type) -> None:
    opaque = np.iinfo(dtype).max
    black = np.zeros((16, 16, 3), dtype)
    alpha = np.full((16, 16), opaque // 4, dtype)

    encoded = encode(black, alpha, format=OutputFormat.JPEG, quality=100)

    assert encoded.notes[-1] == "alpha flattened"
    assert np.abs(np.asarray(opened(encoded.data)).astype(int) - 191).max() <= 1


@pytest.mark.parametrize("format_", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_quality_trades_size(format_: OutputFormat) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    sizes = [len(encode(noise, format=format_, quality=quality).data) for quality in (1, 50, 100)]

    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 4


@pytest.mark.parametrize("format_", OutputFormat)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_same_arrays_same_bytes(format_: OutputFormat, dtype: type) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(dtype)
    metadata = {"icc_profile": SRGB, "exif": some_exif()}

    first, second = (encode(noise, noise[..., 0], format=format_, **metadata) for _ in range(2))

    assert first == second


def test_views_are_encoded_as_they_look() -> None:
    turned = smooth(3).swapaxes(0, 1)[::-1]

    data = encode(turned, turned[..., 0]).data

    assert np.array_equal(np.asarray(opened(data))[..., :3], turned)


@pytest.mark.parametrize("format_", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_sides_beyond_the_format_are_refused(format_: OutputFormat) -> None:
    line = np.zeros((1, format_.max_side + 1, 1), np.uint8)

    with pytest.raises(ImageError) as caught:
        encode(line, format=format_)

    assert caught.value.code is ErrorCode.ENCODE_ERROR
    assert str(format_.max_side) in caught.value.message
    assert str(format_.max_side + 1) in caught.value.message


def test_failure_of_a_codec_is_an_encode_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("encoder error -2")

    monkeypatch.setattr(Image.Image, "save", fail)

    with pytest.raises(ImageError) as caught:
        encode(smooth(3), format=OutputFormat.JPEG)

    assert caught.value.code is ErrorCode.ENCODE_ERROR
    assert "encoder error -2" in caught.value.message


@pytest.mark.parametrize(
    ("color", "alpha"),
    [
        (np.zeros((2, 2, 3), np.float32), None),
        (np.zeros((2, 2), np.uint8), None),
        (np.zeros((2, 2, 4), np.uint8), None),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3), np.uint8)),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint16)),
    ],
)
def test_other_arrays_are_refused(color: Any, alpha: Any) -> None:
    with pytest.raises(ValueError, match="is needed"):
        encoding.encode(color, alpha)


@pytest.mark.parametrize(
    "options", [{"quality": 0}, {"quality": 101}, {"png_compression": -1}, {"png_compression": 10}]
)
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(SettingsError) as caught:
        EncodeOptions(**options)  # type: ignore[arg-type]

    assert caught.value.code is ErrorCode.INVALID_OPTION
    assert str(next(iter(options.values()))) in caught.value.message


def test_png_compression_changes_the_size_only() -> None:
    results = [encode(smooth(3), png_compression=level).data for level in (0, 9)]

    assert len(results[0]) > 2 * len(results[1])
    for data, expected in itertools.product(results, [smooth(3)]):
        assert np.array_equal(np.asarray(opened(data)), expected)
