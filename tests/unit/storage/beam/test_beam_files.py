"""Files of Beam's file systems."""

import hashlib
from collections.abc import Iterator

import pytest
from local_files import names
from memory_filesystem import MemoryFileSystem
from memory_hdfs import MemoryHdfs

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import FileEntry


def test_lists_a_folder_of_an_object_store(memory: dict[str, bytes]) -> None:
    memory.update(
        {
            "mem://bucket/photos/a.png": b"a",
            "mem://bucket/photos/sub/b.png": b"b",
            "mem://bucket/photos/.hidden/c.png": b"c",
            "mem://bucket/photos/": b"",
            "mem://bucket/photos/sub/": b"",
            "mem://bucket/photos-old/d.png": b"d",
        }
    )

    assert list(files.list_files("mem://bucket/photos")) == [
        FileEntry("mem://bucket/photos/a.png", "a.png"),
        FileEntry("mem://bucket/photos/sub/b.png", "sub/b.png"),
    ]
    assert names("mem://bucket/photos/") == ["a.png", "sub/b.png"]


def test_lists_one_file_of_an_object_store(memory: dict[str, bytes]) -> None:
    memory["mem://bucket/photos/a.png"] = b"a"

    assert list(files.list_files("mem://bucket/photos/a.png")) == [
        FileEntry("mem://bucket/photos/a.png", "a.png")
    ]
    assert names("mem://bucket/none.png") == []


def test_lists_a_folder_where_folders_exist(hadoop: dict[str, bytes]) -> None:
    hadoop["/photos/sub/b.png"] = b"b"
    hadoop["/photos/sub/deep/empty.png"] = b""
    hadoop["/photos-old/d.png"] = b"d"
    MemoryHdfs.folders.add("/photos/nothing")

    assert list(files.list_files("hdfs://photos")) == [
        FileEntry("hdfs://photos/sub/b.png", "sub/b.png"),
        FileEntry("hdfs://photos/sub/deep/empty.png", "sub/deep/empty.png"),
    ]
    assert names("hdfs://photos/sub/b.png") == ["b.png"]
    assert names("hdfs://photos/nothing") == names("hdfs://none") == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError("/photos/private: user=me"), ErrorCode.PERMISSION_DENIED),
        (ValueError("no credentials, bucket photos/private"), ErrorCode.READ_ERROR),
    ],
)
@pytest.mark.parametrize("below", ["", "/*.png"])
def test_a_store_that_does_not_list_is_told_in_its_own_words(
    memory: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: ErrorCode,
    below: str,
) -> None:
    def refuse(*_: object) -> Iterator[object]:
        raise error
        yield

    monkeypatch.setattr(MemoryFileSystem, "_list", refuse)

    with pytest.raises(SettingsError, match="photos/private") as caught:
        list(files.list_files(f"mem://bucket/in{below}"))

    assert caught.value.code is code


def test_reads_from_another_file_system(memory: dict[str, bytes]) -> None:
    memory["mem://bucket/a.png"] = b"0123456789"

    assert files.read("mem://bucket/a.png") == b"0123456789"
    assert files.read("mem://bucket/a.png", limit=3) == b"012"
    assert files.size("mem://bucket/a.png") == 10
    assert files.size("mem://bucket/none.png") is None
    assert files.sha256("mem://bucket/a.png") == hashlib.sha256(b"0123456789").hexdigest()
    with pytest.raises(ImageError) as caught:
        files.read("mem://bucket/none.png")
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_a_compressed_name_is_read_as_it_is(memory: dict[str, bytes]) -> None:
    memory["mem://bucket/a.png.gz"] = b"not gzip"

    assert files.read("mem://bucket/a.png.gz") == b"not gzip"


def test_many_objects_are_deleted_some_at_a_time(
    memory: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.update({f"mem://bucket/a/{number}": b"" for number in range(2500)})
    memory["mem://bucket/ab"] = b"beside"
    delete, together = MemoryFileSystem.delete, list[int]()

    def counted(self: MemoryFileSystem, paths: list[str]) -> None:
        together.append(len(paths))
        delete(self, paths)

    monkeypatch.setattr(MemoryFileSystem, "delete", counted)

    files.delete("mem://bucket/a")

    assert memory == {"mem://bucket/ab": b"beside"}
    assert together == [1000, 1000, 500]
