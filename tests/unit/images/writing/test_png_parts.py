"""PNGs read back by libvips, Pillow and an independent reading of the specification."""

import hashlib
import io
import itertools
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from places import ROOT
from small_networks import noise

from beam_upscale.images.containers import png
from beam_upscale.images.reading.pixels import decode
from beam_upscale.images.values import NO_METADATA, Metadata, Pixels, Resolution, Shape
from beam_upscale.images.writing import encoding, png_parts
from beam_upscale.images.writing.encode_options import EncodeOptions

LEVELS = range(10)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

KINDS = [
    pytest.param(channels, has_alpha, dtype, id=f"{channels}{'a' if has_alpha else ''} {dtype}")
    for channels in (1, 3)
    for has_alpha in (False, True)
    for dtype in ("uint8", "uint16")
]


def photograph(height: int = 96, width: int = 130, bands: int = 3, dtype: str = "uint8") -> Any:
    """A smooth picture with some noise, of integers only: the same everywhere."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 2 + y, y * 2 + 9, 255 - x - y, x * y // 32][:bands]
    mixed = np.arange(height * width * bands, dtype=np.uint64) * 2_654_435_761 % 2**32
    mixed = (mixed ^ mixed >> 15) * 2_246_822_519 % 2**32
    some_noise = (mixed >> 20 & 7).reshape(height, width, bands)
    values = (np.stack(planes, axis=-1) + some_noise.astype(int)) % 256
    scale = 257 if dtype == "uint16" else 1
    return (values * scale).astype(dtype)


def written(blocks: list[list[Pixels]], level: int = 3, metadata: Metadata = NO_METADATA) -> bytes:
    height = sum(len(block[0]) for block in blocks)
    width = blocks[0][0].shape[1]
    bands = sum(each.shape[2] for each in blocks[0])
    has_alpha = bands in (2, 4)
    dtype = blocks[0][0].dtype.name
    shape = Shape(width, height, bands - has_alpha, has_alpha, dtype)
    return b"".join(png_parts.png_parts(blocks, shape, metadata, level))


@pytest.fixture
def by_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every picture compressed as one that is larger than `WHOLE_BYTES`."""
    monkeypatch.setattr(png_parts, "WHOLE_BYTES", 0)


def unfiltered(data: bytes) -> Iterator[bytes]:
    """The rows of a PNG's stream, by the specification's words, one byte after the other."""
    info = png.png_info(data)
    bands = {0: 1, 2: 3, 4: 2, 6: 4}[info.color_type]
    pixel_bytes = bands * info.bit_depth // 8
    row_bytes = info.width * pixel_bytes
    chunks = [data[each.start : each.end] for each in png.png_chunks(data) if each.type == b"IDAT"]
    stream = zlib.decompress(b"".join(chunks))
    assert len(stream) == info.height * (1 + row_bytes)
    above = bytes(row_bytes)
    for top in range(0, len(stream), 1 + row_bytes):
        assert stream[top] == 4
        row = bytearray(stream[top + 1 : top + 1 + row_bytes])
        for at in range(row_bytes):
            a, c = (row[at - pixel_bytes], above[at - pixel_bytes]) if at >= pixel_bytes else (0, 0)
            b = above[at]
            p = a + b - c
            nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            row[at] = (row[at] + nearest) % 256
        yield bytes(row)
        above = bytes(row)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    bands=st.integers(1, 4),
    dtype=st.sampled_from(["uint8", "uint16"]),
    seed=st.integers(0, 2**32 - 1),
    few=st.booleans(),
)
def test_rows_are_those_of_the_specification(
    height: int, width: int, bands: int, dtype: str, seed: int, few: bool
) -> None:
    chance = np.random.default_rng(seed)
    values = [0, 1, 127, 128, 254, 255] if few else range(np.iinfo(dtype).max + 1)
    pixels = chance.choice(np.array(values, dtype), (height, width, bands))

    rows = b"".join(unfiltered(written([[pixels]])))

    assert rows == pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()


def test_every_prediction_is_right() -> None:
    """All of the 2^24 neighbors would take long: every difference of small and large ones."""
    values = np.array(
        [0, 1, 2, 3, 5, 63, 64, 126, 127, 128, 129, 192, 252, 253, 254, 255], np.uint8
    )
    left, above, corner = (each.ravel() for each in np.meshgrid(values, values, values))
    pixels = np.zeros((2 * len(left), 2, 1), np.uint8)
    pixels[0::2, 0, 0], pixels[0::2, 1, 0], pixels[1::2, 0, 0] = corner, above, left

    assert b"".join(unfiltered(written([[pixels]]))) == pixels.tobytes()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(("channels", "has_alpha", "dtype"), KINDS)
def test_others_read_the_same_samples(
    channels: int,
    has_alpha: bool,
    dtype: str,
    is_whole: bool,
    level: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_whole:
        monkeypatch.setattr(png_parts, "WHOLE_BYTES", 0)
    pixels = photograph(61, 43, channels + has_alpha, dtype)

    data = written([[pixels]], level)

    png.check_png(data)
    by_vips = pyvips.Image.new_from_buffer(data, "", fail_on="warning").numpy()
    np.testing.assert_array_equal(by_vips.reshape(pixels.shape), pixels)
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert picture.size == (43, 61)
    # Pillow keeps 16 bits of gray only.
    if dtype == "uint8" or (channels, has_alpha) == (1, False):
        np.testing.assert_array_equal(np.asarray(picture).reshape(pixels.shape), pixels)
    ours = decode(data, max_pixels=pixels.size)
    np.testing.assert_array_equal(ours.color, pixels[..., :channels])


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(("channels", "has_alpha", "dtype"), KINDS)
def test_bytes_do_not_depend_on_blocks(
    channels: int, has_alpha: bool, dtype: str, is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_whole:
        monkeypatch.setattr(png_parts, "WHOLE_BYTES", 0)
    monkeypatch.setattr(png_parts, "_BAND_BYTES", 4000)
    pixels = photograph(200, 33, channels + has_alpha, dtype)
    color, alpha = pixels[..., :channels], pixels[..., channels:]

    whole = written([[pixels]])

    for height in (1, 7, 199):
        blocks = [pixels[top : top + height] for top in range(0, 200, height)]
        assert written([[each] for each in blocks]) == whole
    if has_alpha:
        assert written([[color, alpha]]) == whole
    np.testing.assert_array_equal(decode(whole, max_pixels=10**6).color, color)


def test_bytes_of_a_filtered_row_do_not_depend_on_the_height_of_bands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = photograph()
    found = set()
    for size in (1, 1000, 5000, 1 << 20):
        monkeypatch.setattr(png_parts, "_BAND_BYTES", size)
        found.add(written([[pixels]]))

    assert len(found) == 1


def test_threads_give_the_bytes_of_one() -> None:
    pictures = [photograph(100 + number % 5, 90 + number % 7) for number in range(64)]

    def encoded(picture: Pixels) -> bytes:
        return encoding.encode(picture, metadata=Metadata(SRGB)).data

    alone = [encoded(each) for each in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(encoded, pictures))

    assert together == alone


PROGRAM = """
import hashlib, sys
sys.path += sys.argv[1:]
from unit.images.writing.test_png_parts import photograph, written
print(hashlib.sha256(written([[photograph()]])).hexdigest())
"""


@pytest.mark.slow
def test_processes_give_the_same_bytes() -> None:
    places = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support")]
    command = [sys.executable, "-c", PROGRAM, *places]
    expected = hashlib.sha256(written([[photograph()]])).hexdigest()

    for _ in range(2):
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == expected


@pytest.mark.parametrize(
    ("level", "whole_bytes", "digest"),
    [
        (0, 1 << 20, "e47f55aa1cc2a89b12bbf2e811e56e0c343e9ba331ff29a180ad08056770a69c"),
        (3, 1 << 20, "9dc0d13cc0e644722164f799136637411f07a5fc93c8e88821c481cd4902d78b"),
        (9, 1 << 20, "c5088ebf0410fe72d13c2dff3c504af6c112dc7d61132708ded9da353d36ca78"),
        (3, 0, "f3570ca4363615f6f96f449a1c2166dedab1acd36e8603f5f6ed7b9d309fcdf8"),
    ],
)
def test_bytes_are_those_of_the_locked_libraries(
    level: int, whole_bytes: int, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this fails after an update, results of earlier runs have other bytes: tell users."""
    monkeypatch.setattr(png_parts, "WHOLE_BYTES", whole_bytes)

    data = written([[photograph()]], level, Metadata(b"profile" * 20))

    assert hashlib.sha256(data).hexdigest() == digest


def test_flat_pictures_are_compressed_with_more_effort() -> None:
    flat = (photograph(300, 300) // 64 * 64)[::4].repeat(8, axis=0)
    rich = photograph()

    assert written([[flat]], 3) == written([[flat]], 6) != written([[flat]], 1)
    assert written([[rich]], 3) == written([[rich]], 1) != written([[rich]], 6)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_higher_level_makes_no_larger_picture(
    is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_whole:
        monkeypatch.setattr(png_parts, "WHOLE_BYTES", 0)
    pixels = photograph(300, 300)

    sizes = [len(written([[pixels]], level)) for level in LEVELS]

    assert sizes[0] > pixels.nbytes
    assert sizes[1] < 0.6 * pixels.nbytes
    for smaller, larger in itertools.pairwise(reversed(sizes)):
        assert smaller <= larger * 1.05


def test_photographs_are_hardly_larger_than_pillows() -> None:
    from skimage import data

    for name in ("astronaut", "chelsea", "coffee"):
        pixels = getattr(data, name)()[100:228, 100:228]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")

        assert len(written([[pixels]])) <= 1.15 * len(buffer.getvalue())


def test_chunks_of_metadata() -> None:
    metadata = Metadata(SRGB, b"II*\0\x08\0\0\0\0\0", b"<xmp/>", Resolution(254, 127))

    data = written([[photograph()]], metadata=metadata)

    chunks = {each.type: data[each.start : each.end] for each in png.png_chunks(data)}
    assert list(chunks) == [b"IHDR", b"iCCP", b"pHYs", b"iTXt", b"eXIf", b"IDAT", b"IEND"]
    name, _, profile = chunks[b"iCCP"].partition(b"\0\0")
    assert (name, zlib.decompress(profile)) == (b"icc", SRGB)
    assert chunks[b"pHYs"] == (10_000).to_bytes(4, "big") + (5000).to_bytes(4, "big") + b"\1"
    assert chunks[b"iTXt"] == b"XML:com.adobe.xmp\0\0\0\0\0<xmp/>"
    assert chunks[b"eXIf"] == metadata.exif
    assert decode(data, max_pixels=10**6).metadata.icc_profile == SRGB


def test_without_metadata_there_are_pixels_only() -> None:
    data = written([[photograph()]])

    assert [each.type for each in png.png_chunks(data)] == [b"IHDR", b"IDAT", b"IEND"]


def test_bands_make_a_chunk_each(by_bands: None) -> None:
    data = written([[noise(600, 400, 3)]])

    kinds = [each.type for each in png.png_chunks(data)]
    assert kinds.count(b"IDAT") > 3
    assert all(each.end > each.start for each in png.png_chunks(data) if each.type == b"IDAT")


@pytest.mark.parametrize("rows", [99, 101])
@pytest.mark.parametrize("is_whole", [True, False])
def test_rows_that_lack_or_are_too_many(
    rows: int, is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_whole:
        monkeypatch.setattr(png_parts, "WHOLE_BYTES", 0)
    shape = Shape(20, 100, 3, False, "uint8")

    with pytest.raises(ValueError, match=f"rows for {rows} of 100"):
        list(png_parts.png_parts([[noise(rows, 20, 3)]], shape, NO_METADATA, 3))


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0)])
def test_a_picture_without_pixels(width: int, height: int) -> None:
    shape = Shape(width, height, 1, False, "uint8")

    with pytest.raises(ValueError, match="at least one pixel"):
        list(png_parts.png_parts([], shape, NO_METADATA, 3))


def test_the_default_is_a_level_of_the_scale() -> None:
    assert EncodeOptions().png_compression in LEVELS
