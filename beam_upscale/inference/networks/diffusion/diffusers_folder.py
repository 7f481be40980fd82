"""Inspects a folder in diffusers' layout and checks that it is whole, by JSON and headers."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks.device import Precision
from beam_upscale.inference.networks.weight_files import SAFETENSORS, ProgramError, refuse_program

PIPELINE = "StableDiffusionUpscalePipeline"

_IMAGE_CHANNELS = 3
_DEFAULT_MAX_NOISE_LEVEL = 350
"""The default of the pipeline's constructor, for a model_index.json without a value."""

_CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
    "low_res_scheduler": "scheduler_config.json",
}
"""The components that the pipeline needs, and the file that describes each."""

_CLASSES = {
    "unet": ("diffusers", r"UNet2DConditionModel"),
    "vae": ("diffusers", r"AutoencoderKL"),
    "text_encoder": ("transformers", r"CLIPTextModel"),
    "tokenizer": ("transformers", r"CLIPTokenizer(Fast)?"),
    "scheduler": ("diffusers", r"[A-Za-z0-9]+Scheduler"),
    "low_res_scheduler": ("diffusers", r"[A-Za-z0-9]+Scheduler"),
}
"""The library of each component, and a pattern of its class: a folder may name no other code."""

_NEVER_LOADED = frozenset({"safety_checker", "feature_extractor", "watermarker"})

_CODE_KEYS = frozenset(
    {"auto_map", "custom_pipelines", "custom_pipeline", "trust_remote_code", "quantization_config"}
)
"""Keys by which a configuration names code, its own or another library's."""

_KERNEL_KEYS = frozenset({"attn_implementation", "_attn_implementation"})
"""Keys that name code as `OWNER/NAME` of a repository of the hub."""

_WEIGHTS = {
    "unet": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "text_encoder": ("model.safetensors", "pytorch_model.bin"),
}
"""Names of a component's weights, in the order in which the library looks for them."""

_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Sets of files that hold a tokenizer's vocabulary; one of the sets suffices."""

Config = Mapping[str, Any]


@dataclass(frozen=True)
class LatentInfo:
    """The properties of a weights folder.

    Attributes:
        scale: output pixels for each input pixel along a side.
        factor: the UNet takes only sides that are multiples of this.
        max_noise_level: the highest level of noise that can be added to the input.
        precisions: the precisions that the modules can compute in.
    """

    scale: int
    factor: int
    max_noise_level: int
    precisions: frozenset[Precision]


def inspect(folder: Path) -> LatentInfo:
    """Reads the properties of a folder and checks that no file is missing, without loading weights.

    A safety checker and a watermarker may be missing: they are never loaded.

    Args:
        folder: as `StableDiffusionUpscalePipeline.save_pretrained` writes it.

    Raises:
        SettingsError: `WEIGHTS_INCOMPLETE` if a file is missing that `model_index.json` or an index
            of weights names; `WEIGHTS_UNUSABLE` if it is another pipeline, if a file is or names
            code, if JSON is corrupt, if a `.safetensors` file is not as long as its header says, or
            if the modules' channels do not fit together.
    """
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") != PIPELINE:
        raise unusable(folder, f"model_index.json is of a {index.get('_class_name')}")
    for component in _CONFIGS:
        if not index.get(component):
            raise unusable(folder, f"model_index.json has no {component}")
    _require_known_classes(folder, index)
    _require_no_key_of_code(folder / "model_index.json", index)
    configs = {name: _read_json(folder / name / file) for name, file in _CONFIGS.items()}
    for name, config in configs.items():
        _require_no_program(folder / name)
        _require_no_key_of_code(folder / name / _CONFIGS[name], config)
    _require_vocabulary(folder / "tokenizer")
    for component, names in _WEIGHTS.items():
        _require_weights(folder / component, names)
    _require_fitting_channels(folder, configs)
    max_noise_level = index.get("max_noise_level", _DEFAULT_MAX_NOISE_LEVEL)
    _require_known_noise_levels(folder, max_noise_level, configs["unet"].get("num_class_embeds"))
    return LatentInfo(
        scale=2 ** (len(_blocks(folder, configs, "vae", "block_out_channels")) - 1),
        factor=2 ** (len(_blocks(folder, configs, "unet", "down_block_types")) - 1),
        max_noise_level=max_noise_level,
        precisions=frozenset(Precision) - {Precision.AUTO},
    )


def _read_json(path: Path) -> Config:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise _incomplete(path) from None
    except (OSError, ValueError) as error:
        raise unusable(path, f"it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise unusable(path, f"it holds a {type(content).__name__}, not an object")
    return content


def _require_known_classes(folder: Path, index: Config) -> None:
    for component, named in index.items():
        if not isinstance(named, list) or component in _NEVER_LOADED or named == [None, None]:
            continue
        library, pattern = _CLASSES.get(component, (None, ""))
        is_known = len(named) == 2 and named[0] == library and isinstance(named[1], str)
        if not is_known or not re.fullmatch(pattern, named[1]):
            raise unusable(
                folder,
                f"model_index.json has {component} made by {named}, and only {PIPELINE}'s own "
                "classes of diffusers and transformers are used",
            )


def _require_no_program(folder: Path) -> None:
    code = min(folder.glob("*.py"), default=None)
    if code is not None:
        raise unusable(code, "it is code, and code that comes with weights is never run; remove it")


def _require_no_key_of_code(path: Path, config: Config) -> None:
    key = _key_of_code(config)
    if key is not None:
        raise unusable(path, f"it asks by {key} for code that is not this pipeline's; remove that")


def _key_of_code(value: object) -> str | None:
    """Returns the first key of a configuration, at any depth, that names code; None without one."""
    if isinstance(value, list):
        return next(filter(None, map(_key_of_code, value)), None)
    if not isinstance(value, dict):
        return None
    for key, inner in value.items():
        is_kernel = key in _KERNEL_KEYS and isinstance(inner, str) and "/" in inner
        if (key in _CODE_KEYS and inner) or is_kernel:
            return str(key)
    return _key_of_code(list(value.values()))


def _require_vocabulary(folder: Path) -> None:
    for files in _VOCABULARIES:
        if all((folder / file).is_file() for file in files):
            break
    else:
        raise _incomplete(folder / _VOCABULARIES[0][0])
    for file in files:
        if file.endswith(".json"):
            _read_json(folder / file)


def _require_weights(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        path, index = folder / name, folder / f"{name}.index.json"
        if path.is_file():
            return _require_whole(path)
        if index.is_file():
            for part in _parts(index):
                _require_whole(folder / part)
            return None
    raise _incomplete(folder / names[0])


def _parts(index: Path) -> Sequence[str]:
    """Lists the files that hold the parts of weights."""
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise unusable(index, "it has no weight_map")
    parts = sorted({str(part) for part in weight_map.values()})
    for part in parts:
        if Path(part).name != part:
            raise unusable(index, f"it names {part!r}, which is not a file beside it")
    return parts


def _require_whole(path: Path) -> None:
    if not path.is_file():
        raise _incomplete(path)
    try:
        if path.suffix != SAFETENSORS:
            # From other content, both libraries load only tensors and plain containers.
            refuse_program(path)
            return
        # Opening reads the header alone, and compares it with the length of the file.
        with safe_open(path, framework="numpy"):
            pass
    except ProgramError as error:
        raise unusable(path, str(error)) from error
    except (SafetensorError, OSError) as error:
        raise unusable(path, f"it is truncated or corrupt ({error})") from error


def _require_fitting_channels(folder: Path, configs: Mapping[str, Config]) -> None:
    unet, vae = configs["unet"], configs["vae"]
    latent_channels = vae.get("latent_channels", 4)
    expected = {
        "unet in_channels": (unet.get("in_channels"), latent_channels + _IMAGE_CHANNELS),
        "unet out_channels": (unet.get("out_channels"), latent_channels),
        "vae out_channels": (vae.get("out_channels"), _IMAGE_CHANNELS),
        "unet cross_attention_dim": (
            unet.get("cross_attention_dim"),
            configs["text_encoder"].get("hidden_size"),
        ),
    }
    for name, (found, allowed) in expected.items():
        if found != allowed:
            raise unusable(
                folder, f"{name} is {found}; with the other modules it must be {allowed}"
            )


def _require_known_noise_levels(folder: Path, most: object, known: object) -> None:
    """Rejects a maximum beyond the UNet's table: such a level on a GPU ends the whole process."""
    if not isinstance(most, int) or not isinstance(known, int) or not 0 <= most < known:
        raise unusable(
            folder, f"max_noise_level is {most}; the unet's num_class_embeds, {known}, must be more"
        )


def _blocks(
    folder: Path, configs: Mapping[str, Config], component: str, name: str
) -> Sequence[object]:
    blocks = configs[component].get(name)
    if not isinstance(blocks, list) or not blocks:
        raise unusable(folder, f"{component}/config.json has no {name}")
    return blocks


def _incomplete(path: Path) -> SettingsError:
    return SettingsError(
        ErrorCode.WEIGHTS_INCOMPLETE,
        f"The file {path} is missing. The weights must be a folder as {PIPELINE}.save_pretrained "
        "writes it: copy or download it again.",
    )


def unusable(path: Path, reason: str) -> SettingsError:
    """Returns the error `WEIGHTS_UNUSABLE` for a file or a folder."""
    return SettingsError(
        ErrorCode.WEIGHTS_UNUSABLE,
        f"The weights {path} cannot be used: {reason}. Allowed is a folder as "
        f"{PIPELINE}.save_pretrained writes it: copy or download it again.",
    )
