"""A shard's images in one file: its bytes, its names, and what is read back."""

import dataclasses
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pytest
from memory_filesystem import MemoryFileSystem

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.layouts.shard_files import read_images, write_images
from beam_upscale.dataset.layouts.webdataset import sample_fields, sample_key
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.storage import files

PACKED = pytest.mark.parametrize("layout", [layout for layout in Layout if layout.is_packed])

HOSTILE_NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/../b.png",
    "..",
    ".hidden",
    "a.b.c/d.e.png",
    "A.png",
    "a.png",
    "a.jpg",
    "a",
    "a.png.json",
    "__meta__/a.png",
    "new\nline.png",
    "nul\0.png",
    "-rf.png",
    "C:\\windows\\a.png",
    "é.png",
    "e\u0301.png",
    "x" * 300,
]


def row(input_id: str, data: bytes = b"image", **values: object) -> Row:
    """A row with an image."""
    made = Row(
        input_id,
        input_id,
        Status.UPSCALED,
        input_width=3,
        input_height=2,
        output_format="png",
        output_width=6,
        output_height=4,
        output_sha256=hashlib.sha256(data).hexdigest(),
    )
    return dataclasses.replace(made, **values)  # type: ignore[arg-type]


def tar_of(rows: list[Row], images: list[bytes], input_type: pa.StructType | None = None) -> bytes:
    file = io.BytesIO()
    write_images(file, Layout.WEBDATASET, rows, images, input_type)
    return file.getvalue()


def members_of(tar: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for member in opened:
            content = opened.extractfile(member)
            assert content is not None
            yield member, content.read()


@PACKED
def test_images_are_read_as_they_were_written(tmp_path: Path, layout: Layout) -> None:
    images = {f"/in/{number:03}.png": b"\0" * number for number in range(0, 1500, 7)}
    rows = [row(input_id, data) for input_id, data in images.items()]
    path = tmp_path / "shard"
    with path.open("wb") as file:
        write_images(file, layout, rows, iter(images.values()))

    assert dict(read_images(str(path), layout)) == images


@PACKED
def test_a_shard_is_written_and_read_on_an_object_store(
    monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "files", {})
    uri, data = "mem://bucket/out/data/000000", bytes(40 << 20)
    with files.publish(uri) as file:
        write_images(file, layout, [row("a"), row("b")], [b"image", data])
        assert uri not in MemoryFileSystem.files

    assert list(read_images(uri, layout)) == [("a", b"image"), ("b", data)]


@PACKED
def test_a_shard_without_images_is_a_whole_file(tmp_path: Path, layout: Layout) -> None:
    path = tmp_path / "shard"
    with path.open("wb") as file:
        write_images(file, layout, [], [])

    assert path.stat().st_size > 0
    assert list(read_images(str(path), layout)) == []


def test_a_sample_is_an_image_and_what_training_on_it_takes() -> None:
    rows = [row("/in/a.png", prompt="a cat", input={"file_name": "a.png", "label": "ä"})]

    (image, data), (side, text) = members_of(tar_of(rows, [b"image"]))

    key = sample_key("/in/a.png")
    assert (image.name, data, side.name) == (f"{key}.png", b"image", f"{key}.json")
    assert json.loads(text) == {
        "key": key,
        "input_id": "/in/a.png",
        "width": 6,
        "height": 4,
        "original_width": 3,
        "original_height": 2,
        "sha256": hashlib.sha256(b"image").hexdigest(),
        "prompt": "a cat",
        "input": {"file_name": "a.png", "label": "ä"},
    }
    assert text.startswith('{"height":4,"input":{"file_name":"a.png","label":"ä"},'.encode())


@pytest.mark.parametrize(
    ("output_format", "extension"),
    [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp"), ("tiff", ".tiff")],
)
def test_an_image_has_the_extension_of_its_format(output_format: str, extension: str) -> None:
    (image, _), _ = members_of(tar_of([row("a", output_format=output_format)], [b""]))

    assert image.name == sample_key("a") + extension


def test_all_samples_have_the_columns_of_all_inputs() -> None:
    kind = pa.struct([("label", pa.float64()), ("size", pa.decimal128(4, 2))])
    rows = [row("a", input={"label": 1}), row("b", input={"size": 2})]

    samples = [
        json.loads(data) for _, data in list(members_of(tar_of(rows, [b"", b""], kind)))[1::2]
    ]

    assert [sample["input"] for sample in samples] == [
        {"label": 1.0, "size": None},
        {"label": None, "size": "2.00"},
    ]
    assert sample_fields(["png"], kind).field("json").type.field("input").type == pa.struct(
        [("label", pa.float64()), ("size", pa.string())]
    )


def test_an_input_without_columns_has_none() -> None:
    _, (_, text) = members_of(tar_of([row("a")], [b""]))

    assert json.loads(text)["input"] is None
    assert sample_fields(["png"], pa.null()).field("json").type.field("input").type == pa.null()


def test_a_header_says_what_every_tar_can_read_and_nothing_of_this_machine() -> None:
    tar = tar_of([row("a")], [b"image"])

    name, header = f"{sample_key('a')}.png".encode(), tar[:512]
    assert header[:100] == name.ljust(100, b"\0")
    assert header[100:108] == b"0000644\0"  # mode
    assert header[108:124] == b"0000000\0" * 2  # owner and group
    assert header[124:136] == b"00000000005\0"  # size
    assert header[136:148] == b"00000000000\0"  # time
    assert header[156:157] == b"0"  # a file
    assert header[157:257] == bytes(100)  # no link
    assert header[257:265] == b"ustar\x0000"
    assert header[265:] == bytes(247)  # no names of owners, no device, no prefix
    assert tar[512:1024] == b"image".ljust(512, b"\0")


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 50])
def test_a_tar_ends_in_whole_records_of_zeros(count: int) -> None:
    rows = [row(f"{number:02}") for number in range(count)]

    tar = tar_of(rows, [b"image"] * count)

    blocks = 4 * count
    assert len(tar) == -(-(512 * (blocks + 2)) // 10240) * 10240
    assert tar[512 * blocks :] == bytes(len(tar) - 512 * blocks)


def test_no_name_of_an_input_reaches_a_name_in_a_tar() -> None:
    ids = sorted(f"/in/{name}" for name in HOSTILE_NAMES)

    members = [member for member, _ in members_of(tar_of([row(i) for i in ids], [b""] * len(ids)))]

    names = [member.name for member in members]
    assert all(re.fullmatch(r"[0-9a-f]{32}\.(png|json)", name) for name in names)
    assert all(member.isreg() for member in members)
    keys = [PurePosixPath(name).stem for name in names]
    assert keys[::2] == keys[1::2] == [sample_key(input_id) for input_id in ids]
    assert len({key.casefold() for key in keys}) == len(ids)


def damaged(tar: bytes) -> Iterator[tuple[str, bytes]]:
    """Tars that `write_images` did not write."""
    key = sample_key("a")
    yield "nothing", b""
    yield "cut in a header", tar[:300]
    yield "cut in an image", tar[:700]
    yield "cut before the JSON", tar[:1024]
    yield "no tar", b"PAR1" * 1000
    yield "other JSON", tar.replace(b'"input_id":"a"', b'"input_id":"b"')
    yield "no input_id", tar.replace(b'"input_id":"a"', b'"input_ix":"a"')
    yield "no JSON", tar.replace(b'{"height', b'["height')
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as opened:
        link = tarfile.TarInfo(f"{key}.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    yield "a link", file.getvalue()


@pytest.mark.parametrize("what", [what for what, _ in damaged(tar_of([row("a")], [b"image"]))])
def test_what_is_no_tar_of_ours_is_told(tmp_path: Path, what: str) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(dict(damaged(tar_of([row("a")], [b"image"])))[what])

    with pytest.raises(ValueError):
        list(read_images(str(path), Layout.WEBDATASET))


def test_an_image_is_written_before_the_next_is_taken() -> None:
    file, sizes = io.BytesIO(), list[int]()

    def images() -> Iterator[bytes]:
        for _ in range(4):
            sizes.append(file.tell())
            yield bytes(5000)

    write_images(file, Layout.WEBDATASET, [row(str(number)) for number in range(4)], images())

    # 10 blocks of an image, 1 of JSON, 2 headers.
    assert sizes == [0, 13 * 512, 26 * 512, 39 * 512]
