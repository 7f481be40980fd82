"""The format of the settings in `run.json`: every key of them is written and read here.

An attribute may be renamed without a change to the file. If a key is renamed, added or given
another meaning, the version of `run.json` grows: `dataset.run_json` converts files of the version
before.
"""

from collections.abc import Mapping
from typing import Any

from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference.local_engines import (
    ONE_AT_A_TIME,
    BaselineEngine,
    EsrganEngine,
    LatentEngine,
    LocalEngine,
    NetworkEngine,
)
from beam_upscale.inference.local_options import KeptChoices
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.planning.parameters import DEFAULT_PROMPT_COLUMN, Parameters
from beam_upscale.planning.plan_options import OutputFormat, PlanOptions

# Writing


def settings_to_json(settings: PinnedSettings) -> dict[str, Any]:
    """Returns the settings on which results depend; a later run into an output must equal them."""
    guided = settings.rules.is_guided
    # A PNG has the same bytes with and without fan-out.
    is_tiff = settings.encode.format is OutputFormat.TIFF
    return {
        "stages": [
            {"engine": stage.engine.name, "model": pinned_to_json(stage.pinned)}
            for stage in settings.stages
        ],
        "plan": _plan_to_json(settings.rules.options),
        "encode": _encode_to_json(settings.encode),
        "keep_intermediates": settings.keep_intermediates,
        "fan_out_above": settings.fan_out_above if is_tiff else None,
        "parameters": parameters_to_json(settings.rules.parameters) if guided else None,
        "prompt_column": settings.rules.prompt_column if guided else None,
    }


def pinned_to_json(pinned: LocalEngine | RemoteEngine) -> dict[str, Any]:
    """Returns the properties of a pinned engine on which results depend.

    Left out are the endpoint of a service, the address of weights and the size of batches.
    """
    match pinned:
        case RemoteEngine():
            return {"engine": pinned.engine}
        case BaselineEngine():
            return {
                "name": pinned.name,
                "weights_sha256": None,
                "device": str(pinned.device),
                "precision": None,
            }
        case EsrganEngine():
            return {
                **_network_to_json(pinned),
                "halo": pinned.halo,
                "max_tile_pixels": pinned.max_tile_pixels,
                "network_backend": str(pinned.network_backend),
            }
        case LatentEngine():
            return {
                **_network_to_json(pinned),
                "color_fix": pinned.color_fix,
                "vae_tiling": pinned.vae_tiling,
            }
    raise TypeError(f"run.json has no keys for {type(pinned).__name__}")


def _network_to_json(pinned: NetworkEngine) -> dict[str, Any]:
    return {
        "name": pinned.name,
        "weights_sha256": pinned.weights_sha256,
        "device": str(pinned.device),
        "precision": str(pinned.precision),
        "threads": pinned.threads,
        "exact": pinned.max_batch_pixels == ONE_AT_A_TIME,
    }


def _plan_to_json(options: PlanOptions) -> dict[str, Any]:
    skipped = options.skip_larger_than
    return {
        "width": options.width,
        "height": options.height,
        "short_side": options.short_side,
        "long_side": options.long_side,
        "oversize": str(options.oversize),
        "min_side": options.min_side,
        "skip_larger_than": None if skipped is None else list(skipped),
        "max_input_pixels": options.max_input_pixels,
        "max_input_bytes": options.max_input_bytes,
        "animated": str(options.animated),
        "output_format": str(options.output_format),
        "halo": options.halo,
    }


def _encode_to_json(options: EncodeOptions) -> dict[str, Any]:
    return {
        "format": str(options.format),
        "quality": options.quality,
        "lossless": options.lossless,
        "png_compression": options.png_compression,
        "metadata": str(options.metadata),
    }


def parameters_to_json(parameters: Parameters) -> dict[str, Any]:
    """Returns the parameters that guide a diffusion engine."""
    return {
        "prompt": parameters.prompt,
        "negative_prompt": parameters.negative_prompt,
        "cfg_scale": parameters.cfg_scale,
        "steps": parameters.steps,
        "seed": parameters.seed,
        "noise_level": parameters.noise_level,
    }


# Reading


def read_choices(settings: Mapping[str, Any] | None) -> tuple[KeptChoices, ...]:
    """Reads the choices that an earlier run made for the network of each of its engines.

    Args:
        settings: those in `run.json`; None if they are not known.
    """
    stages = (settings or {}).get("stages", [])
    return tuple(_choices_of(stage.get("model", {})) for stage in stages)


def _choices_of(values: Mapping[str, Any]) -> KeptChoices:
    # A service tells nothing of its networks, a baseline has no precision, and latent diffusion
    # runs on PyTorch.
    return KeptChoices(
        device=Device(values.get("device") or Device.AUTO),
        precision=Precision(values.get("precision") or Precision.AUTO),
        network_backend=NetworkBackend(values.get("network_backend") or NetworkBackend.AUTO),
        threads=values.get("threads"),
    )


def read_parameters(settings: Mapping[str, Any] | None) -> tuple[Parameters, str] | None:
    """Reads the parameters that a run has for all images, and the name of its prompt column.

    Args:
        settings: those in `run.json`; None if they are not known.

    Returns:
        None if no engine takes parameters.
    """
    values = (settings or {}).get("parameters")
    if settings is None or values is None:
        return None
    parameters = Parameters(
        prompt=values["prompt"],
        negative_prompt=values["negative_prompt"],
        cfg_scale=values["cfg_scale"],
        steps=values["steps"],
        seed=values["seed"],
        noise_level=values["noise_level"],
    )
    return parameters, settings.get("prompt_column") or DEFAULT_PROMPT_COLUMN
