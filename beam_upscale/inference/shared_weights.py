"""Copies weights (a file or a folder) to Beam's file systems, for all workers, and fetches them.

A folder's URI may end in a slash.
"""

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from beam_upscale.errors import ErrorCode, ImageError, SettingsError, reason
from beam_upscale.inference.weights import cache, digest
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris

# The error codes of a store that does not list its files.
_OF_LISTING = frozenset({ErrorCode.NOT_FOUND, ErrorCode.PERMISSION_DENIED, ErrorCode.READ_ERROR})


def sha256(uri: str) -> str:
    """Computes the SHA-256 of a file or of a folder, as `digest.sha256_of` does.

    Raises:
        SettingsError: WEIGHTS_UNAVAILABLE, the file or the folder cannot be read.
    """
    uri = files.absolute(uri)
    with _unavailable_on_failure(uri):
        names = _names(uri)
        if not names:
            return files.sha256(uri)
        return digest.folder_sha256({n: files.sha256(uris.join(uri, n)) for n in names})


def fetch(uri: str, expected: str) -> Path:
    """Brings a file or a folder into this machine's cache, verified by its SHA-256.

    Raises:
        SettingsError: WEIGHTS_UNAVAILABLE or WEIGHTS_MISMATCH.
    """
    uri = files.absolute(uri)
    with _unavailable_on_failure(uri):
        names = _names(uri)
        if not names:
            suffix = PurePosixPath(store_of(uri).path_of(uri)).suffix
            return cache.store(expected, suffix, functools.partial(files.open_read, uri))
        return cache.store_folder(
            expected, names, lambda name: files.open_read(uris.join(uri, name))
        )


def put(path: Path, uri: str) -> None:
    """Copies a file or a folder of this machine to a URI that workers can read.

    Files that are there already stay, since the URI names the content. An interrupted copy is
    continued.
    """
    uri = files.absolute(uri)
    if path.is_file():
        _put_file(path, uri)
        return
    for name in digest.files_of(path):
        _put_file(path / name, uris.join(uri, name))


def is_there(uri: str) -> bool:
    """Checks whether a URI is that of a file, or of a folder with files.

    A local folder with a broken link does not count: its files may be on another machine.

    Raises:
        SettingsError: WEIGHTS_UNAVAILABLE, the file system cannot be read.
    """
    uri = files.absolute(uri)
    with _unavailable_on_failure(uri):
        names = _names(uri)
        if not names:
            return files.exists(uri)
        # A remote file system has just listed its files, so they exist.
        if not store_of(uri).is_local:
            return True
        return all(files.exists(uris.join(uri, name)) for name in names)


def _put_file(path: Path, uri: str) -> None:
    if not files.exists(uri):
        with path.open("rb") as source, files.publish(uri) as file:
            shutil.copyfileobj(source, file)


def _names(uri: str) -> list[str]:
    """Lists the names of the files below a folder; empty if there is no folder.

    Callers try this before they take a URI for a file: on some file systems folders exist as files
    do.
    """
    below = f"{uri}/"
    return sorted(
        entry.uri.removeprefix(below)
        for entry in files.list_files(uri)
        if entry.uri.startswith(below)
    )


@contextlib.contextmanager
def _unavailable_on_failure(uri: str) -> Iterator[None]:
    failures: tuple[type[Exception], ...] = (ImageError, *store_of(uri).failures)
    try:
        yield
    except SettingsError as error:
        if error.code not in _OF_LISTING:
            raise
        raise SettingsError(
            ErrorCode.WEIGHTS_UNAVAILABLE,
            f"the weights {uris.printable(uri)} cannot be read: {error.message}",
        ) from error
    except failures as error:
        raise SettingsError(
            ErrorCode.WEIGHTS_UNAVAILABLE,
            f"the weights {uris.printable(uri)} cannot be read: {reason(error)}",
        ) from error
