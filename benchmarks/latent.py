"""Seconds an image and peak memory of the diffusion engine, beside the bare diffusers call.

    python benchmarks/latent.py --device cuda --precision fp16 --sizes 512x512 512x768
    python benchmarks/latent.py --device cpu --weights FOLDER --sizes 64x64 --steps 4

Without --weights the networks have the real architecture's shapes and random values: speed and
memory do not depend on the values. For each size: this package, and the bare call on the same
weights in the same run. Prints a line for each and writes the raw numbers as JSON.
"""

import argparse
import datetime
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from beam_upscale.errors import ImageError
from beam_upscale.inference.networks.device import Device, Precision, settle
from beam_upscale.inference.networks.diffusion.latent import LatentNetwork
from beam_upscale.inference.networks.diffusion.latent_pipeline import Job
from beam_upscale.inference.networks.numerics import DTYPES
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.tile_layout import whole


def real_shapes(folder: Path) -> None:
    """Saves a pipeline of the shapes of stabilityai/stable-diffusion-x4-upscaler, at random.

    Its text is one token a letter: what is embedded has the real shape, (77, 1024).
    """
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in "abcdefghijklmnopqrstuvwxyz":
        vocabulary[letter] = len(vocabulary)
        vocabulary[f"{letter}</w>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            projection_dim=512,
            hidden_act="gelu",
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    unet = UNet2DConditionModel(
        in_channels=7,
        out_channels=4,
        sample_size=128,
        block_out_channels=(256, 512, 512, 1024),
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        up_block_types=(*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=1024,
        only_cross_attention=(True, True, True, False),
        use_linear_projection=True,
        num_class_embeds=1000,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
        scaling_factor=0.08333,
    )
    schedule = {"beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000}
    StableDiffusionUpscalePipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        low_res_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", **schedule),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            **schedule,
        ),
        max_noise_level=350,
    ).save_pretrained(folder)


def measure(action: Callable[[], Any], device: Device, repeats: int) -> dict[str, float | str]:
    """Mean seconds after a first run, and peak memory in bytes; or why there are none."""
    try:
        if device is Device.CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        action()
        started = time.perf_counter()
        for _ in range(repeats):
            action()
        elapsed = (time.perf_counter() - started) / repeats
    except (torch.OutOfMemoryError, ImageError) as error:
        return {"error": str(error).splitlines()[0]}
    if device is Device.CUDA:
        peak = torch.cuda.max_memory_allocated()
    else:
        # Of the whole process so far, on Linux: on a CPU only the first measurement is its own.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": elapsed, "peak_bytes": float(peak)}


def compare(
    folder: Path, size: tuple[int, int], device: Device, precision: Precision, options: Any
) -> dict[str, Any]:
    """One size's figures."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    parameters = Parameters("abc", cfg_scale=7.0, steps=options.steps, seed=1)
    figures: dict[str, Any] = {"width": width, "height": height, "steps": options.steps}
    for name, in_strips in (("ours", True), ("ours_whole_decode", False)):
        model = LatentNetwork.load(
            folder, device, precision, torch.get_num_threads(), vae_tiling=in_strips
        )
        model.prepare(parameters)
        job = Job(pixels, parameters, whole(width, height))
        figures[name] = measure(partial(model.upscale, [job]), device, options.repeats)
        del model
    bare = StableDiffusionUpscalePipeline.from_pretrained(folder, dtype=DTYPES[precision])
    bare.to(device.value)
    bare.set_progress_bar_config(disable=True)
    picture = Image.fromarray(pixels)

    def call() -> None:
        bare(
            "abc",
            image=picture,
            guidance_scale=7.0,
            num_inference_steps=options.steps,
            noise_level=20,
            generator=torch.Generator("cpu").manual_seed(1),
        )

    figures["bare"] = measure(call, device, options.repeats)
    if "seconds" in figures["bare"] and "seconds" in figures["ours"]:
        figures["ratio_to_bare"] = figures["bare"]["seconds"] / figures["ours"]["seconds"]
        figures["memory_ratio_to_bare"] = (
            figures["ours"]["peak_bytes"] / figures["bare"]["peak_bytes"]
        )
    return figures


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", choices=[str(device) for device in Device])
    parser.add_argument("--precision", default="auto", choices=[str(p) for p in Precision])
    parser.add_argument("--weights", type=Path, help="a folder; default: random, of real shapes")
    parser.add_argument("--sizes", type=_size, nargs="+", default=[(512, 512), (512, 768)])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    device, precision = settle(Device(options.device), Precision(options.precision))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.weights or Path(temporary)
        if options.weights is None:
            real_shapes(folder)
        rows = []
        for size in options.sizes:
            rows.append(compare(folder, size, device, precision, options))
            print(json.dumps(rows[-1]))
    report = {
        "device": torch.cuda.get_device_name() if device is Device.CUDA else platform.processor(),
        "precision": str(precision),
        "weights": "random, of real shapes" if options.weights is None else str(options.weights),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "rows": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    file = options.output / f"latent-{device}-{day}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
