"""Files made by Pillow, vips and by hand, read back as arrays."""

import builtins
import io
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pyvips
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from small_images import (
    FILES,
    HEIGHT,
    SRGB,
    WIDTH,
    by_vips,
    chunk,
    decode,
    error_of,
    exif_with,
    gradient,
    heic,
    png_claiming,
    rgb,
    saved,
    tiff,
)

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images import values
from beam_upscale.images.containers import png
from beam_upscale.images.reading import inspection, pixels
from beam_upscale.images.values import DecodedImage, ImageHeader
from beam_upscale.planning.plan_options import Animated


def assert_pixels(decoded: DecodedImage, expected: np.ndarray, tolerance: int = 0) -> None:
    difference = np.abs(decoded.color.astype(int) - expected.astype(int))
    assert decoded.color.shape == expected.shape
    assert difference.max() <= tolerance


GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]
CMYK: bytes = bytes(pyvips.Operation.call("profile_load", "cmyk"))
"""The profile that libvips brings along."""


@pytest.mark.parametrize("format_", FILES)
def test_reads_every_format_by_content(format_: str) -> None:
    decoded = decode(FILES[format_])

    header = ImageHeader(format_, "P" if format_ == "gif" else "RGB", WIDTH, HEIGHT, 1, 8)
    assert decoded.header == header == inspection.read_header(FILES[format_])
    assert_pixels(decoded, gradient(3), tolerance=12 if format_ == "gif" else 4)
    assert decoded.color.flags.c_contiguous
    assert decoded.alpha is None
    assert decoded.notes == (("palette expanded",) if format_ == "gif" else ())


def test_formats_are_those_listed() -> None:
    assert set(FILES) == set(values.SUPPORTED_FORMATS)


@pytest.mark.parametrize("format_", ["jpeg", "png", "tiff"])
def test_gray_stays_one_channel(format_: str) -> None:
    decoded = decode(saved(Image.fromarray(gradient(1)[..., 0]), format_))

    assert decoded.header.mode == "L"
    assert_pixels(decoded, gradient(1), tolerance=2)
    assert decoded.notes == ()


@pytest.mark.parametrize("format_", ["png", "webp", "tiff", "avif"])
def test_alpha_is_kept_apart(format_: str) -> None:
    options = {"webp": {"lossless": True, "exact": True}, "avif": {"quality": 100}}.get(format_, {})

    decoded = decode(saved(Image.fromarray(gradient(4)), format_, **options))

    assert decoded.header.mode == "RGBA"
    assert_pixels(decoded, gradient(3), tolerance=12 if format_ == "avif" else 0)
    assert decoded.alpha is not None
    assert np.array_equal(decoded.alpha, gradient(4)[..., 3])


def test_gray_with_alpha() -> None:
    decoded = decode(saved(Image.fromarray(gradient(2), "LA"), "PNG"))

    assert decoded.header.mode == "LA"
    assert_pixels(decoded, gradient(1))
    assert decoded.alpha is not None
    assert np.array_equal(decoded.alpha, gradient(2)[..., 1])


@pytest.mark.parametrize("format_", ["png", "gif", "tiff", "bmp"])
def test_palette_becomes_rgb(format_: str) -> None:
    picture = rgb().quantize(16)

    decoded = decode(saved(picture, format_))

    assert decoded.header.mode == "P"
    assert_pixels(decoded, np.asarray(picture.convert("RGB")))
    assert decoded.notes == ("palette expanded",)


@pytest.mark.parametrize("format_", ["png", "gif"])
def test_transparent_palette_entry_becomes_alpha(format_: str) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)

    decoded = decode(saved(picture, format_, transparency=1))

    assert decoded.color[0, 0].tolist() == [255, 0, 0]
    assert decoded.alpha is not None
    assert decoded.alpha.tolist() == [[255, 0]]


def test_transparent_color_of_a_png_becomes_alpha() -> None:
    first_color = tuple(gradient(3)[0, 0].tolist())

    decoded = decode(saved(rgb(), "PNG", transparency=first_color))

    assert_pixels(decoded, gradient(3))
    assert decoded.alpha is not None
    assert decoded.alpha[0, 0] == 0
    assert (decoded.alpha == 0).sum() == 1


@pytest.mark.parametrize("format_", ["png", "tiff", "bmp"])
def test_one_bit_becomes_gray(format_: str) -> None:
    picture = Image.fromarray(gradient(1)[..., 0] > 100)

    decoded = decode(saved(picture, format_))

    if format_ != "bmp":  # a BMP of one bit has a palette, which Pillow resolves by itself
        assert decoded.header.mode == "1"
    assert np.array_equal(decoded.color[..., 0] == 255, gradient(1)[..., 0] > 100)
    assert set(np.unique(decoded.color)) == {0, 255}
    assert decoded.notes == ("1-bit as 8-bit grayscale",)


def test_two_bit_gray_png_spans_the_full_range() -> None:
    rows = b"\x00\x1b"  # filter none; 0, 1, 2, 3
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows))

    decoded = decode(data + chunk(b"IEND", b""))

    assert decoded.color[..., 0].tolist() == [[0, 85, 170, 255]]
    assert decoded.notes == ("2-bit as 8-bit grayscale",)


def test_cmyk_jpeg_without_profile() -> None:
    decoded = decode(saved(rgb().convert("CMYK"), "JPEG", quality=100, subsampling=0))

    assert decoded.header.mode == "CMYK"
    # Pillow writes Adobe's inverted samples: read the other way round, this would be a negative.
    assert_pixels(decoded, gradient(3), tolerance=6)
    assert decoded.notes == ("converted from CMYK",)


def test_cmyk_tiff_with_unusable_profile() -> None:
    decoded = decode(saved(rgb().convert("CMYK"), "TIFF", icc_profile=b"no profile at all"))

    assert_pixels(decoded, gradient(3))
    assert decoded.metadata.icc_profile is None
    assert decoded.notes == ("converted from CMYK", "unusable ICC profile dropped")


@pytest.mark.parametrize("format_", ["tiff", "jpeg"])
def test_cmyk_goes_through_its_profile(format_: str) -> None:
    muted = Image.fromarray((gradient(3) // 3 + 90).astype(np.uint8))
    printed = ImageCms.profileToProfile(
        muted, io.BytesIO(SRGB), io.BytesIO(CMYK), outputMode="CMYK"
    )
    assert printed is not None
    options = {"quality": 100, "subsampling": 0} if format_ == "jpeg" else {}

    decoded = decode(saved(printed, format_, icc_profile=CMYK, **options))

    assert_pixels(decoded, np.asarray(muted), tolerance=16)
    assert np.abs(np.asarray(printed.convert("RGB")).astype(int) - np.asarray(muted)).max() > 20
    assert decoded.metadata.icc_profile is None
    assert decoded.notes == ("converted from CMYK by its ICC profile",)


def test_lab_tiff_becomes_rgb() -> None:
    gray = Image.new("LAB", (4, 3), (128, 128, 128))

    decoded = decode(saved(gray, "TIFF"))

    assert decoded.header.mode == "LAB"
    # L* = 50.2, a* = b* = 0 is the gray 119.6 in sRGB (CIE 1976).
    assert_pixels(decoded, np.full((3, 4, 3), 120, np.uint8), tolerance=1)
    assert decoded.notes == ("converted from LAB",)


def test_ycbcr_tiff_becomes_rgb() -> None:
    decoded = decode(saved(rgb().convert("YCbCr"), "TIFF", compression="tiff_lzw"))

    assert decoded.header.mode == "YCbCr"
    assert_pixels(decoded, gradient(3), tolerance=3)


def test_uncompressed_ycbcr_tiff_is_refused() -> None:
    # Pillow reads it wrongly or not at all.
    error = error_of(saved(rgb().convert("YCbCr"), "TIFF"))

    assert error.code is ErrorCode.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("bands", "mode"), [(1, "I;16"), (2, "LA;16"), (3, "RGB;16"), (4, "RGBA;16")]
)
def test_sixteen_bits_stay_sixteen_bits(suffix: str, bands: int, mode: str) -> None:
    samples = np.random.default_rng(bands).integers(0, 65_536, (5, 7, bands), dtype=np.uint16)

    decoded = decode(by_vips(samples, suffix))

    assert decoded.header.mode == mode
    assert decoded.header.bits == 16
    assert decoded.color.dtype == np.uint16
    colors = bands - 1 + bands % 2
    assert np.array_equal(decoded.color, samples[..., :colors])
    if bands % 2 == 0:
        assert decoded.alpha is not None
        assert np.array_equal(decoded.alpha, samples[..., -1])
    assert decoded.notes == ()


def test_associated_alpha_of_a_deep_tiff_is_divided_out() -> None:
    half = np.array([[[10_000, 20_000, 30_000, 32_768]]], "<u2")
    tags = {256: (1,), 257: (1,), 258: (16,) * 4, 262: (2,), 277: (4,), 338: (1,), 339: (1,) * 4}

    decoded = decode(tiff(tags, half.tobytes()))

    assert_pixels(decoded, np.array([[[20_000, 39_999, 59_999]]]), tolerance=1)
    assert decoded.alpha is not None
    assert decoded.alpha.tolist() == [[32_768]]


def test_big_endian_tiff_with_an_unspecified_extra_sample() -> None:
    samples = np.array([[[1, 2, 3, 4]]], ">u2")
    tags = {256: (1,), 257: (1,), 258: (16,) * 4, 262: (2,), 277: (4,), 338: (0,), 339: (1,) * 4}

    decoded = decode(tiff(tags, samples.tobytes(), order=">"))

    assert decoded.header.mode == "RGB;16"
    assert decoded.color.tolist() == [[[1, 2, 3]]]
    assert decoded.alpha is None


@pytest.mark.parametrize(
    ("bits", "sample_format", "found"),
    [(32, 3, "32-bit float"), (32, 2, "32-bit signed"), (32, 1, "32-bit"), (12, 1, "12-bit")],
)
def test_other_depths_of_tiff_are_refused(bits: int, sample_format: int, found: str) -> None:
    tags = {256: (2,), 257: (1,), 258: (bits,), 262: (1,), 277: (1,), 339: (sample_format,)}

    error = error_of(tiff(tags, bytes(8)))

    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert found in error.message


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["jpeg", "png", "webp", "tiff", "avif"])
def test_exif_orientation_is_applied(format_: str, orientation: int) -> None:
    # How the file holds the picture that is to be seen: the inverse of what a viewer does.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](gradient(3))
    options: dict[str, Any] = {"quality": 100} if format_ in ("jpeg", "avif") else {}
    if format_ == "webp":
        options = {"lossless": True}
    picture = Image.fromarray(np.ascontiguousarray(stored))

    decoded = decode(saved(picture, format_, exif=exif_with(orientation), **options))

    assert (decoded.header.width, decoded.header.height) == (WIDTH, HEIGHT)
    assert_pixels(decoded, gradient(3), tolerance=16)
    assert decoded.metadata.exif is not None
    exif = Image.Exif()
    exif.load(decoded.metadata.exif)
    assert exif.get(274, 1) == 1
    assert exif[271] == "Maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"


def test_orientation_of_a_heic_is_applied_once() -> None:
    pillow_heif.register_heif_opener()
    picture = Image.fromarray(np.ascontiguousarray(np.rot90(gradient(3))))

    decoded = decode(saved(picture, "HEIF", quality=-1, exif=exif_with(6)))

    assert (decoded.header.width, decoded.header.height) == (WIDTH, HEIGHT)
    assert_pixels(decoded, gradient(3), tolerance=16)


def test_sixteen_bit_tiff_is_turned() -> None:
    samples = np.arange(6, dtype="<u2").reshape(2, 3)
    tags = {256: (3,), 257: (2,), 258: (16,), 262: (1,), 274: (6,), 277: (1,), 339: (1,)}

    decoded = decode(tiff(tags, samples.tobytes()))

    assert (decoded.header.width, decoded.header.height) == (2, 3)
    assert decoded.color[..., 0].tolist() == np.rot90(samples, -1).tolist()


def test_unreadable_exif_is_dropped() -> None:
    decoded = decode(saved(rgb(), "PNG", exif=b"this is no EXIF"))

    assert decoded.metadata.exif is None
    assert decoded.notes == ("unreadable EXIF dropped",)


@pytest.mark.parametrize("format_", ["jpeg", "png", "webp", "tiff", "avif"])
def test_icc_profile_is_kept(format_: str) -> None:
    decoded = decode(saved(rgb(), format_, icc_profile=SRGB))

    assert decoded.metadata.icc_profile == SRGB
    assert decoded.notes == ()


def test_profile_of_another_color_space_is_dropped() -> None:
    decoded = decode(saved(rgb(), "JPEG", icc_profile=GRAY))

    assert decoded.metadata.icc_profile is None
    assert decoded.notes == ("unusable ICC profile dropped",)


def animation(format_: str) -> bytes:
    frames = [Image.fromarray(gradient(3) + shift) for shift in (0, 10, 20)]
    options: dict[str, Any] = {"lossless": True} if format_ == "webp" else {}
    return saved(frames[0], format_, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("format_", ["gif", "png", "webp", "tiff", "avif"])
def test_first_of_several_frames(format_: str) -> None:
    decoded = decode(animation(format_))

    assert decoded.header.frames == 3
    assert_pixels(decoded, gradient(3), tolerance=12)
    assert decoded.notes[0] == "first of 3 frames"


def test_a_damaged_number_of_frames_is_passed_over() -> None:
    header_end = len(png.PNG_SIGNATURE) + 25
    data = FILES["png"][:header_end] + chunk(b"acTL", b"\0\3") + FILES["png"][header_end:]

    assert decode(data).header.frames == 1


def test_a_jpeg_whose_height_stands_behind_its_pixels() -> None:
    data = bytearray(FILES["jpeg"])
    frame = data.index(b"\xff\xc0")
    height = bytes(data[frame + 5 : frame + 7])
    data[frame + 5 : frame + 7] = bytes(2)
    scan = data.index(b"\xff\xd9")
    data[scan:scan] = b"\xff\xdc\x00\x04" + height

    error = error_of(bytes(data))

    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "DNL" in error.message


def test_a_png_of_apple() -> None:
    chunk = struct.pack(">I", 4) + b"CgBI" + bytes([0x50, 0, 0x20, 2])
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    signature = len(png.PNG_SIGNATURE)

    error = error_of(FILES["png"][:signature] + chunk + FILES["png"][signature:])

    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "Apple" in error.message


@pytest.mark.parametrize("format_", ["gif", "png", "webp", "tiff", "avif"])
def test_several_frames_can_be_refused(format_: str) -> None:
    error = error_of(animation(format_), animated=Animated.REJECT)

    assert error.code is ErrorCode.ANIMATED
    assert "3 frames" in error.message


def test_single_frame_passes_where_animations_are_refused() -> None:
    assert decode(FILES["gif"], animated=Animated.REJECT).header.frames == 1


def test_primary_of_several_pictures_in_a_heic() -> None:
    file = pillow_heif.from_pillow(rgb())
    file.add_from_pillow(rgb())
    buffer = io.BytesIO()
    file.save(buffer)

    assert decode(buffer.getvalue()).notes == ("primary of 2 frames",)


def test_associated_alpha_of_a_heic_is_divided_out() -> None:
    stored = np.empty((HEIGHT, WIDTH, 4), np.uint8)
    stored[..., :3], stored[..., 3] = 60, 120
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGBa", (WIDTH, HEIGHT), stored.tobytes()).save(buffer, quality=-1)

    decoded = decode(buffer.getvalue())

    assert_pixels(decoded, np.full((HEIGHT, WIDTH, 3), 127), tolerance=3)
    assert decoded.alpha is not None
    assert set(np.unique(decoded.alpha)) == {120}


def test_ten_bit_heic_is_reduced() -> None:
    deep = gradient(3, np.uint16)
    file = pillow_heif.from_bytes("RGB;16", (WIDTH, HEIGHT), deep.tobytes())
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, chroma=444)

    decoded = decode(buffer.getvalue())

    assert decoded.color.dtype == np.uint8
    assert_pixels(decoded, gradient(3), tolerance=4)
    assert decoded.notes == ("10-bit reduced to 8 bits",)


def test_heic_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_heif(name: str, *rest: Any, **options: Any) -> Any:
        if name == "pillow_heif":
            raise ImportError(name)
        return real_import(name, *rest, **options)

    monkeypatch.delitem(sys.modules, "pillow_heif")
    monkeypatch.setattr(builtins, "__import__", without_heif)

    error = error_of(FILES["heif"])

    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "beam-upscale[heif]" in error.message


NOISE = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def noise(format_: str, **options: Any) -> bytes:
    picture = Image.fromarray(NOISE)
    if format_ == "gif":
        picture = picture.quantize(256)
    return heic(picture) if format_ == "heif" else saved(picture, format_, **options)


@pytest.mark.parametrize("format_", FILES)
def test_file_cut_in_half_is_truncated(format_: str) -> None:
    data = noise(format_)

    assert error_of(data[: len(data) // 2]).code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("format_", FILES)
def test_file_cut_within_its_header_is_truncated(format_: str) -> None:
    assert error_of(noise(format_)[:20]).code is ErrorCode.TRUNCATED


def test_progressive_jpeg_cut_in_half_is_truncated() -> None:
    data = noise("jpeg", progressive=True)

    assert error_of(data[: len(data) // 2]).code is ErrorCode.TRUNCATED


def test_jpeg_that_ends_early_is_no_gray_half() -> None:
    data = noise("jpeg")

    error = error_of(data[: len(data) // 2] + b"\xff\xd9")

    assert error.code is ErrorCode.CORRUPT


def test_jpeg_with_harmless_oddities_is_read() -> None:
    odd = bytearray(FILES["jpeg"])
    version = odd.index(b"JFIF\x00") + 5
    odd[version] = 9  # a major version that no one has defined: libjpeg warns

    assert_pixels(decode(bytes(odd)), gradient(3), tolerance=3)


@pytest.mark.parametrize("target", [b"IDAT", b"IHDR"])
def test_png_with_a_wrong_checksum(target: bytes) -> None:
    data = bytearray(FILES["png"])
    start = data.index(target)
    length = int.from_bytes(data[start - 4 : start], "big")
    data[start + 4 + length] ^= 0xFF

    error = error_of(bytes(data))

    assert error.code is ErrorCode.CHECKSUM_MISMATCH
    assert target.decode() in error.message


def test_png_with_pixels_missing_is_corrupt() -> None:
    assert error_of(png_claiming(100, 100)).code is ErrorCode.CORRUPT


@pytest.mark.parametrize(("bit_depth", "color_type"), [(8, 1), (3, 0)])
def test_png_of_no_defined_kind_is_corrupt(bit_depth: int, color_type: int) -> None:
    header = struct.pack(">IIBBBBB", 4, 4, bit_depth, color_type, 0, 0, 0)

    error = error_of(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))

    assert error.code is ErrorCode.CORRUPT


def test_jpeg_of_twelve_bits_is_refused() -> None:
    deep = bytearray(FILES["jpeg"])
    deep[deep.index(b"\xff\xc0") + 4] = 12

    error = error_of(bytes(deep))

    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "12 bits" in error.message


def test_bigtiff_is_read() -> None:
    decoded = decode(by_vips(gradient(3, np.uint16), ".tif", bigtiff=True))

    assert_pixels(decoded, gradient(3, np.uint16))


def test_gif_without_pixels() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 0, 5, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 0, 5, 0) + b"\x02\x01\x00\x00;"

    assert error_of(screen + frame).code is ErrorCode.EMPTY_IMAGE


def test_pillows_own_limit_neither_refuses_nor_warns(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)

    for data in FILES.values():
        decode(data)

    assert Image.MAX_IMAGE_PIXELS == 10
    assert not recwarn.list


@pytest.mark.parametrize("error", [MemoryError(), pyvips.Error("vips: out of memory")])
def test_memory_errors_are_no_damage(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(pixels, "_read_png", fail)

    with pytest.raises(MemoryError):
        decode(FILES["png"])


VALID = {**FILES, "apng": animation("png"), "tiff16": by_vips(gradient(3, np.uint16), ".tif")}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_files_raise_nothing_but_image_errors(data: st.DataObject) -> None:
    original = VALID[data.draw(st.sampled_from(sorted(VALID)))]
    damaged = bytearray(original[: data.draw(st.integers(0, len(original)))])
    flips = st.lists(st.tuples(st.integers(0, len(original) - 1), st.integers(1, 255)), max_size=4)
    for position, mask in data.draw(flips):
        if position < len(damaged):
            damaged[position] ^= mask

    for read in (inspection.read_header, decode):
        try:
            read(bytes(damaged))
        except ImageError as error:
            assert error.message
