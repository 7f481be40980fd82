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
from types import MappingProxyType
from typing import Any

import apache_beam as beam
import pytest
import trustme
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from runs import DIFFUSION, ENGINE

import beam_upscale as bu
from beam_upscale import yaml
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.pipeline.commit.grouping import Persist
from beam_upscale.pipeline.commit.postponed import POSTPONED, TakePostponed
from beam_upscale.pipeline.large_images.results import PersistInScratch
from beam_upscale.pipeline.large_images.spread import PersistTile, ReadTile, SpreadTiles
from beam_upscale.pipeline.request import Run
from beam_upscale.pipeline.run import wire_run
from beam_upscale.pipeline.settings.run_start import new_run
from beam_upscale.pipeline.settings.upscale_options import (
    ParameterKeywords,
    ServiceKeywords,
    UpscaleOptions,
)
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.pipeline.upscale import LARGE_IMAGES, Prepare

MOST_BYTES = 300_000_000
RESULTS = 600

_DECODES = (Prepare, ReadTile)
_PERSISTS = (Persist, PersistTile, PersistInScratch)
_HOLDS = (beam.Flatten, beam.GroupByKey)

# Outputs of steps that are given pixels, or decode, and whose elements have none.
_WITHOUT_PIXELS = (LARGE_IMAGES, POSTPONED)


class Pixels(PipelineVisitor):
    """Follows PCollections that carry pixels, in the order in which they are made.

    Attributes:
        carrying: these PCollections.
        held: the steps, of all kinds, that hold what they are given.
        reported: the steps that take reports of postponed inputs.
        wrong: the labels of steps that hold pixels, and of steps of a `WriteDataset` that are given
            pixels which it was not given.
    """

    def __init__(self) -> None:
        self.carrying: set[Any] = set()
        self.held: list[Any] = []
        self.reported: list[Any] = []
        self.wrong: list[str] = []

    def visit_transform(self, applied: Any) -> None:
        """Looks at one step that has no steps within."""
        side_inputs = [each.pvalue for each in applied.side_inputs]
        pixels = self.carrying.intersection([*applied.inputs, *side_inputs])
        is_held = isinstance(applied.transform, _HOLDS) or side_inputs
        if is_held:
            self.held.append(applied)
        writer = enclosing(applied, bu.WriteDataset)
        is_foreign = writer is not None and not pixels.issubset(writer.inputs)
        if is_foreign or (pixels and is_held):
            self.wrong.append(applied.full_label)
        step = getattr(applied.transform, "fn", None)
        if isinstance(step, TakePostponed):
            self.reported.append(applied)
        passes_on = bool(pixels) and not isinstance(step, _PERSISTS)
        if passes_on or isinstance(step, _DECODES):
            made = applied.outputs.items()
            self.carrying.update(each for tag, each in made if tag not in _WITHOUT_PIXELS)

    def holds_within(self, outer: type[beam.PTransform], inner: type[beam.PTransform]) -> bool:
        """Tells whether a step of a kind, within a transform, holds what it is given."""
        return any(
            isinstance(each.transform, inner) and enclosing(each, outer) is not None
            for each in self.held
        )


def enclosing(applied: Any, kind: type[beam.PTransform]) -> Any:
    """The transform of a kind that a step is a part of; None if there is none."""
    while applied is not None and not isinstance(applied.transform, kind):
        applied = applied.parent
    return applied


def walked(pipeline: beam.Pipeline) -> Pixels:
    """A pipeline's graph, in which no pixels are held."""
    found = Pixels()
    pipeline.visit(found)
    assert found.wrong == []
    # Tiles, what the network made of them, and the results.
    assert len(found.carrying) >= 3
    assert found.holds_within(bu.WriteDataset, beam.GroupByKey)
    return found


def new_pipeline() -> beam.Pipeline:
    return beam.Pipeline(runner=FnApiRunner())


def of_the_command(
    output: Path, settings: UpscaleSettings, layout: Layout, max_credits: Decimal | None = None
) -> beam.Pipeline:
    request = Run("in", str(output), settings, layout, max_credits=max_credits)
    pinned, pipeline = settings.pin(), new_pipeline()
    wire_run(pipeline, request, pinned, new_run(pinned, layout), "run", None, None)
    return pipeline


def of_ones_own(
    output: Path,
    upscale: beam.PTransform,
    after: beam.PTransform | None = None,
    layout: Layout = Layout.FILES,
) -> beam.Pipeline:
    pipeline = new_pipeline()
    results = pipeline | bu.ReadImages("in", output=str(output)) | "Upscale" >> upscale
    if after is not None:
        results |= "After" >> after
    _ = results | bu.WriteDataset(str(output), layout)
    return pipeline


def keep(_: Any) -> bool:
    return True


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

    found = walked(of_the_command(tmp_path / "out", settings, layout, max_credits))

    assert found.holds_within(SpreadTiles, beam.GroupByKey) == ("fan_out_above" in more)
    assert found.reported == []


# Options


# A value for each option.
VALUES: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("width", "height", "short_side", "long_side", "min_side"), 8),
        "oversize": "tile",
        "skip_larger_than": (8, 8),
        "max_input_pixels": 8,
        "max_input_bytes": 8,
        "animated": "reject",
        "output_format": "webp",
        "halo": 8,
        "prompt": "a cat",
        "negative_prompt": "a dog",
        "cfg_scale": 5.0,
        "steps": 3,
        "seed": 3,
        "noise_level": 3,
        "quality": 80,
        "lossless": True,
        "png_compression": 6,
        "metadata": "strip",
        "weights": "bicubic",
        "device": "cpu",
        "precision": "fp32",
        "network_backend": "torch",
        "remote_workers": True,
        "threads": 1,
        "max_tile_pixels": 64,
        "max_batch_pixels": 64,
        "exact": True,
        "tile_halo": 1,
        "vae_tiling": "on",
        "color_fix": True,
        "endpoint": "localhost:2",
        "api_key_file": "key",
        "ca_file": "ca.pem",
        "insecure": True,
        "max_in_flight": 2,
        "requests_per_second": 9.0,
        "worker_processes": 2,
        "deadline_seconds": 9.0,
        "retry_seconds": 9.0,
        "fan_out_above": 1,
        "prompt_column": "caption",
        "backend": "grpc",
        "keep_intermediates": True,
    }
)

# Options that one needs besides.
NEEDED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"fan_out_above": {"oversize": "tile"}, "requests_per_second": {"worker_processes": 2}}
)


def settings_with(name: str, weights: Path) -> UpscaleSettings:
    """Settings in which an option has its value, of an engine that takes it."""
    given = {**NEEDED.get(name, {}), name: VALUES[name]}
    if name in ParameterKeywords.__annotations__ or name == "prompt_column":
        return UpscaleSettings.of(DIFFUSION, **{**LOCAL, **given})
    if name in ServiceKeywords.__annotations__ or name == "backend":
        return UpscaleSettings.of(ENGINE, **{**GRPC, **given})
    network = {"weights": str(weights), "device": "cpu", "precision": "fp32"}
    engines = [ENGINE] * (2 if name == "keep_intermediates" else 1)
    return UpscaleSettings.of(engines, **{**network, **given})


@pytest.mark.slow
@pytest.mark.parametrize("name", UpscaleOptions.__annotations__)
def test_of_each_option(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    trustme.CA().cert_pem.write_to_path("ca.pem")
    settings = settings_with(name, tiny_weights)
    upscale = bu.Upscale(settings.pin(), scratch="scratch")

    walked(of_the_command(tmp_path / "run", settings, Layout.FILES))
    walked(of_ones_own(tmp_path / "own", upscale, beam.Filter(keep)))


# A value for each option of Beam's own.
HANDLER_VALUES: Mapping[str, Any] = MappingProxyType(
    {
        "min_batch_size": 1,
        "max_batch_size": 64,
        "max_batch_duration_secs": 1,
        "large_model": True,
        "model_copies": 1,
        "env_vars": {"NAME": "value"},
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("name", HandlerOptions.__annotations__)
@pytest.mark.parametrize("options", [LOCAL, GRPC, {**LOCAL, **SPREAD}], ids=["", "grpc", "spread"])
def test_of_each_option_of_a_handler(tmp_path: Path, options: Mapping[str, Any], name: str) -> None:
    handler_options: Any = {name: HANDLER_VALUES[name]}
    pinned = UpscaleSettings.of(ENGINE, **options).pin()
    scratch = str(tmp_path / "scratch")

    walked(
        of_ones_own(
            tmp_path / "out",
            bu.Upscale(pinned, handler_options=handler_options, scratch=scratch),
        )
    )


# Pipelines of a user's own


@pytest.mark.parametrize("after", [None, beam.Filter(keep)], ids=["", "filtered"])
@pytest.mark.parametrize(
    ("options", "layout"), [*(({}, layout) for layout in Layout), (SPREAD, Layout.FILES)]
)
def test_of_a_pipeline_of_ones_own(
    tmp_path: Path, options: Mapping[str, Any], layout: Layout, after: beam.PTransform | None
) -> None:
    scratch = str(tmp_path / "scratch")
    upscale = bu.Upscale(ENGINE, scratch=scratch, **LOCAL, **options)

    found = walked(of_ones_own(tmp_path / "out", upscale, after, layout))

    assert found.holds_within(bu.Upscale, beam.Flatten) == bool(options)
    assert len(found.reported) == (after is not None)


@pytest.mark.parametrize("after", [None, beam.Filter(keep)], ids=["", "filtered"])
@pytest.mark.parametrize("options", [{}, SPREAD], ids=["whole", "spread"])
def test_of_inputs_with_books(
    tmp_path: Path, options: Mapping[str, Any], after: beam.PTransform | None
) -> None:
    pinned, output = UpscaleSettings.of(ENGINE, **GRPC, **options).pin(), str(tmp_path / "out")
    pipeline = new_pipeline()

    results = pipeline | beam.Create([]) | bu.Upscale(pinned, books=output, scratch=output)
    if after is not None:
        results |= "After" >> after
    _ = results | bu.WriteDataset(output)

    assert len(walked(pipeline).reported) == (after is not None)


@pytest.mark.parametrize("filtered", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, SPREAD], ids=["whole", "spread"])
def test_of_branches(tmp_path: Path, options: Mapping[str, Any], filtered: int) -> None:
    pipeline, scratch = new_pipeline(), str(tmp_path / "scratch")
    branches = branches_of(pipeline, scratch=scratch, **options)

    # Of a branch that no step follows, the results themselves show what was postponed.
    parted = [
        each | f"After{number}" >> beam.Filter(keep)
        for number, each in enumerate(branches[:filtered])
    ]
    _ = (*parted, *branches[filtered:]) | bu.WriteDataset(str(tmp_path / "out"))

    assert len(walked(pipeline).reported) == filtered


@pytest.mark.parametrize("after", [None, beam.Filter(keep)], ids=["", "filtered"])
@pytest.mark.parametrize(
    ("options", "layout"), [*(({}, layout) for layout in Layout), (SPREAD, Layout.FILES)]
)
def test_of_beam_yaml(
    tmp_path: Path, options: Mapping[str, Any], layout: Layout, after: beam.PTransform | None
) -> None:
    output, pipeline = str(tmp_path / "out"), new_pipeline()

    rows = pipeline | yaml.ReadImages("in", output=output)
    rows |= yaml.Upscale(ENGINE, scratch=output, **LOCAL, **options)
    if after is not None:
        rows |= "After" >> after
    _ = rows | yaml.WriteDataset(output, layout=layout)

    # Rows are made of results, also where no step of a user's own follows.
    assert len(walked(pipeline).reported) == 1


# What is looked for


def branches_of(pipeline: beam.Pipeline, **options: Any) -> tuple[Any, Any]:
    return (
        pipeline | "Create1" >> beam.Create([]) | "Up1" >> bu.Upscale(ENGINE, **LOCAL, **options),
        pipeline | "Create2" >> beam.Create([]) | "Up2" >> bu.Upscale(ENGINE, **LOCAL, **options),
    )


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
    pipeline = new_pipeline()

    _ = join(branches_of(pipeline)) | bu.WriteDataset(str(tmp_path / "joined"))

    found = Pixels()
    pipeline.visit(found)
    assert found.wrong != []


class Listening(bu.WriteDataset):
    """Takes results that it was not given, besides those that it was."""

    def __init__(self, output: str, others: Any) -> None:
        super().__init__(output)
        self.others = others

    def expand(self, upscaled: Any) -> Any:
        """Wires a step behind the other results, too."""
        _ = self.others | "Listen" >> beam.Map(keep)
        return super().expand(upscaled)


def test_walk_finds_pixels_that_are_taken_without_being_given(tmp_path: Path) -> None:
    pipeline = new_pipeline()
    given, others = branches_of(pipeline)

    _ = given | "Write" >> Listening(str(tmp_path / "out"), others)

    found = Pixels()
    pipeline.visit(found)
    assert len(found.wrong) == 1 and "Listen" in found.wrong[0]


@pytest.mark.slow
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
