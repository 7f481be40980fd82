import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from memory_filesystem import MemoryFileSystem
from safetensors.torch import save_file
from small_networks import esrgan

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.inference.service_options import API_KEY_VARIABLE
from beam_upscale.inference.weights import cache
from beam_upscale.pipeline.settings.settings_json import settings_to_json
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.plan_options import Animated, OutputFormat, Oversize

ENGINE = "esrgan-v1-x2plus"


@pytest.fixture
def quick(tiny_weights: Path) -> dict[str, Any]:
    return {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32"}


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What is stored under `mem://`, and a cache of weights that is empty."""
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path / "cache"))
    MemoryFileSystem.files.clear()
    yield MemoryFileSystem.files
    MemoryFileSystem.files.clear()


def code_of(action: Callable[[], object]) -> ErrorCode:
    with pytest.raises(SettingsError) as caught:
        action()
    return caught.value.code


# From flat options


def test_flat_options_go_where_they_belong() -> None:
    settings = UpscaleSettings.of(ENGINE, width=640, threads=3, quality=80)

    assert settings.engines == (ENGINE,)
    assert settings.plan.width == 640
    assert (settings.local.threads, settings.encode.quality) == (3, 80)


def test_members_may_be_given_by_their_names() -> None:
    settings = UpscaleSettings.of(
        ENGINE,
        oversize="tile",
        output_format="webp",
        animated="reject",
        device="cpu",
        precision="bf16",
    )

    assert settings.plan.oversize is Oversize.TILE
    assert settings.plan.output_format is OutputFormat.WEBP
    assert settings.plan.animated is Animated.REJECT
    assert settings.local.device is Device.CPU
    assert settings.local.precision is Precision.BF16


def test_an_unknown_option_is_named_with_those_that_exist() -> None:
    with pytest.raises(SettingsError, match=r"unknown option fromat.*; .*output_format") as caught:
        UpscaleSettings.of(ENGINE, fromat="png")

    assert caught.value.code is ErrorCode.INVALID_OPTION


def test_an_unknown_member_is_named_with_those_that_exist() -> None:
    with pytest.raises(SettingsError, match=r"oversize is 'cut'; .*reject, tile, shrink") as caught:
        UpscaleSettings.of(ENGINE, oversize="cut")

    assert caught.value.code is ErrorCode.INVALID_OPTION


@pytest.mark.parametrize(
    "option",
    [
        {"width": 0},
        {"width": 10, "height": 10},
        {"max_input_bytes": 0},
        {"threads": 0},
        {"threads": -1},
        {"max_tile_pixels": 0},
        {"max_batch_pixels": -1},
        {"tile_halo": -1},
        {"max_in_flight": 0},
        {"worker_processes": 0},
        {"requests_per_second": 0},
        {"requests_per_second": float("nan")},
        {"deadline_seconds": float("inf")},
        {"retry_seconds": -1.0},
    ],
)
def test_values_out_of_range_are_refused(option: dict[str, float]) -> None:
    assert code_of(lambda: UpscaleSettings.of(ENGINE, **option)) is ErrorCode.INVALID_OPTION


# Pinned


def test_pinning_leaves_no_auto(tiny_weights: Path) -> None:
    engine = UpscaleSettings.of(ENGINE, weights=str(tiny_weights)).pin().stages[0].pinned

    assert engine.device is not Device.AUTO
    assert engine.precision is not Precision.AUTO
    assert engine.threads >= 1
    assert engine.name == tiny_weights.name
    assert engine.weights_uri == str(tiny_weights)
    assert engine.weights_sha256 == hashlib.sha256(tiny_weights.read_bytes()).hexdigest()
    # The network's own: as far as its convolutions see.
    assert engine.halo == 4


def test_what_is_pinned_pins_to_itself(quick: dict[str, Any]) -> None:
    pinned = UpscaleSettings.of(ENGINE, **quick).pin()
    again = UpscaleSettings.of(
        ENGINE,
        weights=pinned.stages[0].pinned.weights_uri,
        device=pinned.stages[0].pinned.device,
        precision=pinned.stages[0].pinned.precision,
        threads=pinned.stages[0].pinned.threads,
    ).pin()

    assert again == pinned


def test_a_cpu_runs_one_tile_at_a_time_whatever_is_asked(quick: dict[str, Any]) -> None:
    pinned = UpscaleSettings.of(ENGINE, **quick, max_batch_pixels=10**6).pin()

    assert pinned.stages[0].pinned.max_batch_pixels == 0


def test_what_is_recorded_is_plain_and_does_not_hold_where_the_weights_lie(
    quick: dict[str, Any], tiny_weights: Path
) -> None:
    pinned = UpscaleSettings.of(ENGINE, **quick, skip_larger_than=(100, 200), threads=2).pin()

    values = settings_to_json(pinned)

    assert values["stages"][0]["engine"] == ENGINE
    assert values["plan"]["skip_larger_than"] == [100, 200]
    assert values["stages"][0]["model"]["device"] == "cpu"
    assert values["stages"][0]["model"]["threads"] == 2
    assert "scale" not in values["stages"][0]["model"]  # Those of earlier versions have none.
    (stage,) = pinned.stages
    elsewhere = dataclasses.replace(stage.pinned, weights_uri="gs://bucket/w.safetensors")
    moved = dataclasses.replace(pinned, stages=(dataclasses.replace(stage, pinned=elsewhere),))
    assert settings_to_json(moved) == values
    assert str(tiny_weights.parent) not in str(values)


def test_an_unknown_engine_is_refused() -> None:
    assert code_of(UpscaleSettings(("none",)).pin) is ErrorCode.UNKNOWN_ENGINE


def test_weights_of_a_smaller_scale_than_the_engines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x1.safetensors"
    save_file({n: v.contiguous() for n, v in esrgan(scale=1).state_dict().items()}, path)

    with pytest.raises(SettingsError, match="enlarges 1 times") as caught:
        UpscaleSettings.of(ENGINE, weights=str(path), device="cpu").pin()

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE


@pytest.mark.parametrize(
    ("option", "code"),
    [
        ({"weights": "no-such-weights"}, ErrorCode.UNKNOWN_WEIGHTS),
        ({"weights": "/no/such/file.pth"}, ErrorCode.UNKNOWN_WEIGHTS),
        ({"weights": "mem://bucket/none.safetensors"}, ErrorCode.WEIGHTS_UNAVAILABLE),
        ({"weights": "nosuchscheme://bucket/none.safetensors"}, ErrorCode.WEIGHTS_UNAVAILABLE),
        ({"quality": 101}, ErrorCode.INVALID_OPTION),
    ],
)
def test_what_would_fail_every_image_alike_is_refused(
    quick: dict[str, Any], memory: dict[str, bytes], option: dict[str, Any], code: ErrorCode
) -> None:
    assert code_of(lambda: UpscaleSettings.of(ENGINE, **{**quick, **option}).pin()) is code


def test_a_device_that_is_not_there_is_refused(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_upscale.inference.networks.device._has_cuda", lambda: False)

    settings = UpscaleSettings.of(ENGINE, **{**quick, "device": "cuda"})

    assert code_of(settings.pin) is ErrorCode.DEVICE_UNAVAILABLE


def test_weights_may_lie_on_another_file_system(
    quick: dict[str, Any], memory: dict[str, bytes], tiny_weights: Path
) -> None:
    memory["mem://bucket/tiny.safetensors"] = tiny_weights.read_bytes()

    engine = (
        UpscaleSettings.of(ENGINE, **{**quick, "weights": "mem://bucket/tiny.safetensors"})
        .pin()
        .stages[0]
        .pinned
    )

    assert engine.weights_uri == "mem://bucket/tiny.safetensors"
    assert engine.name == "tiny.safetensors"
    assert engine.weights_sha256 == hashlib.sha256(tiny_weights.read_bytes()).hexdigest()
    assert list(cache.cache_directory().rglob(f"{engine.weights_sha256}.safetensors"))


def test_weights_may_be_a_file_uri(quick: dict[str, Any], tiny_weights: Path) -> None:
    settings = UpscaleSettings.of(ENGINE, **{**quick, "weights": f"file://{tiny_weights}"})

    assert settings.pin().stages[0].pinned.weights_uri == str(tiny_weights)


# Over gRPC


def remote(engine: str = ENGINE, **options: Any) -> RemoteEngine:
    settings = UpscaleSettings.of(
        engine, **{"backend": "grpc", "endpoint": "gpu.example:443", **options}
    )
    (stage,) = settings.pin().stages
    assert isinstance(stage.pinned, RemoteEngine)
    return stage.pinned


def test_a_service_is_pinned_with_what_workers_need_to_call_it(tmp_path: Path) -> None:
    authority = trustme.CA().cert_pem
    authority.write_to_path(str(tmp_path / "ca.pem"))

    engine = remote(
        ca_file=str(tmp_path / "ca.pem"),
        api_key_file=str(tmp_path / "key"),
        max_in_flight=8,
        requests_per_second=30,
        worker_processes=4,
        deadline_seconds=5,
    )

    assert engine == RemoteEngine(
        engine=ENGINE,
        endpoint="gpu.example:443",
        api_key_file=str(tmp_path / "key"),
        ca=authority.bytes().decode(),
        max_in_flight=8,
        requests_per_second=7.5,
        deadline_seconds=5,
    )


def test_results_do_not_depend_on_where_the_service_stands() -> None:
    settings = [
        UpscaleSettings.of(ENGINE, backend="grpc", endpoint=endpoint).pin()
        for endpoint in ("gpu-1.example:443", "[::1]:50051")
    ]

    assert settings_to_json(settings[0]) == settings_to_json(settings[1])
    assert [each.endpoint for each in settings] == ["gpu-1.example:443", "[::1]:50051"]


def test_a_dataset_of_a_service_is_not_that_of_a_local_network(quick: dict[str, Any]) -> None:
    local = UpscaleSettings.of(ENGINE, **quick).pin()
    over_grpc = UpscaleSettings.of(ENGINE, backend="grpc", endpoint="localhost:1").pin()

    assert settings_to_json(local) != settings_to_json(over_grpc)
    assert local.endpoint is None


@pytest.mark.parametrize("endpoint", [None, "host"])
def test_a_service_has_an_endpoint(endpoint: str | None) -> None:
    assert code_of(lambda: remote(endpoint=endpoint)) is ErrorCode.INVALID_OPTION


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"weights": "realesrgan-x4plus"}, "service's own"),
        ({"requests_per_second": 10}, "--worker-processes"),
        ({"ca_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"ca_file": "ca.pem", "insecure": True}, "plaintext"),
        ({"backend": "local"}, "--backend grpc"),
    ],
)
def test_options_that_do_not_fit_a_service_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word) as caught:
        remote(**options)

    assert caught.value.code is ErrorCode.INVALID_OPTION


def test_no_key_is_part_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "bu_secret")

    assert "bu_secret" not in repr(remote())


@pytest.mark.parametrize("content", [b"no certificate", b"", b"caf\xe9"])
def test_authorities_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ca.pem").write_bytes(content)

    with pytest.raises(SettingsError, match=r"ca\.pem, which (holds no|cannot)"):
        remote(ca_file=str(tmp_path / "ca.pem"))
