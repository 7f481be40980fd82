"""Fetches weights from a repository of the Hugging Face hub, by the hub's library, at one commit.

The library's cache is used as it is (HF_HOME, HF_HUB_CACHE), and so are its settings (HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN). Only the files count that a diffusers pipeline with safetensors loads.
Their folder in this package's cache holds links to the library's files.
"""

import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from beam_upscale.errors import ErrorCode, SettingsError, reason
from beam_upscale.inference.weights.cache import ensure, weights_directory
from beam_upscale.inference.weights.digest import files_of, folder_sha256, sha256_of
from beam_upscale.inference.weights.errors import unavailable
from beam_upscale.inference.weights.hub_completeness import (
    counts,
    incomplete,
    missing_files,
    pipeline_files,
)
from beam_upscale.inference.weights.hub_repository import FILES, INDEX, HubRepository
from beam_upscale.inference.weights.values import Progress, Weights

_logger = logging.getLogger(__name__)

# The file that lists the files of a folder of links; hidden, so that it is no part of the weights.
_NOTE = ".files.json"

# The library sets no timeout for the first answer, and retries later ones for minutes.
_TIMEOUT_SECONDS = 10
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch(repository: HubRepository, *, progress: Progress | None = None) -> Weights:
    """Downloads a repository's pipeline to this machine unless it is there already.

    A commit never changes: once the hub has listed its files, cached files need no network. A cache
    filled by another program may lack files, so the hub is asked for the list once. If the hub does
    not answer, the cache is used if it has all files that a pipeline needs.

    Args:
        repository: the repository.
        progress: called once, at the end; during the download the library shows progress bars on a
            terminal. None shows nothing.

    Raises:
        SettingsError: `WEIGHTS_UNAVAILABLE` if the files cannot be fetched now,
            `WEIGHTS_INCOMPLETE` if the repository lacks files of a pipeline, `WEIGHTS_MISMATCH` if
            a local file was changed.
    """
    entry = f"{repository.name.replace('/', '--')}--{repository.revision}"
    folder = weights_directory() / entry
    known = _noted_names(folder)
    if known is None or not _has_just(folder, known):
        try:
            snapshot = _find_snapshot(repository, known, progress)
        except OSError as error:
            raise unavailable(
                f"The hub's cache of {repository} cannot be read ({reason(error)}). Choose another "
                "with HF_HOME"
            ) from error
        ensure(folder, snapshot.is_linked_from, snapshot.link)
    if progress is not None:
        size = sum((folder / name).stat().st_size for name in files_of(folder))
        progress(size, size)
    source = f"the repository {repository.name} of the hub at commit {repository.revision}"
    return Weights(str(repository), folder, _verified_sha256(folder), source)


def _verified_sha256(folder: Path) -> str:
    """Computes the SHA-256 of a folder of links into the library's cache, and checks large files.

    The library names a large file by its SHA-256, but never checks it again: any user who can write
    to its cache could replace the file.

    Raises:
        SettingsError: `WEIGHTS_MISMATCH`, a file has changed; `WEIGHTS_UNAVAILABLE`, a file cannot
            be read.
    """
    try:
        found = {name: sha256_of(folder / name) for name in files_of(folder)}
        blobs = {name: (folder / name).resolve() for name in found}
    except OSError as error:
        raise unavailable(f"The weights {folder} cannot be read ({reason(error)})") from error
    for name, blob in blobs.items():
        if _SHA256.fullmatch(blob.name) and blob.name != found[name]:
            raise SettingsError(
                ErrorCode.WEIGHTS_MISMATCH,
                f"The file {blob} of the hub's cache has SHA-256 {found[name]}, and is called by "
                "another: it was changed or damaged. Remove it, to have it fetched again.",
            )
    return folder_sha256(found)


@dataclass(frozen=True)
class _Snapshot:
    """The library's folder with the files of a repository at a commit.

    Attributes:
        folder: the path of the folder.
        names: the names of the files that count.
        is_confirmed: True if the hub confirmed that these are all files that count.
    """

    folder: Path
    names: Sequence[str]
    is_confirmed: bool

    def is_linked_from(self, folder: Path) -> bool:
        """Checks whether a folder has just these files as links, and their list if confirmed."""
        is_noted = not self.is_confirmed or _noted_names(folder) == self.names
        return is_noted and _has_just(folder, self.names)

    def link(self, folder: Path) -> None:
        """Fills a folder with links to the files that count, and their list if it is confirmed."""
        for name in self.names:
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((self.folder / name).absolute())
        if self.is_confirmed:
            (folder / _NOTE).write_text(json.dumps(self.names))


def _noted_names(folder: Path) -> Sequence[str] | None:
    """Reads the list of files that a folder of links must have; None if the hub gave no list."""
    try:
        names = json.loads((folder / _NOTE).read_bytes())
    except (OSError, ValueError):
        return None
    return names if isinstance(names, list) else None


def _has_just(folder: Path, names: Sequence[str]) -> bool:
    try:
        # Links are broken once the library's cache is cleared or moved.
        return files_of(folder) == names and all((folder / name).is_file() for name in names)
    except OSError:
        return False


def _find_snapshot(
    repository: HubRepository, known: Sequence[str] | None, progress: Progress | None
) -> _Snapshot:
    """Finds the library's folder with all files that count, and downloads missing ones.

    Args:
        repository: the repository.
        known: the file names that the hub gave earlier; None if it gave none.
        progress: only tested for None, which hides the library's progress bars.
    """
    _require_library()
    with _quiet(shows_bars=progress is not None):
        cached = _cached_folder(repository)
        if known is not None and cached is not None and not _absent(cached, known):
            return _Snapshot(cached, known, is_confirmed=True)
        try:
            names = _names_at_hub(repository)
        except Exception as error:  # The errors of the HTTP client vary with the library's version.
            if known is None and cached is not None and not missing_files(cached):
                _logger.info("Whether %s has more files is not known: %s", cached, reason(error))
                return _Snapshot(cached, pipeline_files(cached), is_confirmed=False)
            raise _not_here(repository, error) from error
        if INDEX not in names:
            raise incomplete(repository, [INDEX])
        if cached is None or _absent(cached, names):
            cached = _download(repository)
    if missing := _absent(cached, names) or missing_files(cached):
        raise incomplete(repository, missing)
    return _Snapshot(cached, names, is_confirmed=True)


def _require_library() -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise unavailable(
            "Weights from the hub need the Python package huggingface-hub; "
            "`pip install beam-upscale[latent]` installs it"
        )


def _cached_folder(repository: HubRepository) -> Path | None:
    """Returns the library's cached folder, maybe incomplete; None if the library reports none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=list(FILES),
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder)


def _names_at_hub(repository: HubRepository) -> Sequence[str]:
    """Asks the hub for the names of all files that count, in one request without retries.

    So a hub out of reach is noticed at once.
    """
    from huggingface_hub import HfApi

    info = HfApi().model_info(
        repository.name, revision=repository.revision, timeout=_TIMEOUT_SECONDS
    )
    names = [sibling.rfilename for sibling in info.siblings or ()]
    return sorted(filter(counts, names), key=os.fsencode)


def _download(repository: HubRepository) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repository.name, revision=repository.revision, allow_patterns=list(FILES)
            )
        )
    except Exception as error:  # As in `_find_snapshot`.
        raise _not_here(repository, error) from error


def _absent(folder: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def _not_here(repository: HubRepository, error: Exception) -> SettingsError:
    name, revision = repository.name, repository.revision
    include = " ".join(f"--include '{pattern}'" for pattern in FILES)
    return unavailable(
        f"The weights {repository} are not here: {_hub_reason(error)}. On a machine with access "
        f"run `hf download {name} --revision {revision} {include} --local-dir DIR` and give "
        "--weights DIR, or set HF_HOME to a cache that has them, or HF_ENDPOINT to a mirror"
    )


def _hub_reason(error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE forbids access to the hub"
        case errors.GatedRepoError():
            return "the hub gives them on request only, to those logged in with `hf auth login`"
        case errors.RepositoryNotFoundError():
            return "the hub has no such repository, or only for logged-in users (`hf auth login`)"
        case errors.RevisionNotFoundError():
            return "the hub's repository has no such revision"
        case errors.HfHubHTTPError():
            return f"the hub answered with HTTP status {error.response.status_code}"
    return f"the hub could not be reached ({reason(error)})"


@contextmanager
def _quiet(shows_bars: bool) -> Iterator[None]:
    """Silences the library's warnings, and its bars unless shown; our errors report failures."""
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
