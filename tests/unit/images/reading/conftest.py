"""Files for readers."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[bytes], Path]:
    def store(data: bytes) -> Path:
        # Nothing goes by the name, and libvips reads options out of one that ends so.
        path = tmp_path / "picture[page=1].xyz"
        path.write_bytes(data)
        return path

    return store
