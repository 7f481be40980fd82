"""Identifies the format of an image file by its content."""

import codecs

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers import png
from beam_upscale.images.values import SUPPORTED_FORMATS

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
    if data.startswith(png.PNG_SIGNATURE):
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
            raise refuse_camera_raw(name)
    if data[4:12] == b"ftypcrx ":
        raise refuse_camera_raw("Canon CR3")
    for signature, name in _UNSUPPORTED_SIGNATURES.items():
        if data.startswith(signature):
            raise ImageError(
                ErrorCode.UNSUPPORTED_FORMAT,
                f"{name} is not supported; convert it to one of {', '.join(SUPPORTED_FORMATS)}",
            )
    raise ImageError(
        ErrorCode.NOT_AN_IMAGE,
        f"the file seems to be {_kind(data)}, not one of {', '.join(SUPPORTED_FORMATS)}",
    )


def refuse_camera_raw(name: str) -> ImageError:
    """Returns the error for a camera raw file: UNSUPPORTED_FORMAT."""
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
        return "SVG, which is not made of pixels"
    if start.startswith(b"<?xml"):
        return "XML"
    if b"\0" in start:
        return "of an unknown kind"
    return "text" if _is_text(start) else "of an unknown kind"


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
