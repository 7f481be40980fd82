"""Options of local networks: weights, device, precision, memory."""

import click

from beam_upscale.cli.options.fields import field_option
from beam_upscale.cli.options.types import POSITIVE, PlaceType
from beam_upscale.inference.local_options import (
    ESRGAN_BATCH_PIXELS,
    LocalOptions,
    weights_by_engine,
)

LOCAL_OPTIONS = (
    click.option(
        "--weights",
        type=PlaceType(),
        multiple=True,
        callback=lambda _, __, specs: weights_by_engine(specs),
        metavar="[ENGINE=]WEIGHTS",
        help="Give the network these weights: a name (see `beam-upscale weights list`), a "
        "path, or OWNER/NAME@REVISION on the Hugging Face hub; nearest, bicubic and "
        "lanczos use no network. For several engines, give each its own as "
        "ENGINE=WEIGHTS. [default: the engine's]",
    ),
    field_option(
        LocalOptions,
        "device",
        "Run the network on this device; auto takes the best of this machine: CUDA, "
        "else MPS (Apple), else the CPU.",
    ),
    field_option(
        LocalOptions,
        "precision",
        "Compute in this floating-point type; auto takes bf16 or fp16 where it is "
        "faster and accurate enough, else fp32.",
    ),
    field_option(
        LocalOptions,
        "network_backend",
        "Run a super-resolution network with this library; auto takes OpenVINO on an "
        "x86-64 CPU where it is installed and supports the network, else PyTorch. "
        "Diffusion uses PyTorch.",
    ),
    field_option(
        LocalOptions,
        "threads",
        "Use this many CPU threads for the network. [default: one for each core]",
        kind=POSITIVE,
    ),
    field_option(
        LocalOptions,
        "max_tile_pixels",
        "Split an image or tile with more pixels than this into strips, so that a "
        "super-resolution network fits in the device's memory. The price stays the "
        "same.",
        kind=POSITIVE,
    ),
    field_option(
        LocalOptions,
        "max_batch_pixels",
        "Process at most this many input pixels together on a GPU. "
        f"[default: {ESRGAN_BATCH_PIXELS}; for diffusion the engine's input limit]",
        kind=POSITIVE,
    ),
    field_option(
        LocalOptions,
        "exact",
        "Process images one at a time on a GPU too, so that no result depends on others.",
    ),
    field_option(
        LocalOptions,
        "vae_tiling",
        "Decode the results of a diffusion engine in strips, which needs less memory; auto is off "
        "on a CPU, else on.",
    ),
    field_option(
        LocalOptions,
        "color_fix",
        "Adjust the colors of a diffusion engine's results to those of their inputs.",
    ),
)
