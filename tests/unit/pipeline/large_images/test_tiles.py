"""Tiles that fail, and runs that stop between tiles."""

import dataclasses
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from runs import ENGINE, error_codes, rows, upscale
from spread_runs import ABOVE, SPREAD, spread_by_hand

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.pipeline.large_images import states
from beam_upscale.pipeline.large_images.tiles import persist_tile, read_tile
from beam_upscale.pipeline.run_state.stop import request_stop, stop_reason
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.tile_layout import Box, TilePlace
from beam_upscale.sources.inputs.source_image import SourceImage


def test_network_that_fails_on_a_tile_costs_one_row(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(tiled: Any, inference: Any, dataset: Any) -> Any:
        if tiled.first == 5:
            error = ImageError(ErrorCode.NOT_A_NUMBER, "no numbers")
            inference = dataclasses.replace(inference, cores=[], error=error)
        return persist_tile(tiled, inference, dataset)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", failing)
    upscale(inputs / "[as]*.*g", tmp_path / "out", tiny_weights, **SPREAD)

    found = rows(tmp_path / "out")
    assert error_codes(tmp_path / "out") == {
        "a.jpg": "not_a_number",
        "alpha.png": "not_a_number",
        "small.png": None,
    }
    assert found["a.jpg"].error_message == "no numbers"


def test_failures_of_tiles_are_told_again_with_what_they_cost(
    tmp_path: Path, tiny_weights: Path
) -> None:
    options = {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32"}
    settings = UpscaleSettings.of(ENGINE, **options, oversize="tile", fan_out_above=ABOVE).pin()
    dataset = DatasetFolder(str(tmp_path / "out"))
    box = Box(0, 0, 8, 8)
    tiles = [
        states.LargeImageTile(
            SourceImage("a"), "key", index, TilePlace(box, box), box, 3, False, (), None
        )
        for index in range(3)
    ]
    unusable = ImageError(ErrorCode.INVALID_RESULT, "no image")
    # Charged before it was found to be unusable; and two that were with the service together.
    inferences = [
        Inference(
            error=unusable,
            notes=("a note",),
            device_seconds=0.5,
            queue_seconds=0.25,
            batch_size=2,
            request_ids=(f"request {index}",),
            billed_credits=Decimal("0.2"),
            attempts=3,
        )
        for index in range(2)
    ]
    for tile, inference in zip(tiles, inferences, strict=False):
        persist_tile(TiledImage([], 2, context=states.TileContext(tile)), inference, dataset)

    # Their worker was lost before it told.
    *again, beside = (
        read_tile(tile, settings, dataset, shared_pool()).context.result.inference for tile in tiles
    )

    assert [dataclasses.replace(each, error=unusable) for each in again] == inferences
    assert [(each.error.code, each.error.message) for each in again] == 2 * [
        (ErrorCode.INVALID_RESULT, "no image")
    ]
    assert beside is None


def test_stop_between_two_tiles_leaves_the_image_to_the_next_run(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[int] = []

    def stopping(tiled: Any, inference: Any, dataset: Any) -> Any:
        kept.extend([tiled.first] if tiled.context.result is None else [])
        if len(kept) == 3:
            request_stop(dataset, "enough")
        return persist_tile(tiled, inference, dataset)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", stopping)
    stopped = upscale(inputs / "a*", tmp_path / "out", tiny_weights, **SPREAD)
    begun = len(kept)
    result = upscale(inputs / "a*", tmp_path / "out", tiny_weights, **SPREAD)

    assert stopped.stopped == "enough"
    assert stopped.totals.rows == 0
    # What was handed to the network with the third is done too.
    assert 3 <= begun <= 5
    assert result.stopped is None
    assert len(kept) == sum(row.calls for row in rows(tmp_path / "out").values())


@pytest.mark.parametrize("own_scratch", [False, True])
def test_service_that_refuses_all_calls_stops_the_tiles_of_a_pipeline_of_ones_own(
    own_scratch: bool,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    scratch = tmp_path / "scratch" if own_scratch else output
    stop = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")
    called: list[int] = []

    def refusing(tiled: Any, inference: Inference, scratch: DatasetFolder) -> Any:
        is_called = tiled.context.result is None
        called.extend([tiled.first] if is_called else [])
        is_refused = is_called and len(called) == 3
        return persist_tile(tiled, Inference(stop=stop) if is_refused else inference, scratch)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", refusing)

    def run() -> None:
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            _ = (
                pipeline
                | bu.ReadImages(str(inputs / "a*"), output=str(output))
                | spread_by_hand(tiny_weights, scratch)
                | bu.WriteDataset(str(output))
            )

    run()
    begun, reason = len(called), stop_reason(DatasetFolder(str(scratch)))
    run()

    assert reason == "api_key_refused: the key expired"
    # The network had other tiles together with the third.
    assert 3 <= begun <= 5
    # The next run is not stopped, and repeats the refused call.
    assert len(called) == sum(row.calls for row in rows(output).values()) + 1
    assert stop_reason(DatasetFolder(str(scratch))) is None
    assert list(verify(str(output))) == []
