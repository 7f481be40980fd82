"""Telling that a device ran out of memory, and going on."""

import torch

from beam_upscale.models.device import Device

_TEXTS = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "DefaultCPUAllocator",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """PyTorch has a class for it; CUDA's libraries, MPS and the CPU raise what only texts tell."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(each in text for each in _TEXTS)


def release_memory(device: Device) -> None:
    """Gives back what PyTorch keeps for later; call it once nothing holds the failed pass."""
    if device is Device.CUDA:
        torch.cuda.empty_cache()
    if device is Device.MPS:
        torch.mps.empty_cache()
