"""The flat options of `Upscale`: the name and type of each, and the concern it belongs to.

Python, the command line, Beam YAML and the template of Dataflow all name options as here. An
option's meaning and default are documented at the value of its concern: `PlanOptions`,
`Parameters`, `EncodeOptions`, `LocalOptions`, `ServiceOptions`, `LargeImageOptions`, or
`UpscaleSettings` itself.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypedDict

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference.local_options import LocalOptions, VaeTiling
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.service_options import ServiceOptions
from beam_upscale.pipeline.settings.large_image_options import LargeImageOptions
from beam_upscale.planning.chain import Backend
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan_options import (
    Animated,
    MetadataRule,
    OutputFormat,
    Oversize,
    PlanOptions,
)


class PlanKeywords(TypedDict, total=False):
    """Sizes, limits and the output format, as in `PlanOptions`."""

    width: int | None
    height: int | None
    short_side: int | None
    long_side: int | None
    oversize: Oversize | Literal["reject", "tile", "shrink"]
    min_side: int | None
    skip_larger_than: tuple[int, int] | None
    max_input_pixels: int | None
    max_input_bytes: int
    animated: Animated | Literal["first", "reject"]
    output_format: OutputFormat | Literal["png", "jpeg", "webp", "tiff"]
    halo: int | None


class ParameterKeywords(TypedDict, total=False):
    """Parameters of engines that take a prompt, as in `Parameters`; None is not given."""

    prompt: str | None
    negative_prompt: str | None
    cfg_scale: float | str | None
    steps: int | str | None
    seed: int | str | None
    noise_level: int | str | None


class EncodeKeywords(TypedDict, total=False):
    """The encoding of results, as in `EncodeOptions`."""

    quality: int | None
    lossless: bool
    png_compression: int
    metadata: MetadataRule | Literal["keep", "strip"]


class LocalKeywords(TypedDict, total=False):
    """Networks that run locally, as in `LocalOptions`."""

    weights: str | Mapping[str, str] | None
    device: Device | Literal["auto", "cpu", "cuda", "mps"]
    precision: Precision | Literal["auto", "fp32", "bf16", "fp16"]
    network_backend: NetworkBackend | Literal["auto", "torch", "openvino"]
    remote_workers: bool
    threads: int | None
    max_tile_pixels: int
    max_batch_pixels: int | None
    exact: bool
    tile_halo: int | None
    vae_tiling: VaeTiling | Literal["auto", "on", "off"]
    color_fix: bool


class ServiceKeywords(TypedDict, total=False):
    """A service that is called over gRPC, as in `ServiceOptions`."""

    endpoint: str | None
    api_key_file: str | None
    ca_file: str | None
    insecure: bool
    max_in_flight: int
    requests_per_second: float | None
    worker_processes: int | None
    deadline_seconds: float
    retry_seconds: float


class LargeImageKeywords(TypedDict, total=False):
    """Images whose tiles are spread over the workers, as in `LargeImageOptions`."""

    fan_out_above: float | None


class UpscaleOptions(
    PlanKeywords,
    ParameterKeywords,
    EncodeKeywords,
    LocalKeywords,
    ServiceKeywords,
    LargeImageKeywords,
    total=False,
):
    """All options of `Upscale`."""

    prompt_column: str
    backend: Backend | Literal["local", "grpc"]
    keep_intermediates: bool


NAMES = frozenset(UpscaleOptions.__annotations__)
"""The names of all options."""

CONCERNS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "plan": PlanOptions,
        "parameters": Parameters,
        "encode": EncodeOptions,
        "local": LocalOptions,
        "service": ServiceOptions,
        "large_images": LargeImageOptions,
    }
)
"""The type of each concern's value, by the name of its field in `UpscaleSettings`."""


def check_names(options: Mapping[str, object]) -> None:
    """Raises an error for a name that no option has.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    unknown = sorted(options.keys() - NAMES)
    if unknown:
        likely = difflib.get_close_matches(unknown[0], sorted(NAMES), n=1)
        guess = f" (did you mean {likely[0]}?)" if likely else ""
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"unknown option {', '.join(unknown)}{guess}; the options are: "
            f"{', '.join(sorted(NAMES))}",
        )


def group_by_concern(options: Mapping[str, object]) -> dict[str, Any]:
    """Returns the fields of `UpscaleSettings` for flat options: a value for each concern.

    Raises:
        SettingsError: INVALID_OPTION, a value is none of an option's choices or out of range; or
            the codes of `Parameters`.
    """
    values = dict(options)
    grouped: dict[str, Any] = {}
    for concern, kind in CONCERNS.items():
        names = [field.name for field in dataclasses.fields(kind) if field.name in values]
        grouped[concern] = kind(**{name: values.pop(name) for name in names})
    return {**grouped, **values}
