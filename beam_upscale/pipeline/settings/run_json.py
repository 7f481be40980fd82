"""The format of `run.json`: every key of settings and totals is written out here.

A field of a class may be renamed without a change to the file. If a key is renamed, added or given
another meaning, the version grows, and `upgrade` converts files of the version before.
"""

from collections.abc import Mapping
from typing import Any

from beam_upscale.dataset.manifest.totals import Totals
from beam_upscale.errors import ErrorCode, SettingsError
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
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan_options import MetadataRule, OutputFormat, PlanOptions

VERSION = 2
"""The version of the format; files of version 1 do not name theirs."""


# Writing


def settings_to_json(settings: PinnedSettings) -> dict[str, Any]:
    """Returns the settings on which results depend; a later run into an output must equal them."""
    guided = settings.rules.is_guided
    # A PNG has the same bytes with and without fan-out.
    is_tiff = settings.encode.format is OutputFormat.TIFF
    return {
        "stages": [
            {"engine": stage.engine.name, "model": model_to_json(stage.pinned)}
            for stage in settings.stages
        ],
        "plan": _plan_to_json(settings.rules.options),
        "encode": _encode_to_json(settings.encode),
        "keep_intermediates": settings.keep_intermediates,
        "fan_out_above": settings.fan_out_above if is_tiff else None,
        "parameters": parameters_to_json(settings.rules.parameters) if guided else None,
        "prompt_column": settings.rules.prompt_column if guided else None,
    }


def model_to_json(model: LocalEngine | RemoteEngine) -> dict[str, Any]:
    """Returns the properties of a pinned engine on which results depend.

    Left out are the endpoint of a service, the address of weights and the size of batches.
    """
    match model:
        case RemoteEngine():
            return {"engine": model.engine}
        case BaselineEngine():
            return {
                "name": model.name,
                "weights_sha256": None,
                "device": str(model.device),
                "precision": None,
            }
        case EsrganEngine():
            return {
                **_network_to_json(model),
                "halo": model.halo,
                "max_tile_pixels": model.max_tile_pixels,
                "network_backend": str(model.network_backend),
            }
        case LatentEngine():
            return {
                **_network_to_json(model),
                "color_fix": model.color_fix,
                "vae_tiling": model.vae_tiling,
            }
    raise TypeError(f"run.json has no keys for {type(model).__name__}")


def _network_to_json(network: NetworkEngine) -> dict[str, Any]:
    return {
        "name": network.name,
        "weights_sha256": network.weights_sha256,
        "device": str(network.device),
        "precision": str(network.precision),
        "threads": network.threads,
        "exact": network.max_batch_pixels == ONE_AT_A_TIME,
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


def totals_to_json(totals: Totals) -> dict[str, Any]:
    """Returns the sums over a manifest; amounts of money are texts, exact to the last digit."""
    return {
        "rows": totals.rows,
        "by_status": dict(totals.by_status),
        "calls": totals.calls,
        "credits": str(totals.credits),
        "billed_credits": str(totals.billed_credits),
        "usd": str(totals.usd),
        "output_bytes": totals.output_bytes,
        "charged_credits": str(totals.charged_credits),
        "unresolved_credits": str(totals.unresolved_credits),
        "unresolved_calls": totals.unresolved_calls,
    }


# Reading


def upgrade(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of `run.json` in the format of this version.

    Raises:
        SettingsError: SETTINGS_CHANGED, a later version of this package wrote the file.
    """
    version = run.get("version", 1)
    if version == VERSION:
        return dict(run)
    if version != 1:
        raise SettingsError(
            ErrorCode.SETTINGS_CHANGED,
            f"the output has a run.json of version {version}, and this version of beam-upscale "
            f"knows versions up to {VERSION}: go on with the later version that wrote it, or take "
            "another output",
        )
    settings = run.get("settings")
    upgraded = settings if settings is None else _upgrade_settings(settings)
    return {**run, "version": VERSION, "settings": upgraded}


def _upgrade_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the keys that settings of version 1 may lack.

    Before there was a choice, all metadata was kept and PyTorch ran super-resolution networks.
    """
    upgraded = dict(settings)
    if "encode" in settings:
        upgraded["encode"] = {"metadata": str(MetadataRule.KEEP), **settings["encode"]}
    if "stages" in settings:
        upgraded["stages"] = [_upgrade_stage(stage) for stage in settings["stages"]]
    return upgraded


def _upgrade_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    model = stage.get("model", {})
    if "max_tile_pixels" in model:
        model = {"network_backend": str(NetworkBackend.TORCH), **model}
    return {**stage, "model": model}


def read_choices(run: Mapping[str, Any]) -> tuple[KeptChoices, ...]:
    """Reads the choices that an earlier run made for the network of each of its engines.

    Args:
        run: the content of `run.json`.

    Raises:
        SettingsError: SETTINGS_CHANGED, as `upgrade`.
    """
    settings = upgrade(run).get("settings") or {}
    return tuple(_choices_of(stage["model"]) for stage in settings.get("stages", []))


def _choices_of(model: Mapping[str, Any]) -> KeptChoices:
    # A service tells nothing of its networks, a baseline has no precision, and latent diffusion
    # runs on PyTorch.
    return KeptChoices(
        device=Device(model.get("device") or Device.AUTO),
        precision=Precision(model.get("precision") or Precision.AUTO),
        network_backend=NetworkBackend(model.get("network_backend") or NetworkBackend.AUTO),
        threads=model.get("threads"),
    )


def read_parameters(run: Mapping[str, Any]) -> tuple[Parameters, str] | None:
    """Reads the parameters that a run has for all images, and the name of its prompt column.

    Args:
        run: the content of `run.json`.

    Returns:
        None if no engine takes parameters.

    Raises:
        SettingsError: SETTINGS_CHANGED, as `upgrade`.
    """
    settings = upgrade(run).get("settings") or {}
    values = settings.get("parameters")
    if values is None:
        return None
    parameters = Parameters(
        prompt=values["prompt"],
        negative_prompt=values["negative_prompt"],
        cfg_scale=values["cfg_scale"],
        steps=values["steps"],
        seed=values["seed"],
        noise_level=values["noise_level"],
    )
    return parameters, settings.get("prompt_column") or "prompt"
