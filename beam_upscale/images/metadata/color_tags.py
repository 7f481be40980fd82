"""Reads the colors that a file describes by other means than an ICC profile.

PNG has chunks, AVIF and HEIC have code points (ITU-T H.273), TIFF and BMP have fields, and cameras
use EXIF. Colors other than sRGB become a small ICC profile, which every output format carries.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from beam_upscale.images.metadata import profiles
from beam_upscale.images.metadata.directories import (
    Field,
    Layout,
    Tag,
    content_of,
    directory_below,
    fields_by_tag,
    number_of,
    numbers_of,
)
from beam_upscale.images.metadata.profiles import (
    SRGB_CURVE,
    SRGB_PRIMARIES,
    Curve,
    Matrix,
    Parametric,
    Primaries,
    Sampled,
)

NOT_UNDERSTOOD = "color tags not understood"
"""The note on a description of colors that makes no sense."""


@dataclass(frozen=True)
class ColorTags:
    """The colors that a file describes.

    Attributes:
        primaries: the primaries of RGB.
        curves: the curves from samples to light, one for all channels or one for each.
        outranks_profile: True if this takes precedence over an ICC profile of the file.
        note: on colors that cannot be carried over; the ICC profile of the file, if any, then
            holds.
    """

    primaries: Primaries = SRGB_PRIMARIES
    curves: tuple[Curve, ...] = (SRGB_CURVE,)
    outranks_profile: bool = False
    note: str | None = None

    def is_srgb(self, channels: int) -> bool:
        """Checks whether these are the colors of an image without a profile, which are sRGB.

        Args:
            channels: 1 for gray, where only the curve counts, or 3.
        """
        is_plain = self.curves == (SRGB_CURVE,)
        return is_plain and (channels == 1 or self.primaries.is_near(SRGB_PRIMARIES))

    def profile(self, channels: int) -> bytes | None:
        """Returns an ICC profile of these colors; None if no colors can have these primaries."""
        if channels == 1:
            return profiles.gray_profile(self.curves[0], self._name)
        return profiles.rgb_profile(self.primaries, self.curves, self._name)

    @property
    def _name(self) -> str:
        """Returns the profile's name, which programs show."""
        known = {
            (_PRIMARIES[12], (SRGB_CURVE,)): "Display P3",
            (ADOBE_RGB.primaries, ADOBE_RGB.curves): "Compatible with Adobe RGB (1998)",
        }
        return known.get((self.primaries, self.curves), "Colors of the source's tags")


def _power(gamma: float) -> tuple[Curve, ...]:
    return (Parametric(gamma),)


_D65 = (0.3127, 0.3290)
_C = (0.310, 0.316)

_PRIMARIES: Mapping[int, Primaries] = {
    1: SRGB_PRIMARIES,
    4: Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: Primaries((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    8: Primaries((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: Primaries((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
"""ColourPrimaries (H.273, table 2). 10 is XYZ itself, without primaries for a profile."""

_BT709 = Parametric(1 / 0.45, 1 / 1.099296827, 0.099296827 / 1.099296827, 1 / 4.5, 0.081242858)
_SMPTE_240M = Parametric(1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4.0, 0.0913)


def _logarithmic(decades: float) -> Curve:
    samples = np.linspace(0, 1, 4096)
    return Sampled.of(np.where(samples > 0, 10 ** ((samples - 1) * decades), 0))


_CURVES: Mapping[int, Callable[[], Curve]] = {
    **dict.fromkeys((1, 6, 11, 12, 14, 15), lambda: _BT709),
    4: lambda: Parametric(2.2),
    5: lambda: Parametric(2.8),
    7: lambda: _SMPTE_240M,
    8: lambda: Parametric(1.0),
    9: lambda: _logarithmic(2.0),
    10: lambda: _logarithmic(2.5),
    13: lambda: SRGB_CURVE,
    # Light is relative to 52.37 cd/m², for a white of 48 cd/m².
    17: lambda: Parametric(2.6, (52.37 / 48) ** (1 / 2.6)),
}
"""TransferCharacteristics (H.273, table 3), inverted: from samples to light."""

_UNSPECIFIED = 2
_HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}

ADOBE_RGB = ColorTags(Primaries((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65), _power(563 / 256))
"""Adobe RGB (1998)."""


def of_code_points(
    primaries: int, transfer: int, *, narrow_bits: int | None = None, outranks_profile: bool = False
) -> ColorTags | None:
    """Returns the colors that code points describe; None if they leave all unspecified.

    Args:
        primaries: ColourPrimaries of H.273.
        transfer: TransferCharacteristics of H.273.
        narrow_bits: bits of samples that leave room below black and above white, as in video;
            None if samples use their full range, or were converted to it.
        outranks_profile: as in `ColorTags`.
    """
    if primaries == transfer == _UNSPECIFIED and narrow_bits is None:
        return None
    if name := _HIGH_DYNAMIC_RANGE.get(transfer):
        return ColorTags(outranks_profile=outranks_profile, note=f"{name} (HDR) colors not kept")
    colors = SRGB_PRIMARIES if primaries == _UNSPECIFIED else _PRIMARIES.get(primaries)
    curve = SRGB_CURVE if transfer == _UNSPECIFIED else _CURVES.get(transfer, lambda: None)()
    if colors is None or curve is None:
        return ColorTags(outranks_profile=outranks_profile, note=NOT_UNDERSTOOD)
    if narrow_bits is not None:
        curve = _stretched(curve, narrow_bits)
    return ColorTags(colors, (curve,), outranks_profile)


def _stretched(curve: Curve, bits: int) -> Curve:
    """Returns a curve for samples with the black and white of video: 16 and 235 in 8 bits."""
    assert isinstance(curve, Parametric)
    highest, step = 2**bits - 1, 2 ** (bits - 8)
    samples = np.linspace(0, 1, 4096) * highest
    return Sampled.of(curve.at(np.clip((samples - 16 * step) / (219 * step), 0, 1)))


@dataclass
class PngColors:
    """The chunks of a PNG that describe its colors, of which the first of each kind counts."""

    bit_depth: int
    chunks: dict[bytes, bytes] = field(default_factory=dict)

    KINDS = frozenset({b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"})

    @property
    def has_odd_code_points(self) -> bool:
        """True if there are code points that PNG does not allow; they are ignored."""
        return b"cICP" in self.chunks and not self._has_code_points

    @property
    def _has_code_points(self) -> bool:
        cicp = self.chunks.get(b"cICP", b"")
        return len(cicp) == 4 and cicp[2] == 0 and cicp[3] in (0, 1)

    def tags(self) -> ColorTags | None:
        """Returns the colors, by precedence of chunks (PNG specification, third edition, 4.3)."""
        if self._has_code_points:
            cicp = self.chunks[b"cICP"]
            narrow_bits = max(8, self.bit_depth) if cicp[3] == 0 else None
            found = of_code_points(cicp[0], cicp[1], narrow_bits=narrow_bits, outranks_profile=True)
            if found is not None:
                return found
        if b"sRGB" in self.chunks:
            return ColorTags()
        return self._by_gamma()

    def _by_gamma(self) -> ColorTags | None:
        gamma_chunk, corners = self.chunks.get(b"gAMA", b""), self.chunks.get(b"cHRM", b"")
        primaries = SRGB_PRIMARIES
        if corners:
            if len(corners) != 32:
                return ColorTags(note=NOT_UNDERSTOOD)
            white_x, white_y, *others = (n / 100_000 for n in struct.unpack(">8I", corners))
            primaries = _primaries(others, (white_x, white_y))
        if not gamma_chunk:
            return ColorTags(primaries) if corners else None
        gamma = int.from_bytes(gamma_chunk, "big") if len(gamma_chunk) == 4 else 0
        if not 5_000 <= gamma <= 1_000_000:
            return ColorTags(note=NOT_UNDERSTOOD)
        # The gamma that is written for sRGB, whose curve is not a power function.
        if abs(gamma - 45_455) <= 500 and primaries.is_near(SRGB_PRIMARIES):
            return ColorTags()
        return ColorTags(primaries, _power(100_000 / gamma))


def _primaries(corners: list[float], white: tuple[float, float]) -> Primaries:
    red_x, red_y, green_x, green_y, blue_x, blue_y = corners
    return Primaries((red_x, red_y), (green_x, green_y), (blue_x, blue_y), white)


_SHORT = 3
"""The field type of 16-bit numbers in a TIFF."""


def of_tiff(data: bytes, layout: Layout, fields: Mapping[int, Field]) -> ColorTags | None:
    """Returns the colors in the fields of a TIFF (TIFF 6.0, section 20); None if it has none."""
    primaries = _primaries_of(data, layout, fields)
    transfer = fields.get(Tag.TRANSFER_FUNCTION)
    table = numbers_of(data, layout, transfer)
    bits = number_of(data, layout, fields.get(Tag.BITS_PER_SAMPLE)) or 1
    photometric = number_of(data, layout, fields.get(Tag.PHOTOMETRIC))
    if not table or photometric == 3:
        if primaries is None:
            return None
        near = primaries.is_near(SRGB_PRIMARIES)
        return ColorTags(primaries, (SRGB_CURVE,) if near else _power(2.2))
    entries = 1 << bits if 0 < bits <= 16 else 0
    is_short = transfer is not None and transfer.kind == _SHORT
    if not is_short or not entries or len(table) not in (entries, 3 * entries):
        return ColorTags(note=NOT_UNDERSTOOD)
    curves = np.array(table).reshape(-1, entries)
    if photometric == 0:
        curves = curves[:, ::-1]
    return ColorTags(primaries or SRGB_PRIMARIES, _tabulated(curves / 65_535))


_RGB, _YCBCR, _JPEG = 2, 6, 7


def has_other_levels(data: bytes, layout: Layout, fields: Mapping[int, Field]) -> bool:
    """Checks whether a TIFF maps its levels to light in a way that no codec follows.

    Such a TIFF has a GrayResponseCurve, or a ReferenceBlackWhite other than the full range (TIFF
    6.0, sections 8 and 20).
    """
    photometric = number_of(data, layout, fields.get(Tag.PHOTOMETRIC))
    if photometric in (0, 1):
        return Tag.GRAY_RESPONSE_CURVE in fields
    if Tag.REFERENCE_BLACK_WHITE not in fields:
        return False
    levels = numbers_of(data, layout, fields[Tag.REFERENCE_BLACK_WHITE])
    if photometric == _RGB:
        bits = number_of(data, layout, fields.get(Tag.BITS_PER_SAMPLE)) or 1
        return levels != (0, 2 ** min(bits, 64) - 1) * 3
    # Without JPEG compression, libtiff follows ReferenceBlackWhite.
    is_jpeg = number_of(data, layout, fields.get(Tag.COMPRESSION)) == _JPEG
    return photometric == _YCBCR and is_jpeg and levels != (0, 255, 128, 255, 128, 255)


def _tabulated(tables: Matrix) -> tuple[Curve, ...]:
    """Returns curves through tables, thinned out if long; the sRGB curve if it is that."""
    entries = tables.shape[1]
    if np.abs(tables - SRGB_CURVE.at(np.linspace(0, 1, entries))).max() < 2e-3:
        return (SRGB_CURVE,)
    step = max(1, (entries - 1) // 4095)
    curves = tuple(Sampled.of(table[::step] if step > 1 else table) for table in tables)
    return curves[:1] if len(set(curves)) == 1 else curves


def _primaries_of(data: bytes, layout: Layout, fields: Mapping[int, Field]) -> Primaries | None:
    corners = numbers_of(data, layout, fields.get(Tag.PRIMARY_CHROMATICITIES))
    if len(corners) != 6:
        return None
    white = numbers_of(data, layout, fields.get(Tag.WHITE_POINT))
    return _primaries(list(corners), (white[0], white[1]) if len(white) == 2 else _D65)


_SRGB, _WINDOWS_ADOBE_RGB, _UNCALIBRATED = 1, 2, 0xFFFF
"""Values of EXIF's ColorSpace."""


def of_exif(exif: bytes | None) -> ColorTags | None:
    """Returns the colors in an EXIF block (EXIF 2.32; DCF 2.0 for Adobe RGB); None for sRGB."""
    layout = None if exif is None else Layout.of(exif)
    if exif is None or layout is None:
        return None
    first = fields_by_tag(exif, layout, layout.first)
    own = directory_below(exif, layout, first, Tag.EXIF_DIRECTORY)
    space = number_of(exif, layout, own.get(Tag.COLOR_SPACE))
    if space == _WINDOWS_ADOBE_RGB:
        return ADOBE_RGB
    if space != _UNCALIBRATED:
        return None
    shared = directory_below(exif, layout, own, Tag.INTEROPERABILITY_DIRECTORY)
    index = content_of(exif, shared.get(Tag.INTEROPERABILITY_INDEX))
    if index is not None and index.startswith(b"R03"):
        return ADOBE_RGB
    return _by_exif_fields(exif, layout, {**first, **own})


def _by_exif_fields(exif: bytes, layout: Layout, fields: Mapping[int, Field]) -> ColorTags | None:
    primaries = _primaries_of(exif, layout, fields)
    gamma = numbers_of(exif, layout, fields.get(Tag.GAMMA))
    if gamma and 0.1 <= gamma[0] <= 20:
        if primaries is None and abs(gamma[0] - 2.2) < 0.03:
            return None
        return ColorTags(primaries or SRGB_PRIMARIES, _power(gamma[0]))
    return None if primaries is None else ColorTags(primaries)


_BMP_FIXED = 65_536
_BMP_CALIBRATED, _BMP_DEVICE = 0, 1
_BMP_EMBEDDED, _BMP_LINKED, _BMP_SRGB, _BMP_WINDOWS = (
    int.from_bytes(name, "big") for name in (b"MBED", b"LINK", b"sRGB", b"Win ")
)

LINKED_PROFILE = "linked ICC profile dropped"
"""The note on a BMP whose ICC profile is in another file."""


def of_bmp(data: bytes) -> tuple[bytes | None, ColorTags | None]:
    """Returns the profile in a BMP, and its header's colors (BITMAPV4HEADER, BITMAPV5HEADER)."""
    if len(data) < 14 + 108:
        return None, None
    size, kind = struct.unpack_from("<I", data, 14)[0], struct.unpack_from("<I", data, 14 + 56)[0]
    if size == 124 and kind == _BMP_EMBEDDED and len(data) >= 14 + 124:
        start, length = struct.unpack_from("<II", data, 14 + 112)
        return data[14 + start : 14 + start + length], None
    if size < 108 or kind in (_BMP_DEVICE, _BMP_SRGB, _BMP_WINDOWS):
        return None, None
    if kind != _BMP_CALIBRATED:
        is_linked = size == 124 and kind == _BMP_LINKED
        return None, ColorTags(note=LINKED_PROFILE if is_linked else NOT_UNDERSTOOD)
    corners = np.array(struct.unpack_from("<9i", data, 14 + 60)).reshape(3, 3) / 2**30
    gammas = [each / _BMP_FIXED for each in struct.unpack_from("<3I", data, 14 + 96)]
    if not corners.any():
        return None, None
    white = corners.sum(axis=0)
    sums = np.vstack([corners, white]).sum(axis=1)
    if (sums <= 0).any() or not all(0.1 <= each <= 20 for each in gammas):
        return None, ColorTags(note=NOT_UNDERSTOOD)
    x, y = (np.vstack([corners, white])[:, side] / sums for side in (0, 1))
    primaries = Primaries(*((float(a), float(b)) for a, b in zip(x, y, strict=True)))
    if primaries.is_near(SRGB_PRIMARIES) and all(abs(each - 2.2) < 0.03 for each in gammas):
        return None, None
    curves = tuple(Parametric(each) for each in gammas)
    return None, ColorTags(primaries, curves[:1] if len(set(curves)) == 1 else curves)
