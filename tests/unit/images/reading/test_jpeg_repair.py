"""JPEGs that are odd but whole, and JPEGs that lack pixels, read whole and by rows."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.metadata import beside
from beam_upscale.images.reading import inspection, jpeg_repair, pixels
from beam_upscale.images.reading.regions import open_picture
from beam_upscale.images.values import DecodedImage

MAX_PIXELS = 1_000_000
WIDTH, HEIGHT = 90, 70


def encoded(mode: str = "RGB", **options: Any) -> bytes:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / 5) + np.sin(y / 7), np.cos((x + y) / 11), np.sin(x * y / 90)]
    samples = np.stack([(1 + wave / 2) * 127 for wave in waves], axis=-1).clip(0, 255)
    buffer = io.BytesIO()
    Image.fromarray(samples.astype(np.uint8)).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


KINDS = {
    "baseline": encoded(),
    "4:2:0": encoded(subsampling=2, quality=60),
    "gray": encoded("L"),
    "print": encoded("CMYK"),
    "restarts": encoded(restart_marker_blocks=3),
    "rows": encoded(restart_marker_rows=1, subsampling=2),
    "progressive": encoded(progressive=True),
    "progressive restarts": encoded(progressive=True, restart_marker_rows=2, subsampling=1),
    "progressive print": encoded("CMYK", progressive=True),
}


def decode(data: bytes) -> DecodedImage:
    return pixels.decode(data, max_pixels=MAX_PIXELS)


def by_rows(data: bytes, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    path.write_bytes(data)
    with open_picture(path, max_pixels=MAX_PIXELS) as reader:
        return np.concatenate(list(reader.bands(16))), reader.picture.notes


def error_of(data: bytes, path: Path) -> ImageError:
    """The error of a file, which is the same whole and by rows."""
    with pytest.raises(ImageError) as caught:
        decode(data)
    with pytest.raises(ImageError) as caught_by_rows:
        by_rows(data, path)
    assert caught.value.code is caught_by_rows.value.code
    return caught.value


def assert_same(odd: bytes, data: bytes, notes: tuple[str, ...], path: Path) -> None:
    """An odd file gives the picture of the plain one, whole and by rows, with these notes more."""
    expected, found = decode(data), decode(odd)
    rows, row_notes = by_rows(odd, path)
    assert found.header == expected.header == inspection.read_header(odd)
    np.testing.assert_array_equal(found.color, expected.color)
    np.testing.assert_array_equal(rows, expected.color)
    assert sorted(found.notes) == sorted(row_notes) == sorted((*notes, *expected.notes))


def segment(marker: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) + 2 if length is None else length
    return bytes([0xFF, marker]) + size.to_bytes(2, "big") + payload


def before(data: bytes, marker: bytes, extra: bytes, start: bytes = b"\xff\xd8") -> bytes:
    at = data.index(marker, data.index(start) + 2)
    return data[:at] + extra + data[at:]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_odd_about_a_plain_file(kind: str, tmp_path: Path) -> None:
    data = KINDS[kind]

    for deeply in (False, True):
        found = jpeg_repair.mended(data, deeply=deeply)
        assert found is not None
        assert (found.data, found.notes) == (data, ())
    assert_same(data, data, (), tmp_path / "picture")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extra", [b"\r\n", bytes(1), bytes(300), b"\xff\x00junk"])
@pytest.mark.parametrize("marker", [b"\xff\xdb", b"\xff\xc4", b"\xff\xda"])
def test_bytes_between_segments_are_skipped(
    kind: str, extra: bytes, marker: bytes, tmp_path: Path
) -> None:
    data = KINDS[kind]

    assert_same(before(data, marker, extra), data, (jpeg_repair.EXTRANEOUS,), tmp_path / "picture")


@pytest.mark.parametrize("kind", ["restarts", "rows", "progressive restarts"])
@pytest.mark.parametrize("extra", [bytes(12), b"some words of a tool"])
def test_bytes_before_a_restart_marker_are_skipped(kind: str, extra: bytes, tmp_path: Path) -> None:
    data = KINDS[kind]

    odd = before(data, b"\xff\xd0", extra, start=b"\xff\xda")

    assert_same(odd, data, (jpeg_repair.EXTRANEOUS,), tmp_path / "picture")


def test_line_ends_before_any_restart_marker_are_skipped() -> None:
    data = KINDS["restarts"]
    expected, noted = decode(data), 0
    scan = data.index(b"\xff\xda")

    for found in re.finditer(rb"\xff[\xd0-\xd7]", data[scan:]):
        at = scan + found.start()
        decoded = decode(data[:at] + b"\r\n" + data[at:])
        np.testing.assert_array_equal(decoded.color, expected.color)
        # libjpeg does not notice bytes that it read ahead.
        assert decoded.notes in ((), (jpeg_repair.EXTRANEOUS,))
        noted += bool(decoded.notes)

    assert noted


def test_bytes_before_every_marker_are_skipped(tmp_path: Path) -> None:
    # libjpeg gives up, or libvips does, behind a hundred warnings.
    data = encoded(restart_marker_blocks=1, subsampling=0)
    odd = re.sub(rb"(\xff[\xd0-\xd7])", rb"\r\n\1", data)

    assert odd.count(b"\r\n\xff") > 100
    assert_same(odd, data, (jpeg_repair.EXTRANEOUS,), tmp_path / "picture")


@pytest.mark.parametrize("kind", ["progressive", "progressive print", "progressive restarts"])
@pytest.mark.parametrize("marker", [b"\xff\xc4", b"\xff\xda"])
def test_bytes_behind_a_scan_are_skipped(kind: str, marker: bytes, tmp_path: Path) -> None:
    data = KINDS[kind]

    # libjpeg does not notice fewer than it reads ahead.
    odd = before(data, marker, b"some words of a tool", start=b"\xff\xda")

    assert_same(odd, data, (jpeg_repair.EXTRANEOUS,), tmp_path / "picture")


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_behind_the_end_do_not_matter(kind: str, tmp_path: Path) -> None:
    data = KINDS[kind]

    odd = data + b"a camera's own \xff\xd8\xff data" * 9

    assert_same(odd, data, (beside.TRAILER,), tmp_path / "picture")


@pytest.mark.parametrize("kind", ["baseline", "rows", "progressive"])
def test_odd_fields_cost_no_pixel(kind: str, tmp_path: Path) -> None:
    data, path = KINDS[kind], tmp_path / "picture"
    at = data.index(b"JFIF\x00") + 5
    version = data[:at] + b"\x09\x63" + data[at + 2 :]
    short = before(data, b"\xff\xdb", segment(0xE5, b"of a maker", length=4))
    shorter = before(data, b"\xff\xdb", segment(0xE5, b"", length=0))
    long = before(data, b"\xff\xdb", segment(0xE5, b"four", length=6 + 9) + segment(0xE5, b"lost!"))

    assert_same(version, data, (jpeg_repair.ODD_VERSION,), path)
    assert_same(short, data, (jpeg_repair.EXTRANEOUS, beside.OTHERS), path)
    assert_same(shorter, data, (beside.OTHERS,), path)
    assert_same(long, data, (beside.OTHERS,), path)
    assert_same(before(data, b"\xff\xdb", b"\xff" * 7), data, (), path)


def test_unknown_color_transform_is_the_usual_one(tmp_path: Path) -> None:
    path = tmp_path / "picture"
    bare = segment(0xEE, b"Adobe\x00\x64" + bytes(4) + b"\x01")
    color = bare + KINDS["baseline"][20:]
    color = b"\xff\xd8" + color
    inks = KINDS["print"]
    at = inks.index(b"Adobe") + 11
    transformed = inks[:at] + b"\x02" + inks[at + 1 :]

    assert_same(
        color.replace(b"\x00\x01\xff", b"\x00\x07\xff", 1),
        color,
        (jpeg_repair.ODD_TRANSFORM,),
        path,
    )
    odd = inks[:at] + b"\x09" + inks[at + 1 :]
    assert_same(odd, transformed, (jpeg_repair.ODD_TRANSFORM,), path)


@pytest.mark.parametrize("kind", ["baseline", "restarts", "print"])
def test_parameters_of_another_kind_of_scan_are_ignored(kind: str, tmp_path: Path) -> None:
    data = KINDS[kind]
    odd = data.replace(b"\x00\x3f\x00", b"\x02\x1f\x11", 1)

    assert odd != data
    assert_same(odd, data, (jpeg_repair.ODD_SCAN,), tmp_path / "picture")


def test_restart_markers_out_of_order_cost_no_pixel(tmp_path: Path) -> None:
    data = KINDS["restarts"]
    at = data.index(b"\xff\xd1", data.index(b"\xff\xda"))
    odd = data[: at + 1] + b"\xd6" + data[at + 2 :]

    assert_same(odd, data, (jpeg_repair.RENUMBERED,), tmp_path / "picture")


def cut(data: bytes) -> bytes:
    return data[:-40]


def ended(data: bytes) -> bytes:
    return cut(data) + b"\xff\xd9"


def overwritten(data: bytes) -> bytes:
    """Zeros where the middle of the pixels was."""
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    return data[:middle] + bytes(60) + data[middle + 60 :]


def without_a_part(data: bytes) -> bytes:
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    return data[:middle] + data[middle + 90 :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "spoil", [lambda data: data, lambda data: before(data, b"\xff\xdb", b"\n")]
)
def test_missing_pixels_are_told_beside_what_is_odd(
    kind: str, spoil: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    data, path = spoil(KINDS[kind]), tmp_path / "picture"

    assert error_of(cut(data), path).code is ErrorCode.TRUNCATED
    assert error_of(data[:-2], path).code is ErrorCode.TRUNCATED
    assert error_of(ended(data), path).code is ErrorCode.CORRUPT


@pytest.mark.parametrize("damage", [overwritten, without_a_part])
@pytest.mark.parametrize("kind", ["restarts", "rows"])
def test_damaged_interval_is_no_whole_one_with_bytes_behind(
    kind: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    data = KINDS[kind]

    assert error_of(damage(data), tmp_path / "picture").code is ErrorCode.CORRUPT


def test_missing_restart_marker_is_damage(tmp_path: Path) -> None:
    data = KINDS["restarts"]
    at = data.index(b"\xff\xd1", data.index(b"\xff\xda"))

    assert error_of(data[:at] + data[at + 2 :], tmp_path / "picture").code is ErrorCode.CORRUPT


def test_repeated_scan_is_damage(tmp_path: Path) -> None:
    data = KINDS["progressive"]
    last = data.rindex(b"\xff\xda")
    again = data[:-2] + data[last:]

    assert error_of(again, tmp_path / "picture").code is ErrorCode.CORRUPT


def test_what_is_said_of_one_picture_is_not_said_of_the_next() -> None:
    damaged = ended(KINDS["baseline"])
    # As libvips leaves it behind where it gives a picture all the same.
    pyvips.Image.new_from_buffer(cut(KINDS["baseline"]), "", fail_on="none").avg()

    with pytest.raises(ImageError) as caught:
        decode(damaged)

    assert caught.value.code is ErrorCode.CORRUPT


def test_long_scans_are_not_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = before(KINDS["restarts"], b"\xff\xd0", b"\r\n", start=b"\xff\xda")
    for name in ("_MAX_WALKED_BYTES", "_MAX_WALKED_BLOCKS"):
        with monkeypatch.context() as patch:
            patch.setattr(jpeg_repair, name, 100)
            assert jpeg_repair.mended(odd, deeply=True) is None
    assert jpeg_repair.mended(odd, deeply=True) is not None


def test_mending_ends_for_any_bytes() -> None:
    random = np.random.default_rng(5)
    for data in KINDS.values():
        for _ in range(60):
            damaged = bytearray(data)
            for at in random.integers(2, len(data), 6):
                damaged[at] = random.integers(0, 256)
            del damaged[random.integers(4, len(data)) :]
            for deeply in (False, True):
                found = jpeg_repair.mended(bytes(damaged), deeply=deeply)
                assert found is None or found.data[:2] == b"\xff\xd8"


def test_warnings_of_libvips_reach_no_code_in_python(caplog: pytest.LogCaptureFixture) -> None:
    # Where they nest, GLib ends the process; see `codecs`.
    at = KINDS["baseline"].index(b"JFIF\x00") + 5

    decode(KINDS["baseline"][:at] + b"\x09" + KINDS["baseline"][at + 1 :])

    assert not caplog.records
