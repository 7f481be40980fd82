"""Fixtures that tests of locations share."""

from pathlib import Path
from typing import Any

import pytest

from beam_upscale.sources.locations import parquet_cells
from beam_upscale.storage.local.local_disk import LocalDisk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture(autouse=True)
def cells(monkeypatch: pytest.MonkeyPatch) -> parquet_cells._Cells:
    own = parquet_cells._Cells()
    monkeypatch.setattr(parquet_cells, "cells", own)
    return own


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files were opened."""
    uris: list[str] = []
    open_read = LocalDisk.open_read

    def note(self: LocalDisk, uri: str) -> Any:
        uris.append(uri)
        return open_read(self, uri)

    monkeypatch.setattr(LocalDisk, "open_read", note)
    return uris
