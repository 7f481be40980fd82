"""Going on after a device ran out of memory."""

import torch

from beam_upscale.inference.networks.device import Device


def release_memory(device: Device) -> None:
    """Gives back what PyTorch keeps for later; call it once nothing holds the failed pass."""
    if device is Device.CUDA:
        torch.cuda.empty_cache()
    if device is Device.MPS:
        torch.mps.empty_cache()
