"""Images whose tiles are spread over the workers, against the same ones done in one place."""

import functools
import hashlib
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import faults
import numpy as np
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image
from runs import (
    ENGINE,
    command_elsewhere,
    error_codes,
    every_backend,
    quick,
    rows,
    signal_after,
    tree,
    upscale,
)
from spread_runs import ABOVE, SPREAD, killed_after, large_images_of, picture, spread_by_hand

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold.owners import Folder
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.output_hold import hold_output
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.reading import pixels
from beam_upscale.inference.elements import TiledImage
from beam_upscale.pipeline.large_images.tiles import persist_tile
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.held_outputs import output_of_pipeline
from beam_upscale.sources.inputs.source_image import SourceImage


@every_backend
def test_files_and_rows_are_those_of_one_place(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
    network_backend: str,
) -> None:
    plain = {"oversize": "tile", "network_backend": network_backend}
    upscale(inputs, tmp_path / "plain", tiny_weights, **plain)
    large = large_images_of(monkeypatch)

    upscale(inputs, tmp_path / "spread", tiny_weights, **SPREAD | plain, workers=2)

    found = rows(tmp_path / "spread")
    assert {row.status for row in found.values()} == {Status.UPSCALED}
    assert tree(tmp_path / "spread") == tree(tmp_path / "plain")
    assert set(large) == found.keys() - {"small.png", "cut.png"}
    assert len(large) == len(set(large))
    assert all(found[name].calls >= 6 for name in large)
    assert list(verify(str(tmp_path / "spread"))) == []


def test_tiff_has_the_same_pixels(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    chosen = {"oversize": "tile", "output_format": "tiff"}
    upscale(inputs / "*a*", tmp_path / "plain", tiny_weights, **chosen)

    upscale(inputs / "*a*", tmp_path / "spread", tiny_weights, **chosen, fan_out_above=ABOVE)

    names = sorted(path.name for path in (tmp_path / "plain" / "images").iterdir())
    assert names == ["a.tiff", "alpha.tiff", "gray.tiff", "small.tiff"]
    for name in names:
        plain, spread = (
            pixels.decode((tmp_path / run / "images" / name).read_bytes(), max_pixels=10**6)
            for run in ("plain", "spread")
        )
        np.testing.assert_array_equal(plain.color, spread.color)
        assert (plain.alpha is None) == (spread.alpha is None)
        if plain.alpha is not None and spread.alpha is not None:
            np.testing.assert_array_equal(plain.alpha, spread.alpha)
    with pytest.raises(SettingsError, match="fan_out_above: 50000 -> 60000"):
        upscale(inputs, tmp_path / "spread", tiny_weights, **chosen, fan_out_above=0.06)


def test_threshold_of_a_run_that_goes_on_may_change(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    upscale(inputs / "s*", tmp_path / "out", tiny_weights, oversize="tile")
    before = tree(tmp_path / "out")

    upscale(inputs / "s*", tmp_path / "out", tiny_weights, **SPREAD)

    assert {name for name in before if name.startswith("images")} == {
        "images/small.png",
        "images/strips.png",
    }
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("results", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_run_goes_on_with_the_tiles_it_has(
    results: int,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, whole = tmp_path / "out", tmp_path / "whole"
    options = ["--oversize", "tile", "--fan-out-above", str(ABOVE)]
    killed = command_elsewhere(
        tmp_path,
        *("run", inputs / "[at]*", output, *quick(tiny_weights), *options),
        prepare=functools.partial(killed_after, results),
    )
    done = [path.name for path in output.glob(".staging/giants/*/results/*")]
    begun: list[int] = []

    def followed(tiled: Any, *arguments: Any) -> Any:
        begun.extend([tiled.first] if tiled.context.result is None else [])
        return persist_tile(tiled, *arguments)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", followed)
    upscale(inputs / "[at]*", output, tiny_weights, **SPREAD)

    upscale(inputs / "[at]*", whole, tiny_weights, oversize="tile")
    assert killed.code == -signal.SIGKILL, killed
    assert len(done) == results
    assert len(begun) == sum(row.calls for row in rows(whole).values()) - results
    assert tree(output) == tree(whole)


def damaged(data: bytes, at: float) -> bytes:
    position = int(len(data) * at)
    return data[:position] + b"\xff" * 200 + data[position + 200 :]


def test_files_damaged_within_have_the_codes_of_one_place(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "turned.jpg", "alpha.png"):
        data = (inputs / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    for name in ("tiles.tif", "deep.png"):
        (folder / name).write_bytes(damaged((inputs / name).read_bytes(), 0.5))
    upscale(folder, tmp_path / "plain", tiny_weights, oversize="tile")

    upscale(folder, tmp_path / "spread", tiny_weights, **SPREAD)

    expected = {
        "a.jpg": "truncated",
        "turned.jpg": "truncated",
        "alpha.png": "truncated",
        "tiles.tif": "corrupt",
        "deep.png": "checksum_mismatch",
    }
    assert error_codes(tmp_path / "plain") == expected == error_codes(tmp_path / "spread")
    assert list(verify(str(tmp_path / "spread"))) == []


def test_budget_is_that_of_the_ordinary_path(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    options: dict[str, Any] = {"max_credits": Decimal(12)}
    upscale(inputs, tmp_path / "plain", tiny_weights, oversize="tile", **options)

    upscale(inputs, tmp_path / "spread", tiny_weights, **SPREAD, **options)

    statuses = {row.status for row in rows(tmp_path / "spread").values()}
    assert statuses == {Status.UPSCALED, Status.OVER_BUDGET}
    assert tree(tmp_path / "spread") == tree(tmp_path / "plain")


@pytest.mark.slow
def test_paid_calls_are_those_of_one_place_and_charged_once(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(picture(1500, 1400, 4)).save(folder / "alpha.png")
    Image.fromarray(picture(1500, 900)).save(folder / "color.jpg")
    (tmp_path / "server").mkdir()
    with faults.server(tmp_path / "server", tiny_weights) as server:
        keys = {name: server.add_key(name) for name in ("plain", "spread")}
        for name, key in keys.items():
            options = ["--backend", "grpc", "--endpoint", f"127.0.0.1:{server.port}"]
            options += ["--api-key-file", str(key), "--workers", "1", "--quiet"]
            words = ["run", folder, tmp_path / name, *options, "--oversize", "tile"]
            if name == "spread":
                words += ["--fan-out-above", "3"]
                killed = command_elsewhere(
                    tmp_path,
                    *words,
                    prepare=functools.partial(signal_after, r"giants/\w+/results/\d+", 2),
                )
                assert killed.code == -signal.SIGKILL, killed
            last = command_elsewhere(tmp_path, *words)
            assert last.code == 0, last
        charges = {name: server.charges(name) for name in keys}

    plain, spread = (rows(tmp_path / name) for name in keys)
    assert tree(tmp_path / "spread") == tree(tmp_path / "plain")
    assert [row.calls for row in plain.values()] == [3, 2]
    for name, found in (("plain", plain), ("spread", spread)):
        asked = [request_id for row in found.values() for request_id in row.request_ids]
        assert sorted(charge.request_id for charge in charges[name]) == sorted(asked)
        assert sum(row.billed_credits for row in found.values()) == Decimal("1.0")


def test_upscale_alone_gives_one_result_for_each_input_whose_bytes_are_in_a_file(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    whole, scratch = tmp_path / "whole", tmp_path / "scratch"
    upscale(inputs / "[as]*.*g", whole, tiny_weights, oversize="tile")
    expected = {
        name: hashlib.sha256((whole / "images" / f"{Path(name).stem}.png").read_bytes()).hexdigest()
        for name in ("a.jpg", "alpha.png", "small.png")
    }

    def described(result: UpscaledImage) -> tuple[str, str, bool, str | None]:
        assert result.record is not None and result.file is not None and result.data is None
        data, row = Path(result.file).read_bytes(), result.record.row
        assert (len(data), hashlib.sha256(data).hexdigest()) == (
            row.output_bytes,
            row.output_sha256,
        )
        return result.source.input_id, row.output_sha256, row.calls > 1, row.output_uri

    sources = [
        bu.SourceImage("a.jpg", uri=str(inputs / "a.jpg")),
        bu.SourceImage("alpha.png", uri=str(inputs / "alpha.png")),
        bu.SourceImage("in memory", data=(inputs / "a.jpg").read_bytes()),
        bu.SourceImage("small.png", uri=str(inputs / "small.png")),
    ]
    for _ in range(2):
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            results = (
                pipeline
                | beam.Create(sources)
                | spread_by_hand(tiny_weights, scratch)
                | beam.Map(described)
            )
            assert_that(
                results,
                equal_to(
                    [
                        ("a.jpg", expected["a.jpg"], True, None),
                        ("alpha.png", expected["alpha.png"], True, None),
                        ("in memory", expected["a.jpg"], True, None),
                        ("small.png", expected["small.png"], False, None),
                    ]
                ),
            )


def test_results_keep_the_time_and_the_window_of_their_inputs(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    def described(
        result: UpscaledImage,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> tuple[str, int, int]:
        return result.source.input_id, timestamp.seconds(), window.start.seconds()

    sources = [
        (bu.SourceImage("a.jpg", uri=str(inputs / "a.jpg")), 3),
        (bu.SourceImage("small.png", uri=str(inputs / "small.png")), 4),
        (bu.SourceImage("turned.jpg", uri=str(inputs / "turned.jpg")), 15),
    ]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        results = (
            pipeline
            | beam.Create(sources)
            | beam.MapTuple(beam.window.TimestampedValue)
            | beam.WindowInto(beam.window.FixedWindows(10))
            | spread_by_hand(tiny_weights, tmp_path / "scratch")
            | beam.Map(described)
            | "Together" >> beam.WindowInto(beam.window.GlobalWindows())
        )
        assert_that(
            results, equal_to([("a.jpg", 3, 0), ("small.png", 4, 0), ("turned.jpg", 15, 10)])
        )


def test_scratch_is_needed_to_spread_and_refused_where_the_step_is_made(tiny_weights: Path) -> None:
    with pytest.raises(SettingsError, match="needs a scratch folder") as caught:
        bu.Upscale(ENGINE, weights=str(tiny_weights), device="cpu", **SPREAD)

    assert caught.value.code is ErrorCode.INVALID_OPTION


@pytest.mark.parametrize("own_scratch", [False, True])
def test_pipeline_of_ones_own_leaves_what_the_command_leaves(
    own_scratch: bool,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, output, whole = inputs / "[as]*", tmp_path / "out", tmp_path / "whole"
    upscale(chosen, whole, tiny_weights, **SPREAD)
    large = large_images_of(monkeypatch)
    scratch = tmp_path / "scratch" if own_scratch else output

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | bu.ReadImages(str(chosen), output=str(output))
            | spread_by_hand(tiny_weights, scratch)
            | bu.WriteDataset(str(output))
        )

    assert set(large) == {"a.jpg", "alpha.png", "strips.tif"}
    assert files_of(output) == files_of(whole)
    assert list(verify(str(output))) == []
    assert not (output / ".staging").exists()


def files_of(output: Path) -> dict[str, bytes]:
    """All images and manifests of an output."""
    found = [*output.glob("images/*"), *output.glob("manifest/*")]
    return {str(path.relative_to(output)): path.read_bytes() for path in found}


def interrupt(_: UpscaledImage) -> None:
    raise RuntimeError("interrupted")


@pytest.mark.parametrize("own_scratch", [False, True])
def test_results_of_an_interrupted_pipeline_are_taken_up(
    own_scratch: bool,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, output, whole = inputs / "[as]*.*g", tmp_path / "out", tmp_path / "whole"
    upscale(chosen, whole, tiny_weights, **SPREAD)
    scratch = tmp_path / "scratch" if own_scratch else output
    begun: list[str] = []

    def noted(source: SourceImage, *arguments: Any) -> Any:
        prepared = prepare(source, *arguments)
        begun.extend([source.name] if isinstance(prepared, TiledImage) else [])
        return prepared

    monkeypatch.setattr("beam_upscale.pipeline.upscale.prepare", noted)

    def results(pipeline: beam.Pipeline) -> Any:
        images = pipeline | bu.ReadImages(str(chosen), output=str(output))
        return images | spread_by_hand(tiny_weights, scratch)

    with (
        pytest.raises(Exception, match="interrupted"),
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
    ):
        _ = results(pipeline) | beam.Map(interrupt)
    of_the_first = list(begun)
    pipeline = beam.Pipeline(runner=FnApiRunner())
    _ = results(pipeline) | bu.WriteDataset(str(output))
    metrics = pipeline.run().metrics()

    assert of_the_first == begun == ["small.png"]
    # Large images are assembled anew, of the tiles that are there.
    found = metrics.query(MetricsFilter().with_name("images_upscaled"))["counters"]
    assert sum(each.committed for each in found) == len(rows(output)) - 1
    assert files_of(output) == files_of(whole)
    assert list(verify(str(output))) == []


def test_scratch_folder_is_held_like_an_output(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    scratch = tmp_path / "scratch"
    source = bu.SourceImage("a.jpg", uri=str(inputs / "a.jpg"))

    with (
        hold_output(str(scratch), in_this_process=True, lease_seconds=10),
        pytest.raises(Exception, match="is held by"),
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
    ):
        _ = pipeline | beam.Create([source]) | spread_by_hand(tiny_weights, scratch)

    assert not (scratch / ".staging/giants").exists()


def test_scratch_folder_that_becomes_the_output_has_its_hold(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, held = tmp_path / "out", []

    def followed(tiled: Any, inference: Any, scratch: DatasetFolder) -> Any:
        owner = Folder(str(output)).look().owner
        held.append((scratch.hold and scratch.hold.token, owner and owner.token))
        return persist_tile(tiled, inference, scratch)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", followed)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        # No transform before Upscale names the output.
        _ = (
            pipeline
            | bu.ReadImages(str(inputs / "a.jpg"))
            | spread_by_hand(tiny_weights, output)
            | bu.WriteDataset(str(output))
        )
        dataset = output_of_pipeline(pipeline, str(output))

    assert dataset.hold is not None
    assert set(held) == {(dataset.hold.token, dataset.hold.token)}
    assert list(verify(str(output))) == []
    assert not (output / ".staging").exists()


def test_lease_of_an_output_that_is_scratch_too_is_requested_before(
    inputs: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    output = str(tmp_path / "out")

    def build(pipeline: beam.Pipeline, **named_first: Any) -> Any:
        images = pipeline | bu.ReadImages(str(inputs), **named_first)
        results = images | spread_by_hand(tiny_weights, Path(output))
        return results | bu.WriteDataset(output, lease_seconds=60)

    with pytest.raises(SettingsError, match="lease_seconds is 60 here and 30") as refused:
        build(beam.Pipeline())
    pipeline = beam.Pipeline()
    build(pipeline, output=output, lease_seconds=60)

    assert refused.value.code is ErrorCode.INVALID_OPTION
    hold = output_of_pipeline(pipeline, output).hold
    assert hold is not None
    assert hold.lease_seconds == 60


def test_killed_run_goes_on_in_a_pipeline_of_ones_own(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    options = ["--oversize", "tile", "--fan-out-above", str(ABOVE)]
    killed = command_elsewhere(
        tmp_path,
        *("run", inputs / "a*", output, *quick(tiny_weights), *options),
        prepare=functools.partial(killed_after, 2),
    )
    begun: list[int] = []

    def followed(tiled: Any, *arguments: Any) -> Any:
        begun.extend([tiled.first] if tiled.context.result is None else [])
        return persist_tile(tiled, *arguments)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", followed)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | bu.ReadImages(str(inputs / "a*"), output=str(output))
            | spread_by_hand(tiny_weights, output)
            | bu.WriteDataset(str(output))
        )

    assert killed.code == -signal.SIGKILL, killed
    assert len(begun) == sum(row.calls for row in rows(output).values()) - 2
