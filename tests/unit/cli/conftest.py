"""Fixtures that tests of commands share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """A folder with one image of every fate that a header tells."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        photograph(number, 20, 14).save(folder / f"{number}.png")
    photograph(5, 20_000, 60).save(folder / "oversize.png")
    photograph(6, 33_000, 2).save(folder / "long.png")
    photograph(7, 64, 64).save(folder / "large-already.png")
    (folder / "broken.png").write_text("not an image")
    (folder / "notes.txt").write_text("not an input")
    return folder


@pytest.fixture
def photographs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    photograph().save(folder / "a.png")
    return folder
