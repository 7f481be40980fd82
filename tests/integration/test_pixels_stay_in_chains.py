"""No PCollection that carries pixels enters a Flatten or a shuffle, where a runner would hold it.

The graph of every kind of pipeline is walked: what carries pixels is followed from the steps that
decode or upscale to those that persist. Then results of a megabyte each really pass.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from runs import ENGINE

import beam_upscale as bu
from beam_upscale import yaml
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.pipeline import run
from beam_upscale.pipeline.commit.persist import Persist
from beam_upscale.pipeline.commit.postponed import POSTPONED
from beam_upscale.pipeline.large_images.results import PersistInScratch
from beam_upscale.pipeline.large_images.spread import PersistTile, ReadTile
from beam_upscale.pipeline.request import Run
from beam_upscale.pipeline.settings.run_start import new_run
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.pipeline.upscale import LARGE_IMAGES, Prepare


MOST_BYTES = 300_000_000
RESULTS = 600

_DECODES = (Prepare, ReadTile)
_PERSISTS = (Persist, PersistTile, PersistInScratch)
_HOLDS = (beam.Flatten, beam.GroupByKey)


class Pixels(PipelineVisitor):
    """Follows PCollections that carry pixels, in the order in which they are made.

    Attributes:
        carrying: these PCollections.
        held: the labels of steps, of all kinds, that hold what they are given.
        wrong: of these, those that are given pixels.
    """

    def __init__(self) -> None:
        self.carrying: set[Any] = set()
        self.held: list[str] = []
        self.wrong: list[str] = []

    def visit_transform(self, applied: Any) -> None:
        """Looks at one step that has no steps within."""
        given = [*applied.inputs, *(each.pvalue for each in applied.side_inputs)]
        has_pixels = not self.carrying.isdisjoint(given)
        is_held = isinstance(applied.transform, _HOLDS) or applied.side_inputs
        if is_held:
            self.held.append(applied.full_label)
        side_inputs = {each.pvalue for each in applied.side_inputs}
        if not self.carrying.isdisjoint(side_inputs) or (has_pixels and is_held):
            self.wrong.append(applied.full_label)
        step = getattr(applied.transform, "fn", None)
        for tag, made in applied.outputs.items():
            is_decoded = isinstance(step, _DECODES) and tag != LARGE_IMAGES
            if tag != POSTPONED and (
                is_decoded or (has_pixels and not isinstance(step, _PERSISTS))
            ):
                self.carrying.add(made)


def walked(pipeline: beam.Pipeline) -> Pixels:
    found = Pixels()
    pipeline.visit(found)
    return found


SPREAD: Mapping[str, Any] = {"oversize": "tile", "fan_out_above": 1}
GRPC: Mapping[str, Any] = {"backend": "grpc", "endpoint": "localhost:1"}
LOCAL: Mapping[str, Any] = {"weights": "nearest", "device": "cpu"}


@pytest.mark.parametrize("options", [LOCAL, GRPC], ids=["local", "grpc"])
@pytest.mark.parametrize("max_credits", [None, Decimal(9)], ids=["", "budget"])
@pytest.mark.parametrize(
    ("engine", "layout", "more"),
    [
        *((ENGINE, layout, {}) for layout in Layout),
        *(((ENGINE, ENGINE), layout, {"keep_intermediates": True}) for layout in Layout),
        (ENGINE, Layout.FILES, SPREAD),
        (ENGINE, Layout.FILES, {**SPREAD, "output_format": "tiff"}),
    ],
)
def test_of_the_command(
    tmp_path: Path,
    engine: Any,
    layout: Layout,
    more: Mapping[str, Any],
    max_credits: Decimal | None,
    options: Mapping[str, Any],
) -> None:
    settings = UpscaleSettings.of(engine, **options, **more)
    request = Run("in", str(tmp_path / "out"), settings, layout, max_credits=max_credits)
    pinned, pipeline = settings.pin(), beam.Pipeline(runner=FnApiRunner())
    run_json = new_run(pinned, layout)

    run._wire(pipeline, request, pinned, run_json, "run", None, None)

    found = walked(pipeline)
    assert found.wrong == []
    # Tiles, what the network made of them, and the results.
    assert len(found.carrying) >= 3
    assert "WriteDataset/ByShard" in found.held
    spreads = [label for label in found.held if label.startswith("Upscale/SpreadTiles")]
    assert bool(spreads) == ("fan_out_above" in more)


def of_ones_own(output: Path, upscale: bu.Upscale, after: Any = None) -> beam.Pipeline:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    results = pipeline | bu.ReadImages("in", output=str(output)) | "Upscale" >> upscale
    if after is not None:
        results |= "After" >> after
    _ = results | bu.WriteDataset(str(output))
    return pipeline


@pytest.mark.parametrize("after", [None, beam.Filter(bool)], ids=["", "filtered"])
@pytest.mark.parametrize("options", [{}, SPREAD], ids=["whole", "spread"])
def test_of_a_pipeline_of_ones_own(tmp_path: Path, options: Mapping[str, Any], after: Any) -> None:
    scratch = str(tmp_path / "scratch")

    pipeline = of_ones_own(
        tmp_path / "out", bu.Upscale(ENGINE, scratch=scratch, **LOCAL, **options), after
    )

    found = walked(pipeline)
    assert found.wrong == []
    assert len(found.carrying) >= 3
    assert ("Upscale/Results" in found.held) == bool(options)


@pytest.mark.parametrize("options", [{}, SPREAD], ids=["whole", "spread"])
def test_of_beam_yaml(tmp_path: Path, options: Mapping[str, Any]) -> None:
    output = str(tmp_path / "out")
    pipeline = beam.Pipeline(runner=FnApiRunner())

    _ = (
        pipeline
        | yaml.ReadImages("in", output=output)
        | yaml.Upscale(ENGINE, scratch=output, **LOCAL, **options)
        | yaml.WriteDataset(output)
    )

    found = walked(pipeline)
    assert found.wrong == []
    assert len(found.carrying) >= 3


def flattened(branches: tuple[Any, Any]) -> Any:
    return branches | beam.Flatten()


def grouped(branches: tuple[Any, Any]) -> Any:
    return branches[0] | beam.WithKeys(0) | beam.GroupByKey() | beam.FlatMap(lambda each: each[1])


def shuffled(branches: tuple[Any, Any]) -> Any:
    return branches[0] | beam.Reshuffle()


@pytest.mark.parametrize("join", [flattened, grouped, shuffled])
def test_walk_finds_what_it_looks_for(
    tmp_path: Path, join: Callable[[tuple[Any, Any]], Any]
) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    branches = (
        pipeline | "Create1" >> beam.Create([]) | "Upscale1" >> bu.Upscale(ENGINE, **LOCAL),
        pipeline | "Create2" >> beam.Create([]) | "Upscale2" >> bu.Upscale(ENGINE, **LOCAL),
    )

    _ = join(branches) | bu.WriteDataset(str(tmp_path / "joined"))
    assert walked(pipeline).wrong != []


def test_branches_of_results_need_no_flatten(tmp_path: Path) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    branches = (
        pipeline | "Create1" >> beam.Create([]) | "Upscale1" >> bu.Upscale(ENGINE, **LOCAL),
        pipeline | "Create2" >> beam.Create([]) | "Upscale2" >> bu.Upscale(ENGINE, **LOCAL),
    )

    _ = branches | bu.WriteDataset(str(tmp_path / "out"))

    assert walked(pipeline).wrong == []


@pytest.mark.parametrize("way", ["chain", "spread", "run"])
def test_results_of_a_megabyte_each_are_not_held(tmp_path: Path, way: str) -> None:
    # Beam imports PyTorch where there is one, which has half a gigabyte of its own.
    program = "import sys; sys.modules['torch'] = None; import megabytes; "
    program += "megabytes.main(*sys.argv[1:])"

    ended = subprocess.run(
        [sys.executable, "-c", program, way, tmp_path / "out", str(RESULTS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "out" / "images").iterdir())) == RESULTS
    assert int(ended.stdout.split()[-1]) < MOST_BYTES
