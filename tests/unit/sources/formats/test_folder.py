"""Which files of a folder are images."""

import pytest

from beam_upscale.sources.formats.folder import is_image_name


@pytest.mark.parametrize(
    "name", ["a.png", "A.JPG", "a.heic", "no extension", "v1.2", "a.unknown", "a.b/c.tiff"]
)
def test_what_may_be_an_image_is_listed(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "README.md", "metadata.jsonl", "labels.csv", "data.parquet"),
        *("Thumbs.db", "desktop.ini", "clip.mp4", "a.JSON", "archive.zip", "x.py"),
    ],
)
def test_side_files_are_left_out(name: str) -> None:
    assert not is_image_name(name)
