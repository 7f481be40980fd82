import dataclasses
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from runs import rows, upscale

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.settings.run_start import continue_run, new_run, refuse_foreign_files


@pytest.fixture
def folder(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    folder = tmp_path / "in"
    for name in ("A/0.png", "B/0.png"):
        path = folder / name
        path.parent.mkdir(parents=True)
        photograph(len(list(folder.iterdir()))).save(path)
    return folder


def run_pipeline(folder: Path, output: Path, weights: Path, **options: object) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | bu.ReadImages(str(folder), output=str(output))
            | bu.Upscale(weights=str(weights), precision="fp32", device="cpu", **options)
            | bu.WriteDataset(str(output))
        )


def planned(**options: object) -> RunJson:
    run_json = new_run(None, Layout.FILES, shard_rows=10)
    plan = {"width": None, "oversize": "reject", **options}
    return dataclasses.replace(run_json, settings={"plan": plan})


def test_a_pipeline_of_ones_own_records_its_settings_and_the_command_goes_on(
    folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    run_pipeline(folder, output, tiny_weights)
    before = DatasetFolder(str(output)).read_run()
    assert before is not None

    upscale(folder, output, tiny_weights, threads=None)

    assert before.settings is not None
    assert before.settings["stages"][0]["model"]["name"] == tiny_weights.name
    assert len(rows(output)) == 2
    assert list(verify(str(output))) == []


def test_a_pipeline_with_other_settings_is_refused_before_it_runs(
    folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    run_pipeline(folder, output, tiny_weights)

    with pytest.raises(SettingsError, match=r"settings\.plan\.width: None -> 20") as caught:
        run_pipeline(folder, output, tiny_weights, width=20)

    assert caught.value.code == ErrorCode.SETTINGS_CHANGED


def test_results_that_no_listing_named_do_not_overwrite_each_other(
    folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    sources = [bu.source_image(str(folder / name)) for name in ("A/0.png", "B/0.png")]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create(sources)
            | bu.Upscale(weights=str(tiny_weights), precision="fp32", device="cpu")
            | bu.WriteDataset(str(output))
        )

    assert len(list((output / "images").iterdir())) == 2
    assert list(verify(str(output))) == []


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {}),
        ({"max_input_pixels": 5}, {"max_input_pixels": 9}),
        ({"oversize": "reject"}, {"oversize": "tile"}),
        ({"oversize": "shrink"}, {"oversize": "reject"}),
    ],
)
def test_what_changes_no_image_is_free_to_change(
    before: dict[str, object], now: dict[str, object]
) -> None:
    continue_run(planned(**before), planned(**now))


def test_libraries_that_write_images_may_change_and_are_those_of_the_last_run() -> None:
    now = planned()
    writers = {"deflate", "pillow", "pyvips-binary", "zlib-ng"}
    earlier = dataclasses.replace(now, versions=dict.fromkeys(writers, "0.1"))

    versions = continue_run(earlier, now).versions

    assert {name: versions[name] for name in writers} == {
        name: importlib.metadata.version(name) for name in writers
    }


def test_a_png_of_another_level_is_another_setting(tiny_weights: Path) -> None:
    def pinned(**options: object) -> RunJson:
        settings = bu.UpscaleSettings.of(weights=str(tiny_weights), device="cpu", **options)
        return new_run(settings.pin(), Layout.FILES)

    with pytest.raises(SettingsError, match=r"png_compression: 3 -> 6"):
        continue_run(pinned(), pinned(png_compression=6))


def test_a_run_from_before_there_was_a_choice_kept_metadata(tiny_weights: Path) -> None:
    def pinned(**options: object) -> RunJson:
        quick = {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32", "threads": 1}
        settings = bu.UpscaleSettings.of("esrgan-v1-x2plus", **quick, **options).pin()
        return new_run(settings, Layout.FILES, shard_rows=10)

    values = pinned().to_json()
    del values["version"]
    assert values["settings"]["encode"].pop("metadata") == "keep"
    earlier = RunJson.from_json(values)

    assert continue_run(earlier, pinned()) == pinned()
    for before in (earlier, pinned()):
        with pytest.raises(SettingsError, match="metadata: keep -> strip") as caught:
            continue_run(before, pinned(metadata="strip"))
        assert caught.value.code is ErrorCode.SETTINGS_CHANGED


def test_cut_images_do_not_stand_beside_shrunk_ones() -> None:
    with pytest.raises(SettingsError, match="oversize: tile -> shrink"):
        continue_run(planned(oversize="tile"), planned(oversize="shrink"))


def test_cut_images_do_not_stand_beside_shrunk_ones_after_a_run_that_rejects_either() -> None:
    rejecting = continue_run(planned(oversize="tile"), planned(oversize="reject"))
    rejecting = continue_run(rejecting, planned(oversize="reject"))

    assert continue_run(rejecting, planned(oversize="tile")) == planned(oversize="tile")
    with pytest.raises(SettingsError, match="oversize: tile -> shrink"):
        continue_run(rejecting, planned(oversize="shrink"))


@pytest.mark.parametrize("name", ["run.json", "README.md", "images/a.png"])
def test_files_that_no_run_left_are_not_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")

    with pytest.raises(SettingsError) as caught:
        refuse_foreign_files(DatasetFolder(str(tmp_path)))

    assert caught.value.code == ErrorCode.OUTPUT_TAKEN
    assert path.read_text() == "{}"
