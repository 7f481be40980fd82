"""ICC profiles that are sound, and that are damaged in ways that viewers pass over."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from described_colors import iccp, png, sound_profile, swatches, tiff
from PIL import Image, ImageCms

from beam_upscale.images.metadata import profiles
from beam_upscale.images.metadata.profiles import (
    SRGB_CURVE,
    SRGB_PRIMARIES,
    Parametric,
    usable_profile,
)
from beam_upscale.images.reading import pixels
from beam_upscale.images.values import Metadata
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import OutputFormat

SOUND = sound_profile()
NOTE = ("unusable ICC profile dropped",)


def changed(at: int, value: bytes) -> bytes:
    return SOUND[:at] + value + SOUND[at + len(value) :]


KEPT = {
    "sound": SOUND,
    "zeros behind it": SOUND + bytes(12),
    "an odd byte behind it": SOUND + b"\1",
    "junk behind it": SOUND + b"junk" * 1000,
}

DROPPED = {
    "empty": b"",
    "cut": SOUND[:-40],
    "its header alone": SOUND[:128],
    "less than its header": SOUND[:100],
    "no signature": changed(36, b"xxxx"),
    "longer than it says it is": struct.pack(">I", len(SOUND) + 4) + SOUND[4:],
    "of no length": bytes(4) + SOUND[4:],
    "of a length within its header": struct.pack(">I", 100) + SOUND[4:],
    "ends within its last tag": struct.pack(">I", len(SOUND) - 8) + SOUND[4:],
    "a tag out of range": changed(136, struct.pack(">I", 10**6)),
    "a tag of a huge length": changed(140, b"\xff" * 4),
    "tags without number": changed(128, b"\xff" * 4),
    "no tags": changed(128, bytes(4)),
    "tags of junk": SOUND[:300] + b"\xff" * (len(SOUND) - 300),
    "another connection space": changed(20, b"Luv "),
    "abstract": changed(12, b"abst"),
    "a link": changed(12, b"link"),
    "of no class": changed(12, b"zzzz"),
    "of gray": changed(16, b"GRAY"),
    "of another version": changed(8, b"\x09"),
    "zeros": bytes(3000),
    "text": b"no profile at all" * 100,
}


@pytest.mark.parametrize("name", KEPT)
def test_what_follows_a_profile_is_cut_off(name: str) -> None:
    assert usable_profile(KEPT[name], 3) == SOUND


@pytest.mark.parametrize("name", DROPPED)
def test_damaged_profiles_are_not_used(name: str) -> None:
    assert usable_profile(DROPPED[name], 3) is None


def test_sound_profiles_are_for_their_own_samples() -> None:
    assert usable_profile(SOUND, 1) is None
    gray = profiles.gray_profile(Parametric(2.2), "Gray")
    assert (usable_profile(gray, 1), usable_profile(gray, 3)) == (gray, None)


def test_a_huge_profile_is_not_used() -> None:
    huge = bytearray(SOUND + bytes(17 << 20))
    struct.pack_into(">I", huge, 0, len(huge))

    assert usable_profile(bytes(huge), 3) is None
    assert usable_profile(SOUND + bytes(17 << 20), 3) == SOUND


def test_a_profile_that_no_reader_of_png_takes() -> None:
    long = bytearray(SOUND + np.random.default_rng(0).bytes(1 << 20))
    struct.pack_into(">I", long, 0, len(long))
    kept = usable_profile(bytes(long), 3)

    for output in OutputFormat:
        encoded = encoding.encode(
            swatches(), metadata=Metadata(kept), options=EncodeOptions(output)
        )
        is_png = output is OutputFormat.PNG
        assert encoded.notes == (("ICC profile too long for PNG dropped",) if is_png else ())
        found = Image.open(io.BytesIO(encoded.data)).info.get("icc_profile")
        assert found == (None if is_png else kept)


def test_a_profile_of_odd_length_is_padded() -> None:
    # Some end with a text that is not padded, and declare that.
    odd = bytearray(SOUND + b"x")
    struct.pack_into(">I", odd, 0, len(odd))

    padded = usable_profile(bytes(odd), 3)

    assert padded is not None
    assert (len(padded), padded[:4]) == (len(SOUND) + 4, struct.pack(">I", len(SOUND) + 4))


def jpeg(profile: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(swatches()).save(file, "JPEG", icc_profile=profile)
    return file.getvalue()


def webp(profile: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(swatches()).save(file, "WEBP", icc_profile=profile, lossless=True)
    return file.getvalue()


FILES = {
    "jpeg": jpeg,
    "png": lambda profile: png(swatches(), iccp(profile)),
    "webp": webp,
    "tiff": lambda profile: tiff(swatches(), {34_675: (7, tuple(profile))}),
}


@pytest.mark.parametrize("format_", FILES)
@pytest.mark.parametrize("name", [*KEPT, *(name for name in DROPPED if DROPPED[name])])
def test_no_picture_is_lost_for_its_profile(format_: str, name: str) -> None:
    profile = {**KEPT, **DROPPED}[name]

    decoded = pixels.decode(FILES[format_](profile), max_pixels=10_000)

    # PNG's own library takes no more of a profile than it declares.
    is_kept = name in KEPT
    assert decoded.metadata.icc_profile == (SOUND if is_kept else None)
    assert decoded.notes == (() if is_kept else NOTE)
    for output in OutputFormat:
        encoded = encoding.encode(
            decoded.color, metadata=decoded.metadata, options=EncodeOptions(output)
        )
        assert Image.open(io.BytesIO(encoded.data)).info.get("icc_profile") == (
            SOUND if is_kept else None
        )


def pieces(profile: bytes, *numbers: int, total: int = 3) -> bytes:
    """A JPEG with some of the pieces of a profile."""
    third = -(-len(profile) // total)
    data = jpeg(b"")
    for number in reversed(numbers):
        part = profile[(number - 1) * third : number * third]
        content = b"ICC_PROFILE\0" + bytes([number, total]) + part
        data = data[:2] + b"\xff\xe2" + struct.pack(">H", len(content) + 2) + content + data[2:]
    return data


def test_pieces_of_a_profile() -> None:
    for numbers in ((1, 2, 3), (3, 1, 2)):
        whole = pixels.decode(pieces(SOUND, *numbers), max_pixels=10_000)
        assert (whole.metadata.icc_profile, whole.notes) == (SOUND, ())
    for numbers in ((1, 2), (2, 3), (1, 1, 2), (1,)):
        partial = pixels.decode(pieces(SOUND, *numbers), max_pixels=10_000)
        assert (partial.metadata.icc_profile, partial.notes) == (None, NOTE)


def test_pieces_of_a_profile_of_cmyk() -> None:
    file = io.BytesIO()
    Image.fromarray(swatches()).convert("CMYK").save(file, "JPEG")
    content = b"ICC_PROFILE\0" + bytes([1, 2]) + SOUND
    segment = b"\xff\xe2" + struct.pack(">H", len(content) + 2) + content

    decoded = pixels.decode(file.getvalue()[:2] + segment + file.getvalue()[2:], max_pixels=10_000)

    assert decoded.notes == ("converted from CMYK", *NOTE)


def test_profiles_that_are_made_are_the_same_each_time() -> None:
    made: list[Any] = []
    for _ in range(2):
        profiles.rgb_profile.cache_clear()
        made.append(profiles.rgb_profile(SRGB_PRIMARIES, (SRGB_CURVE,), "A name"))

    assert made[0] == made[1]
    assert made[0][24:36] == struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    assert ImageCms.getProfileDescription(io.BytesIO(made[0])) == "A name\n"
    assert usable_profile(made[0], 3) == made[0]


def test_encoders_take_no_profile_of_other_samples() -> None:
    gray = np.zeros((4, 4, 1), np.uint8)

    data = encoding.encode(gray, metadata=Metadata(SOUND)).data

    assert "icc_profile" not in Image.open(io.BytesIO(data)).info
