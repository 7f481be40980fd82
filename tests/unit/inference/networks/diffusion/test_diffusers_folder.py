import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latent_jobs import job, load, picture
from safetensors.torch import load_file, save_file
from small_pipelines import change_config

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks.device import Precision
from beam_upscale.inference.networks.diffusion.diffusers_folder import LatentInfo, inspect

UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_inspect_reads_scale_factor_and_noise(tiny_pipeline: Path) -> None:
    assert inspect(tiny_pipeline) == LatentInfo(
        scale=4,
        factor=8,
        max_noise_level=350,
        precisions=frozenset({Precision.FP32, Precision.BF16, Precision.FP16}),
    )


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "unet/config.json",
        UNET_WEIGHTS,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
        "low_res_scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(own_pipeline: Path, file: str) -> None:
    (own_pipeline / file).unlink()

    with pytest.raises(SettingsError, match=file) as caught:
        inspect(own_pipeline)

    assert caught.value.code is ErrorCode.WEIGHTS_INCOMPLETE


def test_a_missing_folder_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model_index\.json") as caught:
        inspect(tmp_path / "none")

    assert caught.value.code is ErrorCode.WEIGHTS_INCOMPLETE


@pytest.mark.parametrize(
    "file", ["model_index.json", "vae/config.json", "tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_corrupt_json_is_unusable(own_pipeline: Path, file: str, content: str) -> None:
    (own_pipeline / file).write_bytes(content.encode("latin-1"))

    with pytest.raises(SettingsError, match=file) as caught:
        inspect(own_pipeline)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE


@pytest.mark.parametrize("length", [-1, 100, 4, 0])
def test_truncated_weights_are_unusable(own_pipeline: Path, length: int) -> None:
    path = own_pipeline / UNET_WEIGHTS
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(SettingsError, match="truncated or corrupt") as caught:
        inspect(own_pipeline)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "FluxPipeline"),
        ("model_index.json", {"low_res_scheduler": None}, "low_res_scheduler"),
        ("unet/config.json", {"in_channels": 4}, "in_channels is 4; .* must be 7"),
        ("unet/config.json", {"cross_attention_dim": 8}, "is 8; .* must be 16"),
        ("unet/config.json", {"down_block_types": []}, "down_block_types"),
        ("vae/config.json", {"latent_channels": 16}, "in_channels is 7; .* must be 19"),
    ],
    ids=["pipeline", "component", "channels", "text", "blocks", "latents"],
)
def test_folders_of_something_else_are_unusable(
    own_pipeline: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    change_config(own_pipeline, file, **changes)

    with pytest.raises(SettingsError, match=message) as caught:
        inspect(own_pipeline)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"unet": ["os", "system"]}, "unet made by .*os"),
        ("model_index.json", {"unet": ["diffusers", "DiffusionPipeline"]}, "unet made by"),
        ("model_index.json", {"scheduler": ["mine", "MyScheduler"]}, "scheduler made by"),
        ("model_index.json", {"tokenizer": ["transformers", "AutoTokenizer"]}, "tokenizer made by"),
        ("model_index.json", {"vae": "AutoencoderKL", "more": ["os", "system"]}, "more made by"),
        ("model_index.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": "a.B"}}, "auto_map"),
        ("text_encoder/config.json", {"a": [{"auto_map": {"AutoModel": "a.B"}}]}, "auto_map"),
        ("text_encoder/config.json", {"_attn_implementation": "own/kernel"}, "_attn_implementa"),
        ("unet/config.json", {"quantization_config": {"quant_method": "torchao"}}, "quantization"),
    ],
)
def test_configuration_that_names_other_code_is_refused(
    own_pipeline: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    change_config(own_pipeline, file, **changes)

    with pytest.raises(SettingsError, match=message) as caught:
        inspect(own_pipeline)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE


def test_code_beside_a_component_is_refused(own_pipeline: Path) -> None:
    (own_pipeline / "unet" / "diffusers.py").write_text("raise SystemExit")

    with pytest.raises(SettingsError, match=r"unet/diffusers\.py .* it is code"):
        inspect(own_pipeline)


def test_programs_in_the_place_of_weights_are_refused(own_pipeline: Path) -> None:
    path = own_pipeline / UNET_WEIGHTS
    path.unlink()
    with zipfile.ZipFile(path.with_suffix(".bin"), "w") as archive:
        archive.writestr("archive/constants.pkl", b"")

    with pytest.raises(SettingsError, match="TorchScript"):
        inspect(own_pipeline)

    path.with_suffix(".bin").unlink()
    index = path.with_name(f"{path.name}.index.json")
    index.write_text(json.dumps({"weight_map": {"a": "../vae/weights.bin"}}))
    with pytest.raises(SettingsError, match="not a file beside it"):
        inspect(own_pipeline)


def test_weights_in_parts_are_loaded_and_checked(own_pipeline: Path, tiny_pipeline: Path) -> None:
    path = own_pipeline / UNET_WEIGHTS
    weights = load_file(path)
    path.unlink()
    names = sorted(weights)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: weights[name] for name in held}, own_pipeline / "unet" / part)
    weight_map = {name: part for part, held in parts.items() for name in held}
    index = path.with_name(f"{path.name}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    np.testing.assert_array_equal(
        load(own_pipeline).upscale([job(picture(8, 8))])[0],
        load(tiny_pipeline).upscale([job(picture(8, 8))])[0],
    )

    (own_pipeline / "unet" / "two.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"unet/two\.safetensors") as caught:
        inspect(own_pipeline)
    assert caught.value.code is ErrorCode.WEIGHTS_INCOMPLETE


@pytest.mark.parametrize(
    ("file", "weight"),
    [
        (UNET_WEIGHTS, "conv_out.weight"),
        ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.weight"),
        ("text_encoder/model.safetensors", "final_layer_norm.weight"),
    ],
)
def test_weights_that_lack_a_tensor_are_not_made_up(
    own_pipeline: Path, file: str, weight: str
) -> None:
    weights = load_file(own_pipeline / file)
    left = {name: values for name, values in weights.items() if not name.endswith(weight)}
    assert len(left) == len(weights) - 1
    save_file(left, own_pipeline / file, metadata={"format": "pt"})

    with pytest.raises(SettingsError, match=weight) as caught:
        load(own_pipeline)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE


def test_a_safety_checker_in_the_folder_is_not_loaded(own_pipeline: Path) -> None:
    change_config(
        own_pipeline,
        "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        watermarker=["stable_diffusion", "StableDiffusionUpscaleWatermarker"],
    )

    model = load(own_pipeline)

    assert model._pipeline.safety_checker is None
    assert model._pipeline.watermarker is None


def test_inspecting_loads_neither_diffusers_nor_transformers(tiny_pipeline: Path) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from beam_upscale.inference.networks.diffusion.latent import inspect; "
        f"inspect(Path({str(tiny_pipeline)!r})); "
        "sys.exit(bool({'diffusers', 'transformers'} & sys.modules.keys()))"
    )

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
