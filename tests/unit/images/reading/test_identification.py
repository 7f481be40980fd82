"""Which format a file has, or that it is no image."""

import pytest
from small_images import error_of

from beam_upscale.errors import ErrorCode


@pytest.mark.parametrize(
    "data", [b"hello, this is a text file", b"BM is no bitmap at all", b"\x00" * 40, b"x"]
)
def test_not_an_image(data: bytes) -> None:
    assert error_of(data).code is ErrorCode.NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"SECRET of some file\n", "text"),
        (("\ufeff" + "SECRET caf\u00e9" * 60).encode(), "text"),
        (b'\n<!DOCTYPE html><p class="SECRET">', "a page of HTML"),
        (b"<?xml version='1.0'?><SECRET/>", "XML"),
        (b"<svg xmlns='SECRET'/>", "SVG"),
        (b"PK\x03\x04SECRET", "a zip archive"),
        (b"SECRET\0\xff", "of an unknown kind"),
        (b"\xff\xfeSECRET", "of an unknown kind"),
    ],
)
def test_nothing_of_a_file_that_is_no_image_is_told(data: bytes, kind: str) -> None:
    message = error_of(data).message

    assert f"seems to be {kind}" in message
    assert "SECRET" not in message


def test_empty_file() -> None:
    assert error_of(b"").code is ErrorCode.EMPTY_FILE


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS\x00\x01", "Photoshop"),
    ],
)
def test_known_but_unsupported_formats_are_named(data: bytes, name: str) -> None:
    error = error_of(data)

    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert name in error.message


def test_iso_file_of_another_kind_is_no_image() -> None:
    assert error_of(b"\x00\x00\x00\x14ftypisom\x00\x00\x00\x00isom").code is ErrorCode.NOT_AN_IMAGE
