"""Checks ICC profiles that are to be carried over, and makes small ones from color descriptions.

A damaged profile is no reason to lose a picture. Damage that viewers ignore is cut off or dropped
here, before an encoder fails on it. Section numbers are those of ICC.1:2010.
"""

import functools
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from beam_upscale.images.codecs import is_raised_by_codec

LARGEST_PROFILE = 4 << 20
"""Bytes. No device's profile is nearly as large, and libvips reads at most 6 MB from a JPEG."""

UNUSABLE = "unusable ICC profile dropped"
"""The note on a profile that cannot be used to show a picture."""

_HEADER_BYTES = 128
_TAG_BYTES = 12
_SIGNATURE = slice(36, 40)
_COLOR_SPACE = slice(16, 20)
_PROFILE_ID = slice(84, 100)
_MODES = {1: ("L", b"GRAY"), 3: ("RGB", b"RGB "), 4: ("CMYK", b"CMYK")}

Matrix = NDArray[np.float64]


def usable_profile(profile: bytes, channels: int) -> bytes | None:
    """Returns a profile in the form that can be carried over; None if there is none.

    Bytes beyond the size that the profile declares are cut off.

    Args:
        profile: as it was found.
        channels: the number of color channels: 1 gray, 3 RGB, 4 CMYK.
    """
    look = _looked_at if len(profile) <= _REMEMBERED_BYTES else _looked_at.__wrapped__
    return look(profile, channels)


_REMEMBERED_BYTES = 1 << 20


@functools.lru_cache(maxsize=16)
def _looked_at(profile: bytes, channels: int) -> bytes | None:
    """Checks a profile as `usable_profile` does, cached: pictures of a dataset share profiles."""
    mode, space = _MODES[channels]
    if len(profile) < _HEADER_BYTES + 4 or profile[_SIGNATURE] != b"acsp":
        return None
    (size,) = struct.unpack_from(">I", profile)
    if not _HEADER_BYTES + 4 <= size <= min(len(profile), LARGEST_PROFILE):
        return None
    profile = _aligned(profile[:size])
    if profile[_COLOR_SPACE] != space or not _tags_lie_within(profile):
        return None
    return profile if _is_understood(profile, mode) else None


def _aligned(profile: bytes) -> bytes:
    """Pads a profile to whole words, which PNG's readers insist on, and declares that size."""
    padding = -len(profile) % 4
    if not padding:
        return profile
    padded = bytearray(profile + bytes(padding))
    struct.pack_into(">I", padded, 0, len(padded))
    # The old checksum no longer holds; zeros mean that there is none.
    padded[_PROFILE_ID] = bytes(16)
    return bytes(padded)


def _tags_lie_within(profile: bytes) -> bool:
    (count,) = struct.unpack_from(">I", profile, _HEADER_BYTES)
    if count * _TAG_BYTES > len(profile) - _HEADER_BYTES - 4:
        return False
    entries = struct.iter_unpack(">4sII", profile[_HEADER_BYTES + 4 :][: count * _TAG_BYTES])
    return all(start + length <= len(profile) for _, start, length in entries)


def _is_understood(profile: bytes, mode: str) -> bool:
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            flags=ImageCms.Flags.NOOPTIMIZE,
        )
        return transform.apply(Image.new(mode, (1, 1))) is not None
    except Exception as error:
        if isinstance(error, MemoryError) or not is_raised_by_codec(error):
            raise
        return False


@dataclass(frozen=True)
class Parametric:
    """A curve from samples to light: Y = (a X + b) ** gamma for X >= d, else Y = c X (10.16)."""

    gamma: float
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0

    def encoded(self) -> bytes:
        """Returns the curve as the contents of a tag."""
        is_power = (self.a, self.b, self.c, self.d) == (1, 0, 0, 0)
        numbers = [self.gamma] if is_power else [self.gamma, self.a, self.b, self.c, self.d]
        kind = 0 if is_power else 3
        return struct.pack(">4s4xHxx", b"para", kind) + b"".join(map(_fixed, numbers))

    def at(self, samples: Matrix) -> Matrix:
        """Returns the light for samples of 0 to 1."""
        power = np.maximum(self.a * samples + self.b, 0) ** self.gamma
        return np.where(samples >= self.d, power, self.c * samples)


@dataclass(frozen=True)
class Sampled:
    """A curve from samples to light by evenly spaced points, 0 to 65,535 (10.5)."""

    points: tuple[int, ...]

    @classmethod
    def of(cls, light: Matrix) -> "Sampled":
        """Returns the curve through light of 0 to 1; values outside are clipped."""
        return cls(tuple(np.rint(np.clip(light, 0, 1) * 65_535).astype(int).tolist()))

    def encoded(self) -> bytes:
        """Returns the curve as the contents of a tag."""
        count = len(self.points)
        return struct.pack(f">4s4xI{count}H", b"curv", count, *self.points)


Curve = Parametric | Sampled

SRGB_CURVE = Parametric(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""The curve of sRGB (IEC 61966-2-1)."""

_LARGEST_NUMBER = 100
"""The largest number in a matrix of sensible colors; a profile could hold up to 32,767."""

_D50 = (0.9642, 1.0, 0.8249)
"""The white of the profile connection space (7.2.16)."""

_BRADFORD: Matrix = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
"""The matrix from XYZ to the cone responses that are used to adapt white (annex E)."""


@dataclass(frozen=True)
class Primaries:
    """Chromaticities (x, y) of red, green, blue and white."""

    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]
    white: tuple[float, float]

    def is_near(self, other: "Primaries") -> bool:
        """Checks whether no coordinate differs by 0.002 or more, which is more than rounding."""
        pairs = zip(self._flat(), other._flat(), strict=True)
        return all(abs(a - b) < 0.002 for a, b in pairs)

    def _flat(self) -> tuple[float, ...]:
        return (*self.red, *self.green, *self.blue, *self.white)


SRGB_PRIMARIES = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))


@functools.lru_cache(maxsize=16)
def rgb_profile(primaries: Primaries, curves: tuple[Curve, ...], name: str) -> bytes | None:
    """Makes a profile of RGB, the same bytes each time.

    Args:
        primaries: the primaries of the profile's colors.
        curves: one curve for all channels, or one for each.
        name: shown by programs.

    Returns:
        The profile; None if no colors have these primaries.
    """
    try:
        adaptation, colorants = _to_d50(primaries)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    numbers = np.stack([adaptation, colorants])
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > _LARGEST_NUMBER:
        return None
    tags: dict[bytes, bytes] = {
        b"chad": struct.pack(">4s4x", b"sf32") + b"".join(map(_fixed, adaptation.ravel()))
    }
    for letter, colorant in zip((b"r", b"g", b"b"), colorants.T, strict=True):
        tags[letter + b"XYZ"] = _xyz(colorant)
    for letter, curve in zip((b"r", b"g", b"b"), (curves * 3)[:3], strict=True):
        tags[letter + b"TRC"] = curve.encoded()
    return _profile(b"RGB ", name, tags)


@functools.lru_cache(maxsize=16)
def gray_profile(curve: Curve, name: str) -> bytes:
    """Makes a profile of gray, the same bytes each time."""
    return _profile(b"GRAY", name, {b"kTRC": curve.encoded()})


def _to_d50(primaries: Primaries) -> tuple[Matrix, Matrix]:
    """Returns the adaptation of white to D50, and the adapted XYZ of R, G and B as columns."""
    corners = np.stack([_at_full_light(*each) for each in (primaries.red, primaries.green)], axis=1)
    corners = np.column_stack([corners, _at_full_light(*primaries.blue)])
    white = _at_full_light(*primaries.white)
    colorants = corners * np.linalg.solve(corners, white)
    ratio = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white)
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag(ratio) @ _BRADFORD
    return adaptation, adaptation @ colorants


def _at_full_light(x: float, y: float) -> Matrix:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _profile(space: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    tags = {
        b"desc": _text(name),
        b"cprt": _text("No copyright"),
        b"wtpt": _xyz(_D50),
        **tags,
    }
    start = _HEADER_BYTES + 4 + _TAG_BYTES * len(tags)
    entries, contents, places = b"", b"", dict[bytes, int]()
    for tag, content in tags.items():
        if content not in places:
            places[content] = start + len(contents)
            contents += content + bytes(-len(content) % 4)
        entries += struct.pack(">4sII", tag, places[content], len(content))
    header = struct.pack(
        ">I4xI4s4s4s6H4s28x3i48x",
        start + len(contents),
        0x04300000,
        b"mntr",
        space,
        b"XYZ ",
        *(2000, 1, 1, 0, 0, 0),
        b"acsp",
        *(round(each * 65_536) for each in _D50),
    )
    return header + struct.pack(">I", len(tags)) + entries + contents


def _fixed(number: float) -> bytes:
    return struct.pack(">i", round(float(number) * 65_536))


def _xyz(values: Sequence[float] | Matrix) -> bytes:
    return struct.pack(">4s4x", b"XYZ ") + b"".join(map(_fixed, values))


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return struct.pack(">4s4xII4sII", b"mluc", 1, 12, b"enUS", len(encoded), 28) + encoded
