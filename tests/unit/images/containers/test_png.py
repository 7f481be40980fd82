"""Chunks of PNGs."""

import io

import pytest
from written_images import exif, saved

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers import png

PICTURE = saved("PNG", exif=b"Exif\x00\x00" + exif(6), dpi=(300, 300))


def codes(data: bytes) -> list[ErrorCode | None]:
    """What the check of bytes and that of a file say."""
    found: list[ErrorCode | None] = []
    for check in (lambda: png.check_png(data), lambda: png.check_png_file(io.BytesIO(data))):
        try:
            check()
            found.append(None)
        except ImageError as error:
            found.append(error.code)
    return found


def test_all_but_the_pixels_is_found_without_them() -> None:
    bare = png.png_without_pixels(io.BytesIO(PICTURE))

    assert b"IDAT" not in bare
    assert png.png_info(bare) == png.png_info(PICTURE)
    assert png.png_info(bare).exif == exif(6)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (PICTURE, None),
        (PICTURE + b"more", None),
        (PICTURE[:-1], ErrorCode.TRUNCATED),
        (PICTURE.replace(b"kept", b"Kept"), ErrorCode.CHECKSUM_MISMATCH),
    ],
)
def test_bytes_and_files_are_checked_alike(data: bytes, code: ErrorCode | None) -> None:
    assert codes(data) == [code, code]
