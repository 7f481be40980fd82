"""Fixtures of the server's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serving
from PIL import Image

from beam_upscale.server.worker import Worker


@pytest.fixture(scope="session")
def worker(tiny_weights: Path) -> Iterator[Worker]:
    """One network, of the quick engine."""
    worker = serving.load(tiny_weights)
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def both_engines(tiny_weights: Path, tiny_pipeline: Path) -> Iterator[Worker]:
    """Both engines."""
    weights = {serving.ENGINE: str(tiny_weights), serving.DIFFUSION: str(tiny_pipeline)}
    worker = serving.load(weights, serving.ENGINE, serving.DIFFUSION)
    yield worker
    worker.close()


@pytest.fixture
def gated(worker: Worker) -> Iterator[serving.GatedWorker]:
    """A worker whose calls wait until they may go on."""
    gated = serving.GatedWorker(worker)
    yield gated
    gated.gate.set()
    gated.close()


@pytest.fixture
def image(photograph: Callable[..., Image.Image]) -> bytes:
    """A picture as a file."""
    return serving.png(photograph())
