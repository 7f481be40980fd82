"""Samples in tars."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pytest
from stored_rows import row, tar_of

from beam_upscale.dataset.layouts.webdataset import sample_fields, sample_key

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


def members_of(tar: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for member in opened:
            content = opened.extractfile(member)
            assert content is not None
            yield member, content.read()


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
