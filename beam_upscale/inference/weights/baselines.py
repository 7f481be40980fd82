"""The names that are asked for as weights and stand for a filter: no network, no weights."""

from collections.abc import Mapping
from types import MappingProxyType

BASELINES: Mapping[str, str] = MappingProxyType(
    {
        "nearest": "trials and comparisons; repeats pixels",
        "bicubic": "trials and comparisons; cubic convolution",
        "lanczos": "trials and comparisons; Lanczos filter of three lobes",
    }
)
"""What each is good for, by name. They suit every engine, and enlarge to its scale."""
