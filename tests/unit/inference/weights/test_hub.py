import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import local_hub
import pytest
from local_hub import LocalHub
from weight_files import files_in, write_files

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.weights import digest, find, values
from beam_upscale.inference.weights.hub import fetch
from beam_upscale.inference.weights.hub_repository import HubRepository


def fetched(hub: LocalHub) -> values.Weights:
    return fetch(HubRepository(hub.name, hub.commit))


def refusal(hub: LocalHub) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        fetched(hub)
    return caught.value


@pytest.fixture
def sha256(tmp_path: Path, pipeline_files: dict[str, bytes]) -> str:
    """Of a folder with just the files of the pipeline."""
    return digest.sha256_of(write_files(tmp_path / "expected", pipeline_files))


def test_just_the_files_of_the_pipeline_are_downloaded(
    hub: LocalHub, cache: Path, pipeline_files: dict[str, bytes], sha256: str
) -> None:
    found = fetched(hub)

    assert found.name == hub.spec
    assert found.sha256 == digest.sha256_of(found.path) == sha256
    assert hub.commit in found.source
    assert digest.files_of(found.path) == digest.files_of(hub.snapshot) == sorted(pipeline_files)
    assert files_in(cache) == {f"owner--name--{hub.commit}"}


def test_what_was_downloaded_needs_no_hub(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetched(hub)
    hub.requests.clear()

    assert fetched(hub) == first
    assert hub.requests == []

    shutil.rmtree(first.path)
    refuse_connections(hub, monkeypatch)
    assert fetched(hub) == first


def test_a_file_of_the_library_s_cache_that_was_changed_is_refused(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the hub calls large files.
    monkeypatch.setattr(local_hub, "_etag", lambda content: hashlib.sha256(content).hexdigest())
    hub.fill_library_cache(*hub.files)
    fetched(hub)

    blob = (hub.snapshot / "vae/config.json").resolve()
    blob.write_bytes(bytes(len(blob.read_bytes())))

    error = refusal(hub)
    assert error.code is ErrorCode.WEIGHTS_MISMATCH
    assert str(blob) in error.message


def test_of_a_library_cache_filled_by_others_the_hub_is_asked_once(
    hub: LocalHub, sha256: str
) -> None:
    hub.fill_library_cache(*hub.files)

    found = [fetched(hub), fetched(hub)]

    # What else is there has no part in it.
    assert [each.sha256 for each in found] == [sha256, sha256]
    assert len(hub.requests) == 1


def test_a_library_cache_filled_by_others_needs_no_hub(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, sha256: str
) -> None:
    hub.fill_library_cache(*hub.files)
    forbid_requests(hub, monkeypatch)

    assert fetched(hub).sha256 == sha256
    assert fetched(hub).sha256 == sha256
    assert hub.requests == []


PART = "vae/diffusion_pytorch_model-00002-of-00002.safetensors"

# What a pipeline cannot be loaded without.
NEEDED = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    PART,
    "vae/diffusion_pytorch_model.safetensors.index.json",
]
OPTIONAL = "tokenizer/special_tokens_map.json"


@pytest.mark.parametrize("missing", [*NEEDED, OPTIONAL])
def test_a_library_cache_with_a_part_is_completed(hub: LocalHub, sha256: str, missing: str) -> None:
    hub.fill_library_cache(*(name for name in hub.files if name != missing))

    assert fetched(hub).sha256 == sha256


@pytest.mark.parametrize("missing", NEEDED)
def test_a_part_in_the_librarys_cache_is_not_enough_without_the_hub(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    hub.fill_library_cache(*(name for name in hub.files if name != missing))
    refuse_connections(hub, monkeypatch)

    assert refusal(hub).code is ErrorCode.WEIGHTS_UNAVAILABLE
    assert files_in(cache) == set()


def test_what_the_hub_could_not_be_asked_about_is_completed_later(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, sha256: str
) -> None:
    hub.fill_library_cache(*(name for name in hub.files if name != OPTIONAL))
    with monkeypatch.context() as context:
        refuse_connections(hub, context)
        assert fetched(hub).sha256 != sha256

    assert fetched(hub).sha256 == sha256


def test_links_are_made_anew_when_the_librarys_cache_has_more(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, sha256: str
) -> None:
    refuse_connections(hub, monkeypatch)
    hub.fill_library_cache(*(name for name in hub.files if name != OPTIONAL))
    assert fetched(hub).sha256 != sha256

    hub.fill_library_cache(OPTIONAL)

    assert fetched(hub).sha256 == sha256


def test_what_the_hub_named_once_is_never_taken_for_less(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(hub)
    (hub.snapshot / OPTIONAL).unlink()
    refuse_connections(hub, monkeypatch)

    assert refusal(hub).code is ErrorCode.WEIGHTS_UNAVAILABLE


@pytest.mark.parametrize("name", ["tokenizer/merges.txt", OPTIONAL])
def test_a_file_whose_blob_was_deleted_is_fetched_again(
    hub: LocalHub, sha256: str, name: str
) -> None:
    hub.fill_library_cache(*hub.files)
    (hub.snapshot / name).resolve().unlink()

    assert fetched(hub).sha256 == sha256


def test_a_file_whose_blob_was_deleted_after_the_first_use_is_fetched_again(
    hub: LocalHub, sha256: str
) -> None:
    found = fetched(hub)
    (found.path / OPTIONAL).resolve().unlink()

    assert fetched(hub).sha256 == sha256


def test_without_a_needed_files_blob_the_librarys_cache_is_not_enough(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fill_library_cache(*hub.files)
    (hub.snapshot / "unet/diffusion_pytorch_model.safetensors").resolve().unlink()
    refuse_connections(hub, monkeypatch)

    assert refusal(hub).code is ErrorCode.WEIGHTS_UNAVAILABLE


def test_a_tokenizer_in_one_file_needs_no_other(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = ("tokenizer/vocab.json", "tokenizer/merges.txt")
    hub.files = {name: content for name, content in hub.files.items() if name not in two}
    hub.files = hub.files | {"tokenizer/tokenizer.json": b"{}"}
    hub.fill_library_cache(*hub.files)
    refuse_connections(hub, monkeypatch)

    assert "tokenizer/tokenizer.json" in digest.files_of(fetched(hub).path)


def test_links_that_lead_nowhere_are_made_again(hub: LocalHub, sha256: str) -> None:
    fetched(hub)
    shutil.rmtree(hub.library_cache)

    assert fetched(hub).sha256 == sha256


def test_a_changed_file_in_the_librarys_cache_changes_the_sha256(
    hub: LocalHub, sha256: str
) -> None:
    path = fetched(hub).path / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(b"other")

    assert fetched(hub).sha256 != sha256


def test_progress_ends_at_the_size(hub: LocalHub, pipeline_files: dict[str, bytes]) -> None:
    seen: list[tuple[int, int]] = []

    fetch(
        HubRepository(hub.name, hub.commit), progress=lambda done, size: seen.append((done, size))
    )

    size = sum(map(len, pipeline_files.values()))
    assert seen[-1] == (size, size)


def refuse_connections(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")


def forbid_requests(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def answer(status: int, error: str) -> Callable[[LocalHub, pytest.MonkeyPatch], None]:
    def trouble(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.status, hub.error = status, error

    return trouble


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        pytest.param(refuse_connections, "could not be reached (", id="unreachable"),
        pytest.param(forbid_requests, "HF_HUB_OFFLINE forbids", id="offline"),
        pytest.param(answer(404, "RepoNotFound"), "no such repository", id="no-repository"),
        pytest.param(answer(404, "RevisionNotFound"), "no such revision", id="no-revision"),
        pytest.param(answer(403, "GatedRepo"), "on request only", id="gated"),
        pytest.param(answer(503, ""), "HTTP status 503", id="down"),
    ],
)
def test_what_cannot_be_had_says_in_one_line_how_to_go_on(
    hub: LocalHub,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    trouble: Callable[[LocalHub, pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    trouble(hub, monkeypatch)

    error = refusal(hub)

    assert error.code is ErrorCode.WEIGHTS_UNAVAILABLE
    hints = (hub.spec, "hf download", f"--revision {hub.commit}", "--weights DIR", "HF_HOME")
    for part in (reason, *hints, "HF_ENDPOINT"):
        assert part in error.message
    assert "\n" not in error.message
    assert files_in(cache) == set()
    # The library keeps its own words and its retries to itself.
    assert capfd.readouterr() == ("", "")
    assert len(hub.requests) <= 1


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("model_index.json", "model_index.json"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json"),
        ("tokenizer/merges.txt", "tokenizer/merges.txt"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/*model.safetensors"),
        (PART, PART),
    ],
)
def test_a_repository_that_is_no_whole_pipeline_is_incomplete(
    hub: LocalHub, cache: Path, missing: str, named: str
) -> None:
    hub.files = {name: content for name, content in hub.files.items() if name != missing}

    error = refusal(hub)

    assert error.code is ErrorCode.WEIGHTS_INCOMPLETE
    assert f"has no {named}" in error.message
    assert files_in(cache) == set()


def test_without_the_librarys_package_it_is_named(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    error = refusal(hub)

    assert error.code is ErrorCode.WEIGHTS_UNAVAILABLE
    assert "pip install beam-upscale[latent]" in error.message


def environment(hub: LocalHub, **variables: str) -> dict[str, str]:
    """This process's environment with a library that knows only what it is told here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    home = str(hub.library_cache.parent / "home")
    return kept | {"HF_HOME": home, "HF_HUB_DISABLE_XET": "1"} | variables


def test_the_librarys_own_variables_choose_its_cache(hub: LocalHub, sha256: str) -> None:
    hub.fill_library_cache(*hub.files)
    code = (
        "from beam_upscale.inference.weights import find\n"
        f"found = find.resolve({hub.spec!r}, 'stable-diffusion-x4-latent-upscaler')\n"
        "print(found.sha256)"
    )
    variables = environment(hub, HF_HUB_CACHE=str(hub.library_cache), HF_HUB_OFFLINE="1")

    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == (f"{sha256}\n", "")


def test_the_command_that_the_error_gives_downloads_the_same_weights(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sha256: str
) -> None:
    with monkeypatch.context() as context:
        refuse_connections(hub, context)
        command = shlex.split(refusal(hub).message.split("`")[1])
    folder = tmp_path / "downloaded"
    program = Path(sys.executable).with_name(command[0])
    arguments = [str(folder) if argument == "DIR" else argument for argument in command[1:]]

    subprocess.run([program, *arguments], env=environment(hub, HF_ENDPOINT=hub.url), check=True)

    assert find.resolve(str(folder), "stable-diffusion-x4-latent-upscaler").sha256 == sha256
