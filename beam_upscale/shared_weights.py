"""Weights where all workers can read them: a file, or a folder of files, on Beam's file systems."""

import functools
import shutil
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from beam_upscale import storage, weights
from beam_upscale.errors import ErrorCode, ImageError, SettingsError


def sha256(uri: str) -> str:
    """The SHA-256 of a file or of a folder, as `weights.sha256_of` has it.

    Raises:
        SettingsError: WEIGHTS_UNAVAILABLE, it cannot be read.
    """
    try:
        names = _names(uri)
        if not names:
            return storage.sha256(uri)
        return weights.folder_sha256({n: storage.sha256(storage.join(uri, n)) for n in names})
    except (ImageError, ValueError) as error:  # Beam knows no file system of this scheme.
        raise SettingsError(
            ErrorCode.WEIGHTS_UNAVAILABLE, f"the weights {uri} cannot be read: {error}"
        ) from error


def fetch(uri: str, expected: str) -> Path:
    """Brings a file or a folder into this machine's cache, verified by its SHA-256.

    Raises:
        SettingsError: WEIGHTS_UNAVAILABLE or WEIGHTS_MISMATCH.
    """
    names = _names(uri)
    if not names:
        suffix = PurePosixPath(uri).suffix
        return weights.store(expected, suffix, functools.partial(_open, uri))
    return weights.store_folder(expected, names, lambda name: _open(storage.join(uri, name)))


def put(path: Path, uri: str) -> None:
    """Copies a file or a folder of this machine to where workers find it.

    What is there already stays: the URI names the content. A copy that was interrupted goes on.
    """
    if path.is_file():
        _put_file(path, uri)
        return
    for name in weights.files_of(path):
        _put_file(path / name, storage.join(uri, name))


def is_there(uri: str) -> bool:
    """Whether a file, or a folder with files, is there."""
    return storage.exists(uri) or bool(_names(uri))


def _put_file(path: Path, uri: str) -> None:
    if not storage.exists(uri):
        with path.open("rb") as source, storage.publish(uri) as file:
            shutil.copyfileobj(source, file)


def _names(uri: str) -> list[str]:
    """The names of the files below a folder; none where there is no folder."""
    if storage.exists(uri):
        return []
    return sorted(entry.name for entry in storage.list_files(uri) if entry.uri != uri)


def _open(uri: str) -> BinaryIO:
    try:
        return storage.open_read(uri)
    except ImageError as error:
        raise SettingsError(ErrorCode.WEIGHTS_UNAVAILABLE, error.message) from error
