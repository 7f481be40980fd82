"""Frames of GIFs, counted without their pixels."""

import io

import pytest
from PIL import Image
from small_images import saved

from beam_upscale.images.containers import gif, parts, tiff
from beam_upscale.images.reading import pixels

MAX_PIXELS = 4_000_000


def test_frames_of_a_gif_are_counted_as_pillow_does() -> None:
    for count in (1, 2, 7):
        frames = [Image.new("L", (9, 7), 30 * number) for number in range(count)]
        data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], comment=b"x" * 600)
        with Image.open(io.BytesIO(data)) as opened:
            assert gif.gif_frames(data) == opened.n_frames == count


def test_frames_of_a_gif_are_counted_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parts, tiff):
        monkeypatch.setattr(module, "MOST_FRAMES", 3)
    frame = b"," + bytes(9) + b"\x02\0"

    assert gif.gif_frames(b"GIF89a" + bytes(7) + frame * 9) == 3
    frames = [Image.new("L", (9, 7), 30 * number) for number in range(4)]
    for format_ in ("GIF", "TIFF"):
        data = saved(frames[0], format_, save_all=True, append_images=frames[1:])
        assert "first of 3 or more frames" in pixels.decode(data, max_pixels=MAX_PIXELS).notes
