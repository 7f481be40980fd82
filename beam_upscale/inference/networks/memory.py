"""Frees a device's memory after it ran out."""

import torch

from beam_upscale.inference.networks.device import Device


def release_memory(device: Device) -> None:
    """Releases the memory that PyTorch caches; call it once nothing holds the failed pass."""
    if device is Device.CUDA:
        torch.cuda.empty_cache()
    if device is Device.MPS:
        torch.mps.empty_cache()
