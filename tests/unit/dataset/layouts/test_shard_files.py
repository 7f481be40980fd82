"""A shard's images in one file: its bytes, its names, and what is read back."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_filesystem import MemoryFileSystem
from stored_rows import row, tar_of

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.layouts.shard_files import read_images, write_images
from beam_upscale.dataset.layouts.webdataset import sample_key
from beam_upscale.storage import files

PACKED = pytest.mark.parametrize("layout", [layout for layout in Layout if layout.is_packed])


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
