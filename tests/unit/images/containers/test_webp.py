"""Chunks of WebPs, written by hand."""

import pytest
from written_images import saved

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers import webp


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True}])
def test_webp_of_each_kind(options: dict[str, object]) -> None:
    info = webp.webp_info(saved("WEBP", **options))

    assert (info.width, info.height, info.has_alpha) == (5, 4, False)


def test_webp_of_no_known_kind() -> None:
    with pytest.raises(ImageError) as caught:
        webp.webp_info(b"RIFF\x10\x00\x00\x00WEBPVP9 " + bytes(20))

    assert caught.value.code is ErrorCode.CORRUPT
