"""The orientation in blocks of EXIF, written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_images import exif

from beam_upscale.images.containers import tiff_views


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read(order: str, orientation: int) -> None:
    assert tiff_views.exif_orientation(exif(orientation, order)) == orientation


@pytest.mark.parametrize(
    "block", [b"", b"II", b"no EXIF at all", exif(0), exif(9), exif(6)[:12], exif(6)[:18]]
)
def test_without_a_valid_orientation_a_picture_is_upright(block: bytes) -> None:
    assert tiff_views.exif_orientation(block) == 1


@given(st.binary(max_size=60))
def test_any_block_has_an_orientation(tail: bytes) -> None:
    for block in (tail, b"II*\x00" + tail, exif(3)[:10] + tail):
        assert 1 <= tiff_views.exif_orientation(block) <= 8
