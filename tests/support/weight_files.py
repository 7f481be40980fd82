"""Folders of weights, written and looked into."""

from collections.abc import Mapping
from pathlib import Path


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Writes files by their names below a folder, which is made."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def files_in(directory: Path) -> set[str]:
    """What a cache holds, beside its locks; nothing if there is none."""
    if not directory.exists():
        return set()
    return {path.name for path in directory.iterdir() if path.suffix != ".lock"}
