"""Fixtures that tests of several rooms share."""

from pathlib import Path

import pytest

from beam_upscale.dataset.folder import DatasetFolder


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetFolder:
    """An output into which nothing was written."""
    return DatasetFolder(str(tmp_path / "out"))
