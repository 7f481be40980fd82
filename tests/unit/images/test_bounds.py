"""Files that say little and cost much: refused by their headers, on every way they are read."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_images import saved

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.containers import iso, jpeg, parts
from beam_upscale.images.containers.gif import _gif_table_bytes
from beam_upscale.images.containers.tiff import tiff_info
from beam_upscale.images.metadata import beside
from beam_upscale.images.reading import inspection, jpeg_repair
from beam_upscale.images.reading.pixels import decode
from beam_upscale.images.reading.regions import open_picture, read_file_header

MAX_PIXELS = 4_000_000

EXTREMES = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1)


def code_of(read: Callable[[], object]) -> ErrorCode | None:
    try:
        read()
    except ImageError as error:
        return error.code
    return None


def codes_of(data: bytes, folder: Path) -> list[ErrorCode | None]:
    """What is said of a file by its header, as a whole, and where it is read in parts."""
    path = folder / "picture"
    path.write_bytes(data)

    def by_rows() -> None:
        with open_picture(path, max_pixels=MAX_PIXELS) as reader:
            list(reader.bands(64))

    return [
        code_of(lambda: inspection.read_header(data)),
        code_of(lambda: read_file_header(path)),
        code_of(lambda: decode(data, max_pixels=MAX_PIXELS)),
        code_of(by_rows),
    ]


LONG, SHORT = 4, 3


def tiff(fields: dict[int, tuple[int, int]], pixels: bytes = bytes(512)) -> bytes:
    """A gray TIFF of 16 x 16 pixels in one strip, with these fields besides or instead."""
    own = {
        **dict.fromkeys((256, 257, 278), (LONG, 16)),
        **dict.fromkeys((259, 262, 277), (SHORT, 1)),
        258: (SHORT, 8),
        273: (LONG, 8),
        279: (LONG, len(pixels)),
        **fields,
    }
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value)
        for tag, (kind, value) in sorted(own.items())
        if value >= 0
    )
    count = len(entries) // 12
    header = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    return header + pixels + struct.pack("<H", count) + entries + bytes(4)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({322: (LONG, 32_768), 323: (LONG, 32_768)}, id="tile"),
        pytest.param({277: (SHORT, 65_535), 278: (LONG, 16), 258: (SHORT, 64)}, id="samples"),
        pytest.param({322: (LONG, 2**32 - 1), 323: (LONG, 2**32 - 1)}, id="endless tile"),
    ],
)
def test_tiff_whose_parts_are_far_larger_than_its_picture(
    fields: dict[int, tuple[int, int]], tmp_path: Path
) -> None:
    codes = codes_of(tiff(fields), tmp_path)

    assert set(codes) == {ErrorCode.UNSUPPORTED_FORMAT}


def test_rows_of_a_strip_beyond_the_picture_do_not_count(tmp_path: Path) -> None:
    assert codes_of(tiff({278: (LONG, 2**32 - 1)}), tmp_path) == [None] * 4


@pytest.mark.parametrize("offset", EXTREMES)
def test_tiff_whose_directory_is_said_to_be_anywhere(offset: int, tmp_path: Path) -> None:
    big = b"II+\0" + struct.pack("<HHQ", 8, 0, offset) + bytes(100)
    classic = struct.pack("<2sHI", b"II", 42, offset & 0xFFFFFFFF) + bytes(100)

    for data in (big, classic):
        assert set(codes_of(data, tmp_path)) <= {ErrorCode.CORRUPT, ErrorCode.TRUNCATED}


def test_fields_of_a_tiff_that_share_their_values(tmp_path: Path) -> None:
    size, shared = 50_000, 400
    fields = b"".join(struct.pack("<HHII", 40_000 + n, 1, size, 8) for n in range(shared))
    plain = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    own = b"".join(struct.pack("<HHII", tag, LONG, 1, value) for tag, value in plain.items())
    data = struct.pack("<2sHI", b"II", 42, 8 + size) + bytes(size)
    data += struct.pack("<H", len(plain) + shared) + own + fields + bytes(4)

    assert set(codes_of(data, tmp_path)) == {ErrorCode.CORRUPT}


def test_directories_that_lie_in_one_another() -> None:
    # Each begins two bytes behind the one before, and has all that follows for its fields.
    data = b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", 300) * 4000
    chained = bytearray(data)
    for start in range(8, 4000, 2):
        struct.pack_into("<I", chained, min(start + 2 + 300 * 12, len(chained) - 4), start + 2)

    assert code_of(lambda: tiff_info(bytes(chained))) in (
        ErrorCode.CORRUPT,
        ErrorCode.TRUNCATED,
    )


def scanned(mode: str, scans: int) -> bytes:
    """A progressive JPEG whose last scan stands there again and again."""
    data = saved(Image.new(mode, (64, 64), (128,) * len(mode)), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    tables = data.rfind(b"\xff\xc4", data.rfind(b"\xff\xda", 0, last), last)
    return data[:-2] + data[tables if tables > 0 else last : -2] * scans + data[-2:]


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_scans_of_a_jpeg_are_counted(mode: str, tmp_path: Path) -> None:
    whole, by_rows = codes_of(scanned(mode if mode != "L" else "RGB", 1000), tmp_path)[2:]

    assert (whole, by_rows) == (ErrorCode.UNSUPPORTED_FORMAT,) * 2


def test_scans_of_an_ordinary_jpeg_are_few_and_those_of_its_metadata_none(tmp_path: Path) -> None:
    exif = b"Exif\0\0" + b"\xff\xda" * 5000
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))

    for options in ({"progressive": True}, {"restart_marker_blocks": 1}):
        data = saved(noise, "JPEG", exif=exif, **options)
        assert codes_of(data, tmp_path)[2:] == [None, None]


def test_larger_jpegs_may_have_fewer_scans() -> None:
    data = scanned("RGB", 60)

    jpeg.check_jpeg(data, 1 << 20)
    with pytest.raises(ImageError, match="at most 32 are decoded"):
        jpeg.check_jpeg(data, 1 << 30)


def test_files_of_countless_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts, "_MAX_PARTS", 50)
    plain = Image.new("RGB", (4, 4))
    empty = struct.pack(">I4sI", 0, b"teXt", zlib.crc32(b"teXt")) * 100
    png, webp = saved(plain, "PNG"), saved(plain, "WEBP")
    avif, gif = saved(plain, "AVIF"), saved(plain, "GIF")
    table = 13 + _gif_table_bytes(gif[10])
    files = {
        "png": png[:33] + empty + png[33:],
        "webp": webp + b"junk\0\0\0\0" * 100,
        "avif": avif + struct.pack(">I4s", 8, b"free") * 100,
        "gif": gif[:table] + b"!\xff\x01x\0" * 100 + gif[table:],
        "jpeg": b"\xff\xd8" + b"\xff\xfe\0\x02" * 100,
    }

    for name, data in files.items():
        assert codes_of(data, tmp_path)[0] is ErrorCode.UNSUPPORTED_FORMAT, name


def test_picture_in_an_avif_that_is_far_larger_than_what_is_shown(tmp_path: Path) -> None:
    data = bytearray(saved(Image.new("RGB", (16, 16)), "AVIF"))
    iso.check_iso_sizes(bytes(data), "avif", 256)
    at = data.index(b"ispe")
    # Another one, which no picture may have; free space takes its place in the length.
    struct.pack_into(">II", data, at + 8, 30_000, 30_000)

    with pytest.raises(ImageError, match="30000 x 30000"):
        iso.check_iso_sizes(bytes(data), "avif", 256)


def test_texts_of_a_png_unfold_a_few_times_only() -> None:
    found = beside.Beside()
    packed = b"Raw profile type xmp\0\0" + zlib.compress(b"\nxmp\n 8\n" + b"00" * 500_000)

    for _ in range(100):
        beside._look_at_text(found, b"zTXt", packed)

    assert found.unpacked == beside._MOST_UNPACKED


@pytest.mark.parametrize(
    ("find", "text"),
    [
        (beside._RAW_PROFILE.match, b"\nexif\n 1" + b" " * 200_000 + b"!"),
        (jpeg_repair._END_OF_SCAN.search, b"\xff" * 200_000 + b"\0"),
        (jpeg_repair._RESTART.search, b"\xff" * 200_000 + b"\0"),
        (jpeg._JPEG_MARKER.search, b"\xff" * 200_000 + b"\0"),
    ],
)
def test_no_text_is_searched_from_each_of_its_bytes(
    find: Callable[[bytes], object], text: bytes
) -> None:
    # Minutes, where it is.
    assert find(text) is None


FIELDS = struct.Struct("<HHII")
TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 301, 318, 319, 320, 322),
    *(323, 324, 325, 330, 338, 339, 700, 34_665, 34_675, 34_853),
)


@settings(max_examples=150)
@given(
    tag=st.sampled_from(TAGS),
    kind=st.integers(0, 18),
    count=st.sampled_from([n for n in EXTREMES if n < 2**32]) | st.integers(0, 64),
    value=st.sampled_from([n for n in EXTREMES if n < 2**32]) | st.integers(0, 600),
    photometric=st.integers(0, 8),
)
def test_any_field_of_a_tiff_may_say_anything(
    tag: int, kind: int, count: int, value: int, photometric: int
) -> None:
    data = tiff({262: (SHORT, photometric), tag: (SHORT, 1)})
    at = data.index(struct.pack("<HHI", tag, SHORT, 1))
    data = data[:at] + FIELDS.pack(tag, kind, count, value) + data[at + 12 :]

    # Nothing else than an ImageError.
    code_of(lambda: decode(data, max_pixels=100_000))
