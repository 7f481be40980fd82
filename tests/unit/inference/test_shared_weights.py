import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory_filesystem import MemoryFileSystem
from memory_hdfs import hdfs
from web_server import file, serving

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference import local_engines, shared_weights
from beam_upscale.inference.weights import digest
from beam_upscale.storage.http import attempts, connections

FILES = {
    "model_index.json": b"{}",
    "unet/config.json": b'{"in_channels": 7}',
    "unet/diffusion_pytorch_model.safetensors": os.urandom(10_000),
}


class ClientError(Exception):
    """An error of a storage client's own, which is no OSError."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's cache holds weights."""
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture(autouse=True)
def stored() -> Iterator[dict[str, bytes]]:
    """What is stored under `mem://`."""
    MemoryFileSystem.files.clear()
    with hdfs():
        yield MemoryFileSystem.files
    MemoryFileSystem.files.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of weights on this machine."""
    folder = tmp_path / "x4-upscaler"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def code_of(action: Callable[[], object]) -> ErrorCode:
    with pytest.raises(SettingsError) as caught:
        action()
    return caught.value.code


@pytest.mark.parametrize("uri", ["mem://b/w", "mem://b/w/", "hdfs://b/w", "hdfs://b/w/"])
def test_a_folder_comes_back_as_it_was_put(folder: Path, cache: Path, uri: str) -> None:
    shared_weights.put(folder, uri)
    sha256 = shared_weights.sha256(uri)

    fetched = shared_weights.fetch(uri, sha256)

    assert shared_weights.is_there(uri)
    assert sha256 == digest.sha256_of(folder)
    assert fetched == cache / sha256
    assert {name: (fetched / name).read_bytes() for name in digest.files_of(fetched)} == FILES


@pytest.mark.parametrize("scheme", ["mem", "hdfs"])
def test_a_file_comes_back_as_it_was_put(folder: Path, cache: Path, scheme: str) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    uri = f"{scheme}://b/w[1].safetensors"
    shared_weights.put(path, uri)
    sha256 = shared_weights.sha256(uri)

    fetched = shared_weights.fetch(uri, sha256)

    assert shared_weights.is_there(uri)
    assert sha256 == digest.sha256_of(path)
    assert fetched == cache / f"{sha256}.safetensors"
    assert fetched.read_bytes() == path.read_bytes()


def test_a_copy_that_was_interrupted_goes_on(folder: Path, stored: dict[str, bytes]) -> None:
    shared_weights.put(folder, "mem://b/w")
    stored["mem://b/w/model_index.json"] = b"there already"
    del stored["mem://b/w/unet/config.json"]

    shared_weights.put(folder, "mem://b/w")

    assert stored["mem://b/w/unet/config.json"] == FILES["unet/config.json"]
    assert stored["mem://b/w/model_index.json"] == b"there already"


@pytest.mark.parametrize("placeholder", ["mem://b/w/", "mem://b/w/unet/"])
@pytest.mark.parametrize("uri", ["mem://b/w", "mem://b/w/"])
def test_empty_objects_that_stand_for_folders_do_not_count(
    folder: Path, stored: dict[str, bytes], uri: str, placeholder: str
) -> None:
    shared_weights.put(folder, "mem://b/w")
    stored[placeholder] = b""

    assert shared_weights.is_there(uri)
    assert shared_weights.sha256(uri) == digest.sha256_of(folder)


def test_a_folder_on_this_machine_has_the_same_sha256(folder: Path) -> None:
    expected = digest.sha256_of(folder)

    for uri in (str(folder), f"{folder}/", f"file://{folder}"):
        assert shared_weights.is_there(uri)
        assert shared_weights.sha256(uri) == expected
    assert shared_weights.sha256(f"file://{folder}/model_index.json") == digest.sha256_of(
        folder / "model_index.json"
    )


def test_a_folder_of_this_machine_with_a_link_that_leads_nowhere_is_not_there(
    folder: Path,
) -> None:
    (folder / "unet" / "more.json").symlink_to("/no/such/file")

    assert not shared_weights.is_there(str(folder))
    assert code_of(lambda: shared_weights.sha256(str(folder))) is ErrorCode.WEIGHTS_UNAVAILABLE


@pytest.mark.parametrize("uri", ["mem://b/none", "mem://b/none/", "/no/such/folder"])
def test_what_is_not_there_is_unavailable(uri: str) -> None:
    assert not shared_weights.is_there(uri)
    assert code_of(lambda: shared_weights.sha256(uri)) is ErrorCode.WEIGHTS_UNAVAILABLE
    assert code_of(lambda: shared_weights.fetch(uri, "0" * 64)) is ErrorCode.WEIGHTS_UNAVAILABLE


@pytest.mark.parametrize(
    "action",
    [
        shared_weights.is_there,
        shared_weights.sha256,
        lambda uri: shared_weights.fetch(uri, "0" * 64),
    ],
)
def test_a_scheme_that_nobody_knows_is_unavailable(action: Callable[[str], object]) -> None:
    assert code_of(lambda: action("nowhere://b/w")) is ErrorCode.WEIGHTS_UNAVAILABLE


def test_other_weights_than_expected_are_a_mismatch(folder: Path) -> None:
    shared_weights.put(folder, "mem://b/w")

    assert code_of(lambda: shared_weights.fetch("mem://b/w", "0" * 64)) is (
        ErrorCode.WEIGHTS_MISMATCH
    )


@pytest.mark.parametrize("name", ["", "/model_index.json"])
def test_errors_of_a_storage_client_are_unavailable(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Broken:
        """A file whose connection breaks."""

        def read(self, size: int = -1) -> bytes:
            raise ClientError("the token has expired")

        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *error: object) -> None:
            pass

    shared_weights.put(folder, "mem://b/w")
    monkeypatch.setattr(MemoryFileSystem, "open", lambda *_, **__: Broken())

    for action in (
        lambda: shared_weights.sha256(f"mem://b/w{name}"),
        lambda: shared_weights.fetch(f"mem://b/w{name}", "0" * 64),
    ):
        with pytest.raises(SettingsError, match="the token has expired") as caught:
            action()
        assert caught.value.code is ErrorCode.WEIGHTS_UNAVAILABLE
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_weights_at_a_url_have_the_name_of_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", connections.Patience(attempts=1))
    content = os.urandom(1000)
    with serving() as web:
        web.replies["/w/small.pth"] = file(content)

        found, uri = local_engines._find_weights(f"{web.url}/w/small.pth?sig=SECRET", "any")

    assert (found.name, found.source) == ("small.pth", f"{web.url}/w/small.pth")
    assert found.path.suffix == ".pth"
    assert found.path.read_bytes() == content
    # Workers need all of it, and it is not recorded.
    assert uri.endswith("?sig=SECRET")
    with pytest.raises(SettingsError) as caught:
        shared_weights.sha256("http://127.0.0.1:1/small.pth?sig=SECRET")
    assert "SECRET" not in caught.value.message
