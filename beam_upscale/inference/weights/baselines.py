"""The names of baselines: resampling filters that can be requested in place of weights."""

from collections.abc import Mapping
from types import MappingProxyType

BASELINES: Mapping[str, str] = MappingProxyType(
    {
        "nearest": "trials and comparisons; repeats pixels",
        "bicubic": "trials and comparisons; cubic convolution",
        "lanczos": "trials and comparisons; Lanczos filter of three lobes",
    }
)
"""The use of each baseline, by its name. Baselines suit every engine, and enlarge by its scale."""
