"""Telling that a device ran out of memory, and going on."""

import torch

from beam_upscale.models.device import Device


def is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class for it; MPS and the CPU raise plain errors that only their text tells."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "MPS backend out of memory" in text
        or "DefaultCPUAllocator" in text
    )


def release_memory(device: Device) -> None:
    """Gives back what PyTorch keeps for later; call it once nothing holds the failed pass."""
    if device is Device.CUDA:
        torch.cuda.empty_cache()
    if device is Device.MPS:
        torch.mps.empty_cache()
