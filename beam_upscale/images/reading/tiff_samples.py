"""The meaning of a TIFF's samples, and the choice of a codec that gives them unchanged.

| in the file | read by |
| --- | --- |
| 16 bits, pixel by pixel, with no associated alpha but right behind the color; WebP | libvips |
| up to 8 bits, pixel by pixel, of a kind that Pillow reads right | Pillow |
| others of gray, RGB, palette and CMYK, where compression leaves samples apart | `BareTiff` |
| TIFFs that none of these reads with certainty | refused |
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers import tiff, tiff_fields
from beam_upscale.images.containers.tiff import TiffInfo
from beam_upscale.images.containers.tiff_fields import ExtraSample, Photometric, SampleFormat


class Reader(Enum):
    """The codec that reads the samples of a TIFF."""

    PILLOW = "Pillow"
    VIPS = "libvips"
    BARE = "libvips, which is not told what the samples mean"


@dataclass(frozen=True)
class Layout:
    """The meaning of the samples of a pixel.

    Attributes:
        mode: as in `ImageHeader`, except that 16-bit samples are not marked.
        colors: number of color samples, which come first.
        alpha: index of the alpha sample; None if there is none.
        is_associated: whether the color is multiplied by alpha.
        dropped: number of samples that are neither color nor alpha.
        reader: the codec that reads the samples.
    """

    mode: str
    colors: int
    alpha: int | None
    is_associated: bool
    dropped: int
    reader: Reader


_MODES: dict[int, tuple[str, int]] = {
    Photometric.WHITE_IS_ZERO: ("L", 1),
    Photometric.BLACK_IS_ZERO: ("L", 1),
    Photometric.RGB: ("RGB", 3),
    Photometric.PALETTE: ("P", 1),
    Photometric.CMYK: ("CMYK", 4),
    Photometric.YCBCR: ("YCbCr", 3),
    Photometric.LAB: ("LAB", 3),
}
"""The mode and the number of color samples, by photometric interpretation."""

_COREL_ALPHA = 999
"""The number that Corel Draw writes for unassociated alpha."""

_ALPHA_SAMPLES = frozenset(
    {ExtraSample.ASSOCIATED_ALPHA, ExtraSample.UNASSOCIATED_ALPHA, _COREL_ALPHA}
)

_SAMPLE_KINDS: dict[int, str] = {SampleFormat.SIGNED: "signed ", SampleFormat.FLOAT: "float "}

_KNOWN_TO_PILLOW: dict[int, frozenset[tuple[int, ...]]] = {
    Photometric.WHITE_IS_ZERO: frozenset({()}),
    Photometric.BLACK_IS_ZERO: frozenset({(), (2,)}),
    Photometric.RGB: frozenset(
        {(), (0,), (0, 0), (0, 0, 0), (1,), (1, 0), (1, 0, 0), (2,), (2, 0), (2, 0, 0), (999,)}
    ),
    Photometric.PALETTE: frozenset({(), (0,), (2,)}),
    Photometric.CMYK: frozenset({(), (0,), (0, 0)}),
    Photometric.YCBCR: frozenset({()}),
    Photometric.LAB: frozenset({()}),
}
"""Extra samples by photometric interpretation that Pillow reads in 8 bits (`OPEN_INFO`)."""

_OLD_JPEG, JPEG, _WEBP = tiff.TIFF_OLD_JPEG, 7, 50001
_LZMA_OR_ZSTD = frozenset({34925, 50000})
_PACKED = frozenset({tiff.TIFF_UNCOMPRESSED, 5, 8, 32773, 32946})
"""Compressions that both codecs know, for all kinds of samples: none, LZW, Deflate (two numbers)
and PackBits."""
_CCITT = frozenset({2, 3, 4, 32771})
"""The compressions of fax machines, for one sample of 1 bit."""
_PLANE_COMPRESSIONS = _PACKED | _CCITT | {JPEG}
"""The compressions that may hold a plane of one sample."""
_PILLOW_COMPRESSIONS = _PACKED | _LZMA_OR_ZSTD | {_OLD_JPEG, JPEG, 32809}
"""The compressions that Pillow's libtiff reads, except CCITT's: it ignores damage in these, and the
rows after it hold whatever lay in memory."""


def layout(info: TiffInfo) -> Layout:
    """Determines the meaning of a TIFF's samples, and the codec that reads them.

    Raises:
        ImageError: UNSUPPORTED_FORMAT; CORRUPT, the file's fields contradict each other.
    """
    mode, colors = _MODES.get(info.photometric, ("", 0))
    is_integer = info.sample_format not in (SampleFormat.SIGNED, SampleFormat.FLOAT)
    depths = (1, 2, 4, 8, 16) if mode in ("L", "RGB") else (1, 2, 4, 8)
    if not mode or not is_integer or info.bits_per_sample not in depths:
        kind = _SAMPLE_KINDS.get(info.sample_format, "")
        raise _unsupported(
            f"TIFF of {info.bits_per_sample}-bit {kind}samples, photometric interpretation "
            f"{info.photometric}; unsigned samples of 1 to 8 bits, and of 16 bits in gray or RGB, "
            "are supported"
        )
    _check_samples(info, mode, colors)
    extra = _extra_samples(info, colors)
    alphas = [number for number, kind in enumerate(extra) if kind in _ALPHA_SAMPLES]
    alpha = colors + alphas[0] if alphas else None
    is_associated = bool(alphas) and extra[alphas[0]] == ExtraSample.ASSOCIATED_ALPHA
    reader = _reader(info, mode, colors, extra)
    if is_associated and mode in ("P", "CMYK"):
        raise _unsupported(f"TIFF in {mode} whose color is multiplied by alpha; convert it to RGB")
    if mode in ("L", "RGB"):
        mode = "1" if mode == "L" and info.bits_per_sample == 1 else mode
        mode += "A" if alphas else ""
    dropped = len(extra) - bool(alphas)
    return Layout(mode, colors, alpha, is_associated, dropped, reader)


def _check_samples(info: TiffInfo, mode: str, colors: int) -> None:
    if mode == "YCbCr" and info.compression == tiff.TIFF_UNCOMPRESSED:
        raise _unsupported(
            "uncompressed YCbCr TIFF; compress it (JPEG, LZW, Deflate) or convert it to RGB"
        )
    if mode == "CMYK" and info.ink_set != tiff_fields.CMYK_INKS:
        raise _unsupported(f"TIFF of other inks than CMYK (InkSet {info.ink_set})")
    if not info.has_equal_samples:
        raise _unsupported("TIFF whose samples differ in bits or format; make them equal")
    # JPEG data states itself how many samples there are.
    least = 1 if info.compression in (_OLD_JPEG, JPEG) else colors
    if info.samples_per_pixel < least:
        raise ImageError(
            ErrorCode.CORRUPT,
            f"TIFF of {info.samples_per_pixel} samples a pixel, where {mode} takes {colors}",
        )


def _unsupported(found: str) -> ImageError:
    return ImageError(ErrorCode.UNSUPPORTED_FORMAT, found)


def _extra_samples(info: TiffInfo, colors: int) -> tuple[int, ...]:
    """Returns the kind of each sample after the color; a default if the file does not state it."""
    count = max(0, info.samples_per_pixel - colors)
    said = info.extra_samples[:count]
    if (
        not said
        and count == 1
        and info.photometric == Photometric.RGB
        and info.bits_per_sample == 8
    ):
        # As Pillow, libtiff and ImageMagick take it.
        return (ExtraSample.UNASSOCIATED_ALPHA,)
    return said + (ExtraSample.UNSPECIFIED,) * (count - len(said))


def _reader(info: TiffInfo, mode: str, colors: int, extra: tuple[int, ...]) -> Reader:
    if _is_known_to_vips(info, extra):
        return Reader.VIPS
    if _is_known_to_pillow(info, colors, extra):
        return Reader.PILLOW
    packed = _PLANE_COMPRESSIONS if info.is_planar else _PACKED
    if info.samples_per_pixel == 1:
        packed |= _CCITT
    is_apart = info.is_planar or info.bits_per_sample >= 8 or info.samples_per_pixel == 1
    if mode in ("YCbCr", "LAB") or info.compression not in packed or not is_apart:
        raise _unsupported(
            f"TIFF of {info.bits_per_sample}-bit {mode} with the extra samples {list(extra)}, "
            f"{'plane by plane' if info.is_planar else 'pixel by pixel'}, in compression "
            f"{info.compression}{' of a big-endian BigTIFF' if info.is_big_endian_big else ''}; "
            "convert it to RGB of 8 or 16 bits, compressed by LZW or Deflate"
        )
    return Reader.BARE


def _is_clear(info: TiffInfo, extra: tuple[int, ...]) -> bool:
    """Tells whether codecs and this module understand a file's fields alike."""
    is_unsigned = info.sample_format == SampleFormat.UNSIGNED
    return is_unsigned and len(info.extra_samples) <= len(extra)


def _is_known_to_vips(info: TiffInfo, extra: tuple[int, ...]) -> bool:
    if info.is_planar or not _is_clear(info, extra):
        return False
    if info.compression == _WEBP:
        return info.bits_per_sample == 8 and info.photometric == Photometric.RGB and len(extra) <= 1
    # libvips takes the last sample for associated alpha, and only the first extra one for alpha.
    is_associated = ExtraSample.ASSOCIATED_ALPHA in extra
    has_late_alpha = any(kind in _ALPHA_SAMPLES for kind in extra[1:])
    is_clear = not has_late_alpha and not (is_associated and len(extra) > 1)
    return info.bits_per_sample == 16 and info.compression in _PACKED and is_clear


def _is_known_to_pillow(info: TiffInfo, colors: int, extra: tuple[int, ...]) -> bool:
    if info.compression not in _PILLOW_COMPRESSIONS or info.bits_per_sample == 16:
        return False
    # Pillow puts spare uncompressed strips where the first ones belong, and shows the colors of an
    # 8-bit color map as black.
    is_plain = info.compression == tiff.TIFF_UNCOMPRESSED
    if (info.has_spare_parts and is_plain) or has_8_bit_color_map(info):
        return False
    # Pillow takes a big-endian BigTIFF's directory for one of a classic TIFF.
    if info.is_big_endian_big or not _is_clear(info, extra):
        return False
    if info.is_planar:
        # For compressions that `BareTiff` cannot unpack. Pillow reads these right, except inverted
        # gray and extra samples after a single color sample.
        is_right = info.photometric != Photometric.WHITE_IS_ZERO and (colors > 1 or not extra)
        if info.compression not in _LZMA_OR_ZSTD or info.bits_per_sample < 8 or not is_right:
            return False
    if info.bits_per_sample == 8:
        return extra in _KNOWN_TO_PILLOW[info.photometric]
    return not extra and colors == 1


def has_8_bit_color_map(info: TiffInfo) -> bool:
    """Tells whether a palette's values seem to have 8 bits, which some programs write for 16.

    libtiff's tools decide by the same rule.
    """
    return info.photometric == Photometric.PALETTE and 0 < max(info.color_map, default=0) < 256


def is_for_vips(info: TiffInfo) -> bool:
    """Tells whether libvips, asked for color and alpha, gives the same samples as `decode`."""
    found = layout(info)
    if found.reader is Reader.PILLOW:
        # libvips and Pillow have libtiff's JPEG decoder convert colors in different ways.
        is_plain = info.photometric in (Photometric.BLACK_IS_ZERO, Photometric.RGB)
        is_whole = not (found.is_associated or found.dropped or info.is_planar) and info.has_lengths
        return is_plain and is_whole and info.bits_per_sample == 8 and info.compression in _PACKED
    return found.reader is Reader.VIPS


def check_samples(image: Any, info: TiffInfo, at_least: int) -> None:
    """Refuses an image whose samples in libvips are not those that its file states.

    Raises:
        ImageError: CORRUPT, samples have another depth, or a pixel has fewer than `at_least`.
    """
    sample = "ushort" if info.bits_per_sample == 16 else "uchar"
    if image.format != sample or image.bands < at_least:
        raise ImageError(
            ErrorCode.CORRUPT, f"TIFF whose pixels are {image.bands} bands of {image.format}"
        )


def notes(info: TiffInfo, found: Layout) -> tuple[str, ...]:
    """Returns notes on a TIFF's parts that are left out, and on a picture marked as a copy."""
    said = []
    if info.is_reduced_copy:
        said.append("marked as a reduced copy")
    if info.reduced_copies:
        said.append(f"reduced copies left out: {info.reduced_copies}")
    if info.masks:
        said.append(f"masks left out: {info.masks}")
    if info.inner_pictures:
        said.append(f"inner pictures left out: {info.inner_pictures}")
    if found.dropped:
        said.append(f"extra samples dropped: {found.dropped}")
    return tuple(said)
