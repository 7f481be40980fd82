"""Files that earlier versions wrote, kept beside the tests that read them."""

from pathlib import Path


def golden(folder: Path, name: str) -> str:
    """The text of a JSON file in a folder of such files."""
    return (folder / f"{name}.json").read_text()
