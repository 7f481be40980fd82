"""The decoding of image files into arrays."""

import codecs
import dataclasses
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
import pyvips
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    TiffImagePlugin,
    WebPImagePlugin,
)

from beam_upscale import containers
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.image import beside, color_tags, jpeg, profiles, tiff, xmp
from beam_upscale.image import exif as exif_blocks
from beam_upscale.image.beside import Beside
from beam_upscale.image.boxes import check_coded_sizes, has_exif, without_exif
from beam_upscale.image.codecs import (
    damage_as_image_error,
    forget_errors,
    is_raised_by_codec,
    quiet_pillow,
    raise_jpeg_warnings,
)
from beam_upscale.image.values import (
    SUPPORTED_FORMATS,
    DecodedImage,
    ImageHeader,
    Metadata,
    Pixels,
)
from beam_upscale.plan import Animated

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A file's header, and the facts that decoding its pixels needs.

    Attributes:
        header: the file's header.
        orientation: EXIF orientation still to be applied to the decoded pixels, 1 to 8.
        exif: the file's EXIF block, unchanged; None if there is none.
        sample_bits: bits of a sample in the file.
        notes: notes on parts of the file that are left out.
        beside: other metadata beside the pixels.
        tiff: the fields of a TIFF; None for other formats.
    """

    header: ImageHeader
    orientation: int = 1
    exif: bytes | None = None
    sample_bits: int = 8
    notes: tuple[str, ...] = ()
    beside: Beside = dataclasses.field(default_factory=Beside)
    tiff: containers.TiffInfo | None = None


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


def read_header(data: bytes) -> ImageHeader:
    """Reads format, size, mode and number of frames; decodes and allocates no pixels.

    Args:
        data: a file's bytes. For JPEG, PNG, WebP, BMP and GIF its beginning is enough, but what
            comes later is then not seen: frames of a GIF or WebP, and the orientation where EXIF
            stands behind the pixels (WebP; PNG at will).

    Raises:
        ImageError: EMPTY_FILE, NOT_AN_IMAGE, UNSUPPORTED_FORMAT, TRUNCATED (the beginning is too
            short), EMPTY_IMAGE (BMP and GIF; others give their width and height of 0) or CORRUPT.
    """
    with quiet_pillow():
        return inspect(data).header


def decode(
    data: bytes,
    *,
    max_pixels: int,
    animated: Animated = Animated.FIRST,
    before_pixels: Callable[[ImageHeader], None] | None = None,
) -> DecodedImage:
    """Decodes one picture; the docstring of `beam_upscale.image` lists the kinds of pixels.

    While it runs, Pillow's warnings and its own limit of pixels are off in the whole process, and
    libtiff may print to standard error. A codec fed with hostile bytes may also end the process.
    `beam_upscale.decoding` therefore runs this function in a process of its own.

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


_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})

_AVIF_BRANDS = frozenset({b"avif", b"avis"})

_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)

_RAW_SIGNATURES = {
    b"IIRO": "Olympus ORF",
    b"IIRS": "Olympus ORF",
    b"MMOR": "Olympus ORF",
    b"IIU\x00": "Panasonic RW2",
    b"FUJIFILMCCD-RAW": "Fujifilm RAF",
    b"\x00MRM": "Minolta MRW",
    b"FOVb": "Sigma X3F",
    b"II\x1a\x00\x00\x00HEAPCCDR": "Canon CRW",
}
"""First bytes of camera raw files that are no TIFFs; `containers.camera_raw` finds the others."""

_UNSUPPORTED_SIGNATURES = {
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"\x00\x00\x01\x00": "ICO",
    b"%PDF-": "PDF",
}


def identify(data: bytes) -> str:
    """Names the format that the first bytes belong to."""
    if not data:
        raise ImageError(ErrorCode.EMPTY_FILE, "the file has 0 bytes")
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(containers.PNG_SIGNATURE):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "tiff"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    if data[4:8] == b"ftyp" and (format_ := _identify_iso(data)):
        return format_
    for signature, name in _RAW_SIGNATURES.items():
        if data.startswith(signature):
            raise _camera_raw(name)
    if data[4:12] == b"ftypcrx ":
        raise _camera_raw("Canon CR3")
    for signature, name in _UNSUPPORTED_SIGNATURES.items():
        if data.startswith(signature):
            raise ImageError(
                ErrorCode.UNSUPPORTED_FORMAT,
                f"{name} is not supported; convert it to one of {', '.join(SUPPORTED_FORMATS)}",
            )
    raise ImageError(
        ErrorCode.NOT_AN_IMAGE,
        f"the file seems to be {_kind(data)}, and is none of {', '.join(SUPPORTED_FORMATS)}",
    )


def _camera_raw(name: str) -> ImageError:
    return ImageError(
        ErrorCode.UNSUPPORTED_FORMAT,
        f"camera raw file ({name}); develop it to TIFF, PNG or JPEG",
    )


# Kinds of files that are often found where an image is expected. Nothing of their contents is
# quoted: the author of a table of file names must not learn what is in the files.
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "packed with gzip",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ\x00": "packed with xz",
    b"(\xb5/\xfd": "packed with Zstandard",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"PAR1": "a Parquet table",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"ID3": "a sound",
    b"OggS": "a sound or a video",
    b"\x1aE\xdf\xa3": "a video",
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not fetched",
}
_BYTES_OF_KIND = 512


def _kind(data: bytes) -> str:
    """Describes the likely kind of a file that is no image, by its first bytes."""
    for signature, kind in _OTHER_KINDS.items():
        if data.startswith(signature):
            return kind
    if data[4:8] == b"ftyp":
        return "a video"
    start = data[:_BYTES_OF_KIND].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a page of HTML"
    if b"<svg" in start:
        return "SVG, which is no picture of pixels"
    if start.startswith(b"<?xml"):
        return "XML"
    if b"\0" in start:
        return "no image that is known"
    return "text" if _is_text(start) else "no image that is known"


def _is_text(start: bytes) -> bool:
    try:
        # The last character may be cut.
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(each.isprintable() or each.isspace() for each in text)


def _identify_iso(data: bytes) -> str | None:
    """Tells AVIF from HEIF by the brands in the file type box (ISO/IEC 14496-12, 4.3)."""
    end = min(int.from_bytes(data[:4], "big"), len(data))
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return "avif"
    if brands & _HEIF_BRANDS:
        return "heif"
    return None


def inspect(data: bytes) -> Source:
    """Reads a file's header, and the facts that decoding its pixels needs; as `read_header`."""
    return _INSPECTORS[identify(data)](data)


def _inspect_png(data: bytes) -> Source:
    info = containers.png_info(data)
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
        exif=_bare_exif(info.exif),
        found=beside.of_png(data, info.bit_depth),
    )


def _inspect_jpeg(data: bytes) -> Source:
    info = containers.jpeg_info(data)
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
    info = containers.webp_info(data)
    mode = "RGBA" if info.has_alpha else "RGB"
    return _source(
        "webp",
        mode,
        info.width,
        info.height,
        info.frames,
        exif=_bare_exif(info.exif),
        found=beside.of_webp(data),
    )


def _inspect_tiff(data: bytes) -> Source:
    return inspect_tiff(data, io.BytesIO(data))


def inspect_tiff(data: bytes, file: BinaryIO) -> Source:
    """Inspects a TIFF.

    Args:
        data: the whole file, or a mapping of it.
        file: the same, for a library that takes no mapping.
    """
    if name := containers.camera_raw(data):
        raise _camera_raw(name)
    info = containers.tiff_info(data)
    layout = tiff.layout(info)
    source = _source(
        "tiff",
        layout.mode,
        info.width,
        info.height,
        info.frames,
        sample_bits=info.bits_per_sample,
        exif=_tiff_exif(file),
        orientation=info.orientation,
        notes=tiff.notes(info, layout),
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
        orientation = containers.exif_orientation(exif) if exif else 1
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
    containers.check_boxes(data, format_)
    source = _inspect_by_pillow(format_, data)
    containers.check_iso_sizes(data, format_, source.header.width * source.header.height)
    if format_ == "avif":
        check_coded_sizes(data)
    return source


def _inspect_by_pillow(format_: str, data: bytes) -> Source:
    """Inspects a file by Pillow, whose readers leave the pixels for later."""
    with damage_as_image_error(format_), _open(format_, data) as image:
        frames = containers.gif_frames(data) if format_ == "gif" else getattr(image, "n_frames", 1)
        exif = _bare_exif(image.info.get("exif"))
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


def _open(format_: str, data: bytes) -> ImageFile.ImageFile:
    """Opens a file by the reader of its format: `Image.open` hides why a reader gave up."""
    if format_ == "heif":
        return _open_heif(data)
    if format_ == "gif":
        return GifImagePlugin.GifImageFile(io.BytesIO(containers.gif_that_stays(data)))
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


def _check_complete(data: bytes, source: Source) -> None:
    if source.header.format == "png":
        containers.check_png(data)
    elif source.header.format == "webp":
        containers.check_webp(data)
    elif source.header.format == "jpeg":
        containers.check_jpeg(data, source.header.width * source.header.height)
    elif source.tiff is not None:
        containers.check_tiff(data, source.tiff)


def _read_picture(data: bytes, source: Source) -> _Picture:
    header = source.header
    beside.look_behind(source.beside, header.format, data)
    with damage_as_image_error(header.format):
        if header.format == "png":
            return _read_png(data, source)
        if header.format == "jpeg":
            return _read_jpeg(data, source)
        if source.tiff is not None:
            return _read_tiff(data, source, source.tiff)
        return _read_by_pillow(data, source)


def _read_png(data: bytes, source: Source) -> _Picture:
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
) -> tuple[T, jpeg.Mended | None]:
    """Reads a JPEG if no pixel of it is lost; `jpeg` lists the oddities that are mended.

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
        if data[-2:] == b"\xff\xd9" or not jpeg.is_cut(data):
            return whole, None
    except pyvips.Error as error:
        found = error
    for deeply in (False, True):
        odd = jpeg.mended(data, deeply=deeply)
        if odd is not None and odd.notes:
            try:
                return _read_strictly(functools.partial(open_vips, odd.data), read), odd
            except pyvips.Error as error:
                found = error
    # A missing end says more than libjpeg's first warning.
    if jpeg.is_cut(data):
        raise ImageError(
            ErrorCode.TRUNCATED, f"JPEG ends after {len(data)} bytes, before its end marker"
        ) from found
    assert found is not None
    raise found


def _read_strictly(open_: Callable[[str], Any], read: Callable[[Any], T]) -> T:
    found = read(open_("warning"))
    raise_jpeg_warnings()
    return found


def check_jpegs(data: bytes, info: containers.TiffInfo) -> None:
    """Decodes the JPEGs in a TIFF to find damage, which libtiff ignores.

    Args:
        data: the file, or a mapping of it.
        info: the file's fields.

    Raises:
        ImageError: TRUNCATED.
        pyvips.Error: pixels are lost otherwise.
    """
    if info.compression == tiff.JPEG:
        for part in containers.tiff_jpegs(data, info):
            whole_jpeg(part, functools.partial(open_vips, part), lambda image: image.avg())


def _read_tiff(data: bytes, source: Source, info: containers.TiffInfo) -> _Picture:
    check_jpegs(data, info)
    reader = tiff.layout(info).reader
    if reader is tiff.Reader.BARE:
        return _read_bare_tiff(data, info)
    view = containers.tiff_view_at(data, info.directory)
    if reader is tiff.Reader.VIPS:
        plain = functools.partial(open_vips, data) if view is None else None
        return _from_vips(*tiff_bands(tiff.open_strictly(plain, _plainly(data, info)), info))
    if view is not None:
        data = view.head + data[len(view.head) :]
    picture = _read_by_pillow(data, source)
    # Pillow turns a TIFF upright by itself.
    return dataclasses.replace(picture, is_upright=True)


def _plainly(data: bytes, info: containers.TiffInfo) -> Callable[[str], Any]:
    def open_(fail_on: str) -> Any:
        view = containers.tiff_plain_view(data, info)
        return tiff.open_view(view, _reading(data), "sequential", fail_on)

    return open_


def _reading(data: bytes) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    return read


def _read_bare_tiff(data: bytes, info: containers.TiffInfo) -> _Picture:
    bare = tiff.BareTiff(info, containers.tiff_views(data, info), _reading(data))
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


def tiff_bands(image: Any, info: containers.TiffInfo) -> tuple[Any, bool]:
    """Returns color and alpha of a gray or RGB TIFF that libvips opened, and whether it has alpha.

    Args:
        image: the picture.
        info: the file's fields.

    Raises:
        ImageError: CORRUPT, the picture's samples are not those that the file states.
    """
    layout = tiff.layout(info)
    has_alpha = layout.alpha is not None
    tiff.check_samples(image, info, at_least=layout.colors + has_alpha)
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
    with _open(header.format, data) as image:
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


def kept_metadata(
    source: Source, icc_profile: bytes | None, color_channels: int, notes: tuple[str, ...]
) -> tuple[Metadata, tuple[str, ...]]:
    """Returns the metadata to carry over from a file, and all notes on its picture.

    Args:
        source: the file.
        icc_profile: the profile that the file's decoder found; None if it found none.
        color_channels: color channels of the decoded samples, 1 or 3.
        notes: notes on the conversion of the file's samples.
    """
    found = source.beside
    profile, profile_notes = _kept_profile(source, icc_profile or found.profile, color_channels)
    block, exif_notes = _kept_exif(source.exif)
    packet, xmp_notes = _kept_xmp(source)
    left = [*xmp_notes, *found.notes]
    if found.pictures > 1 and beside.GAIN_MAP not in left:
        left.append(f"first of {found.pictures} pictures")
    metadata = Metadata(profile, block, packet, found.resolution)
    all_notes = (
        *_frame_notes(source.header),
        *source.notes,
        *notes,
        *profile_notes,
        *exif_notes,
        *left,
    )
    return metadata, beside.noted_once(all_notes)


def _kept_exif(exif: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    return exif_blocks.of_result(exif) if exif else (None, ())


def _kept_xmp(source: Source) -> tuple[bytes | None, tuple[str, ...]]:
    packet = source.beside.xmp
    if packet is None:
        return None, ()
    return xmp.of_result(packet, is_turned=source.orientation != 1)


def _kept_profile(
    source: Source, icc_profile: bytes | None, channels: int
) -> tuple[bytes | None, tuple[str, ...]]:
    """Returns the profile of the decoded samples: the file's own, or one made of its color tags."""
    if source.header.mode in ("CMYK", "LAB"):
        # The samples were converted to sRGB; for CMYK, notes say whether by the profile found.
        is_told = source.header.mode == "CMYK" and icc_profile is not None
        is_lost = source.beside.has_profile and not is_told
        return None, (profiles.UNUSABLE,) if is_lost else ()
    usable = None if icc_profile is None else profiles.usable_profile(icc_profile, channels)
    # A decoder may have passed over a profile, or over one of its parts.
    is_lost = usable is None and (source.beside.has_profile or icc_profile is not None)
    notes = (profiles.UNUSABLE,) if is_lost else ()
    tags = source.beside.colors or (color_tags.of_exif(source.exif) if usable is None else None)
    if tags is None or (usable is not None and not tags.outranks_profile):
        return usable, notes
    if tags.note is not None:
        return usable, (*notes, tags.note)
    if tags.is_srgb(channels):
        return None, notes
    made = tags.profile(channels)
    return made, notes if made is not None else (*notes, color_tags.NOT_UNDERSTOOD)


def check_size(header: ImageHeader, width: int, height: int) -> None:
    """Refuses a file whose decoded size, upright or not, is another than its header's."""
    if sorted((width, height)) != sorted((header.width, header.height)):
        raise ImageError(
            ErrorCode.CORRUPT,
            f"the header says {header.width} x {header.height} px, "
            f"its decoder {width} x {height} px",
        )


def _frame_notes(header: ImageHeader) -> tuple[str, ...]:
    if header.frames == 1:
        return ()
    which = "primary" if header.format == "heif" else "first"
    is_counted = header.format in ("gif", "tiff") and header.frames >= containers.MOST_FRAMES
    return (f"{which} of {header.frames} {'or more ' if is_counted else ''}frames",)


def upright(samples: Pixels, orientation: int) -> Pixels:
    """Applies an EXIF orientation (EXIF 2.32, 4.6.4 A) to (height, width, bands)."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples


def _bare_exif(exif: bytes | None) -> bytes | None:
    return exif.removeprefix(containers.EXIF_PREFIX) if exif else None


_TIFF_EXIF_TAGS = frozenset(
    {
        270,  # ImageDescription
        271,  # Make
        272,  # Model
        282,  # XResolution
        283,  # YResolution
        296,  # ResolutionUnit
        305,  # Software
        306,  # DateTime
        315,  # Artist
        316,  # HostComputer
        33432,  # Copyright
        34665,  # the EXIF directory
        34853,  # the GPS directory
    }
)
"""A TIFF's own fields that an EXIF block has too and that do not describe how pixels are stored."""


def _tiff_exif(file: BinaryIO) -> bytes | None:
    """Makes an EXIF block of a TIFF's descriptive fields; None if none can be read."""
    exif = Image.Exif()
    try:
        exif.load_from_fp(file)
        for tag in set(exif) - _TIFF_EXIF_TAGS:
            del exif[tag]
        return _bare_exif(exif.tobytes()) if len(exif) else None
    except Exception as error:
        if isinstance(error, MemoryError) or not is_raised_by_codec(error):
            raise
        # Damaged fields raise any exception; they are no reason to lose the picture.
        return None
