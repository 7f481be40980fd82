"""Computes the SHA-256 of weights, a file or a folder, once in a process."""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from beam_upscale.errors import ErrorCode, SettingsError


def sha256_of(path: Path) -> str:
    """Computes the SHA-256 of a file, or of all files in a folder, in hexadecimal.

    The SHA-256 of a folder is the `folder_sha256` of the files that `files_of` lists.

    Raises:
        SettingsError: `WEIGHTS_UNUSABLE`, the folder has no files.
        OSError: a file or a folder cannot be read.
    """
    if not path.is_dir():
        return _sha256_of_file(path)
    names = files_of(path)
    if not names:
        raise SettingsError(
            ErrorCode.WEIGHTS_UNUSABLE,
            f"The folder {path} has no files (hidden ones do not count); give a folder in "
            "diffusers' layout, with model_index.json in it.",
        )
    return folder_sha256({name: sha256_of(path / name) for name in names})


# SHA-256 of files that this process has read, by `_version_of`. A run needs them twice: when it
# pins its weights, and when it loads them.
_known: dict[tuple[int, ...], str] = {}

# File systems' clocks are coarse: two writes of a file may have the same time.
_SECONDS_UNTIL_SETTLED = 2.0


def _sha256_of_file(path: Path) -> str:
    version = _version_of(path)
    if version is not None and version in _known:
        return _known[version]
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if version is not None and version == _version_of(path):
        _known[version] = found
    return found


def _version_of(path: Path) -> tuple[int, ...] | None:
    """Returns values that change with a file's content; None if it may have changed just now."""
    found = path.stat()
    if time.time() - max(found.st_mtime, found.st_ctime) < _SECONDS_UNTIL_SETTLED:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def folder_sha256(sha256_by_name: Mapping[str, str]) -> str:
    r"""Computes the SHA-256 of a folder: that of the text that `sha256sum` prints for its files.

    Args:
        sha256_by_name: hexadecimal SHA-256 of each file, by its relative path with `/` between
            parts.

    Returns:
        SHA-256 of the lines `<sha256 of the file>  <its name>\n`, sorted by the names' bytes.
    """
    digest = hashlib.sha256()
    for name in sorted(sha256_by_name, key=os.fsencode):
        digest.update(f"{sha256_by_name[name]}  ".encode() + os.fsencode(name) + b"\n")
    return digest.hexdigest()


def files_of(folder: Path) -> list[str]:
    """Lists the files of a folder of weights that count, at any depth, symbolic links followed.

    Files and folders whose names begin with a dot do not count: download tools and Git keep their
    own data in them.

    Returns:
        Relative paths with `/` between parts, sorted. A broken link is among them; reading it will
        fail.

    Raises:
        OSError: a folder cannot be listed.
    """
    return sorted(_relative_names(folder, "", frozenset()), key=os.fsencode)


def _relative_names(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # A link back to a folder that it lies in.
        return
    for child in folder.iterdir():
        if child.name.startswith("."):
            continue
        if child.is_dir():
            yield from _relative_names(child, f"{prefix}{child.name}/", above | {identity})
        else:
            yield f"{prefix}{child.name}"
