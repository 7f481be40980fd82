"""Options of local networks: weights, device, precision, memory."""

import click

from beam_upscale.cli.options.common import DEFAULT_SETTINGS
from beam_upscale.cli.options.types import POSITIVE, PlaceType, choice
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.pipeline.settings.choices import VaeTiling

MODEL_OPTIONS = (
    click.option(
        "--weights",
        type=PlaceType(),
        multiple=True,
        metavar="[ENGINE=]WEIGHTS",
        help="Weights of the network: a name (see `beam-upscale weights list`), a path, or "
        "OWNER/NAME@REVISION on the Hugging Face hub; nearest, bicubic and lanczos use no network. "
        "For several engines, give each its own as ENGINE=WEIGHTS. [default: the engine's]",
    ),
    click.option(
        "--device",
        type=choice(Device),
        default=str(DEFAULT_SETTINGS.device),
        show_default=True,
        help="Device that runs the network; auto takes the best of this machine: CUDA, else MPS "
        "(Apple), else the CPU.",
    ),
    click.option(
        "--precision",
        type=choice(Precision),
        default=str(DEFAULT_SETTINGS.precision),
        show_default=True,
        help="Floating-point type of the network; auto takes bf16 or fp16 where it is faster and "
        "accurate enough, else fp32.",
    ),
    click.option(
        "--network-backend",
        type=choice(NetworkBackend),
        default=str(DEFAULT_SETTINGS.network_backend),
        show_default=True,
        help="Library that runs a super-resolution network; auto takes OpenVINO on an x86-64 CPU "
        "where it is installed and supports the network, else PyTorch. Diffusion uses PyTorch.",
    ),
    click.option(
        "--threads",
        type=POSITIVE,
        help="Number of CPU threads of the network. [default: one for each core]",
    ),
    click.option(
        "--max-tile-pixels",
        type=POSITIVE,
        default=DEFAULT_SETTINGS.max_tile_pixels,
        show_default=True,
        help="Split an image or tile with more pixels into strips, so that a super-resolution "
        "network fits in the device's memory. The price stays the same.",
    ),
    click.option(
        "--max-batch-pixels",
        type=POSITIVE,
        help="Limit on the input pixels that a GPU processes together. [default: 2097152; for "
        "diffusion the engine's input limit]",
    ),
    click.option(
        "--exact",
        is_flag=True,
        help="Process images one at a time on a GPU too, so that no result depends on others.",
    ),
    click.option(
        "--vae-tiling",
        type=choice(VaeTiling),
        default=str(DEFAULT_SETTINGS.vae_tiling),
        show_default=True,
        help="Decode the results of a diffusion engine in strips, which needs less memory; auto is "
        "off on a CPU, else on.",
    ),
    click.option(
        "--color-fix",
        is_flag=True,
        help="Adjust the colors of a diffusion engine's results to those of their inputs.",
    ),
)
