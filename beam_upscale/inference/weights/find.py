"""Finds requested weights by name, path or repository, and brings them to this machine."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from beam_upscale.errors import ErrorCode, SettingsError, literal, reason
from beam_upscale.inference.weights import hub, registry
from beam_upscale.inference.weights.baselines import BASELINES
from beam_upscale.inference.weights.errors import unavailable
from beam_upscale.inference.weights.hub_repository import HubRepository
from beam_upscale.inference.weights.registry import REGISTRY
from beam_upscale.inference.weights.values import Progress, Weights
from beam_upscale.planning.engines import Network, get_engine

FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")

_BASELINES = f"a baseline without a network ({', '.join(BASELINES)})"

_FOLDER_SPECS = (
    "a folder in diffusers' layout, a repository of the hub as OWNER/NAME@REVISION, or "
    f"{_BASELINES}"
)


def resolve(spec: str | None, engine: str, *, progress: Progress | None = None) -> Weights:
    """Finds the requested weights, and brings them to this machine.

    Cached weights are verified each time; a damaged cached file is made again.

    Args:
        spec: None for the engine's default; for an ESRGAN engine a registered name or the path of
            a file; for a diffusion engine the path of a folder in diffusers' layout or, where no
            such path exists, a repository of the hub as `OWNER/NAME@REVISION`.
        engine: name of the engine.
        progress: called with the bytes received and expected while files arrive.

    Raises:
        SettingsError: `UNKNOWN_ENGINE`; `UNKNOWN_WEIGHTS` for neither a name nor a path, or a
            repository without a commit's hash; `WEIGHTS_UNUSABLE` for weights of the other kind;
            `WEIGHTS_UNAVAILABLE` if they cannot be fetched or read now; `WEIGHTS_MISMATCH` if other
            weights came in their place; `WEIGHTS_INCOMPLETE` if a repository lacks some.
    """
    definition = get_engine(engine)
    name = definition.default_weights if spec is None else spec
    _require_utf8(name)
    try:
        return _RESOLVERS[definition.network](name, engine, progress)
    except OSError as error:
        raise unavailable(
            f"The weights {name} are unavailable: {reason(error, of=name)}"
        ) from error


def fetch_by_name(name: str, *, progress: Progress | None = None) -> Weights:
    """Brings named weights into the cache, for any engine.

    Args:
        name: a registered name, or a repository of the hub as `OWNER/NAME@REVISION`.
        progress: called with the bytes received and expected while files arrive.

    Raises:
        SettingsError: as `resolve`.
    """
    registered = REGISTRY.get(name)
    if registered is not None:
        return registry.fetch(registered, progress=progress)
    repository = HubRepository.parse(name)
    if repository is not None:
        return hub.fetch(repository, progress=progress)
    raise SettingsError(
        ErrorCode.UNKNOWN_WEIGHTS,
        f"There are no weights named {name}. The names are {', '.join(REGISTRY)}, and "
        "OWNER/NAME@REVISION for a repository of the hub.",
    )


def _resolve_file(name: str, engine: str, progress: Progress | None) -> Weights:
    if name in REGISTRY:
        return registry.fetch(REGISTRY[name], progress=progress)
    path = Path(name)
    if path.is_dir():
        raise _unusable(
            f"{name} is a folder; {engine} takes a file ({', '.join(FILE_SUFFIXES)}), one of the "
            f"names {', '.join(REGISTRY)}, or {_BASELINES}"
        )
    if not path.is_file():
        raise _unknown_file(name)
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise _unusable(
            f"The weights {name} end in {path.suffix!r}; allowed are {', '.join(FILE_SUFFIXES)}"
        )
    return _at(path, source=name)


def _resolve_folder(name: str, engine: str, progress: Progress | None) -> Weights:
    path = Path(name)
    if path.is_dir():
        return _at(path, source=name)
    if path.exists() or name in REGISTRY:
        raise _unusable(f"The weights {name} are a file; {engine} takes {_FOLDER_SPECS}")
    repository = HubRepository.parse(name)
    if repository is None:
        raise SettingsError(
            ErrorCode.UNKNOWN_WEIGHTS, f"There is no folder {name}. {engine} takes {_FOLDER_SPECS}."
        )
    return hub.fetch(repository, progress=progress)


_RESOLVERS: Mapping[Network, Callable[[str, str, Progress | None], Weights]] = MappingProxyType(
    {Network.ESRGAN: _resolve_file, Network.LATENT_DIFFUSION: _resolve_folder}
)


def _require_utf8(name: str) -> None:
    """Raises for a name that neither a manifest nor the libraries that read weights can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _unusable(
            f"The weights {literal(name)} have a name that is not UTF-8; rename them"
        ) from None


def _at(path: Path, source: str) -> Weights:
    return Weights.hashed(path.resolve().name, path.resolve(), source)


def _unusable(message: str) -> SettingsError:
    return SettingsError(ErrorCode.WEIGHTS_UNUSABLE, f"{message}.")


def _unknown_file(spec: str) -> SettingsError:
    if Path(spec).suffix.lower() in FILE_SUFFIXES or os.sep in spec:
        found = f"There is no file {spec}"
    else:
        found = f"There are no weights named {spec}"
    return SettingsError(
        ErrorCode.UNKNOWN_WEIGHTS,
        f"{found}. Give the path of a file ({', '.join(FILE_SUFFIXES)}), one of the names "
        f"{', '.join(REGISTRY)}, or {_BASELINES}.",
    )
