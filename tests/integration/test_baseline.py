"""Baselines: filters where weights are asked for, from one tile to whole runs and the server."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import DIFFUSION, ENGINE, rows, tree

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.images import tiling
from beam_upscale.images.resampling import Filter
from beam_upscale.inference.elements import Inference, Tile, TiledImage
from beam_upscale.inference.handlers.baseline import BaselineHandler, Resampler
from beam_upscale.inference.handlers.registry import handler_for
from beam_upscale.inference.local_engines import BaselineEngine, pin_baseline
from beam_upscale.inference.weights import baselines
from beam_upscale.pipeline.one_image.tiles import relative_core
from beam_upscale.pipeline.request import Run
from beam_upscale.pipeline.run import _needed, _with_reachable_weights
from beam_upscale.pipeline.settings.run_start import continue_run, new_run
from beam_upscale.pipeline.settings.settings_json import pinned_to_json, read_choices
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.tile_layout import Box

# Of the widest filter, in pixels of the input.
REACH = 3

# Nothing of these may be imported where only a filter runs.
NETWORK_LIBRARIES = ["diffusers", "openvino", "spandrel", "torch", "torchvision", "transformers"]


def noise(height: int, width: int, channels: int, dtype: type = np.uint8, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    return random.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def whole(pixels: np.ndarray, scale: int = 2) -> TiledImage:
    """An image in one tile."""
    return TiledImage([Tile(pixels, Box(0, 0, pixels.shape[1], pixels.shape[0]))], scale)


def infer(name: str, tiled: TiledImage) -> Inference:
    """What a baseline makes of an image, by the handler that a run takes for it."""
    handler = handler_for(pin_baseline(name))
    (result,) = handler.run_inference([tiled], handler.load_model())
    inference: Inference = result.inference
    return inference


# A tile


def test_each_baseline_is_a_filter() -> None:
    assert baselines.BASELINES.keys() == set(Filter)


@pytest.mark.parametrize("name", baselines.BASELINES)
@pytest.mark.parametrize("scale", [2, 4])
def test_eight_bits_are_what_pillow_makes_of_them(name: str, scale: int) -> None:
    pixels = noise(9, 13, 3)

    (core,) = infer(name, whole(pixels, scale)).cores

    by = Image.Resampling[name.upper()]
    assert np.array_equal(core, Image.fromarray(pixels).resize((13 * scale, 9 * scale), by))


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_stay_sixteen(channels: int) -> None:
    pixels = noise(9, 13, channels, np.uint16)

    (repeated,) = infer("nearest", whole(pixels)).cores
    (smooth,) = infer("lanczos", whole(pixels)).cores

    assert np.array_equal(repeated, pixels.repeat(2, axis=0).repeat(2, axis=1))
    assert (smooth.dtype, smooth.shape) == (np.uint16, (18, 26, channels))
    assert len(np.unique(smooth)) > 256


@settings(max_examples=15)
@given(
    name=st.sampled_from(list(Filter)),
    scale=st.sampled_from([2, 4]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    side=st.integers(1, 40),
    most=st.integers(150, 400),
)
def test_tiles_put_together_are_the_uncut_result(
    name: str, scale: int, dtype: type, side: int, most: int
) -> None:
    pixels = noise(side, 31, 3, dtype)
    places = tiling.grid(31, side, most, REACH)
    tiles = [
        Tile(part, relative_core(place))
        for place, part in zip(places, tiling.split(pixels, places), strict=True)
    ]

    cores = infer(name, TiledImage(tiles, scale)).cores

    (uncut,) = infer(name, whole(pixels, scale)).cores
    assert np.array_equal(tiling.stitch(iter(cores), places, scale, 31, side), uncut)


def test_a_tile_that_does_not_fit_in_memory_costs_one_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enlarge = Resampler.enlarge

    def enlarge_little(self: Resampler, pixels: np.ndarray, scale: int) -> Any:
        if pixels.shape[0] > 64:
            raise MemoryError
        return enlarge(self, pixels, scale)

    monkeypatch.setattr(Resampler, "enlarge", enlarge_little)

    inference = infer("lanczos", whole(noise(65, 8, 1)))

    assert isinstance(inference.error, ImageError)
    assert (inference.error.code, inference.stop) == (ErrorCode.OUT_OF_MEMORY, None)


def test_a_process_that_can_compute_nothing_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = BaselineHandler(pin_baseline("nearest"))
    loaded = handler.load_model()

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr("beam_upscale.images.resampling.resize", fail)
        (first,) = handler.run_inference([whole(noise(8, 8, 1))], loaded)
    (second,) = handler.run_inference([whole(noise(8, 8, 1))], loaded)

    codes = [result.inference.stop.code for result in (first, second)]
    assert codes == [ErrorCode.DEVICE_LOST, ErrorCode.DEVICE_LOST]


# What is pinned


def test_options_of_networks_mean_nothing() -> None:
    plain = UpscaleSettings.of(ENGINE, weights="bicubic").pin()
    tuned = UpscaleSettings.of(
        *(ENGINE,), weights="bicubic", device="cuda", precision="fp16", threads=7, exact=True
    ).pin()

    assert plain == tuned
    (stage,) = plain.stages
    assert isinstance(stage.pinned, BaselineEngine)
    assert stage.pinned.in_words == "bicubic (baseline, no network) on cpu"
    assert pinned_to_json(stage.pinned) == {
        "name": "bicubic (baseline, no network)",
        "weights_sha256": None,
        "device": "cpu",
        "precision": None,
    }


def test_a_folder_with_a_baselines_name_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nearest").mkdir()
    monkeypatch.chdir(tmp_path)

    assert isinstance(
        UpscaleSettings.of(ENGINE, weights="nearest").pin().stages[0].pinned, BaselineEngine
    )
    with pytest.raises(SettingsError, match=r"\./nearest is a folder"):
        UpscaleSettings.of(ENGINE, weights="./nearest").pin()


def test_a_baseline_does_not_go_on_with_a_networks_output(tiny_weights: Path) -> None:
    network = {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32"}
    earlier = new_run(UpscaleSettings.of(ENGINE, **network).pin(), Layout.FILES)

    pinned = UpscaleSettings.of(ENGINE, weights="nearest").pin(read_choices(earlier.settings))

    with pytest.raises(
        SettingsError, match=r"tiny-x2\.safetensors -> nearest \(baseline"
    ) as caught:
        continue_run(earlier, new_run(pinned, Layout.FILES))
    assert caught.value.code is ErrorCode.SETTINGS_CHANGED


def test_other_names_are_told_of_the_baselines() -> None:
    for engine in (ENGINE, DIFFUSION):
        with pytest.raises(SettingsError, match="nearest, bicubic, lanczos") as caught:
            UpscaleSettings.of(engine, weights="nerest").pin()
        assert caught.value.code is ErrorCode.UNKNOWN_WEIGHTS


def test_workers_elsewhere_need_nothing_of_this_machine(tmp_path: Path) -> None:
    asked = UpscaleSettings.of(ENGINE, weights="nearest", remote_workers=True)
    request = Run(str(tmp_path), str(tmp_path / "out"), asked, beam_options=("--runner=Flink",))
    pinned = asked.pin()

    moved = _with_reachable_weights(pinned, DatasetFolder(str(tmp_path / "out")), request)

    assert moved == pinned
    assert list(_needed(request, pinned, runs_nothing())) == []
    assert not (tmp_path / "out").exists()


def runs_nothing() -> Any:
    """A listing of no inputs, for what looks at nothing else of it."""
    return dataclasses.make_dataclass("Nothing", ["link_into_output"])(None)


# Runs


@pytest.fixture
def photographs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, mode in enumerate(["RGB", "L", "RGBA", "I;16"]):
        picture = photograph(number, mode="L" if mode == "I;16" else mode)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 200)
        picture.save(folder / f"{number}.png")
    return folder


CHAIN = {ENGINE: "lanczos", DIFFUSION: "nearest"}


def test_a_chain_of_baselines_has_rows_that_say_so(tmp_path: Path, photographs: Path) -> None:
    output = tmp_path / "out"

    runs.upscale(photographs, output, CHAIN, engine=(ENGINE, DIFFUSION), prompt="a cat", seed=7)

    found = rows(output)
    assert {row.status for row in found.values()} == {Status.UPSCALED}
    row = found["0.png"]
    assert (row.model, row.weights_sha256) == ("nearest (baseline, no network)", None)
    assert (row.device_type, row.precision, row.prompt) == ("cpu", None, "a cat")
    assert row.credits > 0
    assert row.stages[0]["model"] == "lanczos (baseline, no network)"
    with (
        Image.open(output / "images" / "0.png") as image,
        Image.open(photographs / "0.png") as asked,
    ):
        doubled = asked.resize((80, 60), Image.Resampling.LANCZOS)
        assert np.array_equal(image, doubled.resize((320, 240), Image.Resampling.NEAREST))
    assert list(verify(str(output))) == []
    assert "the baseline `nearest (baseline, no network)`" in (output / "README.md").read_text()


def test_a_rerun_keeps_results_and_refuses_other_weights(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    runs.upscale(photographs, output, "nearest", device="auto", precision="auto")
    before = tree(output)

    runs.upscale(photographs, output, "nearest", device="auto", precision="auto")

    assert tree(output) == before
    for other in ("lanczos", tiny_weights):
        with pytest.raises(SettingsError, match=r"nearest \(baseline, no network\)") as caught:
            runs.upscale(photographs, output, other, device="auto", precision="auto")
        assert caught.value.code is ErrorCode.SETTINGS_CHANGED
    assert tree(output) == before


def test_no_network_library_is_imported(tmp_path: Path, photographs: Path) -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({NETWORK_LIBRARIES!r}))  # None: their import fails.
from beam_upscale.cli.main import main
main()
"""
    arguments = ["run", photographs, tmp_path / "out", "--then", DIFFUSION, "--quiet"]
    for engine, name in CHAIN.items():
        arguments += ["--weights", f"{engine}={name}"]

    finished = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    values = json.loads((tmp_path / "out" / "run.json").read_text())
    assert values["totals"]["by_status"] == {"upscaled": 4}
    assert "nearest (baseline, no network) on cpu" in finished.stderr
