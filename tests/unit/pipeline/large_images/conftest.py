"""Fixtures of the tests of spread tiles."""

from pathlib import Path

import pytest
from spread_runs import make_inputs, with_small_calls

from beam_upscale.planning import engines


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the engines of `with_small_calls` in place for one test."""
    monkeypatch.setattr(engines, "ENGINES", with_small_calls())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("large") / "in")
