"""TIFFs of every kind: the samples that went in come out, or the file is refused."""

import dataclasses
import io
import itertools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiff_files
from numpy.typing import NDArray
from PIL import Image
from tiff_files import ASCII, DEFLATE, LONG, LZMA, LZW, PACKBITS, SHORT, Page, tiff

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.metadata.directories import Layout, fields_by_tag, numbers_of
from beam_upscale.images.reading import inspection, pixels
from beam_upscale.images.reading.regions import open_picture
from beam_upscale.images.values import DecodedImage

MAX_PIXELS = 1_000_000
WIDTH, HEIGHT = 19, 13

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4}

EXTRAS = ((), (0,), (1,), (2,), (0, 2), (1, 0, 0), (0, 0, 0, 0))

STORED: tuple[tuple[dict[str, Any], str, bool], ...] = (
    ({}, "<", False),
    ({"tile": (16, 16), "compression": LZW}, ">", False),
    ({"compression": DEFLATE, "predictor": 2}, "<", True),
    ({"compression": PACKBITS, "rows": 4}, ">", True),
    ({"tile": (32, 16)}, "<", False),
)


def decode(data: bytes) -> DecodedImage:
    return pixels.decode(data, max_pixels=MAX_PIXELS)


def error_of(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value


def joined(decoded: DecodedImage) -> NDArray[Any]:
    if decoded.alpha is None:
        return decoded.color
    return np.dstack([decoded.color, decoded.alpha])


def page_of(bits: int, photometric: int, extra: tuple[int, ...], **options: Any) -> Page:
    """A page of noise; where its color is multiplied by alpha, that is at least a half."""
    random = np.random.default_rng(bits + 100 * photometric)
    colors, full = COLORS[photometric], 2**bits - 1
    samples = random.integers(0, full + 1, (HEIGHT, WIDTH, colors + len(extra)))
    if 1 in extra:
        alpha = samples[..., colors + extra.index(1), np.newaxis]
        alpha[...] = np.maximum(alpha, full // 2 + 1)
        shown = samples[..., :colors] * alpha // full
        samples[..., :colors] = full - shown if photometric == WHITE_IS_ZERO else shown
    tags = {}
    if photometric == PALETTE:
        tags[320] = (SHORT, (random.integers(0, 256, 3 * (full + 1)) * 257).tolist())
    if bits < 8:
        options.pop("predictor", None)
    dtype = np.uint16 if bits == 16 else np.uint8
    return Page(samples.astype(dtype), bits, photometric, extra, tags=tags, **options)


def name_of(page: Page) -> str:
    names = ("bits", "photometric", "extra", "planes", "compression", "predictor", "tile")
    return ", ".join(f"{name} {getattr(page, name)}" for name in names)


def shown_by(page: Page) -> NDArray[np.int64]:
    """Color and alpha that a page means, by TIFF 6.0 alone."""
    full = 65_535 if page.bits == 16 else 255
    colors, samples = COLORS[page.photometric], page.samples.astype(np.int64)
    scaled = samples * (full // (2**page.bits - 1))
    color = scaled[..., :colors]
    if page.photometric == WHITE_IS_ZERO:
        color = full - color
    elif page.photometric == PALETTE:
        entries = np.array(page.tags[320][1]).reshape(3, -1).T // 257
        color = entries[samples[..., 0]]
    elif page.photometric == CMYK:
        color = np.rint((full - color[..., :3]) * (full - color[..., 3:]) / full).astype(np.int64)
    kinds = [number for number, kind in enumerate(page.extra) if kind in (1, 2)]
    if not kinds:
        return color
    alpha = scaled[..., colors + kinds[0], np.newaxis]
    if page.extra[kinds[0]] == 1:
        color = np.minimum(np.rint(color * full / np.maximum(alpha, 1)), full).astype(np.int64)
    return np.concatenate([color, alpha], axis=2)


def by_rows(data: bytes, path: Path) -> NDArray[Any]:
    path.write_bytes(data)
    with open_picture(path, max_pixels=MAX_PIXELS) as reader:
        return np.concatenate(list(reader.bands(5)))


def kinds(photometric: int) -> Iterator[tuple[Page, str, bool]]:
    """Pages of all kinds of one color, each stored in one of several ways."""
    ways = itertools.cycle(STORED)
    depths = (1, 2, 4, 8) if photometric in (PALETTE, CMYK) else (1, 2, 4, 8, 16)
    for bits, extra, planes in itertools.product(depths, EXTRAS, (False, True)):
        options, order, big = next(ways)
        yield page_of(bits, photometric, extra, planes=planes, **options), order, big


@pytest.mark.parametrize("photometric", COLORS)
def test_samples_are_right_or_refused(photometric: int, tmp_path: Path) -> None:
    read = 0
    for page, order, big in kinds(photometric):
        data, kind = tiff(page, order=order, big=big), f"{name_of(page)}, {order}, {big}"
        try:
            found = joined(decode(data))
        except ImageError as error:
            assert error.code is ErrorCode.UNSUPPORTED_FORMAT, kind
            with pytest.raises(ImageError) as caught:
                by_rows(data, tmp_path / "picture")
            assert caught.value.code is error.code, kind
            is_common = page.bits >= 8 or (page.samples.shape[2] == 1)
            assert 1 in page.extra or not (page.planes or is_common), kind
            continue
        expected = shown_by(page)
        assert found.shape == expected.shape, kind
        assert np.abs(found.astype(np.int64) - expected).max() <= 1, kind
        np.testing.assert_array_equal(by_rows(data, tmp_path / "picture"), found, kind)
        read += 1
    assert read >= 20


@pytest.mark.parametrize("extra", [(0,), (0, 0), (2, 0), (0, 1)])
def test_samples_that_are_not_taken_are_noted(extra: tuple[int, ...]) -> None:
    unused = sum(kind == 0 for kind in extra)

    for bits in (8, 16):
        assert decode(tiff(page_of(bits, RGB, extra))).notes == (
            f"extra samples dropped: {unused}",
        )


def test_fourth_sample_that_nothing_is_said_of_is_alpha() -> None:
    page = page_of(8, RGB, (2,))
    data = tiff(Page(page.samples, 8, RGB))

    np.testing.assert_array_equal(joined(decode(data)), page.samples)


def test_samples_below_alpha_of_zero_do_not_matter() -> None:
    samples = np.array([[[90, 0], [90, 255], [200, 100]]], np.uint8)

    decoded = decode(tiff(Page(samples, 8, BLACK_IS_ZERO, extra=(1,))))

    assert decoded.color[..., 0].tolist() == [[0, 90, 255]]
    assert decoded.alpha is not None
    assert decoded.alpha.tolist() == [[0, 255, 100]]


@pytest.mark.parametrize("orientation", [3, 6])
def test_planes_are_turned_and_keep_their_profile(orientation: int, tmp_path: Path) -> None:
    page = page_of(8, RGB, (2,), planes=True)
    profile = b"\x00" * 16 + b"RGB " + b"\x00" * 200
    tags = {274: (SHORT, [orientation]), 34675: (7, profile)}
    data = tiff(Page(page.samples, 8, RGB, (2,), planes=True, tags=tags))

    decoded = decode(data)

    turns = {3: 2, 6: -1}[orientation]
    np.testing.assert_array_equal(joined(decoded), np.rot90(page.samples, turns))
    np.testing.assert_array_equal(by_rows(data, tmp_path / "picture"), joined(decoded))


@pytest.mark.parametrize("bits", [8, 16])
def test_damaged_plane_is_no_picture(bits: int, tmp_path: Path) -> None:
    data = bytearray(tiff(page_of(bits, RGB, (0, 2), planes=True, compression=DEFLATE)))
    data[200:230] = bytes(30)

    assert error_of(bytes(data)).code is ErrorCode.CORRUPT
    with pytest.raises(ImageError) as caught:
        by_rows(bytes(data), tmp_path / "picture")
    assert caught.value.code is ErrorCode.CORRUPT


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize(("bits", "photometric"), [(8, BLACK_IS_ZERO), (8, RGB), (16, RGB)])
def test_compression_that_one_codec_lacks(
    bits: int, photometric: int, planes: bool, tmp_path: Path
) -> None:
    page = page_of(bits, photometric, (), planes=planes, compression=LZMA)
    data = tiff(page)

    if bits == 16:
        assert error_of(data).code is ErrorCode.UNSUPPORTED_FORMAT
    else:
        np.testing.assert_array_equal(decode(data).color, page.samples)
        np.testing.assert_array_equal(by_rows(data, tmp_path / "picture"), page.samples)


def test_fields_that_contradict_each_other_are_refused() -> None:
    page = page_of(8, RGB, ())
    contradictions: dict[ErrorCode, list[dict[int, Any]]] = {
        ErrorCode.CORRUPT: [
            {277: (SHORT, [1])},
            {284: (SHORT, [2])},
        ],
        ErrorCode.UNSUPPORTED_FORMAT: [
            {258: (SHORT, [5, 6, 5])},
            {258: (SHORT, [8, 8, 16])},
            {339: (SHORT, [1, 1, 2])},
            {259: (SHORT, [34712])},
            {262: (SHORT, [5]), 277: (SHORT, [4]), 258: (SHORT, [8] * 4), 332: (SHORT, [2])},
        ],
    }

    for code, all_tags in contradictions.items():
        for tags in all_tags:
            data = tiff(Page(page.samples, 8, RGB, tags=tags))
            assert error_of(data).code is code, tags


@pytest.mark.parametrize(
    ("tile", "tags", "lacking"),
    [
        pytest.param(None, {324: (SHORT, [1])}, (), id="places of tiles"),
        pytest.param(None, {324: (LONG, [8])}, (273,), id="no places of strips"),
        pytest.param(None, {322: (SHORT, [16]), 323: (SHORT, [16])}, (), id="sizes of tiles"),
        pytest.param(None, {325: (LONG, [8])}, (), id="lengths of tiles"),
        pytest.param((16, 16), {273: (LONG, [8])}, (), id="places of strips"),
        pytest.param((16, 16), {279: (LONG, [8])}, (), id="lengths of strips"),
        pytest.param((16, 16), {}, (322, 323), id="no sizes of tiles"),
    ],
)
@pytest.mark.parametrize("compression", [1, LZW], ids=["plain", "LZW"])
def test_pixels_lie_in_strips_or_in_tiles(
    compression: int,
    tile: tuple[int, int] | None,
    tags: tiff_files.Tags,
    lacking: tuple[int, ...],
) -> None:
    page = page_of(8, RGB, (), tile=tile, compression=compression)
    data = without(dataclasses.replace(page, tags=tags), *lacking)

    assert error_of(data).code is ErrorCode.CORRUPT


def without(page: Page, *tags: int) -> bytes:
    """A page whose directory lacks some fields."""
    data = bytearray(tiff(page))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if struct.unpack_from("<H", entry)[0] not in tags]
    data += bytes(len(data) % 2)
    struct.pack_into("<I", data, 4, len(data))
    return bytes(data + struct.pack("<H", len(kept)) + b"".join(kept) + bytes(4))


PARTS = [
    pytest.param(page_of(8, RGB, ()), id="plain strips"),
    pytest.param(page_of(8, RGB, (), compression=DEFLATE), id="Deflate"),
    pytest.param(page_of(8, RGB, (), compression=LZMA), id="LZMA"),
    pytest.param(page_of(8, RGB, (), tile=(16, 16)), id="plain tiles"),
    pytest.param(page_of(8, BLACK_IS_ZERO, (), tile=(16, 16), compression=LZW), id="LZW tiles"),
    pytest.param(page_of(8, PALETTE, ()), id="palette"),
    pytest.param(page_of(8, RGB, (), planes=True), id="planes"),
    pytest.param(page_of(16, RGB, ()), id="16 bits"),
    pytest.param(page_of(1, BLACK_IS_ZERO, ()), id="1 bit"),
]


def with_places(page: Page, change: Callable[[list[int]], list[int]]) -> bytes:
    """A page whose strips or tiles lie elsewhere, or are more or fewer than it takes."""
    data = tiff(page)
    layout = Layout.of(data)
    assert layout is not None
    fields = fields_by_tag(data, layout, layout.first)
    changed: dict[int, tuple[int, list[int]]] = {}
    for tag in {273, 279, 324, 325} & fields.keys():
        found = numbers_of(data, layout, fields[tag])
        changed[tag] = (LONG, change([int(each) for each in found]))
    return tiff(dataclasses.replace(page, tags={**page.tags, **changed}))


def both_errors(data: bytes, path: Path) -> set[ErrorCode]:
    with pytest.raises(ImageError) as caught:
        by_rows(data, path)
    return {error_of(data).code, caught.value.code}


@pytest.mark.parametrize("page", PARTS)
def test_pictures_of_which_parts_are_missing_are_refused(page: Page, tmp_path: Path) -> None:
    fewer = with_places(page, lambda found: found[:-1])
    sparse = with_places(page, lambda found: [*found[:-1], 0])

    assert both_errors(fewer, tmp_path / "fewer") == {ErrorCode.CORRUPT}
    assert both_errors(sparse, tmp_path / "sparse") == {ErrorCode.UNSUPPORTED_FORMAT}


@pytest.mark.parametrize("page", PARTS)
def test_spare_parts_are_left_alone(page: Page, tmp_path: Path) -> None:
    spare = with_places(page, lambda found: [*found, found[1]])
    expected = joined(decode(tiff(page)))

    np.testing.assert_array_equal(joined(decode(spare)), expected)
    np.testing.assert_array_equal(by_rows(spare, tmp_path / "picture"), expected)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palettes_of_8_bit_values_are_scaled(bits: int, tmp_path: Path) -> None:
    page = page_of(bits, PALETTE, ())
    values = [each // 257 for each in page.tags[320][1]]
    data = tiff(dataclasses.replace(page, tags={320: (SHORT, values)}))

    found = decode(data)

    np.testing.assert_array_equal(found.color, shown_by(page))
    np.testing.assert_array_equal(by_rows(data, tmp_path / "picture"), found.color)
    assert found.notes == ("palette expanded", "8-bit palette scaled")
    assert decode(tiff(page)).notes == ("palette expanded",)


def test_missing_fields_have_the_same_meaning_to_all_codecs(tmp_path: Path) -> None:
    gray, color = page_of(8, BLACK_IS_ZERO, (), rows=HEIGHT), page_of(8, RGB, (), rows=HEIGHT)
    undefined = Page(gray.samples, tags={339: (SHORT, [4])})
    empty = Page(gray.samples, tags={277: (SHORT, [])})
    too_many = Page(color.samples, 8, RGB, tags={338: (SHORT, [2])})
    files = [
        (without(gray, 277), gray.samples),
        (without(gray, 278), gray.samples),
        (without(gray, 279), gray.samples),
        (without(color, 279, 284), color.samples),
        # By the oldest rule, which Pillow and tifffile follow: white is 0.
        (without(gray, 262), 255 - gray.samples),
        (tiff(undefined), gray.samples),
        (tiff(empty), gray.samples),
        (tiff(too_many), color.samples),
    ]

    for number, (data, expected) in enumerate(files):
        np.testing.assert_array_equal(decode(data).color, expected, str(number))
        np.testing.assert_array_equal(by_rows(data, tmp_path / "picture"), expected, str(number))
    for tag, code in ((262, ErrorCode.UNSUPPORTED_FORMAT), (277, ErrorCode.CORRUPT)):
        assert error_of(without(color, tag)).code is code


REDUCED, MASK = {254: (LONG, [1])}, {254: (LONG, [4])}


def page(width: int, tags: tiff_files.Tags | None = None, **options: Any) -> Page:
    """A gray page that its width tells from others."""
    samples = np.full((HEIGHT, width, 1), 100, np.uint8)
    return Page(samples, tags=tags or {}, **options)


@pytest.mark.parametrize(
    ("pages", "frames", "notes"),
    [
        ((page(5, REDUCED), page(WIDTH)), 1, ("reduced copies left out: 1",)),
        ((page(WIDTH), page(5, REDUCED)), 1, ("reduced copies left out: 1",)),
        ((page(5, {255: (SHORT, [2])}), page(WIDTH)), 1, ("reduced copies left out: 1",)),
        ((page(5, MASK), page(WIDTH), page(9, MASK)), 1, ("masks left out: 2",)),
        (
            (page(5, {254: (SHORT, [5])}), page(WIDTH, {254: (LONG, [2])}), page(7)),
            2,
            ("first of 2 frames", "reduced copies left out: 1", "masks left out: 1"),
        ),
        (
            (page(WIDTH, inner=(page(9, REDUCED), page(5, REDUCED))),),
            1,
            ("inner pictures left out: 2",),
        ),
        ((page(WIDTH, REDUCED),), 1, ("marked as a reduced copy",)),
    ],
)
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", True)])
def test_picture_is_no_reduced_copy_nor_a_mask(
    pages: tuple[Page, ...],
    frames: int,
    notes: tuple[str, ...],
    order: str,
    big: bool,
    tmp_path: Path,
) -> None:
    data = tiff(*pages, order=order, big=big)

    decoded = decode(data)

    assert (decoded.header.width, decoded.header.frames) == (WIDTH, frames)
    assert decoded.header == inspection.read_header(data)
    assert decoded.color.shape == (HEIGHT, WIDTH, 1)
    assert decoded.notes == notes
    np.testing.assert_array_equal(by_rows(data, tmp_path / "picture"), decoded.color)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_reduced_copy_first_is_passed_over_by_every_codec(
    bits: int, tile: tuple[int, int] | None, tmp_path: Path
) -> None:
    full = page_of(bits, RGB, (), tile=tile, compression=LZW)
    small = Page(full.samples[::4, ::4], bits, RGB, tags=REDUCED)
    data = tiff(small, full)

    np.testing.assert_array_equal(decode(data).color, full.samples)
    np.testing.assert_array_equal(by_rows(data, tmp_path / "picture"), full.samples)


SENSOR = Page(np.ones((64, 96, 1), np.uint16), 16, photometric=32_803)


def preview(tags: tiff_files.Tags, *inner: Page) -> Page:
    return page(16, {**REDUCED, **tags}, inner=inner)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (tiff(preview({271: (ASCII, b"NIKON CORPORATION\0")}, SENSOR)), "NIKON CORPORATION"),
        (tiff(preview({50706: (1, bytes([1, 4, 0, 0]))}, SENSOR)), "DNG"),
        (tiff(page(96, {50706: (1, bytes([1, 4, 0, 0]))})), "DNG"),
        (tiff(preview({}), SENSOR), "unnamed"),
        (tiff(preview({}, page(96, {262: (SHORT, [34_892])})), order=">"), "unnamed"),
        (tiff(preview({271: (ASCII, b"SONY \0")}, page(96, {259: (SHORT, [32_767])}))), "SONY"),
        (tiff(page(96, {259: (SHORT, [65_535]), 271: (ASCII, b"PENTAX\0\0")})), "PENTAX"),
        (tiff(preview({271: (ASCII, b"Make [r]\n\x1b\0")}, page(96))), "Make [r]"),
        (tiff(page(96, {34310: (LONG, [8])})), "Leaf"),
        (b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0" + bytes(40), "Canon CR2"),
        (b"MM\0*\0\0\0\x20MMMMRawT" + bytes(40), "Phase One IIQ"),
        (b"IIRO\x08\0\0\0" + bytes(40), "Olympus ORF"),
        (b"IIRS\x08\0\0\0" + bytes(40), "Olympus ORF"),
        (b"MMOR\0\0\0\x08" + bytes(40), "Olympus ORF"),
        (b"IIU\0\x18\0\0\0" + bytes(40), "Panasonic RW2"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(40), "Fujifilm RAF"),
        (b"\0MRM\0\0\0\x20" + bytes(40), "Minolta MRW"),
        (b"FOVb\x01\0\x03\0" + bytes(40), "Sigma X3F"),
        (b"II\x1a\0\0\0HEAPCCDR" + bytes(40), "Canon CRW"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "Canon CR3"),
    ],
)
def test_camera_raw_files_are_refused_by_name(data: bytes, name: str, tmp_path: Path) -> None:
    error = error_of(data)

    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert name in error.message
    with pytest.raises(ImageError, match="raw") as caught:
        by_rows(data, tmp_path / "picture")
    assert caught.value.message == error.message


def test_camera_makers_name_alone_is_no_raw_file() -> None:
    data = tiff(page(WIDTH, {271: (ASCII, b"NIKON CORPORATION\0")}, inner=(page(5, REDUCED),)))

    assert decode(data).header.width == WIDTH


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_codes_give_their_rows_or_are_refused(compression: str, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    samples = random.integers(0, 2, (40, 61), np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(samples).convert("1").save(buffer, "TIFF", compression=compression)
    whole = buffer.getvalue()

    decoded = decode(whole)
    refused = 0
    for at in range(8, len(whole) - 200, 5):
        damaged = whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :]
        try:
            first, second = decode(damaged), decode(damaged)
        except ImageError as error:
            assert error.code in (ErrorCode.CORRUPT, ErrorCode.TRUNCATED)
            refused += 1
        else:
            # No row is what happened to lie in memory.
            assert np.array_equal(first.color, second.color)

    assert np.array_equal(decoded.color[..., 0], samples)
    assert decoded.header.mode == "1"
    assert decoded.notes == ("1-bit as 8-bit grayscale",)
    assert np.array_equal(by_rows(whole, tmp_path / "picture"), decoded.color)
    assert refused > 10


@pytest.mark.parametrize("value", [(SHORT, [7]), (LONG, [1, 2]), (ASCII, b"profile\0")])
def test_profile_field_that_holds_no_profile_is_dropped_with_a_note(value: Any) -> None:
    decoded = decode(tiff(page(WIDTH, {34675: value})))

    assert np.array_equal(decoded.color, decode(tiff(page(WIDTH))).color)
    assert decoded.metadata.icc_profile is None
    assert "unusable ICC profile dropped" in decoded.notes


def test_planes_are_read_where_a_format_is_said_for_each_sample(tmp_path: Path) -> None:
    samples = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    whole = tiff(
        Page(samples, photometric=RGB, planes=True, rows=5, tags={339: (SHORT, [1, 1, 1])})
    )

    assert np.array_equal(decode(whole).color, samples)
    assert np.array_equal(by_rows(whole, tmp_path / "picture"), samples)


def jpegs(page: Page, blocks: list[bytes]) -> bytes:
    """A page whose strips are these JPEGs."""

    def with_strips_at(start: int) -> bytes:
        offsets = [start + sum(map(len, blocks[:number])) for number in range(len(blocks))]
        lengths = [len(block) for block in blocks]
        places = {273: (LONG, offsets), 279: (LONG, lengths)}
        tags = {**page.tags, **places, 259: (SHORT, [7]), 278: (LONG, [len(page.samples)])}
        return tiff(dataclasses.replace(page, tags=tags))

    start = len(with_strips_at(0))
    return with_strips_at(start) + b"".join(blocks)


def jpeg_of(samples: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


SMOOTH = np.add.outer(np.arange(64), np.arange(48) * 2).astype(np.uint8)


@pytest.mark.parametrize("planes", [False, True])
def test_jpegs_in_a_tiff_are_read_and_their_damage_is_told(planes: bool, tmp_path: Path) -> None:
    samples = np.stack([SMOOTH, SMOOTH // 2, 255 - SMOOTH], axis=2)
    page, path = Page(samples, 8, RGB, planes=planes), tmp_path / "picture"
    if planes:
        blocks = [jpeg_of(plane) for plane in np.moveaxis(samples, 2, 0)]
    else:
        page = dataclasses.replace(page, photometric=6, tags={530: (SHORT, [1, 1])})
        blocks = [jpeg_of(samples)]
    scan = blocks[0].index(b"\xff\xda")
    middle = (scan + len(blocks[0])) // 2
    damaged = blocks[0][:middle] + b"\xff\xd9" * 9 + blocks[0][middle + 18 :]

    data = jpegs(page, blocks)
    without_end = jpegs(page, [block[:-2] for block in blocks])

    # libvips, which reads planes, does not do without an end marker.
    for each in (data,) if planes else (data, without_end):
        assert np.abs(decode(each).color.astype(int) - samples).max() <= 8
        np.testing.assert_array_equal(by_rows(each, path), decode(data).color)
    spoilt = jpegs(page, [damaged, *blocks[1:]])
    assert error_of(spoilt).code is ErrorCode.CORRUPT
    with pytest.raises(ImageError) as caught:
        by_rows(spoilt, path)
    assert caught.value.code is ErrorCode.CORRUPT


@pytest.mark.parametrize("tags", [{}, {50_000: (LONG, [7])}])
def test_damage_to_deep_samples_is_told_beside_unknown_fields(
    tags: tiff_files.Tags, tmp_path: Path
) -> None:
    page = page_of(16, RGB, (), compression=LZW, tile=(16, 16))
    data = bytearray(tiff(dataclasses.replace(page, tags=tags)))
    whole = bytes(data)
    data[300:340] = b"\xff" * 40

    np.testing.assert_array_equal(decode(whole).color, page.samples)
    np.testing.assert_array_equal(by_rows(whole, tmp_path / "picture"), page.samples)
    assert error_of(bytes(data)).code is ErrorCode.CORRUPT
    with pytest.raises(ImageError) as caught:
        by_rows(bytes(data), tmp_path / "picture")
    assert caught.value.code is ErrorCode.CORRUPT
