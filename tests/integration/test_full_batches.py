"""Bundles that run at once in one process feed one device: their images share its batches."""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image

import beam_upscale as bu
from beam_upscale.inference import batching
from beam_upscale.inference.batching import Batcher

IMAGES = 12
WIDTH, HEIGHT = 24, 16
PATIENCE_SECONDS = 30
ALONE = {"min_batch_size": 1, "max_batch_size": 1}
"""Beam's bounds that hand each image to the network alone, as bundles of one image do."""


@pytest.fixture
def sources(tmp_path: Path, photograph: Callable[..., Image.Image]) -> list[bu.SourceImage]:
    found = []
    for number in range(IMAGES):
        path = tmp_path / f"{number:02}.png"
        photograph(number, WIDTH, HEIGHT).save(path)
        found.append(bu.SourceImage(input_id=path.name, uri=str(path)))
    return found


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images of each batch; the first one takes as long as it takes others to gather."""
    sizes: list[int] = []
    run = Batcher._run

    def wait_for_others(batcher: Batcher[batching.Patch]) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while len(batcher._queue) < 3 and time.monotonic() < until:
            time.sleep(0.001)

    def run_counted(
        self: Batcher[batching.Patch], batch: Sequence[batching._Waiting[batching.Patch]]
    ) -> None:
        sizes.append(len(batch))
        if len(sizes) == 1:
            wait_for_others(self)
        run(self, batch)

    monkeypatch.setattr(Batcher, "_run", run_counted)
    return sizes


def digests(
    sources: Sequence[bu.SourceImage], weights: Path, workers: int
) -> dict[str, str | None]:
    """The SHA-256 of each result, with several images to a batch, each alone in its bundle."""
    options = PipelineOptions([])
    direct = options.view_as(DirectOptions)
    direct.direct_num_workers = workers
    direct.direct_running_mode = "multi_threading" if workers > 1 else "in_memory"
    settings = bu.UpscaleSettings.of(
        weights=str(weights), device="cpu", precision="fp32", threads=1
    ).pin()
    (stage,) = settings.stages
    # On a CPU the command runs one image at a time, since a batch gains nothing there.
    engine = dataclasses.replace(stage.pinned, max_batch_pixels=4 * WIDTH * HEIGHT)
    stages = (dataclasses.replace(stage, pinned=engine),)
    settings = dataclasses.replace(settings, stages=stages)
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(sources)
            | beam.Reshuffle()
            | bu.Upscale(settings, handler_options=ALONE)
            | beam.Map(_keep)
        )
    with _lock:
        found = dict(_found)
        _found.clear()
    return found


_found: dict[str, str | None] = {}
_lock = threading.Lock()


def _keep(upscaled: bu.UpscaledImage) -> None:
    assert upscaled.record is not None
    with _lock:
        _found[upscaled.source.input_id] = upscaled.record.row.output_sha256


def test_images_of_bundles_that_run_at_once_share_batches(
    sources: list[bu.SourceImage], tiny_weights: Path, batches: list[int]
) -> None:
    together = digests(sources, tiny_weights, workers=4)
    shared = list(batches)
    alone = digests(sources, tiny_weights, workers=1)

    # The device is free, and takes the first image alone; three others wait when it is done.
    assert shared[:2] == [1, 3]
    assert sum(shared) == IMAGES
    assert batches[len(shared) :] == [1] * IMAGES
    assert together == alone
    assert len(set(alone.values())) == IMAGES
