"""What is upstream of a `WriteDataset`: `run.json` speaks for all of it, or it is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from input_states import known
from PIL import Image
from runs import rows

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.lineage import lineage_of
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.stop import clear_stop, stop_reason
from beam_upscale.pipeline.settings.run_start import new_run
from beam_upscale.pipeline.settings.settings_json import settings_to_json
from beam_upscale.sources.inputs.source_image import SourceImage


@pytest.fixture
def folder(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(4):
        photograph(number, 12, 8).save(tmp_path / f"in/{number}.png")
    return tmp_path / "in"


@pytest.fixture
def upscale(tiny_weights: Path) -> Callable[..., bu.Upscale]:
    """Makes an `Upscale` of a small network, with further options."""

    def make(**options: Any) -> bu.Upscale:
        quick: dict[str, Any] = {"weights": str(tiny_weights), "device": "cpu", "threads": 1}
        return bu.Upscale(**{**quick, "precision": "fp32", **options})

    return make


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def read(pipeline: beam.Pipeline, folder: Path, output: Path) -> Any:
    return pipeline | bu.ReadImages(str(folder), output=str(output), shard_rows=2)


def refused(build: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as caught:
        build()
    assert caught.value.code is ErrorCode.INVALID_OPTION
    return caught.value.message


# Upscales


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"output_format": "tiff"}, "settings.encode.format: png and tiff"),
        ({"long_side": 20}, "settings.plan.long_side: None and 20"),
        ({"engine": ["esrgan-v1-x2plus"] * 2}, "settings.stages.2.engine: None and esrgan"),
        (
            {"oversize": "tile", "fan_out_above": 1, "scratch": "scratch"},
            "fan_out_above: None and 1000000",
        ),
        ({"max_input_pixels": 99}, "settings.plan.max_input_pixels: "),
    ],
)
def test_upscales_with_other_settings_are_refused_with_each_difference(
    upscale: Callable[..., bu.Upscale], output: Path, options: dict[str, Any], named: str
) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    branches = [
        pipeline | f"Create{number}" >> beam.Create([]) | f"Upscale{number}" >> upscale(**own)
        for number, own in enumerate([{}, options])
    ]

    message = refused(lambda: branches[::-1] | beam.Flatten() | bu.WriteDataset(str(output)))

    assert message.startswith("Upscale0 and Upscale1 have other settings")
    assert named in message
    assert not output.exists()


def test_upscales_over_other_services_are_refused(output: Path) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    ends = [
        bu.UpscaleSettings.of("esrgan-v1-x2plus", backend="grpc", endpoint=f"localhost:{port}")
        for port in (1, 2)
    ]
    branches = [
        pipeline | f"Create{number}" >> beam.Create([]) | f"{number}" >> bu.Upscale(end.pin())
        for number, end in enumerate(ends)
    ]

    message = refused(lambda: branches | beam.Flatten() | bu.WriteDataset(str(output)))

    assert "endpoint: localhost:2 and localhost:1" in message


@dataclasses.dataclass(eq=False)
class Sides(beam.PTransform):
    """A step of a user's own, with an `Upscale` for each kind of image in it."""

    wide: bu.Upscale
    tall: bu.Upscale

    def expand(self, images: Any) -> Any:
        wide, tall = images | beam.Partition(lambda image, _: int(image.name[0]) % 2, 2)
        return (wide | "Wide" >> self.wide, tall | "Tall" >> self.tall) | beam.Flatten()


def test_upscales_within_a_step_are_seen_too(
    upscale: Callable[..., bu.Upscale], folder: Path, output: Path
) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    images = read(pipeline, folder, output)

    results = images | Sides(upscale(), upscale(quality=90, output_format="jpeg"))

    assert "settings.encode.quality" in refused(lambda: results | bu.WriteDataset(str(output)))


def test_upscales_with_the_same_settings_leave_what_one_leaves(
    upscale: Callable[..., bu.Upscale], folder: Path, output: Path, tmp_path: Path
) -> None:
    for name, step in {"one": upscale(), "two": Sides(upscale(), upscale())}.items():
        target = tmp_path / name
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            _ = read(pipeline, folder, target) | step | bu.WriteDataset(str(target))

    one, two = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two"))
    assert two == one and one["complete"] and one["totals"]["rows"] == 4
    assert list(verify(str(tmp_path / "two"))) == []


def test_an_upscale_behind_another_is_refused(
    upscale: Callable[..., bu.Upscale], output: Path
) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    first = pipeline | beam.Create([]) | "First" >> upscale()
    again = first | beam.Map(lambda each: SourceImage(each.source.input_id, data=each.data))

    message = refused(lambda: again | "Second" >> upscale() | bu.WriteDataset(str(output)))

    assert message.startswith("Second works on what another Upscale made")
    assert "chain" in message


def test_side_inputs_are_no_results(upscale: Callable[..., bu.Upscale]) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    others = pipeline | "Others" >> beam.Create([]) | "Small" >> upscale(long_side=9)
    counted = others | beam.combiners.Count.Globally()
    step = upscale()
    results = pipeline | beam.Create([]) | "Large" >> step
    results |= beam.Map(lambda each, _: each, beam.pvalue.AsSingleton(counted))

    lineage = lineage_of([results])

    assert lineage.settings is step.settings
    assert list(lineage.postponed) == ["Large"]


def test_a_later_run_with_two_other_upscales_is_refused(
    upscale: Callable[..., bu.Upscale], folder: Path, output: Path
) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = read(pipeline, folder, output) | upscale() | bu.WriteDataset(str(output))
    pipeline = beam.Pipeline(runner=FnApiRunner())
    results = read(pipeline, folder, output) | Sides(upscale(width=9), upscale(width=9))

    with pytest.raises(SettingsError, match=r"settings\.plan\.width: None -> 9") as caught:
        _ = results | bu.WriteDataset(str(output))

    assert caught.value.code is ErrorCode.SETTINGS_CHANGED


# Datasets


@pytest.mark.parametrize("is_same", [False, True], ids=["two steps", "one step twice"])
def test_two_sinks_with_one_output_are_refused(
    upscale: Callable[..., bu.Upscale], output: Path, is_same: bool
) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    results = pipeline | beam.Create([]) | upscale()
    first = bu.WriteDataset(str(output))
    second = first if is_same else bu.WriteDataset(f"{output}/", layout="parquet")
    _ = results | "First" >> first
    _ = results | "Other" >> bu.WriteDataset(f"{output}-2")

    message = refused(lambda: results | "Second" >> second)

    assert message.startswith(f"two WriteDataset have the output {output}, ")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": {"engine": "other"}}, "settings.engine: None and other"),
        ({"settings": None}, "settings.encode.format: png and None"),
        ({"layout": "parquet"}, "layout: files and parquet"),
        ({"endpoint": "localhost:1"}, "endpoint: None and localhost:1"),
        ({"format": "mine/1"}, "format: beam-upscale/1 and mine/1"),
        ({"version": 3}, "version: 2 and 3"),
    ],
)
def test_values_of_a_users_own_may_not_contradict(
    upscale: Callable[..., bu.Upscale], output: Path, changes: dict[str, Any], named: str
) -> None:
    step, pipeline = upscale(), beam.Pipeline(runner=FnApiRunner())
    results = pipeline | beam.Create([]) | step
    layout = bu.WriteDataset(str(output)).layout
    given = {**new_run(step.settings, layout).to_json(), **changes}

    message = refused(lambda: results | "Bad" >> bu.WriteDataset(str(output), run=given))

    assert named in message


def test_values_that_are_given_in_part_are_made_whole(
    upscale: Callable[..., bu.Upscale], folder: Path, output: Path
) -> None:
    step = upscale()
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        results = read(pipeline, folder, output) | step
        given = {"owner": ("me", 1), "max_credits": "3", "complete": False, "totals": "all"}
        _ = results | bu.WriteDataset(str(output), run=given)

    found = DatasetFolder(str(output)).read_run()
    assert found is not None and found.complete
    assert (found.others, found.max_credits) == ({"owner": ["me", 1]}, "3")
    assert found.settings == settings_to_json(step.settings)
    assert list(verify(str(output))) == []


def test_values_of_the_version_before_are_given_as_that_wrote_them(
    upscale: Callable[..., bu.Upscale], folder: Path, output: Path
) -> None:
    step = upscale(network_backend="torch")
    given = new_run(step.settings, bu.WriteDataset(str(output)).layout).to_json()
    del given["version"]
    del given["settings"]["stages"][0]["model"]["network_backend"]
    del given["settings"]["encode"]["metadata"]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        results = read(pipeline, folder, output) | step
        _ = results | bu.WriteDataset(str(output), run=given)

    found = DatasetFolder(str(output)).read_run()
    assert found is not None and found.complete
    assert found.settings == settings_to_json(step.settings)


# What a step takes away behind an Upscale


def has_row(result: UpscaledImage) -> bool:
    return result.record is not None


def stopped(source: SourceImage) -> SourceImage:
    """As of a run that stops before the last inputs have their turn."""
    return known(source, is_postponed=int(source.name[0]) > 1)


@pytest.mark.parametrize("windows", [None, beam.window.FixedWindows(10)])
def test_inputs_that_were_not_tried_are_seen_though_a_step_takes_them_away(
    upscale: Callable[..., bu.Upscale], folder: Path, output: Path, windows: Any
) -> None:
    def run(step: Any) -> None:
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            images = read(pipeline, folder, output) | step
            if windows is not None:
                images |= beam.WindowInto(windows)
            results = images | upscale() | beam.Filter(has_row)
            if windows is not None:
                results |= "Together" >> beam.WindowInto(beam.window.GlobalWindows())
            _ = results | bu.WriteDataset(str(output))

    run(beam.Map(stopped))

    run_json = DatasetFolder(str(output)).read_run()
    assert run_json is not None and not run_json.complete
    assert [row.status for row in rows(output).values()] == ["upscaled"] * 2

    run(beam.Map(lambda source: source))

    assert [row.status for row in rows(output).values()] == ["upscaled"] * 4
    assert list(verify(str(output))) == []


def test_a_complete_dataset_is_so_no_more_once_inputs_are_left_to_a_later_run(
    upscale: Callable[..., bu.Upscale],
    folder: Path,
    output: Path,
    photograph: Callable[..., Image.Image],
) -> None:
    def run(step: Any) -> None:
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            results = read(pipeline, folder, output) | step | upscale() | beam.Filter(has_row)
            _ = results | bu.WriteDataset(str(output))

    run(beam.Map(lambda source: source))
    before = (output / "run.json").read_bytes()
    photograph(9, 12, 8).save(folder / "9.png")
    run(beam.Map(stopped))

    run_json = DatasetFolder(str(output)).read_run()
    assert json.loads(before)["complete"]
    assert run_json is not None and not run_json.complete


def test_what_a_step_chooses_among_results_is_left_out_and_the_rest_is_done(
    upscale: Callable[..., bu.Upscale], folder: Path, output: Path
) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        results = read(pipeline, folder, output) | upscale()
        results |= beam.Filter(lambda each: each.source.name != "1.png")
        _ = results | bu.WriteDataset(str(output))

    codes = {name: row.error_code for name, row in rows(output).items()}
    assert codes == {"0.png": None, "1.png": "left_out", "2.png": None, "3.png": None}
    assert list(verify(str(output))) == []


def test_a_service_that_refuses_all_is_heard_in_one_branch_though_a_step_hides_it(
    upscale: Callable[..., bu.Upscale],
    folder: Path,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused_if_odd(source: SourceImage, *others: Any) -> Any:
        if int(source.name[0]) % 2:
            stop = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")
            return UpscaledImage(source, None, stop=stop)
        return prepare(source, *others)

    monkeypatch.setattr("beam_upscale.pipeline.upscale.prepare", refused_if_odd)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        results = read(pipeline, folder, output) | Sides(upscale(), upscale())
        results |= beam.Filter(has_row)
        _ = results | bu.WriteDataset(str(output))

    dataset = DatasetFolder(str(output))
    assert stop_reason(dataset) == "api_key_refused: the key expired"
    run_json = dataset.read_run()
    assert run_json is not None and not run_json.complete
    assert dataset.committed_shards() == []
    clear_stop(dataset)
