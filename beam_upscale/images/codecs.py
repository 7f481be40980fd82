"""The handling of codec libraries, for reading and writing: their warnings, errors and profiles."""

import contextlib
import re
import struct
import traceback
import warnings
from collections.abc import Iterator

import pyvips
from PIL import Image

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError

# pyvips passes libvips's warnings to Python's logging. The garbage collector may run there, and
# close an image that warns, too; GLib ends a process in which warnings nest.
pyvips._remove_log_handler()

_CODECS = frozenset({"PIL", "pillow_heif", "pyvips"})
_OURS = frozenset({"beam_upscale"})


class CodecError(ImageError):
    """A codec library cannot read a file; the message gives the library's reason."""


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Runs Pillow without warnings, and with `max_pixels` in place of its own limit."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def forget_errors() -> None:
    """Clears libvips's messages on earlier pictures, which would come before its next error.

    libvips keeps the warnings also of pictures that it could read.
    """
    pyvips.vips_lib.vips_error_clear()


def raise_jpeg_warnings() -> None:
    """Raises an error if libjpeg warned since `forget_errors`, even if there is a picture.

    libvips, asked to fail on warnings, checks for them before it reads rows, but not after the
    last row.

    Raises:
        pyvips.Error: there was a warning.
    """
    if b"VipsJpeg" in pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer()):
        raise pyvips.Error("the last rows are damaged:")


def matching_profile(icc_profile: bytes | None, channels: int) -> bytes | None:
    """Returns the profile if its color space (ICC.1:2010, 7.2.6) is the samples', else None."""
    if icc_profile is None:
        return None
    expected = b"GRAY" if channels == 1 else b"RGB "
    return icc_profile if icc_profile[16:20] == expected else None


def one_line(error: Exception) -> str:
    """Returns an error's text without line breaks, in 300 characters at most."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


@contextlib.contextmanager
def damage_as_image_error(format_: str) -> Iterator[None]:
    """Turns any error that a codec raises on damaged bytes into an ImageError with a stable code.

    Codecs raise any exception that their parsing causes: besides the documented OSError and
    SyntaxError also ValueError, TypeError, IndexError, struct.error and others. Errors of our own
    code and of a full disk are no damage, and pass unchanged. A lack of memory becomes a
    MemoryError.
    """
    _kept.clear()
    try:
        yield
    except (ImageError, MemoryError):
        _raise_kept()
        raise
    except Exception as error:
        _raise_kept()
        is_full_disk = isinstance(error, OSError) and error.errno in FULL_DISK
        if is_full_disk or not is_raised_by_codec(error):
            raise
        message = one_line(error)
        reason = message.lower()
        if any(sign in reason for sign in _MEMORY_SIGNS):
            raise MemoryError(message) from error
        code = _damage_code(error, reason)
        raise CodecError(code, f"{format_.upper()} cannot be decoded: {_plain(message)}") from error
    _raise_kept()


_WORDS_OF_CALLS = re.compile(
    r"\b(?:unable to (?:call|load from source|write to memory|fetch from region)"
    r"|VipsForeign\w+:?|(?:VipsJpeg|vipspng|tiff2vips):)\s*"
)
"""Words of libvips about its own calls, around its words about the file."""

_SAID_AGAIN = re.compile(r"(.+?)(?: \1)+")

_PLAIN_WORDS = {
    "": "its header or its pixels are damaged",
    "libpng read error": "its compressed pixels are damaged, or fewer than its size takes",
    "could not create decoder object": "its canvas, its frames or its chunks contradict each other",
    "decoder error -2": "the pixels of a strip or tile are damaged, or fewer than its size takes",
    "not identified by this driver": "it has no width or no height",
    "Failed to decode image: BMFF parsing failed": "its boxes are damaged or contradict each other",
}
"""Plain words for the messages that only the libraries' authors understand."""


def _plain(message: str) -> str:
    """Returns a library's message without its internal names, or plain words for an unclear one."""
    text = _WORDS_OF_CALLS.sub("", message).strip()
    again = _SAID_AGAIN.fullmatch(text)
    text = again[1] if again else text
    return _PLAIN_WORDS.get(text, text)


_kept: list[Exception] = []


def keep(error: Exception) -> None:
    """Keeps an error that cannot pass through a codec; it is raised when the codec has returned."""
    _kept.append(error)


def _raise_kept() -> None:
    if _kept:
        raise _kept.pop(0)


_MEMORY_SIGNS = ("out of memory", "unable to allocate", "unable to mmap", "cannot allocate memory")


def is_raised_by_codec(error: Exception) -> bool:
    """Tells whether an exception comes out of a codec library, or out of code that it calls.

    Decided by the exception's class, and by its traceback: whether a function of a codec library or
    one of ours was entered last.
    """
    if _package(type(error).__module__) in _CODECS:
        return True
    by_codec = False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = _package(str(frame.f_globals.get("__name__")))
        if package in _CODECS or package in _OURS:
            by_codec = package in _CODECS
    return by_codec


def _package(module: str) -> str:
    return module.partition(".")[0]


def _damage_code(error: Exception, reason: str) -> ErrorCode:
    if _is_truncation(error, reason):
        return ErrorCode.TRUNCATED
    if reason == "not identified by this driver":
        # The first bytes were those of the format: Pillow's message means a width or height of 0.
        return ErrorCode.EMPTY_IMAGE
    if any(sign in reason for sign in ("unsupported", "unknown pixel mode", "not configured")):
        return ErrorCode.UNSUPPORTED_FORMAT
    return ErrorCode.CORRUPT


def _is_truncation(error: Exception, reason: str) -> bool:
    ran_out = (EOFError, IndexError, struct.error)
    if isinstance(error, ran_out) or isinstance(error.__cause__, ran_out):
        return True
    return any(sign in reason for sign in ("truncat", "premature end of jpeg image"))
