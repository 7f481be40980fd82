"""Encodes arrays as PNG, JPEG, WebP or TIFF, at the compression and quality of `EncodeOptions`."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.codecs import one_line, quiet_pillow
from beam_upscale.images.containers import parts, tiff_views
from beam_upscale.images.values import NO_METADATA, Metadata, Pixels, Shape
from beam_upscale.images.writing.encode_options import (
    DEFAULT_JPEG_QUALITY,
    DEFAULT_WEBP_QUALITY,
    EncodeOptions,
)
from beam_upscale.images.writing.fitting import fit, jpeg_with_resolution, tiff_resolution
from beam_upscale.images.writing.png_parts import png_parts
from beam_upscale.planning.plan_options import OutputFormat


@dataclass(frozen=True)
class Encoded:
    """An encoded image, with notes on changes and omissions that fit it to its format."""

    data: bytes
    width: int
    height: int
    notes: tuple[str, ...] = ()


def encode(
    color: Pixels,
    alpha: Pixels | None = None,
    *,
    metadata: Metadata = NO_METADATA,
    options: EncodeOptions | None = None,
) -> Encoded:
    """Encodes one picture; the same arguments always give the same bytes.

    PNG and TIFF take both depths and alpha. JPEG and WebP take 8 bits: 16-bit samples are rounded
    to the nearest of 256 levels. JPEG takes no alpha: the picture is put on white.

    Args:
        color: (height, width, 1 or 3), uint8 or uint16.
        alpha: (height, width) of the same dtype, or None.
        metadata: the source's metadata. Its profile is written if it describes `color`, and sizes
            in it become those of `color`. Parts that the format cannot hold are left out, with a
            note: a JPEG holds at most 65,527 bytes of EXIF.
        options: the format and its options; None for a PNG.

    Raises:
        ImageError: ENCODE_ERROR.
        ValueError: the arrays have other shapes or dtypes.
    """
    options = options or EncodeOptions()
    _check_arrays(color, alpha)
    height, width = color.shape[:2]
    longest, limit = max(width, height), options.format.max_side
    if limit is not None and longest > limit:
        raise ImageError(
            ErrorCode.ENCODE_ERROR,
            f"{options.format} ends at {limit} px a side and the picture has {longest}; "
            "write PNG or TIFF",
        )
    metadata, left_out = fit(
        metadata,
        options.format,
        options.metadata,
        width=width,
        height=height,
        channels=color.shape[2],
    )
    try:
        data, notes = _ENCODERS[options.format](color, alpha, metadata, options)
    except (pyvips.Error, OSError, ValueError, OverflowError) as error:
        raise ImageError(
            ErrorCode.ENCODE_ERROR,
            f"a {width} x {height} picture could not be written as {options.format}: "
            f"{one_line(error)}",
        ) from error
    return Encoded(data, width, height, (*notes, *left_out))


def _check_arrays(color: Pixels, alpha: Pixels | None) -> None:
    if color.dtype not in (np.uint8, np.uint16) or color.ndim != 3 or color.shape[2] not in (1, 3):
        raise ValueError(
            f"color is {color.dtype} of shape {color.shape}; "
            "uint8 or uint16 of shape (height, width, 1 or 3) is needed"
        )
    if alpha is not None and (alpha.dtype != color.dtype or alpha.shape != color.shape[:2]):
        raise ValueError(
            f"alpha is {alpha.dtype} of shape {alpha.shape}; "
            f"{color.dtype} of shape {color.shape[:2]} is needed"
        )


_EncodeResult = tuple[bytes, tuple[str, ...]]


def _encode_png(
    color: Pixels,
    alpha: Pixels | None,
    metadata: Metadata,
    options: EncodeOptions,
) -> _EncodeResult:
    height, width, channels = color.shape
    shape = Shape(width, height, channels, alpha is not None, color.dtype.name)
    planes = [color] if alpha is None else [color, alpha[..., np.newaxis]]
    return b"".join(png_parts([planes], shape, metadata, options.png_compression)), ()


def _encode_tiff(
    color: Pixels,
    alpha: Pixels | None,
    metadata: Metadata,
    options: EncodeOptions,
) -> _EncodeResult:
    image = with_tiff_metadata(_to_vips(color, alpha, metadata.icc_profile), metadata)
    data: bytes = image.write_to_buffer(
        ".tif", compression="deflate", predictor="horizontal", resunit="inch", keep=KEPT_IN_TIFF
    )
    if metadata.exif is None:
        return data, ()
    data += b"\x00" * (len(data) % 2)
    tags = _exif_directory(metadata.exif, data[:2], len(data))
    if tags is None:
        return data, ("unreadable EXIF dropped",)
    return tiff_views.tiff_with_tags(data, tags), ()


# libvips's flags that keep the ICC profile and XMP.
KEPT_IN_TIFF = 8 | 2


def with_tiff_metadata(image: Any, metadata: Metadata) -> Any:
    """Returns a vips image with the XMP packet and the resolution that its TIFF gets."""
    if (resolution := tiff_resolution(metadata)) is not None:
        image = image.copy(xres=resolution.x / 25.4, yres=resolution.y / 25.4)
    if metadata.xmp is not None:
        image = image.copy()
        image.set_type(pyvips.GValue.blob_type, "xmp-data", metadata.xmp)
    return image


def _exif_directory(exif: bytes, byte_order: bytes, offset: int) -> bytes | None:
    """Writes the fields of an EXIF block as a TIFF directory for `offset`; None if unreadable."""
    fields = Image.Exif()
    header_size = len(parts.EXIF_PREFIX) + 8
    try:
        with quiet_pillow():
            fields.load(exif)
            fields.endian = "<" if byte_order == b"II" else ">"
            return fields.tobytes(offset)[header_size:]
    except Exception:
        # Damaged fields raise any exception, as a TIFF's own do.
        return None


def _encode_jpeg(
    color: Pixels,
    alpha: Pixels | None,
    metadata: Metadata,
    options: EncodeOptions,
) -> _EncodeResult:
    color, alpha, notes = _to_eight_bits(color, alpha)
    if alpha is not None:
        color = _on_white(color, alpha)
        notes = (*notes, "alpha flattened")
    data = _save_by_pillow(
        _to_pillow(color, None),
        "JPEG",
        metadata,
        quality=options.quality or DEFAULT_JPEG_QUALITY,
        subsampling="4:4:4",
    )
    return jpeg_with_resolution(data, metadata.resolution), notes


def _encode_webp(
    color: Pixels,
    alpha: Pixels | None,
    metadata: Metadata,
    options: EncodeOptions,
) -> _EncodeResult:
    color, alpha, notes = _to_eight_bits(color, alpha)
    data = _save_by_pillow(
        _to_pillow(color, alpha),
        "WEBP",
        metadata,
        lossless=options.lossless,
        # Without loss, quality means effort; 50 is a good deal faster than 100 and hardly larger.
        quality=50 if options.lossless else options.quality or DEFAULT_WEBP_QUALITY,
        exact=options.lossless,
    )
    return data, notes


_ENCODERS: dict[
    OutputFormat,
    Callable[[Pixels, Pixels | None, Metadata, EncodeOptions], _EncodeResult],
] = {
    OutputFormat.PNG: _encode_png,
    OutputFormat.JPEG: _encode_jpeg,
    OutputFormat.WEBP: _encode_webp,
    OutputFormat.TIFF: _encode_tiff,
}


def _to_vips(color: Pixels, alpha: Pixels | None, icc_profile: bytes | None) -> Any:
    """Wraps arrays as a vips image that reads them where they lie."""
    image = _plane_to_vips(color)
    if alpha is not None:
        image = image.bandjoin(_plane_to_vips(alpha))
    return as_vips(image, color.shape[2], color.dtype.name, icc_profile)


def as_vips(image: Any, channels: int, dtype: str, icc_profile: bytes | None) -> Any:
    """Returns a vips image that states the kind of its samples: gray or RGB, of 8 or 16 bits.

    Args:
        image: a vips image of any source.
        channels: color channels, 1 or 3.
        dtype: type of the samples, uint8 or uint16.
        icc_profile: the profile that describes the samples; None for none.
    """
    kind = "b-w" if channels == 1 else "srgb"
    if dtype == "uint16":
        kind = "grey16" if channels == 1 else "rgb16"
    pixels_per_mm = 72 / 25.4
    image = image.copy(interpretation=kind, xres=pixels_per_mm, yres=pixels_per_mm)
    if icc_profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc_profile)
    return image


def _plane_to_vips(pixels: Pixels) -> Any:
    height, width, *bands = pixels.shape
    return pyvips.Image.new_from_memory(
        np.ascontiguousarray(pixels),
        width,
        height,
        bands[0] if bands else 1,
        "uchar" if pixels.dtype == np.uint8 else "ushort",
    )


def _to_pillow(color: Pixels, alpha: Pixels | None) -> Image.Image:
    image = Image.fromarray(color[..., 0] if color.shape[2] == 1 else color)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    return image


def _save_by_pillow(
    image: Image.Image,
    format_: str,
    metadata: Metadata,
    **parameters: bool | int | str,
) -> bytes:
    """Encodes an image with metadata; `parameters` are those of Pillow's encoder for the format."""
    buffer = io.BytesIO()
    xmp = {} if metadata.xmp is None else {"xmp": metadata.xmp}
    exif = metadata.exif or b""
    if exif and format_ == "JPEG":
        exif = parts.EXIF_PREFIX + exif
    image.save(buffer, format_, icc_profile=metadata.icc_profile, exif=exif, **xmp, **parameters)
    return buffer.getvalue()


def _to_eight_bits(
    color: Pixels, alpha: Pixels | None
) -> tuple[Pixels, Pixels | None, tuple[str, ...]]:
    if color.dtype == np.uint8:
        return color, alpha, ()
    reduced = None if alpha is None else _nearest_eight_bit(alpha)
    return _nearest_eight_bit(color), reduced, ("reduced to 8 bits",)


def _nearest_eight_bit(samples: Pixels) -> NDArray[np.uint8]:
    """Rounds samples / 257 to the nearest integer, row by row to save memory."""
    reduced = np.empty(samples.shape, np.uint8)
    for row, deep in zip(reduced, samples, strict=True):
        row[...] = (deep.astype(np.uint32) + 128) // 257
    return reduced


def _on_white(color: Pixels, alpha: Pixels) -> NDArray[np.uint8]:
    """Composites 8-bit color on white, rounded to the nearest level."""
    flattened = np.empty(color.shape, np.uint8)
    for row, color_row, alpha_row in zip(flattened, color, alpha, strict=True):
        opacity = alpha_row[:, np.newaxis].astype(np.uint16)
        row[...] = (color_row * opacity + 255 * (255 - opacity) + 127) // 255
    return flattened
