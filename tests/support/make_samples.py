"""Makes the images in samples/; run it by hand: `.venv/bin/python tests/support/make_samples.py`.

The photographs come with scikit-image (their licenses stand in samples/README.md), the drawings
are drawn here.
"""

import io
import math
import struct

from PIL import Image, ImageCms, ImageDraw
from places import SAMPLES
from skimage import data

ORIENTATION = 0x0112
TURNED_LEFT = 6  # To be shown turned by 90 degrees clockwise.
IMAGE_DESCRIPTION = 0x010E
CREATED = slice(24, 36)  # Where an ICC profile has its date: year, month, ... as big-endian uint16.


def photograph(name: str, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """A part of one of scikit-image's photographs, reduced to `size`."""
    whole = Image.fromarray(getattr(data, name)())
    return whole.resize(size, Image.Resampling.LANCZOS, box=box)


def cat_with_icc_profile() -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[CREATED] = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)  # Not now: the same file each time.
    cat = photograph("chelsea", (70, 10, 390, 266), (200, 160))
    cat.save(SAMPLES / "photos/cat.jpg", quality=90, icc_profile=bytes(profile))


def astronaut_stored_sideways() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_LEFT
    exif[IMAGE_DESCRIPTION] = "Eileen Collins, NASA"
    upright = photograph("astronaut", (60, 0, 400, 425), (160, 200))
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    sideways.save(SAMPLES / "photos/astronaut.jpg", quality=90, exif=exif)


def gray_photographer() -> None:
    photograph("camera", (100, 20, 420, 340), (180, 180)).save(
        SAMPLES / "photos/photographer.png", optimize=True
    )


def coffee() -> None:
    photograph("coffee", (90, 30, 490, 330), (200, 150)).save(
        SAMPLES / "photos/coffee.webp", quality=90
    )


def rocket() -> None:
    photograph("rocket", (220, 100, 420, 350), (160, 200)).save(
        SAMPLES / "photos/space/rocket.jpg", quality=90
    )


def galaxies_cut_in_half() -> None:
    whole = io.BytesIO()
    photograph("hubble_deep_field", (200, 200, 680, 560), (200, 150)).save(
        whole, "JPEG", quality=90
    )
    encoded = whole.getvalue()
    (SAMPLES / "photos/cut-in-half.jpg").write_bytes(encoded[: len(encoded) // 2])


def text_named_as_an_image() -> None:
    text = "A text file, although its name says that it is an image.\n"
    (SAMPLES / "drawings/really-text.png").write_text(text)


def badge_with_alpha() -> None:
    """A sun over waves in a disc; drawn four times as large and reduced for a smooth edge."""
    side, factor = 160, 4
    large = side * factor
    colors = Image.new("RGB", (large, large), (38, 70, 110))
    draw = ImageDraw.Draw(colors)
    center = large / 2
    for ray in range(24):
        angle = ray * math.tau / 24
        tip = (center + large * math.cos(angle), center + large * math.sin(angle))
        draw.line([(center, center * 0.9), tip], fill=(60, 98, 140), width=large // 40)
    draw.circle((center, center * 0.9), large * 0.2, fill=(250, 190, 60))
    for row in range(4):
        top = large * (0.56 + 0.1 * row)
        crest = [
            (x, top + large * 0.02 * math.sin(x / large * math.tau * 4 + row))
            for x in range(0, large + 1, factor)
        ]
        shade = (30 + 12 * row, 130 - 18 * row, 160 - 20 * row)
        draw.polygon([*crest, (large, large), (0, large)], fill=shade)
    disc = Image.new("L", (large, large), 0)
    ImageDraw.Draw(disc).circle((center, center), large * 0.48, fill=255)
    colors.putalpha(disc)
    colors.reduce(factor).save(SAMPLES / "drawings/badge.png", optimize=True)


def poster_already_large() -> None:
    """Concentric arcs, large enough not to need any upscaling."""
    side, factor = 640, 2
    large = side * factor
    poster = Image.new("RGB", (large, large), (244, 238, 226))
    draw = ImageDraw.Draw(poster)
    palette = [(196, 77, 60), (233, 167, 75), (90, 140, 130), (45, 65, 95)]
    corners = [(0, 0), (large, 0), (large, large), (0, large)]
    for hue, corner in enumerate(corners):
        for ring in range(7, 0, -1):
            fill = palette[(ring + hue) % 4] if ring % 2 else (244, 238, 226)
            draw.circle(corner, ring * large / 15, fill=fill)
    poster.reduce(factor).quantize(32).save(SAMPLES / "drawings/poster.png", optimize=True)


def panorama_over_the_limit() -> None:
    """Ranges of hills, 2304 x 480: more pixels than the engine accepts, though not tall."""
    width, height = 2304, 480
    top, bottom = (Image.new("RGB", (width, height), c) for c in ((112, 156, 204), (250, 226, 196)))
    panorama = Image.composite(bottom, top, Image.linear_gradient("L").resize((width, height)))
    draw = ImageDraw.Draw(panorama)
    for distance in range(6):
        base = height * (0.35 + 0.11 * distance)
        ridge = []
        for x in range(width + 1):
            waves = sum(
                math.sin(x * (0.004 * 2**octave) + 7 * distance * (octave + 1)) / 2**octave
                for octave in range(5)
            )
            ridge.append((x, base + 26 * waves))
        shade = tuple(int(c * (1 - distance / 7)) for c in (150, 178, 196))
        draw.polygon([*ridge, (width, height), (0, height)], fill=shade)
    panorama.save(SAMPLES / "drawings/panorama.jpg", quality=80)


def main() -> None:
    for folder in ("drawings", "photos/space"):
        (SAMPLES / folder).mkdir(parents=True, exist_ok=True)
    badge_with_alpha()
    panorama_over_the_limit()
    poster_already_large()
    text_named_as_an_image()
    astronaut_stored_sideways()
    cat_with_icc_profile()
    coffee()
    galaxies_cut_in_half()
    gray_photographer()
    rocket()


if __name__ == "__main__":
    main()
