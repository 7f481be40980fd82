"""A store that gives a few functions has all others."""

import hashlib
from collections.abc import Iterator

import pytest
from memory_store import memory_store

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import FileEntry
from beam_upscale.storage.stores import store_of


@pytest.fixture
def memory() -> Iterator[dict[str, bytes]]:
    """Returns the contents of the new store, by URI."""
    with memory_store() as stored:
        yield stored


def test_files_of_a_new_store_are_read(memory: dict[str, bytes]) -> None:
    uri = "memory://b/a.bin"
    memory[uri] = b"0123456789"

    assert files.read(uri) == b"0123456789"
    assert files.read(uri, limit=4) == b"0123"
    assert files.read_range(uri, 8, 5) == b"89"
    assert files.read_at_most(uri, 10) == b"0123456789"
    assert files.size(uri) == 10
    assert files.sha256(uri) == hashlib.sha256(b"0123456789").hexdigest()
    assert files.exists(uri)
    assert files.version(uri)
    with pytest.raises(ImageError) as caught:
        files.read_at_most(uri, 9)
    assert caught.value.code is ErrorCode.FILE_TOO_LARGE


def test_a_file_that_a_new_store_lacks_is_not_found(memory: dict[str, bytes]) -> None:
    uri = "memory://b/none.png"

    with pytest.raises(ImageError, match=r"memory://b/none\.png does not exist") as caught:
        files.read(uri)

    assert caught.value.code is ErrorCode.NOT_FOUND
    assert files.read_if_there(uri) is None
    assert files.size(uri) is None
    assert files.version(uri) == ()


def test_files_of_a_new_store_are_listed(memory: dict[str, bytes]) -> None:
    memory.update(dict.fromkeys(("memory://b/x/a.png", "memory://b/x/y/.b", "memory://b/c"), b""))

    def names(pattern: str) -> list[str]:
        return [entry.name for entry in files.list_files(pattern)]

    assert names("memory://b/") == ["c", "x/a.png"]
    assert names("memory://b/*/a.*") == ["x/a.png"]
    assert names("memory://b/c") == ["c"]
    assert names("memory://b/d") == []
    assert list(files.list_below("memory://b/x")) == [
        FileEntry("memory://b/x/a.png", "a.png"),
        FileEntry("memory://b/x/y/.b", "y/.b"),
    ]


def test_files_of_a_new_store_appear_whole_and_go(memory: dict[str, bytes]) -> None:
    with files.publish("memory://b/x/a") as file:
        file.write(b"half")
        assert memory == {}
        file.write(b" and half")
    assert files.create("memory://b/x/b", b"mine")
    assert files.create("memory://b/x/b", b"mine")
    assert not files.create("memory://b/x/b", b"other")
    assert memory == {"memory://b/x/a": b"half and half", "memory://b/x/b": b"mine"}

    store_of("memory://b/x").delete_below("memory://b/x", None, but_for="b")
    assert list(memory) == ["memory://b/x/b"]
    files.delete("memory://b")
    assert memory == {}
