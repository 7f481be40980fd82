"""Inputs that a pipeline's own steps keep from the dataset, or add to it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from runs import rows

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.verify import verify
from beam_upscale.sources.inputs.source_image import SourceImage


@pytest.fixture
def folder(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(5):
        photograph(number, 12, 8).save(tmp_path / f"in/{number}.png")
    return tmp_path / "in"


def run_pipeline(folder: Path, output: Path, weights: Path, step: Any, **options: Any) -> None:
    upscale = bu.Upscale(weights=str(weights), device="cpu", precision="fp32")
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | bu.ReadImages(str(folder), output=str(output), shard_rows=2)
            | step
            | upscale
            | bu.WriteDataset(str(output), **options)
        )


def is_odd(source: SourceImage) -> bool:
    return int(source.name[0]) % 2 == 1


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_what_a_step_leaves_out_has_a_row_and_is_done_once_it_does_not(
    folder: Path, tmp_path: Path, tiny_weights: Path, layout: str
) -> None:
    output = tmp_path / "out"

    run_pipeline(folder, output, tiny_weights, beam.Filter(is_odd), layout=layout)
    first = rows(output)
    run_pipeline(folder, output, tiny_weights, beam.Filter(is_odd), layout=layout)
    again = rows(output)
    run_pipeline(folder, output, tiny_weights, beam.Filter(lambda _: True), layout=layout)

    # Of the last shard nothing comes to the sink.
    assert {name: (row.status, row.error_code) for name, row in first.items()} == {
        "0.png": ("filtered", "left_out"),
        "1.png": ("upscaled", None),
        "2.png": ("filtered", "left_out"),
        "3.png": ("upscaled", None),
        "4.png": ("filtered", "left_out"),
    }
    assert again == first
    assert {row.status for row in rows(output).values()} == {"upscaled"}
    assert list(verify(str(output))) == []


def test_what_was_done_stays_though_a_later_step_leaves_it_out(
    folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    run_pipeline(folder, output, tiny_weights, beam.Map(lambda source: source))
    before = rows(output)

    run_pipeline(folder, output, tiny_weights, beam.Filter(is_odd))

    assert rows(output) == before
    assert list(verify(str(output))) == []


def test_where_no_step_may_leave_one_out_none_is_lost_in_silence(
    folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"

    with pytest.raises(Exception, match=r"the runner has lost \S+/[024]\.png"):
        run_pipeline(folder, output, tiny_weights, beam.Filter(is_odd), may_leave_out=False)

    assert not (output / "README.md").exists()


def test_inputs_that_stand_in_for_all_of_a_shard_leave_those_their_rows(
    folder: Path, tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    photograph(9, 12, 8).save(tmp_path / "own.png")
    data, output = (tmp_path / "own.png").read_bytes(), tmp_path / "out"

    def replaced(source: SourceImage) -> SourceImage:
        own = SourceImage(f"own-{source.input_id}", data=data, columns={"file_name": "own.png"})
        return dataclasses.replace(own, shard=source.shard)

    run_pipeline(folder, output, tiny_weights, beam.Map(replaced))

    found = [row.status for _, row in DatasetFolder(str(output)).committed_rows()]
    assert sorted(found) == ["filtered"] * 5 + ["upscaled"] * 5
    assert list(verify(str(output))) == []


def test_inputs_that_no_listing_has_are_written_beside_those_it_has(
    folder: Path, tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    photograph(9, 12, 8).save(tmp_path / "own.png")
    data, output = (tmp_path / "own.png").read_bytes(), tmp_path / "out"

    def with_own(source: SourceImage) -> list[SourceImage]:
        own = SourceImage(f"own-{source.input_id}", data=data, columns={"file_name": "own.png"})
        return [source, dataclasses.replace(own, shard=source.shard)]

    run_pipeline(folder, output, tiny_weights, beam.FlatMap(with_own))

    assert len(list(DatasetFolder(str(output)).committed_rows())) == 10
    assert list(verify(str(output))) == []
