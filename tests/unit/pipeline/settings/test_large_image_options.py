"""Options that do not go with spread tiles are refused."""

from pathlib import Path
from typing import Any

import pytest
from runs import ENGINE, command, upscale
from spread_runs import SPREAD, make_inputs

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"engine": (ENGINE, ENGINE)}, "a chain"),
        ({"engine": "stable-diffusion-x4-latent-upscaler"}, "canvas of noise"),
        ({"long_side": 4000}, "leave out width"),
        ({"oversize": "shrink"}, "oversize is shrink"),
        ({"output_format": "jpeg"}, "choose png or tiff"),
        ({"fan_out_above": 0}, "must be above 0"),
        ({"fan_out_above": float("nan")}, "must be above 0"),
    ],
)
def test_what_cannot_be_spread_is_refused(options: dict[str, Any], reason: str) -> None:
    chosen = {"engine": ENGINE, **SPREAD, **options}

    with pytest.raises(SettingsError, match=reason) as caught:
        _ = UpscaleSettings.of(chosen.pop("engine"), **chosen).rules

    assert caught.value.code is ErrorCode.INVALID_OPTION


def test_plan_takes_the_option_and_says_what_does_not_go_with_it(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in")
    words = ["plan", inputs / "a.jpg", "--fan-out-above", "0.05"]

    assert command(*words, "--oversize", "tile").code == 0
    refused = command(*words)
    assert refused.code == 2
    assert "fan_out_above does not go with that: oversize is reject" in refused.err


@pytest.mark.parametrize("layout", [Layout.PARQUET, Layout.WEBDATASET])
def test_layouts_that_pack_images_are_refused(
    layout: Layout, tmp_path: Path, tiny_weights: Path
) -> None:
    inputs = make_inputs(tmp_path / "in")

    with pytest.raises(SettingsError, match="take the layout files"):
        upscale(inputs, tmp_path / "out", tiny_weights, **SPREAD, layout=layout)

    assert not (tmp_path / "out").exists()
