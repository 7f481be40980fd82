"""Fixtures that tests of several packages of the room share."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import LocalHub, serve

from beam_upscale.inference.local_engines import EsrganEngine
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.remote import calls

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's cache holds weights."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(directory))
    return directory / "weights"


@pytest.fixture
def pipeline_files() -> dict[str, bytes]:
    """The files of a pipeline in diffusers' layout; as weights, any bytes will do here."""
    index = {
        "_class_name": "StableDiffusionUpscalePipeline",
        "max_noise_level": 350,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "watermarker": [None, None],
    }
    parts = [f"diffusion_pytorch_model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    weight_map = {"encoder.weight": parts[0], "decoder.weight": parts[1]}
    return {
        "model_index.json": json.dumps(index).encode(),
        "scheduler/scheduler_config.json": b"{}",
        "tokenizer/merges.txt": b"a b",
        "tokenizer/special_tokens_map.json": b"{}",
        "tokenizer/tokenizer_config.json": b"{}",
        "tokenizer/vocab.json": b'{"a": 0}',
        "unet/config.json": b'{"in_channels": 7}',
        "unet/diffusion_pytorch_model.safetensors": b"unet" * 5000,
        "vae/config.json": b'{"latent_channels": 4}',
        f"vae/{parts[0]}": b"encoder",
        f"vae/{parts[1]}": b"decoder",
        "vae/diffusion_pytorch_model.safetensors.index.json": json.dumps(
            {"weight_map": weight_map}
        ).encode(),
    }


@pytest.fixture
def hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline_files: dict[str, bytes]
) -> Iterator[LocalHub]:
    """A hub on the loopback interface, and a cache of its library that holds nothing yet."""
    others = {
        ".gitattributes": b"*.safetensors filter=lfs",
        "README.md": b"# Weights",
        "unet/diffusion_pytorch_model.bin": b"a pickle",
        "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
        "x4-upscaler-ema.safetensors": b"another layout",
    }
    library_cache = tmp_path / "library"
    with serve("owner/name", COMMIT, pipeline_files | others, library_cache) as local:
        # The library reads its environment once, when it is imported.
        constants = {
            "ENDPOINT": local.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": local.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(library_cache),
        }
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield local


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetitions follow soon."""
    monkeypatch.setattr(calls, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(calls, "_LONGEST_PAUSE", 0.1)


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests may hold a key."""
    monkeypatch.delenv("BEAM_UPSCALE_API_KEY", raising=False)


@pytest.fixture
def engine(tiny_weights: Path) -> EsrganEngine:
    """A small network of ESRGAN, as a run pins it."""
    return EsrganEngine(
        name="tiny",
        weights_sha256=hashlib.sha256(tiny_weights.read_bytes()).hexdigest(),
        weights_uri=str(tiny_weights),
        device=Device.CPU,
        precision=Precision.FP32,
        threads=1,
        scale=2,
        max_tile_pixels=10**6,
        max_batch_pixels=0,
        halo=16,
        network_backend=NetworkBackend.TORCH,
    )
