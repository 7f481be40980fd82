"""Stores of a test's own, and a folder for every user."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_filesystem import MemoryFileSystem
from memory_hdfs import hdfs


@pytest.fixture
def memory() -> Iterator[dict[str, bytes]]:
    """What is stored under `mem://`."""
    MemoryFileSystem.files.clear()
    yield MemoryFileSystem.files
    MemoryFileSystem.files.clear()


@pytest.fixture
def hadoop() -> Iterator[dict[str, bytes]]:
    """What is stored under `hdfs://`, by path; files are seen there while they are written."""
    with hdfs() as files:
        yield files


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own belong to one user."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        folder.chmod(0o755)
        yield folder
        for directory, _, _ in os.walk(folder):
            Path(directory).chmod(0o755)
