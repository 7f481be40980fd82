"""Weights in a repository of the hub, pinned to one commit, by way of the hub's own library.

The library's cache is used as it is (HF_HOME, HF_HUB_CACHE), and so are its switches (HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN). Of a repository only the files count that a diffusers pipeline loads from
safetensors; their folder in this package's cache holds links to the library's.
"""

import fnmatch
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.weights.cache import ensure, weights_directory
from beam_upscale.weights.digest import files_of
from beam_upscale.weights.errors import reason, unavailable
from beam_upscale.weights.values import Progress, Weights

# As glob patterns, of which `*` crosses folders. Not diffusers' own choice, which comes with its
# code and may change with its version: the same commit must have the same SHA-256 next month.
_FILES = (
    "model_index.json",
    "*/*.json",
    "*/*.txt",
    "*/*model.safetensors",
    "*/*model-?????-of-?????.safetensors",
)

_INDEX = "model_index.json"

# The library has no limit of its own for the first answer, and retries later ones for minutes.
_TIMEOUT_SECONDS = 10

# The hub's rules for names, as huggingface_hub's validate_repo_id has them.
_PART = r"\w+(?:[.-]\w+)*"
_SPEC = re.compile(rf"(?P<name>{_PART}/{_PART})(?:@(?P<revision>.*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubRepository:
    """A repository of the hub at one commit.

    Attributes:
        name: `OWNER/NAME`.
        revision: the commit's hash, 40 hexadecimal digits.
    """

    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"

    @classmethod
    def parse(cls, spec: str) -> "HubRepository | None":
        """`OWNER/NAME@REVISION`, or None for what does not look like it.

        Raises:
            SettingsError: `UNKNOWN_WEIGHTS`, a name without a revision, or with a branch or a tag:
                those move, and results must be the same next month.
        """
        match = _SPEC.fullmatch(spec)
        if match is None:
            return None
        name, revision = match["name"], match["revision"]
        if revision is not None and _COMMIT.fullmatch(revision):
            return cls(name, revision)
        found = (
            f"There is no folder {spec}, and as a repository of the hub it names no revision"
            if revision is None
            else f"The revision {revision!r} of {name} is not a commit's hash"
        )
        raise SettingsError(
            ErrorCode.UNKNOWN_WEIGHTS,
            f"{found}. Branches and tags move; pin the weights as {name}@REVISION with the 40 "
            f"hexadecimal digits of a commit (`hf models info {name}` shows the newest as sha).",
        )


def fetch(repository: HubRepository, *, progress: Progress | None = None) -> Weights:
    """Brings a repository's pipeline to this machine unless it is there.

    What the library's cache holds needs no network.

    Args:
        repository: the repository.
        progress: called once, at the end; while files arrive, the library shows bars of its own,
            on a terminal. None is silent.

    Raises:
        SettingsError: `WEIGHTS_UNAVAILABLE` if the files cannot be had now, `WEIGHTS_INCOMPLETE` if
            the repository lacks some of a pipeline's.
    """
    entry = f"{repository.name.replace('/', '--')}--{repository.revision}"
    folder = weights_directory() / entry

    def link(target: Path) -> None:
        _link_files(_download(repository, progress), target)

    ensure(folder, _is_whole, link)
    if progress is not None:
        size = sum((folder / name).stat().st_size for name in files_of(folder))
        progress(size, size)
    source = f"the repository {repository.name} of the hub at commit {repository.revision}"
    return Weights.hashed(str(repository), folder, source)


def _is_whole(folder: Path) -> bool:
    try:
        # Links lead nowhere once the library's cache is cleared or moved.
        return not _missing(folder) and all((folder / name).is_file() for name in files_of(folder))
    except OSError:
        return False


def _link_files(snapshot: Path, folder: Path) -> None:
    """Makes a folder of links to the files that count, whatever else the snapshot has."""
    for name in _pipeline_files(snapshot):
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((snapshot / name).absolute())


def _pipeline_files(folder: Path) -> list[str]:
    return [
        name
        for name in files_of(folder)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in _FILES)
    ]


def _download(repository: HubRepository, progress: Progress | None) -> Path:
    """The library's folder with all files of a repository that count."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise unavailable(
            "Weights from the hub need the Python package huggingface-hub; "
            "`pip install beam-upscale[latent]` installs it"
        ) from error

    name, revision = repository.name, repository.revision
    options: Any = {"revision": revision, "allow_patterns": list(_FILES)}
    with _quiet(shows_bars=progress is not None):
        try:
            snapshot = Path(snapshot_download(name, local_files_only=True, **options))
            if not _missing(snapshot):
                return snapshot
        except LocalEntryNotFoundError:
            pass
        try:
            # One question without retries first, so that a hub out of reach is known at once.
            HfApi().model_info(name, revision=revision, timeout=_TIMEOUT_SECONDS)
            snapshot = Path(snapshot_download(name, **options))
        except Exception as error:  # Its HTTP client, which changes, has errors of its own.
            raise _not_here(repository, error) from error
    if missing := _missing(snapshot):
        raise SettingsError(
            ErrorCode.WEIGHTS_INCOMPLETE,
            f"The repository {repository} has no {', '.join(missing)}; needed is a pipeline in "
            "diffusers' layout with its weights as safetensors.",
        )
    return snapshot


def _missing(folder: Path) -> list[str]:
    """What a pipeline's folder lacks, as far as its own index tells."""
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        # Each component's library and class; both are null for one that is left out.
        components = [name for name, of in index.items() if isinstance(of, list) and of[0]]
    except (OSError, ValueError, AttributeError, IndexError):
        return [_INDEX]
    present = _pipeline_files(folder)
    return [lack for name in components if (lack := _missing_of_component(name, present))]


def _missing_of_component(component: str, present: Sequence[str]) -> str | None:
    files = [name for name in present if name.startswith(f"{component}/")]
    if not any(name.endswith(".json") for name in files):
        return f"{component}/*.json"
    # What has a config.json is a network; tokenizers and schedulers name theirs otherwise.
    is_network = f"{component}/config.json" in files
    if is_network and not any(name.endswith(".safetensors") for name in files):
        return f"{component}/*model.safetensors"
    return None


def _not_here(repository: HubRepository, error: Exception) -> SettingsError:
    name, revision = repository.name, repository.revision
    include = " ".join(f"--include '{pattern}'" for pattern in _FILES)
    return unavailable(
        f"The weights {repository} are not here: {_hub_reason(error)}. On a machine with access "
        f"run `hf download {name} --revision {revision} {include} --local-dir DIR` and give "
        "--weights DIR, or set HF_HOME to a cache that has them, or HF_ENDPOINT to a mirror"
    )


def _hub_reason(error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE forbids to ask the hub"
        case errors.GatedRepoError():
            return "the hub gives them on request only, to those logged in with `hf auth login`"
        case errors.RepositoryNotFoundError():
            return "the hub has no such repository, or only for those logged in (`hf auth login`)"
        case errors.RevisionNotFoundError():
            return "the hub's repository has no such revision"
        case errors.HfHubHTTPError():
            return f"the hub answered with HTTP status {error.response.status_code}"
    return f"the hub could not be reached ({reason(error)})"


@contextmanager
def _quiet(shows_bars: bool) -> Iterator[None]:
    """Keeps the library's warnings to itself: what went wrong is said by our errors."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level, hides_bars = logger.level, not shows_bars and not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    if hides_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if hides_bars:
            enable_progress_bars()
