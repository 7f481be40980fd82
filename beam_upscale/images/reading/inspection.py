"""Reads an image's header and metadata without its pixels."""

import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any, BinaryIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    TiffImagePlugin,
    WebPImagePlugin,
)

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.codecs import damage_as_image_error, quiet_pillow
from beam_upscale.images.containers import camera_raw, gif, iso, jpeg, png, tiff, tiff_views, webp
from beam_upscale.images.metadata import beside
from beam_upscale.images.metadata.beside import Beside
from beam_upscale.images.metadata.iso_properties import check_coded_sizes, has_exif, without_exif
from beam_upscale.images.reading import tiff_samples
from beam_upscale.images.reading.carried_metadata import bare_exif, tiff_exif
from beam_upscale.images.reading.identification import identify, refuse_camera_raw
from beam_upscale.images.reading.source import Source
from beam_upscale.images.values import ImageHeader
from beam_upscale.planning.plan_options import Animated


def read_header(data: bytes) -> ImageHeader:
    """Reads format, size, mode and number of frames; decodes and allocates no pixels.

    Args:
        data: a file's bytes. For JPEG, PNG, WebP, BMP and GIF its beginning is enough, but what
            comes later is then not seen: frames of a GIF or WebP, and the orientation if EXIF
            follows the pixels (in WebP always, in PNG possibly).

    Raises:
        ImageError: EMPTY_FILE, NOT_AN_IMAGE, UNSUPPORTED_FORMAT, TRUNCATED (the beginning is too
            short), EMPTY_IMAGE (BMP and GIF; others give their width and height of 0) or CORRUPT.
    """
    with quiet_pillow():
        return inspect(data).header


def inspect(data: bytes) -> Source:
    """Reads a file's header, and the facts that decoding its pixels needs; as `read_header`."""
    return _INSPECTORS[identify(data)](data)


def _inspect_png(data: bytes) -> Source:
    info = png.png_info(data)
    mode = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}.get(info.color_type)
    if mode is None or info.bit_depth not in (1, 2, 4, 8, 16):
        raise ImageError(
            ErrorCode.CORRUPT,
            f"PNG of color type {info.color_type} and bit depth {info.bit_depth}",
        )
    return _source(
        "png",
        mode,
        info.width,
        info.height,
        info.frames,
        sample_bits=info.bit_depth,
        exif=bare_exif(info.exif),
        found=beside.of_png(data, info.bit_depth),
    )


def _inspect_jpeg(data: bytes) -> Source:
    info = jpeg.jpeg_info(data)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(info.components)
    if mode is None or info.precision != 8:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"JPEG of {info.components} components of {info.precision} bits; "
            "1, 3 or 4 components of 8 bits are supported",
        )
    found = beside.of_jpeg(data)
    return _source("jpeg", mode, info.width, info.height, exif=info.exif, found=found)


def _inspect_webp(data: bytes) -> Source:
    info = webp.webp_info(data)
    mode = "RGBA" if info.has_alpha else "RGB"
    return _source(
        "webp",
        mode,
        info.width,
        info.height,
        info.frames,
        exif=bare_exif(info.exif),
        found=beside.of_webp(data),
    )


def _inspect_tiff(data: bytes) -> Source:
    return inspect_tiff(data, io.BytesIO(data))


def inspect_tiff(data: bytes, file: BinaryIO) -> Source:
    """Inspects a TIFF.

    Args:
        data: the whole file, or a mapping of it.
        file: the same file, for a library that takes no mapping.
    """
    if name := camera_raw.camera_raw(data):
        raise refuse_camera_raw(name)
    info = tiff.tiff_info(data)
    layout = tiff_samples.layout(info)
    source = _source(
        "tiff",
        layout.mode,
        info.width,
        info.height,
        info.frames,
        sample_bits=info.bits_per_sample,
        exif=tiff_exif(file),
        orientation=info.orientation,
        notes=tiff_samples.notes(info, layout),
        found=beside.of_tiff(data, info.directory),
    )
    return dataclasses.replace(source, tiff=info)


_SIXTEEN_BIT_MODES = {"L": "I;16", "LA": "LA;16", "RGB": "RGB;16", "RGBA": "RGBA;16"}


def _source(
    format_: str,
    mode: str,
    width: int,
    height: int,
    frames: int = 1,
    *,
    sample_bits: int = 8,
    exif: bytes | None = None,
    orientation: int | None = None,
    notes: tuple[str, ...] = (),
    found: Beside,
) -> Source:
    if orientation is None:
        orientation = tiff_views.exif_orientation(exif) if exif else 1
    if orientation >= 5:
        width, height = height, width
    if sample_bits == 16:
        mode = _SIXTEEN_BIT_MODES.get(mode, mode)
    elif sample_bits == 1 and mode == "L":
        mode = "1"
    bits = 16 if sample_bits == 16 else 8
    header = ImageHeader(format_, mode, width, height, frames, bits)
    return Source(header, orientation, exif or found.exif, sample_bits, notes, found)


def _inspect_iso(format_: str, data: bytes) -> Source:
    iso.check_boxes(data, format_)
    source = _inspect_by_pillow(format_, data)
    iso.check_iso_sizes(data, format_, source.header.width * source.header.height)
    if format_ == "avif":
        check_coded_sizes(data)
    return source


def _inspect_by_pillow(format_: str, data: bytes) -> Source:
    """Inspects a file by Pillow, whose readers leave the pixels for later."""
    with damage_as_image_error(format_), open_by_pillow(format_, data) as image:
        frames = gif.gif_frames(data) if format_ == "gif" else getattr(image, "n_frames", 1)
        exif = bare_exif(image.info.get("exif"))
        return _source(
            format_,
            image.mode,
            *image.size,
            frames,
            exif=exif,
            sample_bits=image.info.get("bit_depth", 8),
            found=_BESIDE[format_](data, image.info),
        )


_BESIDE: dict[str, Callable[[bytes, dict[Any, Any]], Beside]] = {
    "avif": beside.of_avif,
    "bmp": beside.of_bmp,
    "gif": beside.of_gif,
    "heif": beside.of_heif,
}


_INSPECTORS: dict[str, Callable[[bytes], Source]] = {
    "avif": functools.partial(_inspect_iso, "avif"),
    "bmp": functools.partial(_inspect_by_pillow, "bmp"),
    "gif": functools.partial(_inspect_by_pillow, "gif"),
    "heif": functools.partial(_inspect_iso, "heif"),
    "jpeg": _inspect_jpeg,
    "png": _inspect_png,
    "tiff": _inspect_tiff,
    "webp": _inspect_webp,
}

_PILLOW_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
}


def open_by_pillow(format_: str, data: bytes) -> ImageFile.ImageFile:
    """Opens a file by the reader of its format: `Image.open` hides why a reader gave up."""
    if format_ == "heif":
        return _open_heif(data)
    if format_ == "gif":
        return GifImagePlugin.GifImageFile(io.BytesIO(gif.gif_that_stays(data)))
    if format_ == "avif":
        return _open_avif(data)
    return _PILLOW_READERS[format_](io.BytesIO(data))


def _open_avif(data: bytes) -> ImageFile.ImageFile:
    """Opens an AVIF, without its EXIF block if Pillow fails on that."""
    try:
        return AvifImagePlugin.AvifImageFile(io.BytesIO(data))
    except Exception:
        if not has_exif(data):
            raise
        image = AvifImagePlugin.AvifImageFile(io.BytesIO(without_exif(data)))
        image.info[beside.LOST_EXIF] = True
        return image


def _open_heif(data: bytes) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            "HEIC needs the package pillow-heif; install beam-upscale[heif]",
        ) from error
    reader: Callable[[io.BytesIO], ImageFile.ImageFile] = pillow_heif.HeifImageFile
    return reader(io.BytesIO(data))


def check_acceptable(header: ImageHeader, max_pixels: int, animated: Animated) -> None:
    """Refuses an image that is empty, has too many pixels, or refused frames; as `decode`."""
    size = f"{header.width} x {header.height}"
    if header.width <= 0 or header.height <= 0:
        raise ImageError(ErrorCode.EMPTY_IMAGE, f"the image is {size} px: it has no pixels")
    if header.width * header.height > max_pixels:
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS,
            f"the image is {size} = {header.width * header.height} px; "
            f"at most {max_pixels} px are decoded",
        )
    if header.frames > 1 and animated is Animated.REJECT:
        raise ImageError(
            ErrorCode.ANIMATED, f"the file holds {header.frames} frames; only single ones are taken"
        )


def check_size(header: ImageHeader, width: int, height: int) -> None:
    """Refuses a file whose decoded size, upright or not, is another than its header's."""
    if sorted((width, height)) != sorted((header.width, header.height)):
        raise ImageError(
            ErrorCode.CORRUPT,
            f"the header says {header.width} x {header.height} px, "
            f"its decoder {width} x {height} px",
        )
