import contextlib
import errno
import gc
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_filesystem import MemoryFileSystem
from memory_hdfs import MemoryHdfs, hdfs

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.sources.discovery import list_images
from beam_upscale.storage import files as storage_files
from beam_upscale.storage.local import publishing
from beam_upscale.storage.protocol.store import FileEntry
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris

NOBODY = 65534


@pytest.fixture
def memory() -> Iterator[dict[str, bytes]]:
    """What is stored under `mem://`."""
    MemoryFileSystem.files.clear()
    yield MemoryFileSystem.files
    MemoryFileSystem.files.clear()


@pytest.fixture
def hadoop() -> Iterator[dict[str, bytes]]:
    """What is stored under `hdfs://`, by path; files are seen there while they are written."""
    with hdfs() as files:
        yield files


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own belong to one user."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        folder.chmod(0o755)
        yield folder
        for directory, _, _ in os.walk(folder):
            Path(directory).chmod(0o755)


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Drops what lets root read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def names(pattern: str | Path) -> list[str]:
    return sorted(entry.name for entry in storage_files.list_files(str(pattern)))


def make_files(folder: Path, *relative: str) -> None:
    for name in relative:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


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

    assert storage_files.read_range("mem://bucket/a.tar", 300, 2500) == data[300:2800]
    assert storage_files.read("mem://bucket/a.tar", limit=10) == data[:10]
    assert storage_files.read_range("mem://bucket/a.tar", len(data) - 5, 10) == data[-5:]
    assert Counted.asked < 10_000


def test_a_path_is_local_and_another_scheme_is_not() -> None:
    assert store_of("photos/a.png").is_local
    assert store_of("file:///photos/a.png").is_local
    assert not store_of("gs://bucket/a.png").is_local


def test_absolute_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert storage_files.absolute("a/../b/") == str(tmp_path / "b")
    assert storage_files.absolute("file:///photos/") == "/photos"
    assert storage_files.absolute("gs://bucket/photos/") == "gs://bucket/photos"


@pytest.mark.parametrize("name", ["a.png", "été 100%.png", "line\nbreak.png", "a%FF.png"])
def test_names_in_utf_8_are_printed_as_they_are(name: str) -> None:
    assert uris.printable(name) == name


def test_other_names_are_percent_encoded_whole() -> None:
    assert uris.printable(os.fsdecode(b"/in/100% \xff.png")) == "/in/100%25%20%FF.png"


# Reading


def test_what_a_data_uri_holds_is_quoted_nowhere() -> None:
    uri = f"data:image/png;base64,{'iVBORw0K' * 10_000}"

    with pytest.raises(ImageError) as caught:
        storage_files.read(uri)

    assert len(uris.printable(uri)) < 80
    assert len(caught.value.message) < 300
    assert "data: is no scheme that is read" in caught.value.message


def test_a_long_name_is_short_in_a_message(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        storage_files.read(f"{tmp_path}/{'n' * 5000}.png")

    assert len(caught.value.message) < 1200
    assert "nnn.png could not be read" in caught.value.message


def test_reads_a_file_whole_and_in_part(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")

    assert storage_files.read(str(path)) == b"0123456789"
    assert storage_files.read(str(path), limit=4) == b"0123"
    assert storage_files.size(str(path)) == 10
    assert storage_files.sha256(str(path)) == hashlib.sha256(b"0123456789").hexdigest()


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/a b%20c.bin"

    storage_files.write(uri, b"data")

    assert (tmp_path / "a b%20c.bin").read_bytes() == b"data"
    assert storage_files.read(uri) == b"data"
    assert storage_files.exists(uri)
    assert storage_files.size(uri) == 4
    storage_files.delete(uri)
    assert not storage_files.exists(uri)


@pytest.mark.parametrize("name", [b"line\nbreak", b"not utf-8 \xff", b"100%", b"[a]*?"])
def test_names_of_any_bytes(tmp_path: Path, name: bytes) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))  # noqa: PTH118
    storage_files.write(path, b"data")

    assert storage_files.read(path) == b"data"
    assert list(storage_files.list_files(str(tmp_path))) == [FileEntry(path, os.fsdecode(name))]
    assert list(storage_files.list_files(path)) == [FileEntry(path, os.fsdecode(name))]


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist") as caught:
        storage_files.read(str(tmp_path / "none.png"))

    assert caught.value.code is ErrorCode.NOT_FOUND
    assert storage_files.size(str(tmp_path / "none.png")) is None
    assert not storage_files.exists(str(tmp_path / "none.png"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")

    with pytest.raises(ImageError, match="not a regular file") as caught:
        storage_files.read(str(tmp_path / "pipe.png"))

    assert caught.value.code is ErrorCode.READ_ERROR


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        storage_files.read(str(tmp_path))

    assert caught.value.code is ErrorCode.READ_ERROR


def test_an_ordinary_user_may_not_read_everything(open_folder: Path) -> None:
    make_files(open_folder, "secret.png")
    (open_folder / "secret.png").chmod(0o000)

    with as_ordinary_user(), pytest.raises(ImageError) as caught:
        storage_files.read(str(open_folder / "secret.png"))

    assert caught.value.code is ErrorCode.PERMISSION_DENIED


def test_a_name_in_an_error_is_printable(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")

    with pytest.raises(ImageError, match=r"%FF\.png does not exist"):
        storage_files.read(path)


# Publishing


def test_publishing_makes_the_folders_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"

    storage_files.write(str(path), b"one")
    storage_files.write(str(path), b"two")

    assert path.read_bytes() == b"two"
    assert [each.name for each in path.parent.iterdir()] == ["a.bin"]


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

    with storage_files.publish(uri) as file:
        file.write(b"half")
        file.flush()
        assert not storage_files.exists(uri)
        file.write(b" and half")

    assert storage_files.read(uri) == b"half and half"
    assert [entry.name for entry in storage_files.list_below(place)] == ["a.bin"]


def interrupted_write(uri: str) -> None:
    with storage_files.publish(uri) as file:
        file.write(b"new")
        raise KeyboardInterrupt


def test_an_exception_leaves_nothing(place: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(uris.join(place, "a.bin"))
    # A writer that is forgotten is closed here at the latest.
    gc.collect()

    assert list(storage_files.list_below(place)) == []


def test_an_exception_leaves_the_earlier_file(place: str) -> None:
    uri = uris.join(place, "a.bin")
    storage_files.write(uri, b"old")

    with pytest.raises(KeyboardInterrupt):
        interrupted_write(uri)
    gc.collect()

    assert storage_files.read(uri) == b"old"
    storage_files.write(uri, b"new")
    assert storage_files.read(uri) == b"new"


def test_two_writers_do_no_harm(place: str) -> None:
    uri = uris.join(place, "a.bin")

    with storage_files.publish(uri) as one, storage_files.publish(uri) as other:
        one.write(b"same")
        other.write(b"same")

    assert storage_files.read(uri) == b"same"
    assert [entry.name for entry in storage_files.list_below(place)] == ["a.bin"]


def test_what_a_killed_writer_leaves_lies_in_the_folder_for_it(tmp_path: Path) -> None:
    uri, partial = str(tmp_path / "out" / "a.bin"), tmp_path / "partial"

    with storage_files.publish(uri, str(partial)) as file:
        file.write(b"data")
        assert len(list(partial.iterdir())) == 1
        assert list((tmp_path / "out").iterdir()) == []

    assert list(partial.iterdir()) == []


# Listing a local disk


def test_a_folder_is_descended_into_whatever_its_name(tmp_path: Path) -> None:
    make_files(tmp_path, "a.png", "sub/b.png", "folder.png/c.png")

    assert names(tmp_path) == ["a.png", "folder.png/c.png", "sub/b.png"]
    assert names(f"{tmp_path}/") == names(tmp_path)
    assert names(f"file://{tmp_path}") == names(tmp_path)


def test_hidden_names_are_left_out_below_a_folder(tmp_path: Path) -> None:
    make_files(tmp_path, ".hidden.png", ".thumbnails/a.png", "b.png")

    assert names(tmp_path) == ["b.png"]
    assert names(tmp_path / "**") == ["b.png"]
    assert names(tmp_path / ".hidden.png") == [".hidden.png"]
    assert names(tmp_path / ".thumbnails") == ["a.png"]


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
    files = ["a.png", "b.jpg", "folder.png/d.txt", "sub/e.png", "sub/deep/c.png"]
    make_files(tmp_path, *files)
    memory.update({f"mem://bucket/in/{name}": b"" for name in files})
    hadoop.update({f"/bucket/in/{name}": b"" for name in files})

    if pattern != "none/*.png":  # A folder that is not there is named as one that is not.
        assert names(tmp_path / pattern) == found
    assert names(f"mem://bucket/in/{pattern}") == found
    assert names(f"hdfs://bucket/in/{pattern}") == found


def test_a_name_with_wildcards_means_the_file_where_there_is_one(tmp_path: Path) -> None:
    make_files(tmp_path, "[a].png", "a.png")

    assert names(tmp_path / "[a].png") == ["[a].png"]


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert names(tmp_path) == []
    assert names(tmp_path / "none") == []


def test_loops_of_links_end(tmp_path: Path) -> None:
    make_files(tmp_path, "sub/a.png")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "itself.png").symlink_to("itself.png")

    assert names(tmp_path) == ["itself.png", "sub/a.png"]


def test_a_linked_folder_is_descended_into(tmp_path: Path) -> None:
    make_files(tmp_path, "elsewhere/a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")

    assert names(tmp_path / "in") == ["link/a.png"]


@pytest.mark.parametrize("below", ["", "/*", "/**", "/**/*.png"])
def test_folders_that_link_to_each_other_are_listed_once(tmp_path: Path, below: str) -> None:
    for number in range(7):
        make_files(tmp_path, f"{number}/x.png")
        for other in set(range(7)) - {number}:
            (tmp_path / f"{number}/to-{other}").symlink_to(tmp_path / f"{other}")
        (tmp_path / f"{number}/up").symlink_to("..")
        (tmp_path / f"{number}/here").symlink_to(".")

    assert names(f"{tmp_path}{below}") == [f"{number}/x.png" for number in range(7)]


def test_of_several_names_of_a_folder_the_one_with_the_fewest_links_wins_and_then_the_first(
    tmp_path: Path,
) -> None:
    make_files(tmp_path, "in/z/a.png", "far/b.png", "far/more/c.png", "further/d.png")
    links = {
        "in/a": "z",  # A link to a folder that is there without one.
        "in/two": "../far",
        "in/one": "../far",
        "in/three": "../far/more",  # Below another link, too.
        "far/on": "../further",  # By two links,
        "in/zz": "../further",  # and by one.
    }
    for order in (links, reversed(links)):
        for link in order:
            (tmp_path / link).unlink(missing_ok=True)
            (tmp_path / link).symlink_to(links[link])

        assert names(tmp_path / "in") == ["one/b.png", "one/more/c.png", "z/a.png", "zz/d.png"]


def test_a_glob_names_a_folder_by_a_link_that_it_matches(tmp_path: Path) -> None:
    make_files(tmp_path, "in/real/a.png")
    (tmp_path / "in/link").symlink_to("real")

    assert names(tmp_path / "in/l*/*.png") == ["link/a.png"]
    assert names(tmp_path / "in/**/link/*.png") == ["link/a.png"]
    assert names(tmp_path / "in/*/*.png") == ["real/a.png"]


@pytest.fixture
def deep_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with an image below 1,200 more; what makes and removes files by recursion cannot."""
    root, here = tmp_path / "deep", os.open(".", os.O_RDONLY)
    try:
        for part in [root, *["a"] * 1200]:
            os.mkdir(part)  # noqa: PTH102
            os.chdir(part)
        Path("x.png").touch()
        yield root
        Path("x.png").unlink()
        for part in [*["a"] * 1200, root]:
            os.chdir("..")
            os.rmdir(part)  # noqa: PTH106
    finally:
        os.chdir(here)
        os.close(here)


@pytest.mark.parametrize("below", ["", "/**/*.png"])
def test_folders_are_listed_however_deep(deep_folder: Path, below: str) -> None:
    (image,) = list_images(f"{deep_folder}{below}").images

    assert image.uri == f"{deep_folder}/{'a/' * 1200}x.png"
    assert len(image.output_name) < 700


def test_a_folder_that_goes_while_it_is_listed_is_an_entry_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_files(tmp_path, "a/1.png", "b/2.png", "b/3.png")

    class Failing:
        """A folder whose disk fails behind its first name."""

        def __init__(self, path: str) -> None:
            self._children = scandir(path)
            self._is_whole = not path.endswith("b")

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            for number, child in enumerate(self._children):
                if number and not self._is_whole:
                    raise OSError("stale file handle")
                yield child

        def __exit__(self, *_: object) -> None:
            self._children.close()

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Failing)

    found = {entry.name: entry.is_folder for entry in storage_files.list_files(str(tmp_path))}

    assert found.pop("b") is True
    assert len(found) == 2 and not any(found.values())


def test_a_link_to_nothing_is_listed_for_its_reader_to_say(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")

    (entry,) = storage_files.list_files(str(tmp_path))
    with pytest.raises(ImageError) as caught:
        storage_files.read(entry.uri)

    assert entry.name == "gone.png"
    assert caught.value.code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("pattern", ["", "/private", "/private/a.png", "/*/a.png"])
def test_what_may_not_be_listed_is_an_entry_of_its_own(open_folder: Path, pattern: str) -> None:
    make_files(open_folder, "private/a.png")
    (open_folder / "private").chmod(0o000)
    (open_folder / "link.png").symlink_to(open_folder / "private" / "a.png")

    with as_ordinary_user():
        found = {
            entry.name: _code_of(lambda entry=entry: storage_files.read(entry.uri))
            for entry in storage_files.list_files(f"{open_folder}{pattern}")
        }

    assert found
    assert set(found.values()) == {ErrorCode.PERMISSION_DENIED}


def _code_of(read: Callable[[], object]) -> ErrorCode | None:
    try:
        read()
    except ImageError as error:
        return error.code
    return None


# Listing elsewhere


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

    assert list(storage_files.list_files("mem://bucket/photos")) == [
        FileEntry("mem://bucket/photos/a.png", "a.png"),
        FileEntry("mem://bucket/photos/sub/b.png", "sub/b.png"),
    ]
    assert names("mem://bucket/photos/") == ["a.png", "sub/b.png"]


def test_lists_one_file_of_an_object_store(memory: dict[str, bytes]) -> None:
    memory["mem://bucket/photos/a.png"] = b"a"

    assert list(storage_files.list_files("mem://bucket/photos/a.png")) == [
        FileEntry("mem://bucket/photos/a.png", "a.png")
    ]
    assert names("mem://bucket/none.png") == []


def test_lists_a_folder_where_folders_exist(hadoop: dict[str, bytes]) -> None:
    hadoop["/photos/sub/b.png"] = b"b"
    hadoop["/photos/sub/deep/empty.png"] = b""
    hadoop["/photos-old/d.png"] = b"d"
    MemoryHdfs.folders.add("/photos/nothing")

    assert list(storage_files.list_files("hdfs://photos")) == [
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
        list(storage_files.list_files(f"mem://bucket/in{below}"))

    assert caught.value.code is code


def test_reads_from_another_file_system(memory: dict[str, bytes]) -> None:
    memory["mem://bucket/a.png"] = b"0123456789"

    assert storage_files.read("mem://bucket/a.png") == b"0123456789"
    assert storage_files.read("mem://bucket/a.png", limit=3) == b"012"
    assert storage_files.size("mem://bucket/a.png") == 10
    assert storage_files.size("mem://bucket/none.png") is None
    assert storage_files.sha256("mem://bucket/a.png") == hashlib.sha256(b"0123456789").hexdigest()
    with pytest.raises(ImageError) as caught:
        storage_files.read("mem://bucket/none.png")
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_a_compressed_name_is_read_as_it_is(memory: dict[str, bytes]) -> None:
    memory["mem://bucket/a.png.gz"] = b"not gzip"

    assert storage_files.read("mem://bucket/a.png.gz") == b"not gzip"


# Our own folders


def test_lists_below_with_hidden_names(place: str) -> None:
    for name in (".staging/records/1.json", "images/a.png"):
        storage_files.write(uris.join(place, name), b"")

    found = sorted(entry.name for entry in storage_files.list_below(place))

    assert found == [".staging/records/1.json", "images/a.png"]
    assert [entry.uri for entry in storage_files.list_below(uris.join(place, "images"))] == [
        uris.join(place, "images", "a.png")
    ]
    assert list(storage_files.list_below(uris.join(place, "none"))) == []


def test_deletes_files_and_folders(place: str) -> None:
    for name in ("a/1", "a/b/2", "c"):
        storage_files.write(uris.join(place, name), b"")

    storage_files.delete(uris.join(place, "a"))
    storage_files.delete(uris.join(place, "c"))
    storage_files.delete(uris.join(place, "none"))

    assert list(storage_files.list_below(place)) == []


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

    storage_files.delete("mem://bucket/a")

    assert memory == {"mem://bucket/ab": b"beside"}
    assert together == [1000, 1000, 500]


def test_deleting_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    make_files(tmp_path, "kept/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "kept")

    storage_files.delete(str(tmp_path / "link"))

    assert names(tmp_path) == ["kept/a.png"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_is_created_is_durable_with_its_name(
    tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", fsync)
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "new/a"

    assert storage_files.create(str(path), b"first", str(tmp_path / "partial"))
    assert not storage_files.create(str(path), b"second", str(tmp_path / "partial"))

    assert path.read_bytes() == b"first"
    assert {path.stat().st_ino, path.parent.stat().st_ino, tmp_path.stat().st_ino} <= synced
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_file_that_could_not_be_written_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space"):
        publishing._create_without_links(tmp_path / "a", b"first")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", ["file:", "FILE://", "file://localhost", "file://LocalHost"])
def test_a_file_uri_of_this_machine_is_read(tmp_path: Path, start: str) -> None:
    (tmp_path / "a.png").write_bytes(b"here")
    uri = f"{start}{tmp_path}/a.png"

    assert store_of(uri).is_local
    assert store_of(uri).unread_scheme(uri) is None
    assert storage_files.absolute(uri) == f"{tmp_path}/a.png"
    assert storage_files.read(uri) == b"here"


def test_a_file_uri_of_another_machine_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.png").write_bytes(b"not this")

    with pytest.raises(ImageError, match=r"file://other/a.png is not read: .*another machine") as e:
        storage_files.read("file://other/a.png")
    assert e.value.code is ErrorCode.READ_ERROR


@pytest.mark.parametrize("uri", ["ftp://me:SECRET@h/a.png", "IPFS://bafy/a.png"])
def test_a_scheme_that_nothing_reads_is_refused_by_name(uri: str) -> None:
    for act in (
        lambda: storage_files.read_at_most(uri, 10),
        lambda: storage_files.read(uri, limit=10),
        lambda: storage_files.open_read(uri),
        lambda: storage_files.sha256(uri),
        lambda: storage_files.size(uri),
    ):
        with pytest.raises(ImageError, match="is no scheme that is read") as caught:
            act()
        assert caught.value.code is ErrorCode.READ_ERROR
        assert "SECRET" not in caught.value.message
