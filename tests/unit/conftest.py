"""Fixtures that tests of several rooms share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from holds import output_of
from linked_outputs import make, make_dataset

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


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The root of an output that is not there, on the kind of store that a test names."""
    with output_of(request.param, tmp_path) as root:
        yield root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A dataset, with links to it and from it."""
    out = make_dataset(tmp_path / "out", "a.png", "sub/b.png")
    make(tmp_path, "store/kept.png", "beside/out/c.png", "out-of-focus/d.png")
    (tmp_path / "to root").symlink_to("out")
    (tmp_path / "to images").symlink_to(out / "images")
    (tmp_path / "to a link").symlink_to(tmp_path / "to images" / "sub")
    (tmp_path / "file.png").symlink_to("to images/a.png")
    (out / "images" / "linked.png").symlink_to(tmp_path / "store" / "kept.png")
    (tmp_path / "through.png").symlink_to(out / "images" / "linked.png")
    (tmp_path / "up").symlink_to("store/../out/images/sub/..")
    (tmp_path / "dangling").symlink_to("out/images/none/yet")
    (tmp_path / "beside" / "hard.png").hardlink_to(out / "images" / "a.png")
    (tmp_path / "itself").symlink_to("itself")
    return out
