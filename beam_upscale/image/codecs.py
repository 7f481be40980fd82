"""What reading and writing share."""

import contextlib
import warnings
from collections.abc import Iterator

from PIL import Image


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
