"""Files of a test, and users who may not read them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from beam_upscale.storage import files

NOBODY = 65534


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Drops what lets root read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def names(pattern: str | Path) -> list[str]:
    return sorted(entry.name for entry in files.list_files(str(pattern)))


def make_files(folder: Path, *relative: str) -> None:
    for name in relative:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
