"""Settings of small weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from one_image import ENGINE

from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings


@pytest.fixture
def pin(tiny_weights: Path) -> Callable[..., PinnedSettings]:
    """Pins options for a small network."""

    def pin_settings(**options: Any) -> PinnedSettings:
        quick = {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32", "threads": 1}
        return UpscaleSettings.of(ENGINE, **{**quick, **options}).pin()

    return pin_settings


@pytest.fixture
def settings(pin: Callable[..., PinnedSettings]) -> PinnedSettings:
    return pin()


@pytest.fixture
def remote() -> PinnedSettings:
    """As they are pinned for a service; nothing here calls one."""
    return UpscaleSettings.of(ENGINE, backend="grpc", endpoint="localhost:1", oversize="tile").pin()
