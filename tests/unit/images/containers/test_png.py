"""Chunks of PNGs."""

import io

from PIL import Image
from written_images import exif, saved

from beam_upscale.images.containers import png


def test_png_metadata_is_replaced() -> None:
    data = saved("PNG", exif=b"Exif\x00\x00" + exif(6), dpi=(300, 300))

    replaced = png.png_with_chunks(data, [(b"eXIf", exif(1))])
    removed = png.png_with_chunks(data, [])

    assert png.png_info(replaced).exif == exif(1)
    assert png.png_info(removed).exif is None
    for result in (replaced, removed):
        png.check_png(result)
        assert b"pHYs" not in result
        assert Image.open(io.BytesIO(result)).getpixel((0, 0)) == (255, 0, 0)
