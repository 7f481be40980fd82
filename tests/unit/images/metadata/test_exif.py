"""EXIF blocks of sources, as they are in results."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_upscale.images.metadata import exif
from beam_upscale.images.reading import pixels
from beam_upscale.images.values import Metadata, Resolution
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import OutputFormat

SHORT, LONG, ASCII, RATIONAL, UNDEFINED = 3, 4, 2, 5, 7
WIDTH, HEIGHT = 48, 32

Entry = tuple[int, int, int, bytes]


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 4, y * 6, x + y], axis=-1).astype(np.uint8))


def thumbnail() -> bytes:
    file = io.BytesIO()
    picture(24, 16).save(file, "JPEG")
    return file.getvalue()


class Block:
    """An EXIF block that is put together directory by directory, as cameras do it."""

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))

    def pack(self, code: str, *numbers: int) -> bytes:
        return struct.pack(self.order + code, *numbers)

    def number(self, tag: int, kind: int, number: int) -> Entry:
        return tag, kind, 1, self.pack("H" if kind == SHORT else "I", number)

    def content(self, tag: int, kind: int, content: bytes) -> Entry:
        return tag, kind, len(content), content

    def add(self, content: bytes) -> int:
        start = len(self.data)
        self.data += content
        return start

    def directory(self, *entries: Entry, following: int = 0) -> int:
        fields = b""
        for tag, kind, count, value in sorted(entries):
            if len(value) > 4:
                value = self.pack("I", self.add(value))
            fields += self.pack("HHI", tag, kind, count) + value.ljust(4, b"\0")
        return self.add(self.pack("H", len(entries)) + fields + self.pack("I", following))

    def finished(self, first: int) -> bytes:
        self.data[4:8] = self.pack("I", first)
        return bytes(self.data)


def of_camera(order: str = "<", *, kind: int = SHORT, maker_note: bytes = b"lens 50 mm") -> bytes:
    """A block with all that speaks of the sensor's picture, its thumbnail at the end or before."""
    block = Block(order)
    shared = block.directory(
        block.content(1, ASCII, b"R98\0"),
        block.number(0x1001, SHORT, WIDTH),
        block.number(0x1002, SHORT, HEIGHT),
    )
    own = block.directory(
        block.content(0x9003, ASCII, b"2020:01:02 03:04:05\0"),
        block.content(0x927C, UNDEFINED, maker_note),
        (0x9214, SHORT, 2, block.pack("HH", 7, 8)),
        block.number(0xA002, kind, WIDTH),
        block.number(0xA003, kind, HEIGHT),
        block.number(0xA005, LONG, shared),
        (0xA214, SHORT, 2, block.pack("HH", 7, 8)),
    )
    place = block.directory((1, ASCII, 2, b"N\0"))
    small = thumbnail()
    first = block.directory(
        block.number(0x0201, LONG, block.add(small)),
        block.number(0x0202, LONG, len(small)),
    )
    return block.finished(
        block.directory(
            block.number(0x0100, kind, WIDTH),
            block.number(0x0101, kind, HEIGHT),
            block.content(0x010F, ASCII, b"Maker of cameras\0"),
            block.number(0x0112, SHORT, 6),
            block.number(0x0111, LONG, 8),
            block.content(0x8773, UNDEFINED, b"profile of another file"),
            block.number(0x8769, LONG, own),
            block.number(0x8825, LONG, place),
            following=first,
        )
    )


def read(block: bytes) -> Image.Exif:
    fields = Image.Exif()
    fields.load(block)
    return fields


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [SHORT, LONG])
def test_a_block_of_a_camera_speaks_of_the_result(order: str, kind: int) -> None:
    source = of_camera(order, kind=kind)

    block, notes = exif.of_result(source)

    assert (block is not None, notes) == (True, ())
    assert block is not None
    sized = exif.with_size(block, 640, 480)
    fields, own = read(sized), read(sized).get_ifd(0x8769)
    assert dict(fields) == {
        0x0100: 640,
        0x0101: 480,
        0x010F: "Maker of cameras",
        0x0112: 1,
        0x8769: fields[0x8769],
        0x8825: fields[0x8825],
    }
    assert (own[0xA002], own[0xA003]) == (640, 480)
    assert not own.keys() & {0x9214, 0xA214}
    assert (own[0x9003], own[0x927C]) == ("2020:01:02 03:04:05", b"lens 50 mm")
    assert fields.get_ifd(0xA005)[0x1001] == 640
    assert fields.get_ifd(0x8825) == {1: "N"}
    assert fields.get_ifd(1) == {}
    assert b"\xff\xd8\xff" not in sized
    # What makers keep finds its parts by their places.
    assert sized.index(b"lens 50 mm") == source.index(b"lens 50 mm")


def test_a_thumbnail_at_the_end_takes_no_room() -> None:
    block = Block()
    main = block.directory(block.number(0x0112, SHORT, 3))
    end = len(block.data)
    small = block.add(thumbnail())
    first = block.directory(
        block.number(0x0201, LONG, small), block.number(0x0202, LONG, len(thumbnail()))
    )
    block.data[end - 4 : end] = block.pack("I", first)

    shorter, _ = exif.of_result(block.finished(main))

    assert shorter is not None
    assert len(shorter) == end


def test_sides_beyond_sixteen_bits() -> None:
    sized = exif.with_size(of_camera(), 70_000, 300)

    assert read(sized)[0x0100] == 70_000
    assert read(sized).get_ifd(0x8769)[0xA002] == 70_000
    assert read(sized).get_ifd(0x8769)[0xA003] == 300


def test_maker_notes_with_a_preview_go() -> None:
    block, notes = exif.of_result(of_camera(maker_note=b"preview" + thumbnail()))

    assert notes == ("maker notes with a preview dropped",)
    assert block is not None
    assert b"\xff\xd8\xff" not in block
    assert 0x927C not in read(block).get_ifd(0x8769)
    assert read(block).get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"


@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"II*\0", b"no EXIF", b"MM\0*\0\0\0\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)],
)
def test_blocks_without_a_directory_are_dropped(block: bytes) -> None:
    assert exif.of_result(block) == (None, ("unreadable EXIF dropped",))


@given(st.data())
def test_any_damage_gives_a_block_or_none(data: st.DataObject) -> None:
    damaged = bytearray(of_camera(data.draw(st.sampled_from("<>"))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.sampled_from([0, 1, 8, 0x7F, 0xFF]))

    block, notes = exif.of_result(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))

    if block is None:
        assert notes == ("unreadable EXIF dropped",)
    else:
        assert len(exif.with_size(block, 70_000, 5)) == len(block) <= len(damaged)


def test_fields_that_claim_all_of_a_block_take_no_more_memory() -> None:
    block = Block()
    size = 1 << 20
    huge = [(tag, UNDEFINED, size, block.pack("I", 8)) for tag in range(0xB000, 0xB000 + 5000)]
    data = block.finished(block.directory(*huge, following=8)) + bytes(size)

    result, _ = exif.of_result(data)

    assert result is not None


@pytest.mark.parametrize(
    ("unit", "expected"), [(2, (300, 150)), (3, (762, 381)), (1, None), (None, (300, 150))]
)
def test_resolution_of_a_block(unit: int | None, expected: tuple[float, float] | None) -> None:
    fields = Image.Exif()
    fields[0x011A], fields[0x011B] = 300, 150
    if unit is not None:
        fields[0x0128] = unit

    found = exif.resolution_of(fields.tobytes().removeprefix(b"Exif\0\0"))

    assert found == (None if expected is None else Resolution(*expected))


def file_with(format_: str, block: bytes) -> bytes:
    file = io.BytesIO()
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(
        format_, {}
    )
    picture().save(file, format_, exif=b"Exif\0\0" + block, **options)
    return file.getvalue()


@pytest.mark.parametrize("output", OutputFormat)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_from_every_format_to_every_other(format_: str, output: OutputFormat) -> None:
    decoded = pixels.decode(file_with(format_, of_camera()), max_pixels=10_000)
    twice = decoded.color.repeat(2, axis=0).repeat(2, axis=1)

    encoded = encoding.encode(twice, metadata=decoded.metadata, options=EncodeOptions(output))

    result = Image.open(io.BytesIO(encoded.data))
    fields = result.getexif()
    assert result.size == (2 * HEIGHT, 2 * WIDTH)
    assert fields.get(0x0112, 1) == 1
    own = fields.get_ifd(0x8769)
    assert (own[0xA002], own[0xA003]) == result.size
    assert fields.get_ifd(1) == {}
    assert b"profile of another file" not in encoded.data
    # The fields of a TIFF are written anew, and the parts of maker's notes have places.
    is_tiff = output is OutputFormat.TIFF
    assert (0x927C in own) is not is_tiff
    assert encoded.notes == (("maker notes not kept in TIFF",) if is_tiff else ())
    assert decoded.notes == ()


def test_turned_tiff_with_sizes() -> None:
    file = io.BytesIO()
    fields = Image.Exif()
    fields[0x0112] = 6
    fields.get_ifd(0x8769)[0xA002] = WIDTH
    picture().save(file, "TIFF", exif=fields.tobytes())

    decoded = pixels.decode(file.getvalue(), max_pixels=10_000)
    data = encoding.encode(decoded.color, metadata=decoded.metadata).data

    result = Image.open(io.BytesIO(data))
    assert result.size == (HEIGHT, WIDTH)
    assert result.getexif().get_ifd(0x8769)[0xA002] == HEIGHT


def test_metadata_of_nothing_is_nothing() -> None:
    plain = encoding.encode(np.zeros((2, 2, 3), np.uint8)).data

    assert pixels.decode(plain, max_pixels=4).metadata == Metadata()


@pytest.mark.parametrize(
    ("place", "junk"), [(b"Exif\0\0II", b"Exxx\0\0II"), (b"Exif\0\0II", b"Exif\0\0XX")]
)
def test_an_avif_is_not_lost_for_its_exif(place: bytes, junk: bytes) -> None:
    data = file_with("AVIF", of_camera())
    assert data.count(place) == 1

    decoded = pixels.decode(data.replace(place, junk), max_pixels=10_000)

    assert b"Maker" not in (decoded.metadata.exif or b"")
    assert decoded.notes == ("unreadable EXIF dropped",)
    # Pillow tells the turn in the file's own way too.
    assert decoded.header.width == HEIGHT
