"""Large images are cut into tiles in a scratch folder."""

from pathlib import Path

import pytest
from children import WITHOUT_SPACE
from runs import ENGINE, rows, tree, upscale
from spread_runs import SPREAD

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.images.decoding import child_process
from beam_upscale.images.values import ImageHeader
from beam_upscale.pipeline.large_images import cut
from beam_upscale.pipeline.one_image.states import LargeImage, ResultDraft
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.sources.inputs.source_image import SourceImage


def test_full_temporary_folder_stops_the_run_and_the_next_goes_on(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upscale(inputs / "turned*", tmp_path / "plain", tiny_weights, oversize="tile")
    with monkeypatch.context() as full:
        full.setattr(child_process, "CHILD_COMMAND", WITHOUT_SPACE)
        with pytest.raises(Exception, match="No space left on device"):
            upscale(inputs / "turned*", tmp_path / "spread", tiny_weights, **SPREAD)

    upscale(inputs / "turned*", tmp_path / "spread", tiny_weights, **SPREAD)

    assert tree(tmp_path / "spread") == tree(tmp_path / "plain")
    assert rows(tmp_path / "spread")["turned.jpg"].status is Status.UPSCALED


def test_tiles_are_taken_up_by_the_same_engine_only(tmp_path: Path, tiny_weights: Path) -> None:
    options = {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32", **SPREAD}
    one, two = (UpscaleSettings.of(ENGINE, threads=count, **options).pin() for count in (1, 2))
    scratch = DatasetFolder(str(tmp_path / "scratch"))
    draft = ResultDraft(SourceImage("a"), {}, started_at=0, source_sha256="a hash")
    large = LargeImage(draft, ImageHeader("png", "RGB", 200, 150, 1, 8), ())
    plan = one.rules.plan(200, 150).stages[0]

    keys = [cut._key(large, plan, settings, scratch) for settings in (one, two, one)]

    assert keys[0] == keys[2] != keys[1]
