"""What reading and writing share."""

import contextlib
import warnings
from collections.abc import Iterator

import pyvips
from PIL import Image

# pyvips hands libvips's warnings to Python's logging. There the garbage collector may run, close an
# image that has a warning of its own to give, and GLib ends a process in which warnings nest.
pyvips._remove_log_handler()


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow without warnings and without its own limit of pixels, which `max_pixels` replaces."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def forget_errors() -> None:
    """Has libvips forget what it said of earlier pictures: that would stand before its next error.

    It keeps the warnings of pictures that it read all the same.
    """
    pyvips.vips_lib.vips_error_clear()


def raise_jpeg_warnings() -> None:
    """Raises what libjpeg warned of since `forget_errors`, even if there is a picture.

    libvips, asked to fail on warnings, looks at them before it reads rows: not behind the last.

    Raises:
        pyvips.Error: there was a warning.
    """
    if b"VipsJpeg" in pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer()):
        raise pyvips.Error("the last rows are damaged")


def matching_profile(icc_profile: bytes | None, channels: int) -> bytes | None:
    """Returns the profile if its color space (ICC.1:2010, 7.2.6) is the samples'."""
    if icc_profile is None:
        return None
    expected = b"GRAY" if channels == 1 else b"RGB "
    return icc_profile if icc_profile[16:20] == expected else None


def one_line(error: Exception) -> str:
    """An error's text without line breaks, and not longer than a row of a table can bear."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
