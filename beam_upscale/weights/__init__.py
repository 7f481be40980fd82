"""Weights by name or path, in a verified cache that many processes share.

They are a file for the ESRGAN family and a folder in diffusers' layout for diffusion. Nothing here
chooses other weights than those asked for: what cannot be had is an error.
"""

from beam_upscale.weights.advice import default_hints, reduction_hint, work_text
from beam_upscale.weights.baselines import BASELINES
from beam_upscale.weights.cache import cache_directory, store, store_folder
from beam_upscale.weights.digest import files_of, folder_sha256, sha256_of
from beam_upscale.weights.hub import HubRepository
from beam_upscale.weights.registry import (
    REGISTRY,
    CacheState,
    Download,
    NcnnPackage,
    RegisteredWeights,
    WeightsStatus,
    available,
    fetch,
)
from beam_upscale.weights.resolution import (
    DEFAULT_WEIGHTS,
    FILE_SUFFIXES,
    fetch_by_name,
    resolve,
)
from beam_upscale.weights.values import Progress, Weights

__all__ = [
    "BASELINES",
    "DEFAULT_WEIGHTS",
    "FILE_SUFFIXES",
    "REGISTRY",
    "CacheState",
    "Download",
    "HubRepository",
    "NcnnPackage",
    "Progress",
    "RegisteredWeights",
    "Weights",
    "WeightsStatus",
    "available",
    "cache_directory",
    "default_hints",
    "fetch",
    "fetch_by_name",
    "files_of",
    "folder_sha256",
    "reduction_hint",
    "resolve",
    "sha256_of",
    "store",
    "store_folder",
    "work_text",
]
