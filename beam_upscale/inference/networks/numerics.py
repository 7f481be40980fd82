"""Names PyTorch's type of each precision; ensures results that are numbers and reproducible."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from beam_upscale.inference.networks.device import Precision
from beam_upscale.inference.networks.failures import not_a_number

DTYPES: Mapping[Precision, torch.dtype] = MappingProxyType(
    {
        Precision.FP32: torch.float32,
        Precision.BF16: torch.bfloat16,
        Precision.FP16: torch.float16,
    }
)
"""The type of each precision but `auto`."""


def compute_reproducibly() -> None:
    """Makes CUDA compute fp32 in fp32, with the same algorithms each time, in this process."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def require_finite(values: Tensor) -> None:
    """Raises `ImageError` (`NOT_A_NUMBER`) if a value is infinite or not a number."""
    if not torch.isfinite(values).all():
        raise not_a_number()
