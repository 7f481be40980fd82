"""Checks that a folder of weights has every file that its components need."""

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.weights.digest import files_of
from beam_upscale.inference.weights.hub_repository import FILES, INDEX, HubRepository


def pipeline_files(folder: Path) -> list[str]:
    """Lists the files that count and exist; the library's cache may have broken links."""
    return [name for name in files_of(folder) if counts(name) and (folder / name).is_file()]


def counts(name: str) -> bool:
    """Checks whether a file of a repository is one that a pipeline may need."""
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    return not is_hidden and any(fnmatch.fnmatchcase(name, pattern) for pattern in FILES)


def missing_files(folder: Path) -> list[str]:
    """Lists the files that a pipeline's folder lacks, according to its own indexes."""
    try:
        index = json.loads((folder / INDEX).read_bytes())
        # Each component's library and class; both are null for one that is left out.
        classes = {name: str(of[1]) for name, of in index.items() if isinstance(of, list) and of[0]}
    except (OSError, ValueError, AttributeError, IndexError):
        return [INDEX]
    present = pipeline_files(folder)
    return [
        f"{component}/{lack}"
        for component, class_name in classes.items()
        for lack in _missing_of_component(
            folder / component,
            class_name,
            [n.removeprefix(f"{component}/") for n in present if n.startswith(f"{component}/")],
        )
    ]


def _missing_of_component(folder: Path, class_name: str, files: Sequence[str]) -> list[str]:
    if "Tokenizer" in class_name:
        return _lacking(files, "tokenizer_config.json") + _missing_vocabulary(files)
    if "Scheduler" in class_name:
        return _lacking(files, "scheduler_config.json")
    # A component with neither is no network, e.g. the feature extractor of a safety checker.
    if "config.json" in files or any(".safetensors" in name for name in files):
        return _lacking(files, "config.json") + _missing_weights(folder, files)
    return [] if any(name.endswith(".json") for name in files) else ["*.json"]


def _missing_vocabulary(files: Sequence[str]) -> list[str]:
    """Lists the missing vocabulary files; a vocabulary is in one file or in two."""
    return _lacking(files, "tokenizer.json") and _lacking(files, "vocab.json", "merges.txt")


def _missing_weights(folder: Path, files: Sequence[str]) -> list[str]:
    if any(name.endswith("model.safetensors") for name in files):
        return []
    indexes = [name for name in files if name.endswith("model.safetensors.index.json")]
    if not indexes:
        return ["*model.safetensors"]
    return [lack for index in indexes for lack in _missing_parts(folder / index, files)]


def _missing_parts(index: Path, files: Sequence[str]) -> list[str]:
    try:
        parts = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [index.name]
    return _lacking(files, *sorted(map(str, parts)))


def _lacking(files: Sequence[str], *needed: str) -> list[str]:
    return [name for name in needed if name not in files]


def incomplete(repository: HubRepository, missing: Sequence[str]) -> SettingsError:
    """Returns the error for a repository that lacks files: WEIGHTS_INCOMPLETE."""
    return SettingsError(
        ErrorCode.WEIGHTS_INCOMPLETE,
        f"The repository {repository} has no {', '.join(missing)}; give a pipeline in "
        "diffusers' layout with its weights as safetensors.",
    )
