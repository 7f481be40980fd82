"""Colors that are told without an ICC profile, from the file to what a viewer shows of a result."""

import io
import struct
from typing import Any

import numpy as np
import pillow_heif
import pytest
import tiff_files
from described_colors import (
    ADOBE,
    BT2020,
    DCI,
    DISPLAY_P3,
    SRGB,
    Corners,
    Light,
    bt709_light,
    by_profile,
    chrm,
    cicp,
    gama,
    iccp,
    png,
    power,
    shown,
    srgb_light,
    swatches,
    tiff,
)
from PIL import Image, ImageCms
from tiff_files import Page

from beam_upscale.images.metadata.color_tags import NOT_UNDERSTOOD
from beam_upscale.images.reading import pixels
from beam_upscale.images.values import DecodedImage
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import OutputFormat

MAX_PIXELS = 1_000_000
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def decode(data: bytes) -> DecodedImage:
    return pixels.decode(data, max_pixels=MAX_PIXELS)


def encoded(
    decoded: DecodedImage, format_: OutputFormat = OutputFormat.PNG, **options: Any
) -> bytes:
    return encoding.encode(
        decoded.color, metadata=decoded.metadata, options=EncodeOptions(format_, **options)
    ).data


def assert_shown(data: bytes, corners: Corners, light: Light, tolerance: float = 2) -> DecodedImage:
    """A result looks as the source's description says, within levels of 8 bits."""
    decoded = decode(data)
    expected = shown(decoded.color, corners, light) * 255
    assert np.abs(by_profile(encoded(decoded)) - expected).max() <= tolerance
    assert np.abs(decoded.color - expected).max() > 5
    return decoded


PNGS = {
    "Display P3 by code points": ([cicp(12, 13)], DISPLAY_P3, srgb_light),
    "BT.2020 as video has it": ([cicp(9, 1)], BT2020, bt709_light),
    "DCI, with its own white": ([cicp(11, 4)], DCI, power(2.2)),
    "PAL": ([cicp(5, 5)], (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, 0.3127, 0.329), power(2.8)),
    "linear light by code points": ([cicp(1, 8)], SRGB, power(1)),
    "linear light": ([gama(1.0)], SRGB, power(1)),
    "an old Macintosh": ([gama(1 / 1.8)], SRGB, power(1.8)),
    "Adobe RGB by primaries": ([chrm(ADOBE), gama(0.45455)], ADOBE, power(2.2)),
    "primaries alone": ([chrm(DISPLAY_P3)], DISPLAY_P3, srgb_light),
    "code points before all else": (
        [(b"sRGB", b"\0"), iccp(SRGB_PROFILE), gama(0.45455), cicp(12, 13)],
        DISPLAY_P3,
        srgb_light,
    ),
    "code points that PNG does not allow": ([cicp(12, 13, matrix=1), gama(1.0)], SRGB, power(1)),
    "a profile that is damaged, and gamma": ([iccp(b"junk"), gama(1.0)], SRGB, power(1)),
}


@pytest.mark.parametrize("name", PNGS)
def test_colors_of_png(name: str) -> None:
    chunks, corners, light = PNGS[name]

    decoded = assert_shown(png(swatches(), *chunks), corners, light)

    notes = {
        "a profile that is damaged, and gamma": ("unusable ICC profile dropped",),
        "code points that PNG does not allow": (NOT_UNDERSTOOD,),
    }
    assert decoded.notes == notes.get(name, ())


@pytest.mark.parametrize(
    "chunk",
    [(b"cICP", b"\1\2"), (b"cICP", bytes([1, 13, 0, 1, 0])), cicp(12, 13, 0, 2), cicp(255, 255)],
    ids=["short", "long", "another range", "reserved"],
)
def test_code_points_that_say_nothing_are_noted(chunk: tuple[bytes, bytes]) -> None:
    alone = decode(png(swatches(), chunk))
    beside_profile = decode(png(swatches(), chunk, iccp(SRGB_PROFILE)))

    assert (alone.metadata.icc_profile, alone.notes) == (None, (NOT_UNDERSTOOD,))
    assert beside_profile.metadata.icc_profile == SRGB_PROFILE
    assert beside_profile.notes == (NOT_UNDERSTOOD,)


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"sRGB", b"\0"), gama(1.0), chrm(ADOBE)],
        [gama(0.45455), chrm(SRGB)],
        [gama(0.45455)],
        [chrm(SRGB)],
        [cicp(1, 13)],
        [cicp(2, 2)],
        [cicp(1, 13), iccp(SRGB_PROFILE)],
    ],
)
def test_srgb_by_any_name_needs_no_profile(chunks: list[tuple[bytes, bytes]]) -> None:
    decoded = decode(png(swatches(), *chunks))

    assert (decoded.metadata.icc_profile, decoded.notes) == (None, ())


def test_profile_before_srgb_and_gamma() -> None:
    decoded = decode(png(swatches(), (b"sRGB", b"\0"), gama(1.0), iccp(SRGB_PROFILE)))

    assert (decoded.metadata.icc_profile, decoded.notes) == (SRGB_PROFILE, ())


def test_samples_of_video_in_a_png() -> None:
    whole = swatches().astype(float)
    narrow = np.rint(whole * 219 / 255 + 16).astype(np.uint8)

    for samples, divisor in ((narrow, 1), (narrow.astype(np.uint16) * 256, 256)):
        decoded = decode(_deep_png(samples, cicp(1, 13, full_range=0)))
        seen = by_profile(
            encoding.encode(
                (decoded.color // divisor).astype(np.uint8), metadata=decoded.metadata
            ).data
        )
        assert np.abs(seen - whole).max() <= 2


def _deep_png(samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    if samples.dtype == np.uint8:
        return png(samples, *chunks)
    data = encoding.encode(samples).data
    return data[:33] + png(swatches(), *chunks)[33:].split(b"IDAT")[0][:-4] + data[33:]


@pytest.mark.parametrize(
    ("chunks", "note"),
    [
        ([cicp(9, 16)], "PQ (HDR) colors not kept"),
        ([cicp(9, 18)], "HLG (HDR) colors not kept"),
        ([cicp(200, 13)], NOT_UNDERSTOOD),
        ([cicp(1, 200)], NOT_UNDERSTOOD),
        ([gama(0)], NOT_UNDERSTOOD),
        ([gama(40_000)], NOT_UNDERSTOOD),
        ([(b"cHRM", bytes(31))], NOT_UNDERSTOOD),
        ([(b"cHRM", bytes(32))], NOT_UNDERSTOOD),
        ([(b"cHRM", b"\xff" * 32), gama(1.0)], NOT_UNDERSTOOD),
    ],
)
def test_what_cannot_be_carried_is_noted(chunks: list[tuple[bytes, bytes]], note: str) -> None:
    decoded = decode(png(swatches(), *chunks))

    assert (decoded.metadata.icc_profile, decoded.notes) == (None, (note,))


def test_profile_stands_in_for_colors_that_cannot_be_carried() -> None:
    decoded = decode(png(swatches(), cicp(9, 16), iccp(SRGB_PROFILE)))

    assert decoded.metadata.icc_profile == SRGB_PROFILE
    assert decoded.notes == ("PQ (HDR) colors not kept",)


@pytest.mark.parametrize("format_", OutputFormat)
def test_every_output_carries_colors(format_: OutputFormat) -> None:
    options = {"lossless": True} if format_ is OutputFormat.WEBP else {"quality": 100}
    decoded = decode(png(swatches(), cicp(12, 13)))

    seen = by_profile(encoded(decoded, format_, **options))

    expected = shown(decoded.color, DISPLAY_P3, srgb_light) * 255
    assert np.abs(seen - expected).max() <= (4 if format_ is OutputFormat.JPEG else 2)


def test_gray_in_linear_light() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)

    decoded = decode(png(gray, gama(1.0)))

    assert decoded.color.shape == (16, 16, 1)
    expected = shown(np.stack([gray] * 3, axis=-1), SRGB, power(1)) * 255
    assert np.abs(by_profile(encoded(decoded)) - expected).max() <= 2
    assert decode(png(gray, cicp(12, 13))).metadata.icc_profile is None


def avif(primaries: int, transfer: int, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(swatches()).save(file, "AVIF", quality=100, subsampling="4:4:4", **options)
    data = file.getvalue()
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def heic(primaries: int, transfer: int, full_range: int, **options: Any) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(swatches())).save(
        file,
        quality=-1,
        chroma=444,
        color_primaries=primaries,
        transfer_characteristics=transfer,
        full_range_flag=full_range,
        **options,
    )
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [avif(12, 13), avif(12, 13, range="limited"), heic(12, 13, 1), heic(12, 13, 0)],
    ids=["avif", "limited avif", "heic", "limited heic"],
)
def test_code_points_of_avif_and_heic(data: bytes) -> None:
    decoded = assert_shown(data, DISPLAY_P3, srgb_light)

    # Limited range is undone by their decoders.
    assert np.abs(decoded.color.astype(int) - swatches()).max() <= 4
    assert decoded.notes == ()


def test_code_points_that_say_nothing_new_or_yield_to_a_profile() -> None:
    assert decode(avif(1, 13)).metadata.icc_profile is None
    assert decode(heic(1, 13, 1)).metadata.icc_profile is None
    assert decode(avif(12, 16)).notes == ("PQ (HDR) colors not kept",)
    both = decode(avif(12, 13, icc_profile=SRGB_PROFILE))
    assert both.metadata.icc_profile == SRGB_PROFILE


def rationals(*numbers: float) -> tuple[int, tuple[int, ...]]:
    return 5, tuple(part for each in numbers for part in (round(each * 10_000), 10_000))


def test_colors_of_tiff() -> None:
    corners = {318: rationals(*ADOBE[6:]), 319: rationals(*ADOBE[:6])}
    linear = 3, tuple(range(0, 65_536, 257))

    assert_shown(tiff(swatches(), corners), ADOBE, power(2.2))
    assert_shown(tiff(swatches(), {**corners, 301: linear}), ADOBE, power(1))
    assert_shown(tiff(swatches(), {301: (3, linear[1] * 3)}), SRGB, power(1))
    standard = {318: rationals(*SRGB[6:]), 319: rationals(*SRGB[:6])}
    assert decode(tiff(swatches(), standard)).metadata.icc_profile is None
    assert decode(tiff(swatches(), {301: (3, (1, 2, 3))})).notes == (NOT_UNDERSTOOD,)


def test_levels_of_tiff_that_no_codec_follows_are_noted() -> None:
    gray = swatches()[..., :1]
    curve = {290: (3, (2,)), 291: (3, tuple(range(256)))}
    video, whole = rationals(*(16, 235) * 3), rationals(*(0, 255) * 3)

    def notes(samples: np.ndarray, tags: dict[int, Any], photometric: int) -> tuple[str, ...]:
        data = tiff_files.tiff(Page(samples, photometric=photometric, tags=tags))
        return decode(data).notes

    assert notes(gray, curve, 1) == notes(gray, curve, 0) == (NOT_UNDERSTOOD,)
    assert notes(swatches(), {532: video}, 2) == (NOT_UNDERSTOOD,)
    assert notes(gray, {290: (3, (2,))}, 1) == notes(swatches(), {532: whole}, 2) == ()
    deep = rationals(*(0, 65_535) * 3)
    data = tiff_files.tiff(Page(swatches().astype(np.uint16), 16, 2, tags={532: deep}))
    assert decode(data).notes == ()


def test_levels_of_ycbcr_in_a_tiff() -> None:
    file = io.BytesIO()
    Image.fromarray(swatches()).convert("YCbCr").save(file, "TIFF", compression="jpeg")
    whole, video = struct.pack("<4I", 0, 1, 255, 1), struct.pack("<4I", 16, 1, 235, 1)
    data = file.getvalue()
    assert whole in data

    assert decode(data).notes == ()
    assert decode(data.replace(whole, video)).notes == (NOT_UNDERSTOOD,)


def bmp(samples: np.ndarray, color: bytes, profile: bytes = b"") -> bytes:
    """A BMP with the last header's 84 bytes that begin with the kind of its colors."""
    rows = samples[::-1, :, ::-1].tobytes()
    head = struct.pack(
        "<IiiHHIIiiII", 124, samples.shape[1], samples.shape[0], 1, 24, 0, 0, 0, 0, 0, 0
    )
    head += struct.pack("<4I", 0, 0, 0, 0) + color
    start = 14 + 124
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, start) + head + rows + profile


def test_colors_of_bmp() -> None:
    white = np.array([0.3127 / 0.329, 1, (1 - 0.3127 - 0.329) / 0.329])
    rgb = np.array([[x / y, 1, (1 - x - y) / y] for x, y in np.reshape(ADOBE[:6], (3, 2))]).T
    corners = (rgb * np.linalg.solve(rgb, white)).T
    fixed = struct.pack("<9i", *(int(each) for each in np.rint(corners.ravel() * 2**30)))
    gammas = struct.pack("<3I", *[round(2.2 * 65_536)] * 3)
    told = struct.pack("<I", 0) + fixed + gammas + bytes(16)
    offset = 124 + swatches().nbytes
    held = b"DEBM" + bytes(48) + struct.pack("<IIII", 0, offset, len(SRGB_PROFILE), 0)

    assert_shown(bmp(swatches(), told), ADOBE, power(2.2))
    embedded = decode(bmp(swatches(), held, SRGB_PROFILE))
    assert embedded.metadata.icc_profile == SRGB_PROFILE
    assert decode(bmp(swatches(), held, SRGB_PROFILE[:-9])).notes == (
        "unusable ICC profile dropped",
    )
    assert decode(bmp(swatches(), bytes(68))).metadata.icc_profile is None


@pytest.mark.parametrize(
    ("kind", "notes"),
    [
        (b"BGRs", ()),
        (b" niW", ()),
        (b"\1\0\0\0", ()),
        (b"KNIL", ("linked ICC profile dropped",)),
        (b"junk", (NOT_UNDERSTOOD,)),
    ],
)
def test_kinds_of_colors_in_a_bmp(kind: bytes, notes: tuple[str, ...]) -> None:
    name = b"C:\\colors.icc\0"
    place = struct.pack("<4I", 4, 124 + swatches().nbytes, len(name), 0)

    decoded = decode(bmp(swatches(), kind + bytes(48) + place, name))

    assert (decoded.metadata.icc_profile, decoded.notes) == (None, notes)


def camera_exif(space: int, index: str | None = None, **fields: Any) -> bytes:
    exif = Image.Exif()
    own = exif.get_ifd(0x8769)
    own[0xA001] = space
    if "gamma" in fields:
        own[0xA500] = fields["gamma"]
    if "corners" in fields:
        exif[318], exif[319] = fields["corners"][6:], fields["corners"][:6]
    if index is not None:
        own[0xA005] = {1: index}
    return exif.tobytes()


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "PNG"])
def test_adobe_rgb_of_cameras(format_: str) -> None:
    for exif in (camera_exif(0xFFFF, "R03"), camera_exif(2)):
        file = io.BytesIO()
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(format_, {})
        Image.fromarray(swatches()).save(file, format_, exif=exif, **options)

        assert_shown(file.getvalue(), ADOBE, power(563 / 256))


def test_other_colors_in_exif() -> None:
    def by_exif(exif: bytes, **options: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(swatches()).save(file, "PNG", exif=exif, **options)
        return file.getvalue()

    assert_shown(by_exif(camera_exif(0xFFFF, gamma=1.8)), SRGB, power(1.8))
    assert_shown(
        by_exif(camera_exif(0xFFFF, gamma=2.2, corners=DISPLAY_P3)), DISPLAY_P3, power(2.2)
    )
    for exif in (camera_exif(1), camera_exif(1, "R98"), camera_exif(0xFFFF)):
        assert decode(by_exif(exif)).metadata.icc_profile is None
    told = by_exif(camera_exif(0xFFFF, "R03"), icc_profile=SRGB_PROFILE)
    assert decode(told).metadata.icc_profile == SRGB_PROFILE
