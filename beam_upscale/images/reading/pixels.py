"""Decodes image files into arrays."""

import dataclasses
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import pyvips
from PIL import Image, ImageCms

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.codecs import (
    damage_as_image_error,
    forget_errors,
    quiet_pillow,
    raise_jpeg_warnings,
)
from beam_upscale.images.containers import jpeg, png, tiff, tiff_views, webp
from beam_upscale.images.metadata import behind, profiles
from beam_upscale.images.reading import bare_tiff, inspection, jpeg_repair, tiff_samples
from beam_upscale.images.reading.carried_metadata import kept_metadata, upright
from beam_upscale.images.reading.inspection import check_acceptable, check_size, inspect
from beam_upscale.images.reading.small_png import read_small_png
from beam_upscale.images.reading.source import Source
from beam_upscale.images.values import DecodedImage, ImageHeader, Pixels
from beam_upscale.planning.plan_options import Animated

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Picture:
    """Decoded samples: (height, width) or (height, width, bands).

    Attributes:
        is_upright: whether the samples are turned upright already; else they lie as in the file.
    """

    samples: Pixels
    has_alpha: bool
    icc_profile: bytes | None
    notes: tuple[str, ...] = ()
    is_upright: bool = False


def decode(
    data: bytes,
    *,
    max_pixels: int,
    animated: Animated = Animated.FIRST,
    before_pixels: Callable[[ImageHeader], None] | None = None,
) -> DecodedImage:
    """Decodes one picture; the docstring of `beam_upscale.images` lists the kinds of pixels.

    While it runs, Pillow's warnings and its own limit of pixels are off in the whole process, and
    libtiff may print to standard error. A codec fed with hostile bytes may also end the process.
    `beam_upscale.images.decoding` therefore runs this function in a process of its own.

    Args:
        data: a whole file.
        max_pixels: the most pixels (width times height) that the file may claim.
        animated: whether a file of several frames gives its first or is refused.
        before_pixels: called once the header is known and accepted.

    Raises:
        ImageError: EMPTY_FILE, NOT_AN_IMAGE, UNSUPPORTED_FORMAT, EMPTY_IMAGE (no width or height),
            TOO_MANY_PIXELS (by the header, before pixels are allocated), ANIMATED, TRUNCATED,
            CHECKSUM_MISMATCH (PNG) or CORRUPT.
        MemoryError: the pixels do not fit into memory.
    """
    with quiet_pillow():
        source = inspect(data)
        check_acceptable(source.header, max_pixels, animated)
        if before_pixels is not None:
            before_pixels(source.header)
        _check_complete(data, source)
        picture = _read_picture(data, source)
        return _assemble(source, picture)


def _check_complete(data: bytes, source: Source) -> None:
    if source.header.format == "png":
        png.check_png(data)
    elif source.header.format == "webp":
        webp.check_webp(data)
    elif source.header.format == "jpeg":
        jpeg.check_jpeg(data, source.header.width * source.header.height)
    elif source.tiff is not None:
        tiff.check_tiff(data, source.tiff)


def _read_picture(data: bytes, source: Source) -> _Picture:
    header = source.header
    behind.look_behind(source.beside, header.format, data)
    with damage_as_image_error(header.format):
        if header.format == "png":
            return _read_png(data, source)
        if header.format == "jpeg":
            return _read_jpeg(data, source)
        if source.tiff is not None:
            return _read_tiff(data, source, source.tiff)
        return _read_by_pillow(data, source)


def _read_png(data: bytes, source: Source) -> _Picture:
    small = read_small_png(data, source.header)
    if small is not None:
        return _Picture(small, source.header.mode in ("LA", "RGBA"), None)
    image = open_vips(data)
    return _from_vips(image, has_alpha=image.bands in (2, 4), notes=png_notes(source))


def png_notes(source: Source) -> tuple[str, ...]:
    """Returns notes on a PNG whose samples are not given as they are in the file."""
    if source.header.mode == "P":
        return ("palette expanded",)
    if source.sample_bits < 8:
        return (f"{source.sample_bits}-bit as 8-bit grayscale",)
    return ()


def _read_jpeg(data: bytes, source: Source) -> _Picture:
    """Decodes a JPEG to the same levels as Pillow, but fails where Pillow makes up missing data."""
    open_ = functools.partial(open_vips, data)
    picture, odd = whole_jpeg(data, open_, lambda image: _from_vips(image, has_alpha=False))
    if source.header.mode != "CMYK":
        return dataclasses.replace(picture, notes=odd.notes) if odd else picture
    # The samples are those that Pillow gives, Adobe's inversion undone.
    inks = Image.fromarray(picture.samples, "CMYK")
    converted, notes = _cmyk_to_rgb(inks, picture.icc_profile)
    notes = (*odd.notes, *notes) if odd else notes
    return dataclasses.replace(picture, samples=np.asarray(converted), notes=notes)


def whole_jpeg(
    data: bytes, open_: Callable[[str], Any], read: Callable[[Any], T]
) -> tuple[T, jpeg_repair.Mended | None]:
    """Reads a JPEG if no pixel of it is lost; `jpeg_repair` lists the oddities that are mended.

    Args:
        data: the file, or a mapping of it.
        open_: opens the file by libvips, with the given value of `fail_on`.
        read: computes the result from the opened image; it must read all of the image.

    Returns:
        The result of `read`, and the mended file if one was opened instead of `data`, else None.

    Raises:
        ImageError: TRUNCATED.
        pyvips.Error: pixels are lost otherwise.
    """
    found: pyvips.Error | None = None
    try:
        whole = _read_strictly(open_, read)
        # libjpeg does not always look for the end marker.
        if data[-2:] == b"\xff\xd9" or not jpeg_repair.is_cut(data):
            return whole, None
    except pyvips.Error as error:
        found = error
    for deeply in (False, True):
        odd = jpeg_repair.mended(data, deeply=deeply)
        if odd is not None and odd.notes:
            try:
                return _read_strictly(functools.partial(open_vips, odd.data), read), odd
            except pyvips.Error as error:
                found = error
    # A missing end says more than libjpeg's first warning.
    if jpeg_repair.is_cut(data):
        raise ImageError(
            ErrorCode.TRUNCATED, f"JPEG ends after {len(data)} bytes, before its end marker"
        ) from found
    assert found is not None
    raise found


def _read_strictly(open_: Callable[[str], Any], read: Callable[[Any], T]) -> T:
    found = read(open_("warning"))
    raise_jpeg_warnings()
    return found


def check_jpegs(data: bytes, info: tiff.TiffInfo) -> None:
    """Decodes the JPEGs in a TIFF to find damage, which libtiff ignores.

    Args:
        data: the file, or a mapping of it.
        info: the file's fields.

    Raises:
        ImageError: TRUNCATED.
        pyvips.Error: pixels are lost otherwise.
    """
    if info.compression == tiff_samples.JPEG:
        for part in tiff_views.tiff_jpegs(data, info):
            whole_jpeg(part, functools.partial(open_vips, part), lambda image: image.avg())


def _read_tiff(data: bytes, source: Source, info: tiff.TiffInfo) -> _Picture:
    check_jpegs(data, info)
    reader = tiff_samples.layout(info).reader
    if reader is tiff_samples.Reader.BARE:
        return _read_bare_tiff(data, info)
    view = tiff_views.tiff_view_at(data, info.directory)
    if reader is tiff_samples.Reader.VIPS:
        plain = functools.partial(open_vips, data) if view is None else None
        return _from_vips(*tiff_bands(bare_tiff.open_strictly(plain, _plainly(data, info)), info))
    if view is not None:
        data = view.head + data[len(view.head) :]
    picture = _read_by_pillow(data, source)
    # Pillow turns a TIFF upright by itself.
    return dataclasses.replace(picture, is_upright=True)


def _plainly(data: bytes, info: tiff.TiffInfo) -> Callable[[str], Any]:
    def open_(fail_on: str) -> Any:
        view = tiff_views.tiff_plain_view(data, info)
        return bare_tiff.open_view(view, _reading(data), "sequential", fail_on)

    return open_


def _reading(data: bytes) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    return read


def _read_bare_tiff(data: bytes, info: tiff.TiffInfo) -> _Picture:
    bare = bare_tiff.BareTiff(info, tiff_views.tiff_views(data, info), _reading(data))
    image = bare.open()
    samples = bare.meant(_samples(image))
    profile = vips_profile(image)
    if bare.colors < 4:
        return _Picture(samples, bare.has_alpha, profile, bare.notes)
    inks = Image.fromarray(np.ascontiguousarray(samples[..., :4]), "CMYK")
    converted, notes = _cmyk_to_rgb(inks, profile)
    color = np.asarray(converted)
    if bare.has_alpha:
        color = np.dstack([color, samples[..., 4]])
    return _Picture(color, bare.has_alpha, profile, notes)


def tiff_bands(image: Any, info: tiff.TiffInfo) -> tuple[Any, bool]:
    """Returns color and alpha of a gray or RGB TIFF that libvips opened, and whether it has alpha.

    Args:
        image: the picture.
        info: the file's fields.

    Raises:
        ImageError: CORRUPT, the picture's samples are not those that the file states.
    """
    layout = tiff_samples.layout(info)
    has_alpha = layout.alpha is not None
    tiff_samples.check_samples(image, info, at_least=layout.colors + has_alpha)
    return image.extract_band(0, n=layout.colors + has_alpha), has_alpha


def open_vips(data: bytes, fail_on: str = "error") -> Any:
    """Opens a file's bytes by libvips, to be read from top to bottom."""
    forget_errors()
    return pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on=fail_on)


def _from_vips(image: Any, has_alpha: bool, notes: tuple[str, ...] = ()) -> _Picture:
    return _Picture(_samples(image), has_alpha, vips_profile(image), notes)


def _samples(image: Any) -> Pixels:
    """Returns all samples, (height, width, bands); `numpy()` would leave out dimensions of 1."""
    dtype = np.uint8 if image.format == "uchar" else np.uint16
    samples = np.frombuffer(image.write_to_memory(), dtype)
    return cast(Pixels, samples.reshape(image.height, image.width, image.bands))


def vips_profile(image: Any) -> bytes | None:
    """Returns the ICC profile of an image that libvips opened; None if it has none."""
    if not image.get_typeof("icc-profile-data"):
        return None
    return bytes(image.get("icc-profile-data"))


def _read_by_pillow(data: bytes, source: Source) -> _Picture:
    header = source.header
    with inspection.open_by_pillow(header.format, data) as image:
        check_size(header, *image.size)
        image.load()
        found = image.info.get("icc_profile")
        # A TIFF's field may hold something else, such as a number.
        icc_profile = found if isinstance(found, bytes) else None
        converted, notes = _to_gray_or_rgb(image, icc_profile)
        if header.format in ("avif", "heif") and source.sample_bits > 8:
            notes = (*notes, f"{source.sample_bits}-bit reduced to 8 bits")
        has_alpha = converted.mode in ("LA", "RGBA")
        return _Picture(np.asarray(converted), has_alpha, icc_profile, notes)


def _to_gray_or_rgb(
    image: Image.Image, icc_profile: bytes | None
) -> tuple[Image.Image, tuple[str, ...]]:
    """Converts an image of Pillow to mode L, LA, RGB or RGBA; also returns notes on that."""
    mode = image.mode
    if mode in ("L", "LA", "RGB", "RGBA"):
        return image, ()
    if mode == "1":
        return image.convert("L"), ("1-bit as 8-bit grayscale",)
    if mode == "RGBa":
        return image.convert("RGBA"), ()
    if mode in ("P", "PA"):
        target = "RGBA" if image.has_transparency_data else "RGB"
        return image.convert(target), ("palette expanded",)
    if mode == "CMYK":
        return _cmyk_to_rgb(image, icc_profile)
    if mode == "LAB":
        return _lab_to_rgb(image), ("converted from LAB",)
    raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, f"pixels of Pillow's mode {mode}")


def _cmyk_to_rgb(
    image: Image.Image, icc_profile: bytes | None
) -> tuple[Image.Image, tuple[str, ...]]:
    if icc_profile is None:
        return image.convert("RGB"), ("converted from CMYK",)
    usable = profiles.usable_profile(icc_profile, 4)
    if usable is None:
        return image.convert("RGB"), ("converted from CMYK", profiles.UNUSABLE)
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(usable)),
            ImageCms.createProfile("sRGB"),
            "CMYK",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB"), ("converted from CMYK", profiles.UNUSABLE)
    return transform.apply(image), ("converted from CMYK by its ICC profile",)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    return transform.apply(image)


def _assemble(source: Source, picture: _Picture) -> DecodedImage:
    header, samples = source.header, picture.samples
    if samples.ndim == 2:
        samples = samples[..., np.newaxis]
    if not picture.is_upright:
        samples = upright(samples, source.orientation)
    check_size(header, width=samples.shape[1], height=samples.shape[0])
    color_channels = samples.shape[2] - picture.has_alpha
    metadata, notes = kept_metadata(source, picture.icc_profile, color_channels, picture.notes)
    return DecodedImage(
        header,
        color=np.ascontiguousarray(samples[..., :color_channels]),
        alpha=np.ascontiguousarray(samples[..., -1]) if picture.has_alpha else None,
        metadata=metadata,
        notes=notes,
    )
