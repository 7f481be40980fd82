"""What a worker loads; here, where the hub is that some weights are had from."""

import os
import shutil
from pathlib import Path

import pytest
from local_hub import LocalHub

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.handlers.loading import weights_path
from beam_upscale.inference.local_engines import LatentEngine
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.weights import digest, find, values

pytestmark = pytest.mark.usefixtures("cache")


def pinned(found: values.Weights, uri: str) -> LatentEngine:
    return LatentEngine(
        name=found.name,
        weights_sha256=found.sha256,
        weights_uri=uri,
        device=Device.CPU,
        precision=Precision.FP32,
        threads=1,
        max_batch_pixels=0,
        vae_tiling=False,
        color_fix=False,
    )


def refusal(engine: LatentEngine) -> ErrorCode:
    with pytest.raises(SettingsError) as caught:
        weights_path(engine)
    return caught.value.code


def test_a_folder_of_the_hub_is_where_it_was_pinned(hub: LocalHub) -> None:
    found = find.fetch_by_name(hub.spec)

    assert weights_path(pinned(found, str(found.path))) == found.path
    assert weights_path(pinned(found, f"file://{found.path}/")) == found.path


def test_a_folder_of_the_hub_is_had_by_name_where_the_path_is_missing(hub: LocalHub) -> None:
    found = find.fetch_by_name(hub.spec)

    assert weights_path(pinned(found, "/elsewhere/owner--name")) == found.path


def test_links_into_another_machines_cache_are_had_by_name(hub: LocalHub) -> None:
    found = find.fetch_by_name(hub.spec)
    # BEAM_UPSCALE_CACHE is shared, the cache of the hub's library is each machine's own.
    shutil.rmtree(hub.library_cache)

    path = weights_path(pinned(found, str(found.path)))

    assert digest.sha256_of(path) == found.sha256


def test_links_into_another_machines_cache_without_a_hub_are_unavailable(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find.fetch_by_name(hub.spec)
    shutil.rmtree(hub.library_cache)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    assert refusal(pinned(found, str(found.path))) is ErrorCode.WEIGHTS_UNAVAILABLE


def test_a_folder_without_a_name_whose_links_lead_nowhere_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").symlink_to("/no/such/file")
    found = values.Weights("mine", tmp_path, "0" * 64, source="here")

    assert refusal(pinned(found, str(tmp_path))) is ErrorCode.WEIGHTS_UNAVAILABLE


def test_a_file_that_may_not_be_read_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(b"tiny")
    found = values.Weights.hashed("tiny", path, source="here")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(Path, "open", refuse)

    assert refusal(pinned(found, str(path))) is ErrorCode.WEIGHTS_UNAVAILABLE
