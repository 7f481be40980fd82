"""Outputs on each kind of store."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from holds import output_of


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The root of an output that is not there."""
    with output_of(request.param, tmp_path) as root:
        yield root
