"""A store is chosen by the URI alone, and a new one is a class and a line."""

import ast
import hashlib
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory_store import STORE, memory_store
from PIL import Image
from places import ROOT
from runs import tree, upscale

from beam_upscale.dataset.places import Output
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ImageError, SettingsError
from beam_upscale.sources.discovery import list_images
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import Store
from beam_upscale.storage.stores import known_schemes, store_of


@pytest.fixture
def memory() -> Iterator[dict[str, bytes]]:
    """Returns the contents of the new store, by URI."""
    with memory_store() as stored:
        yield stored


@pytest.mark.parametrize(
    ("uri", "module"),
    [
        *(("photos/a.png", "local.local_disk"), ("file:///photos/a.png", "local.local_disk")),
        *(("data:image/png;base64,aa", "local.local_disk"), ("a: b.png", "local.local_disk")),
        *(("https://h/a.png", "http.web_servers"), (" HTTP:\\h\\a.png", "http.web_servers")),
        *(("hdfs://h/a.png", "beam.hdfs"), ("s3://b/a.png", "beam.s3")),
        *(("gs://b/a.png", "beam.gcs"), ("azfs://a/c/a.png", "beam.azure")),
        *(("S3://b/a.png", "beam.s3"), ("mem://b/a.png", "beam.beam_files")),
        *(("floppy://a/b.png", "beam.beam_files"), ("file://other/a.png", "beam.beam_files")),
    ],
)
def test_a_uri_has_one_store(uri: str, module: str) -> None:
    store = importlib.import_module(f"beam_upscale.storage.{module}").STORE

    assert isinstance(store, Store)
    assert store_of(uri) is store


def test_stores_say_what_can_be_done() -> None:
    local, web, s3 = map(store_of, ("a.png", "https://h/a.png", "s3://b/a.png"))

    assert [each.is_local for each in (local, web, s3)] == [True, False, False]
    assert [each.has_locks for each in (local, web, s3)] == [True, False, False]
    assert [each.is_writable for each in (local, web, s3)] == [True, False, True]
    assert [each.has_folders for each in (local, web, s3)] == [True, False, True]
    assert [each.keeps_files for each in (local, web, s3)] == [True, False, True]


@pytest.mark.parametrize(
    ("uri", "relative", "found"),
    [
        ("/in/t/a.csv", "../b?.png", "/in/b?.png"),
        ("s3://b/t/a.csv", "../../../b?.png", "s3://b?.png"),
        ("https://h/t/a.csv?x=1", "../b?.png", "https://h/b%3F.png"),
    ],
)
def test_a_path_is_relative_to_the_folder_of_a_file(uri: str, relative: str, found: str) -> None:
    assert store_of(uri).resolve(uri, relative) == found


def test_places_of_several_names_have_a_canonical_one(tmp_path: Path) -> None:
    def canonical(uri: str) -> str:
        return store_of(uri).canonical(uri)

    assert canonical("S3://b//x/./y/../z/") == "s3://b/x/z"
    assert canonical("hdfs:///photos") == canonical("hdfs://photos") == "hdfs://photos"
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert canonical(f"{tmp_path}/link/x") == f"{tmp_path.resolve()}/photos/x"


def test_nothing_is_written_on_a_web_server() -> None:
    uri = "http://127.0.0.1:1/out/a.png"
    acts: tuple[Callable[[], object], ...] = (
        lambda: files.write(uri, b"x"),
        lambda: files.create(uri, b"x"),
        lambda: files.delete(uri),
        lambda: store_of(uri).check_folder(uri),
    )

    for act in acts:
        with pytest.raises(SettingsError, match="on a web server, where nothing can be written"):
            act()
    with pytest.raises(ImageError, match="which lists no files"):
        list(files.list_below(uri))


def test_local_files_need_neither_beam_nor_a_client(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from beam_upscale.storage import files\n"
        f"files.write({str(tmp_path / 'a')!r}, b'data')\n"
        f"assert files.read({str(tmp_path / 'a')!r}) == b'data'\n"
        f"assert [each.name for each in files.list_files({str(tmp_path)!r})] == ['a']\n"
        "print(sorted({'apache_beam', 'requests', 'boto3'} & sys.modules.keys()))\n"
    )

    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

    assert found.stdout == b"[]\n"


def test_rooms_ask_stores_and_not_schemes() -> None:
    """Web access is public: its rules go with an input. A table's text is read as URLs are."""
    known = {f"beam_upscale.storage.{name}" for name in ("files", "sorted_map", "stores")}
    ours = ("beam_upscale.storage.protocol.", "beam_upscale.storage.uris.")
    others, asking = set(), set()
    for path in (ROOT / "beam_upscale").rglob("*.py"):
        if "storage" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "beam_upscale.storage"
            ):
                names = {f"{node.module}.{each.name}" for each in node.names}
                others |= {each for each in names if not each.startswith((*known, *ours))}
            if isinstance(node, ast.Attribute) and node.attr == "is_web":
                asking.add(path.name)

    assert all(each.startswith("beam_upscale.storage.http.web_access") for each in others)
    assert asking == {"source_image.py", "table_rows.py"}


# A new store


def test_the_new_store_is_chosen(memory: dict[str, bytes]) -> None:
    assert store_of("memory://b/a.png") is STORE
    assert STORE.unread_scheme("memory://b/a.png") is None
    assert files.absolute(" memory://b/photos/ ") == "memory://b/photos/ "
    assert files.absolute("MEMORY://b/photos/") == "memory://b/photos"


def test_the_schemes_of_stores_are_known() -> None:
    assert known_schemes() == {"azfs", "file", "gs", "hdfs", "http", "https", "s3"}
    with memory_store():
        assert "memory" in known_schemes()


def test_without_its_line_nothing_reads_it() -> None:
    with pytest.raises(ImageError, match="memory: is not a scheme that is read"):
        files.read("memory://b/a.png")


def test_an_output_is_of_one_store(memory: dict[str, bytes]) -> None:
    output = Output("memory://b/out")

    assert output.holds("memory://b/x/../out/images/a.png")
    assert not output.holds("mem://b/out/images/a.png")
    assert not output.holds("/b/out/images/a.png")
    assert output.is_same("MEMORY://b//out/")


def test_a_run_from_and_into_a_new_store(
    memory: dict[str, bytes],
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        path = tmp_path / "in" / f"{number}.png"
        photograph(number).save(path)
        memory[f"memory://in/{number}.png"] = path.read_bytes()

    result = upscale("memory://in", "memory://out", tiny_weights, shard_rows=2)

    assert [image.name for image in list_images("memory://in").images] == [
        *("0.png", "1.png", "2.png")
    ]
    assert result.totals.by_status == {"upscaled": 3}
    assert list(verify("memory://out")) == []
    assert not any("/.staging/" in uri for uri in memory)
    upscale(tmp_path / "in", tmp_path / "out", tiny_weights, shard_rows=2)
    images = {name: each for name, each in tree(tmp_path / "out").items() if "images/" in name}
    assert images == {
        uri.removeprefix("memory://out/"): hashlib.sha256(data).hexdigest()
        for uri, data in memory.items()
        if uri.startswith("memory://out/images/")
    }
