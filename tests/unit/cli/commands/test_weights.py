"""The commands of weights."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from runs import command

from beam_upscale.cli.display.output import out
from beam_upscale.inference.weights import registry


def test_weights_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path))

    finished = command("weights", "list")

    assert finished.code == 0
    assert f"cache {tmp_path}" in finished.out
    assert finished.out.count("absent") == 7


def test_weights_are_compared_in_a_table_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "console", Console(width=80, force_terminal=True))

    listed = command("weights", "list").out

    rows = [line.split("│")[1:-1] for line in listed.splitlines() if "│" in line]
    first = {name.strip(): (scale.strip(), work.strip()) for name, scale, work, *_ in rows}
    assert first["realesrgan-x4plus-anime-ncnn"] == ("4", "1/3.1")
    assert first["realesrgan-x2plus"] == ("2", "1/4")
    assert first["nearest"] == ("any", "0")


def test_weights_are_listed_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path))

    finished = command("weights", "list", "--json")

    listed = {each["name"]: each for each in json.loads(finished.out)}
    assert listed.keys() == registry.REGISTRY.keys()
    assert listed["realesrgan-x2plus"] == {
        "name": "realesrgan-x2plus",
        "scale": 2,
        "multiply_adds": 4_483_008,
        "work": 0.2501,
        "description": "photographs; 67 MB to download",
        "license": "BSD-3-Clause",
        "bytes": 67_061_725,
        "sha256": registry.REGISTRY["realesrgan-x2plus"].sha256,
        "source": "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.1/"
        "RealESRGAN_x2plus.pth",
        "cache": "absent",
    }
