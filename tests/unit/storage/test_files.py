import gc
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
from local_files import make_files, names
from memory_filesystem import MemoryFileSystem

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import FileEntry
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris

# Names


class Counted(io.RawIOBase):
    """A file far away, of which a read gives a little at a time."""

    asked = 0

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._data.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        Counted.asked += len(buffer)
        return self._data.readinto(memoryview(buffer)[:1000])


def test_of_a_part_no_more_is_read_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 100

    def opened(self: MemoryFileSystem, path: str, *args: Any, **kwargs: Any) -> io.BufferedReader:
        return io.BufferedReader(Counted(data), 16 << 20)

    monkeypatch.setattr(MemoryFileSystem, "open", opened)
    monkeypatch.setattr(Counted, "asked", 0)

    assert files.read_range("mem://bucket/a.tar", 300, 2500) == data[300:2800]
    assert files.read("mem://bucket/a.tar", limit=10) == data[:10]
    assert files.read_range("mem://bucket/a.tar", len(data) - 5, 10) == data[-5:]
    assert Counted.asked < 10_000


def test_a_path_is_local_and_another_scheme_is_not() -> None:
    assert store_of("photos/a.png").is_local
    assert store_of("file:///photos/a.png").is_local
    assert not store_of("gs://bucket/a.png").is_local


def test_absolute_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert files.absolute("a/../b/") == str(tmp_path / "b")
    assert files.absolute("file:///photos/") == "/photos"
    assert files.absolute("gs://bucket/photos/") == "gs://bucket/photos"


# Reading


def test_what_a_data_uri_holds_is_quoted_nowhere() -> None:
    uri = f"data:image/png;base64,{'iVBORw0K' * 10_000}"

    with pytest.raises(ImageError) as caught:
        files.read(uri)

    assert len(uris.printable(uri)) < 80
    assert len(caught.value.message) < 300
    assert "data: is not a scheme that is read" in caught.value.message


def test_a_long_name_is_short_in_a_message(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        files.read(f"{tmp_path}/{'n' * 5000}.png")

    assert len(caught.value.message) < 1200
    assert "nnn.png could not be read" in caught.value.message


def test_reads_a_file_whole_and_in_part(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")

    assert files.read(str(path)) == b"0123456789"
    assert files.read(str(path), limit=4) == b"0123"
    assert files.size(str(path)) == 10
    assert files.sha256(str(path)) == hashlib.sha256(b"0123456789").hexdigest()


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/a b%20c.bin"

    files.write(uri, b"data")

    assert (tmp_path / "a b%20c.bin").read_bytes() == b"data"
    assert files.read(uri) == b"data"
    assert files.exists(uri)
    assert files.size(uri) == 4
    files.delete(uri)
    assert not files.exists(uri)


@pytest.mark.parametrize("name", [b"line\nbreak", b"not utf-8 \xff", b"100%", b"[a]*?"])
def test_names_of_any_bytes(tmp_path: Path, name: bytes) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))  # noqa: PTH118
    files.write(path, b"data")

    assert files.read(path) == b"data"
    assert list(files.list_files(str(tmp_path))) == [FileEntry(path, os.fsdecode(name))]
    assert list(files.list_files(path)) == [FileEntry(path, os.fsdecode(name))]


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist") as caught:
        files.read(str(tmp_path / "none.png"))

    assert caught.value.code is ErrorCode.NOT_FOUND
    assert files.size(str(tmp_path / "none.png")) is None
    assert not files.exists(str(tmp_path / "none.png"))


def test_a_name_in_an_error_is_printable(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")

    with pytest.raises(ImageError, match=r"%FF\.png does not exist"):
        files.read(path)


@pytest.fixture(params=["local", "mem", "hdfs"])
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    memory: dict[str, bytes],
    hadoop: dict[str, bytes],
) -> str:
    """A folder on each kind of file system."""
    return str(tmp_path / "out") if request.param == "local" else f"{request.param}://bucket/out"


def test_a_file_appears_whole_or_not_at_all(place: str) -> None:
    uri = uris.join(place, "a.bin")

    with files.publish(uri) as file:
        file.write(b"half")
        file.flush()
        assert not files.exists(uri)
        file.write(b" and half")

    assert files.read(uri) == b"half and half"
    assert [entry.name for entry in files.list_below(place)] == ["a.bin"]


def test_several_files_are_published_together(place: str) -> None:
    contents = [(uris.join(place, name), name.encode()) for name in ("a", "b/c", "b/d/e")]
    partial = uris.join(place, ".partial")
    files.write(contents[0][0], b"old")

    files.publish_all([], partial)
    files.publish_all(contents, partial)
    files.publish_all(contents[:1], partial)

    assert {uri: files.read(uri) for uri, _ in contents} == dict(contents)
    assert len(list(files.list_below(place))) == 3


def interrupted_write(uri: str) -> None:
    with files.publish(uri) as file:
        file.write(b"new")
        raise KeyboardInterrupt


def test_an_exception_leaves_nothing(place: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(uris.join(place, "a.bin"))
    # A writer that is forgotten is closed here at the latest.
    gc.collect()

    assert list(files.list_below(place)) == []


def test_an_exception_leaves_the_earlier_file(place: str) -> None:
    uri = uris.join(place, "a.bin")
    files.write(uri, b"old")

    with pytest.raises(KeyboardInterrupt):
        interrupted_write(uri)
    gc.collect()

    assert files.read(uri) == b"old"
    files.write(uri, b"new")
    assert files.read(uri) == b"new"


def test_two_writers_do_no_harm(place: str) -> None:
    uri = uris.join(place, "a.bin")

    with files.publish(uri) as one, files.publish(uri) as other:
        one.write(b"same")
        other.write(b"same")

    assert files.read(uri) == b"same"
    assert [entry.name for entry in files.list_below(place)] == ["a.bin"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a.png", "b.jpg", "folder.png/d.txt", "sub/deep/c.png", "sub/e.png"]),
        ("*.png", ["a.png", "folder.png/d.txt"]),
        ("?.jpg", ["b.jpg"]),
        ("[ab].*", ["a.png", "b.jpg"]),
        ("**/*.png", ["a.png", "folder.png/d.txt", "sub/deep/c.png", "sub/e.png"]),
        ("sub/*.png", ["e.png"]),
        ("sub/**", ["deep/c.png", "e.png"]),
        ("s*/deep/c.png", ["sub/deep/c.png"]),
        ("s*/**/c.png", ["sub/deep/c.png"]),
        ("*.gif", []),
        ("none/*.png", []),
    ],
)
def test_globs(
    tmp_path: Path,
    memory: dict[str, bytes],
    hadoop: dict[str, bytes],
    pattern: str,
    found: list[str],
) -> None:
    made = ["a.png", "b.jpg", "folder.png/d.txt", "sub/e.png", "sub/deep/c.png"]
    make_files(tmp_path, *made)
    memory.update({f"mem://bucket/in/{name}": b"" for name in made})
    hadoop.update({f"/bucket/in/{name}": b"" for name in made})

    if pattern != "none/*.png":  # A folder that is not there is named as one that is not.
        assert names(tmp_path / pattern) == found
    assert names(f"mem://bucket/in/{pattern}") == found
    assert names(f"hdfs://bucket/in/{pattern}") == found


# Our own folders


def test_lists_below_with_hidden_names(place: str) -> None:
    for name in (".staging/records/1.json", "images/a.png"):
        files.write(uris.join(place, name), b"")

    found = sorted(entry.name for entry in files.list_below(place))

    assert found == [".staging/records/1.json", "images/a.png"]
    assert [entry.uri for entry in files.list_below(uris.join(place, "images"))] == [
        uris.join(place, "images", "a.png")
    ]
    assert list(files.list_below(uris.join(place, "none"))) == []


def test_deletes_files_and_folders(place: str) -> None:
    for name in ("a/1", "a/b/2", "c"):
        files.write(uris.join(place, name), b"")

    files.delete(uris.join(place, "a"))
    files.delete(uris.join(place, "c"))
    files.delete(uris.join(place, "none"))

    assert list(files.list_below(place)) == []


def test_a_file_uri_of_another_machine_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.png").write_bytes(b"not this")

    with pytest.raises(ImageError, match=r"file://other/a.png is not read: .*another machine") as e:
        files.read("file://other/a.png")
    assert e.value.code is ErrorCode.READ_ERROR


@pytest.mark.parametrize("uri", ["ftp://me:SECRET@h/a.png", "IPFS://bafy/a.png"])
def test_a_scheme_that_nothing_reads_is_refused_by_name(uri: str) -> None:
    for act in (
        lambda: files.read_at_most(uri, 10),
        lambda: files.read(uri, limit=10),
        lambda: files.open_read(uri),
        lambda: files.sha256(uri),
        lambda: files.size(uri),
    ):
        with pytest.raises(ImageError, match="is not a scheme that is read") as caught:
            act()
        assert caught.value.code is ErrorCode.READ_ERROR
        assert "SECRET" not in caught.value.message
