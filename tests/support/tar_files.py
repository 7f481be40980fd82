"""Tars as people make them, and as nobody should."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

BLOCK = 512


def member(name: str, data: bytes = b"", **fields: object) -> bytes:
    """One member in the old form: a header, its data, and what fills its last block."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    form = tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT
    return info.tobuf(form, "utf-8", "surrogateescape") + padded(data)


def padded(data: bytes) -> bytes:
    """Filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)


def tar(members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> bytes:
    """An archive of these members, in this order."""
    pairs = members.items() if isinstance(members, Mapping) else members
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Leaves an archive at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar(members))
    return path
