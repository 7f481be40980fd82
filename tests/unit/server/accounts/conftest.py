"""A ledger of a test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import Clock

from beam_upscale.server.accounts.ledger import Ledger


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server" / "ledger.sqlite"


@pytest.fixture(params=[0, 2**16], ids=["in files", "in rows"])
def max_row_bytes(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def ledger(path: Path, clock: Clock, max_row_bytes: int) -> Iterator[Ledger]:
    with Ledger(path, clock=clock, max_row_bytes=max_row_bytes) as opened:
        yield opened
