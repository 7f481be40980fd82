"""The cache of weights that processes share: each entry is made once, and is whole or absent."""

import glob
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from filelock import FileLock

from beam_upscale.errors import ErrorCode, SettingsError, reason
from beam_upscale.inference.weights.digest import sha256_of
from beam_upscale.inference.weights.errors import unavailable

_logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20

# The digits of a UUID in hexadecimal.
_UNIQUE_DIGITS = 32


def cache_directory() -> Path:
    """Returns `$BEAM_UPSCALE_CACHE`, else `beam-upscale` in the user's XDG cache directory."""
    chosen = os.environ.get("BEAM_UPSCALE_CACHE")
    if chosen:
        return Path(chosen)
    # A relative XDG path is to be ignored (XDG Base Directory Specification 0.8).
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "beam-upscale"


def weights_directory() -> Path:
    """Returns the cache's folder for weights."""
    return cache_directory() / "weights"


def store(sha256: str, suffix: str, open_source: Callable[[], BinaryIO]) -> Path:
    """Brings a file into the cache under its SHA-256, once for all processes of this machine.

    Args:
        sha256: the file's SHA-256, in hexadecimal.
        suffix: the file's suffix with its dot, by which its format is known.
        open_source: opens the file wherever it is; called only if the cache lacks it.

    Returns:
        The file in the cache.

    Raises:
        SettingsError: `WEIGHTS_UNAVAILABLE` if it cannot be read, `WEIGHTS_MISMATCH` if its
            SHA-256 is another.
    """
    return _store(f"{sha256}{suffix}", sha256, partial(_copy, open_source))


def store_folder(sha256: str, names: Sequence[str], open_source: Callable[[str], BinaryIO]) -> Path:
    """Brings a folder into the cache under its SHA-256, once for all processes of this machine.

    Args:
        sha256: the folder's SHA-256 as `sha256_of` gives it, in hexadecimal.
        names: its files, as `files_of` gives them.
        open_source: opens one of them wherever it is; called only if the cache lacks the folder.

    Returns:
        The folder in the cache.

    Raises:
        SettingsError: `WEIGHTS_UNAVAILABLE` if a file cannot be read, `WEIGHTS_MISMATCH` if the
            folder's SHA-256 is another, `WEIGHTS_UNUSABLE` if a name is hidden or leads out of the
            folder, or if there are none.
    """
    for name in names:
        _require_visible_and_inside(name)

    def copy(folder: Path) -> None:
        folder.mkdir()
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(partial(open_source, name), target)

    return _store(sha256, sha256, copy)


def ensure(path: Path, is_intact: Callable[[Path], bool], make: Callable[[Path], None]) -> None:
    """Makes a file or folder of the cache unless it exists; other processes wait for the first.

    Args:
        path: the file or folder.
        is_intact: checks whether the existing file or folder can be used.
        make: writes the file or folder to the path that it is given. That path replaces `path`
            unless an error is raised.

    Raises:
        SettingsError: `WEIGHTS_UNAVAILABLE`, the cache cannot be written; else as `make`.
    """
    if is_intact(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if is_intact(path):
                return
            if path.exists():
                _logger.warning("The cached weights %s are damaged and are made again.", path)
            _remove_leftovers(path)
            with _replacing(path) as target:
                make(target)
    except OSError as error:
        raise unavailable(
            f"The cache of weights {path.parent} cannot be written ({reason(error)}). Choose "
            "another with the environment variable BEAM_UPSCALE_CACHE"
        ) from error


def has_sha256(path: Path, sha256: str) -> bool:
    """Checks whether a file or folder exists and has this SHA-256."""
    try:
        return path.exists() and sha256_of(path) == sha256
    except (OSError, SettingsError):
        # Some or all files of the folder are gone or cannot be read.
        return False


def require_sha256(path: Path, expected: str, source: str) -> None:
    """Rejects content that does not have the expected SHA-256.

    Args:
        path: the file or folder.
        expected: its SHA-256, in hexadecimal.
        source: the place that it came from, for the message.

    Raises:
        SettingsError: `WEIGHTS_MISMATCH`.
    """
    found = sha256_of(path)
    if found != expected:
        raise SettingsError(
            ErrorCode.WEIGHTS_MISMATCH,
            f"The data from {source} has SHA-256 {found} instead of {expected}. It was not "
            "kept; check the source, or give the weights with --weights PATH to use them as they "
            "are.",
        )


def _store(entry: str, sha256: str, copy: Callable[[Path], None]) -> Path:
    path = weights_directory() / entry

    def make(target: Path) -> None:
        try:
            copy(target)
        except OSError as error:
            raise unavailable(
                f"The weights with SHA-256 {sha256} could not be copied to {path} "
                f"({reason(error)}). Check that they can be read from this machine"
            ) from error
        require_sha256(target, sha256, "the source of the weights")

    ensure(path, partial(has_sha256, sha256=sha256), make)
    return path


def _copy(open_source: Callable[[], BinaryIO], target: Path) -> None:
    with open_source() as source, target.open("wb") as stream:
        shutil.copyfileobj(source, stream, _CHUNK_BYTES)


def _require_visible_and_inside(name: str) -> None:
    # `..` and `.` begin with a dot; a hidden file would not be verified.
    if any(not part or part.startswith(".") for part in name.split("/")):
        raise SettingsError(
            ErrorCode.WEIGHTS_UNUSABLE,
            f"A folder of weights names the file {name!r}; allowed are relative paths without "
            "hidden parts, `.` or `..`.",
        )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Provides a temporary path beside `path` that replaces it at the end; removed on error."""
    temporary = path.with_name(_temporary_name(path, uuid4().hex))
    try:
        yield temporary
        if path.is_dir() or temporary.is_dir():
            # `replace` overwrites only a file, and only with a file.
            _remove(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _temporary_name(path: Path, unique: str) -> str:
    return f".{path.name}.{unique}{path.suffix}"


def _remove_leftovers(path: Path) -> None:
    """Removes files left by processes killed while they made `path`, whose lock is held."""
    pattern = _temporary_name(Path(glob.escape(path.name)), "[0-9a-f]" * _UNIQUE_DIGITS)
    for leftover in path.parent.glob(pattern):
        _logger.warning("Removing %s, which an interrupted process left.", leftover)
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
