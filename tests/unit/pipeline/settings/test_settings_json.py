"""The texts in `settings_json` were written by the last code without a version in the file."""

import dataclasses
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from goldens import golden

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.images.resampling import Filter
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference.local_engines import (
    BaselineEngine,
    EsrganEngine,
    LatentEngine,
    LocalEngine,
)
from beam_upscale.inference.local_options import KeptChoices
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.settings.pinned import PinnedSettings, Stage
from beam_upscale.pipeline.settings.run_start import continue_run, new_run
from beam_upscale.pipeline.settings.settings_json import read_choices, read_parameters
from beam_upscale.planning.chain import Backend, Rules
from beam_upscale.planning.engines import get_engine
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan_options import (
    Animated,
    MetadataRule,
    OutputFormat,
    Oversize,
    PlanOptions,
)

GOLDENS = Path(__file__).with_name("settings_json")

ESRGAN = "esrgan-v1-x2plus"
DIFFUSION = "stable-diffusion-x4-latent-upscaler"

NETWORK = EsrganEngine(
    name="tiny.safetensors",
    device=Device.CPU,
    max_batch_pixels=0,
    weights_sha256="ab" * 32,
    weights_uri="/w/tiny.safetensors",
    precision=Precision.BF16,
    threads=2,
    scale=4,
    max_tile_pixels=1048576,
    halo=16,
    network_backend=NetworkBackend.OPENVINO,
)
NETWORK_ON_GPU = dataclasses.replace(
    NETWORK,
    device=Device.CUDA,
    max_batch_pixels=2097152,
    precision=Precision.FP16,
    network_backend=NetworkBackend.TORCH,
)
LATENT = LatentEngine(
    name="folder",
    device=Device.CUDA,
    max_batch_pixels=1048576,
    weights_sha256="cd" * 32,
    weights_uri="gs://w/folder",
    precision=Precision.FP16,
    threads=8,
    vae_tiling=True,
    color_fix=False,
)
BASELINE = BaselineEngine("bicubic (baseline, no network)", Device.CPU, 0, Filter("bicubic"))
SERVICE = RemoteEngine(DIFFUSION, "gpu.example:443", ca="x", insecure=True, ledger="l")


def pinned(
    *stages: tuple[str, LocalEngine | RemoteEngine],
    plan: PlanOptions | None = None,
    parameters: Parameters | None = None,
    prompt_column: str = "prompt",
    encode: EncodeOptions | None = None,
    keep_intermediates: bool = False,
    fan_out_above: int | None = None,
) -> PinnedSettings:
    rules = Rules(
        engines=tuple(get_engine(name) for name, _ in stages),
        options=plan or PlanOptions(),
        parameters=parameters or Parameters(),
        prompt_column=prompt_column,
        backend=Backend.GRPC if isinstance(stages[0][1], RemoteEngine) else Backend.LOCAL,
    )
    chain = tuple(Stage(get_engine(name), engine) for name, engine in stages)
    return PinnedSettings(
        chain, rules, encode or EncodeOptions(), keep_intermediates, fan_out_above
    )


RUNS: dict[str, tuple[PinnedSettings, Layout, int | None, Decimal | None]] = {
    "network": (pinned((ESRGAN, NETWORK)), Layout.FILES, 1000, None),
    "sizes": (
        pinned(
            (ESRGAN, NETWORK),
            plan=PlanOptions(
                long_side=2000,
                oversize=Oversize.SHRINK,
                min_side=900,
                skip_larger_than=(4000, 3000),
                max_input_pixels=None,
                max_input_bytes=5,
                animated=Animated.REJECT,
                output_format=OutputFormat.WEBP,
            ),
            encode=EncodeOptions(
                format=OutputFormat.WEBP, quality=80, lossless=True, metadata=MetadataRule.STRIP
            ),
        ),
        Layout.PARQUET,
        7,
        Decimal("12.50"),
    ),
    "large": (
        pinned(
            (ESRGAN, NETWORK),
            plan=PlanOptions(oversize=Oversize.TILE, output_format=OutputFormat.TIFF, halo=8),
            encode=EncodeOptions(format=OutputFormat.TIFF),
            fan_out_above=20_000_000,
        ),
        Layout.FILES,
        None,
        None,
    ),
    "chain": (
        pinned(
            (DIFFUSION, LATENT),
            (ESRGAN, NETWORK_ON_GPU),
            plan=PlanOptions(output_format=OutputFormat.JPEG),
            parameters=Parameters(
                prompt='a "cat"',
                negative_prompt="b",
                cfg_scale=5.5,
                steps=30,
                seed=7,
                noise_level=0,
            ),
            prompt_column="text",
            encode=EncodeOptions(format=OutputFormat.JPEG),
            keep_intermediates=True,
        ),
        Layout.WEBDATASET,
        10,
        None,
    ),
    "baseline": (
        pinned((ESRGAN, BASELINE), plan=PlanOptions(oversize=Oversize.TILE), fan_out_above=5),
        Layout.FILES,
        10,
        None,
    ),
    "service": (
        pinned((DIFFUSION, SERVICE), parameters=Parameters(prompt="a")),
        Layout.FILES,
        10,
        Decimal(3),
    ),
}

every_run = pytest.mark.parametrize("name", RUNS)


def settings_of(name: str) -> Mapping[str, Any] | None:
    return RunJson.from_json(json.loads(golden(GOLDENS, name))).settings


@every_run
def test_settings_are_written_as_before_but_for_the_version(name: str, tmp_path: Path) -> None:
    values = new_run(*RUNS[name]).to_json()
    dataset = DatasetFolder(str(tmp_path))

    assert (values.pop("version"), values.pop("complete")) == (2, False)
    del values["versions"]
    dataset.write_json(dataset.run_json, values)
    assert Path(dataset.run_json).read_text() == golden(GOLDENS, name)


@every_run
def test_a_run_of_the_version_before_goes_on(name: str) -> None:
    run_json = new_run(*RUNS[name])

    assert continue_run(RunJson.from_json(json.loads(golden(GOLDENS, name))), run_json) == run_json


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("network", [KeptChoices(Device.CPU, Precision.BF16, NetworkBackend.OPENVINO, 2)]),
        (
            "chain",
            [
                KeptChoices(Device.CUDA, Precision.FP16, threads=8),
                KeptChoices(Device.CUDA, Precision.FP16, NetworkBackend.TORCH, 2),
            ],
        ),
        ("baseline", [KeptChoices(Device.CPU)]),
        ("service", [KeptChoices()]),
    ],
)
def test_choices_are_read(name: str, choices: list[KeptChoices]) -> None:
    assert read_choices(settings_of(name)) == tuple(choices)


@pytest.mark.parametrize("settings", [None, {}, {"engine": "mine"}])
def test_settings_made_by_hand_are_read(settings: dict[str, Any] | None) -> None:
    assert read_choices(settings) == ()
    assert read_parameters(settings) is None


def test_a_stage_made_by_hand_has_no_choices() -> None:
    assert read_choices({"stages": [{"engine": "mine"}]}) == (KeptChoices(),)


def test_parameters_are_read_as_they_were_written() -> None:
    parameters = Parameters(prompt='a "cat"', negative_prompt="b", cfg_scale=5.5, steps=30, seed=7)
    parameters = dataclasses.replace(parameters, noise_level=0)

    assert read_parameters(settings_of("chain")) == (parameters, "text")
    assert read_parameters(settings_of("network")) is None
