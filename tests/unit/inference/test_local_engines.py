"""Weights that a worker has, or gets."""

import dataclasses
from pathlib import Path

import pytest
from esrgan_calls import infer, whole
from memory_filesystem import MemoryFileSystem
from small_networks import noise

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.handlers.esrgan import EsrganHandler
from beam_upscale.inference.local_engines import EsrganEngine
from beam_upscale.inference.weights import cache, find, registry, values


def load_code(engine: EsrganEngine) -> ErrorCode:
    with pytest.raises(SettingsError) as caught:
        EsrganHandler(engine).load_model()
    return caught.value.code


def test_other_weights_than_those_pinned_are_refused(engine: EsrganEngine) -> None:
    assert load_code(dataclasses.replace(engine, weights_sha256="0" * 64)) is (
        ErrorCode.WEIGHTS_MISMATCH
    )


def test_weights_that_are_not_there_are_an_error(engine: EsrganEngine) -> None:
    assert load_code(dataclasses.replace(engine, weights_uri="/no/such/file.safetensors")) is (
        ErrorCode.WEIGHTS_UNAVAILABLE
    )


def test_registered_weights_are_had_by_name_where_the_path_is_missing(
    engine: EsrganEngine, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = dataclasses.replace(
        registry.REGISTRY["realesrgan-x2plus"], name="tiny", sha256=engine.weights_sha256
    )
    found = values.Weights("tiny", tiny_weights, engine.weights_sha256, "here")
    monkeypatch.setattr(registry, "REGISTRY", {"tiny": registered})
    monkeypatch.setattr(find, "fetch_by_name", lambda _: found)
    elsewhere = dataclasses.replace(engine, weights_uri="/elsewhere/tiny.safetensors")

    (inference,) = infer(EsrganHandler(elsewhere), [whole(noise(8, 8, 3))])

    assert inference.error is None
    assert load_code(dataclasses.replace(elsewhere, weights_sha256="0" * 64)) is (
        ErrorCode.WEIGHTS_MISMATCH
    )


def test_weights_reach_a_worker_by_uri_and_are_verified(
    engine: EsrganEngine, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path / "cache"))
    uri = "mem://weights/tiny.safetensors"
    monkeypatch.setitem(MemoryFileSystem.files, uri, tiny_weights.read_bytes())
    remote = dataclasses.replace(engine, weights_uri=uri)

    (inference,) = infer(EsrganHandler(remote), [whole(noise(8, 8, 3))])

    assert inference.error is None
    assert (cache.cache_directory() / "weights" / f"{engine.weights_sha256}.safetensors").exists()
    monkeypatch.setitem(MemoryFileSystem.files, uri, b"other")
    other = dataclasses.replace(remote, weights_sha256="0" * 64)
    assert load_code(other) is ErrorCode.WEIGHTS_MISMATCH
