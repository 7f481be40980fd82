"""Runs in processes that can do nothing more: they stop, and the same command goes on."""

import errno
import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import torch
from PIL import Image
from runs import (
    DIFFUSION,
    ENGINE,
    ON_CPU,
    Finished,
    command,
    command_elsewhere,
    error_codes,
    processes,
    quick,
    rows,
    tree,
    upscale,
)

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode
from beam_upscale.images.decoding import child_process, pool
from beam_upscale.images.encoding import pool as encoders
from beam_upscale.images.processes import children
from beam_upscale.inference.networks.diffusion.latent import LatentNetwork
from beam_upscale.inference.networks.super_resolution import SuperResolution

slow = pytest.mark.slow

IMAGES = 8
SOUND = 3
"""Passes of a network, or pictures of a decoder, until something happens to it."""

ILLEGAL_ACCESS = "CUDA error: an illegal memory access was encountered"


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, photograph: Callable[..., Image.Image]
) -> Path:
    folder = tmp_path_factory.mktemp("broken") / "in"
    folder.mkdir()
    for number in range(IMAGES):
        photograph(number, 20 + number, 16).save(folder / f"{number:02}.png")
    return folder


def fail_after(sound: int, owner: Any, name: str, make_error: Callable[[], Exception]) -> None:
    """Has a method of a class raise an error from a call on."""
    calls, method = itertools.count(1), getattr(owner, name)

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls) > sound:
            raise make_error()
        return method(*arguments, **options)

    setattr(owner, name, failing)


def lose_device(sound: int = SOUND) -> None:
    """Has ESRGAN's and diffusion's passes fail as on a device whose context is destroyed."""
    for owner, name in ((SuperResolution, "upscale"), (LatentNetwork, "_denoise")):
        fail_after(sound, owner, name, lambda: torch.AcceleratorError(ILLEGAL_ACCESS))


def fill_device() -> None:
    """Has a device without memory for anything, which another program took."""
    error = torch.OutOfMemoryError("CUDA out of memory")
    fail_after(SOUND, SuperResolution, "upscale", lambda: error)


def lose_embeddings() -> None:
    """Has the text encoder fail."""
    fail_after(0, LatentNetwork, "_encode", lambda: torch.AcceleratorError(ILLEGAL_ACCESS))


def refuse_processes(number: int, after: int = 0) -> None:
    """Has the system start no decoder, after so many."""
    children.START_SECONDS = 0.2
    fail_after(after, child_process.Child, "__init__", lambda: OSError(number, "no more processes"))


def refuse_encoders() -> None:
    """Has the system start no encoder."""
    children.START_SECONDS = 0.2
    fail_after(0, encoders._Child, "__init__", lambda: OSError(errno.EAGAIN, "no more processes"))


def end_decoders() -> None:
    """Has decoders end as soon as they begin."""
    child_process.CHILD_COMMAND = (sys.executable, "-c", "raise SystemExit(7)")


def assert_stopped(finished: Finished, code: ErrorCode, output: Path) -> None:
    """The run ended with one line, and has no row that tells of an image's failure."""
    assert finished.code == 1, finished
    said = [line for line in finished.out.splitlines() if line.startswith("stopped: ")]
    assert len(said) == 1
    assert str(code) in said[0]
    assert "the same command without --overwrite goes on" in said[0]
    assert "Traceback" not in finished.out + finished.err
    dataset = DatasetFolder(str(output))
    found = [record.row for record in dataset.read_records()]
    found += [row for _, row in dataset.committed_rows()]
    assert {row.status for row in found} <= {Status.UPSCALED}
    run_json = dataset.read_run()
    assert run_json is not None and not run_json.complete


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        pytest.param(lose_device, ErrorCode.DEVICE_LOST, id="lost device"),
        pytest.param(fill_device, ErrorCode.DEVICE_LOST, id="full device", marks=slow),
        pytest.param(
            functools.partial(refuse_processes, errno.EAGAIN),
            ErrorCode.DECODER_UNAVAILABLE,
            id="no processes",
            marks=slow,
        ),
        pytest.param(
            functools.partial(refuse_processes, errno.ENOMEM),
            ErrorCode.DECODER_UNAVAILABLE,
            id="no memory",
            marks=slow,
        ),
        pytest.param(end_decoders, ErrorCode.DECODER_UNAVAILABLE, id="ending decoders", marks=slow),
    ],
)
def test_the_run_stops_and_the_same_command_goes_on(
    tmp_path: Path,
    inputs: Path,
    tiny_weights: Path,
    prepare: Callable[[], None],
    code: ErrorCode,
) -> None:
    words = ["run", inputs, tmp_path / "out", *quick(tiny_weights), "--workers", "2"]

    broken = command_elsewhere(tmp_path, *words, prepare=prepare)
    assert_stopped(broken, code, tmp_path / "out")
    done = len(list(DatasetFolder(str(tmp_path / "out")).read_records()))
    rest = command(*words)

    assert rest.code == 0
    assert done == (SOUND if code is ErrorCode.DEVICE_LOST else 0)
    assert error_codes(tmp_path / "out") == {f"{n:02}.png": None for n in range(IMAGES)}
    upscale(inputs, tmp_path / "whole", tiny_weights)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert list(verify(str(tmp_path / "out"))) == []


@slow
@pytest.mark.parametrize("prepare", [functools.partial(lose_device, 1), lose_embeddings])
def test_diffusion_and_chains_stop_likewise(
    tmp_path: Path,
    inputs: Path,
    tiny_weights: Path,
    tiny_pipeline: Path,
    prepare: Callable[[], None],
) -> None:
    words = [
        *("run", inputs / "0[0-4].png", tmp_path / "out", "--engine", ENGINE, "--then", DIFFUSION),
        *("--weights", f"{ENGINE}={tiny_weights}", "--weights", f"{DIFFUSION}={tiny_pipeline}"),
        *(*ON_CPU, "--steps", "2"),
    ]

    broken = command_elsewhere(tmp_path, *words, prepare=prepare)

    assert_stopped(broken, ErrorCode.DEVICE_LOST, tmp_path / "out")


@slow
def test_an_image_that_is_spread_over_the_workers_stops_the_run_likewise(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    (tmp_path / "in").mkdir()
    photograph(1, 1600, 1500).save(tmp_path / "in" / "large.png")
    photograph(2, 20, 20).save(tmp_path / "in" / "small.png")
    spread = ["--oversize", "tile", "--fan-out-above", "1"]
    words = ["run", tmp_path / "in", tmp_path / "out", *quick(tiny_weights), *spread]

    broken = command_elsewhere(
        tmp_path, *words, prepare=functools.partial(lose_device, sound=SOUND)
    )
    assert_stopped(broken, ErrorCode.DEVICE_LOST, tmp_path / "out")
    tiles = len(list(tmp_path.glob("out/.staging/giants/*/results/*")))
    rest = command(*words)

    assert tiles == SOUND - 1
    assert rest.code == 0
    assert error_codes(tmp_path / "out") == {"large.png": None, "small.png": None}


def test_no_encoder_stops_the_run_likewise(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        photograph(number, 60, 50).save(tmp_path / "in" / f"{number}.png")
    words = ["run", tmp_path / "in", tmp_path / "out", *quick(tiny_weights)]

    broken = command_elsewhere(tmp_path, *words, prepare=refuse_encoders)

    assert_stopped(broken, ErrorCode.ENCODER_UNAVAILABLE, tmp_path / "out")
    assert command(*words).code == 0
    assert set(error_codes(tmp_path / "out").values()) == {None}


@slow
def test_no_decoder_for_a_large_image_stops_the_run_likewise(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    (tmp_path / "in").mkdir()
    photograph(1, 700, 600).save(tmp_path / "in" / "large.png")
    words = ["run", tmp_path / "in", tmp_path / "out", *quick(tiny_weights)]
    words += ["--oversize", "tile", "--fan-out-above", "1"]

    broken = command_elsewhere(tmp_path, *words, prepare=lose_decoders_of_pictures)

    assert_stopped(broken, ErrorCode.DECODER_UNAVAILABLE, tmp_path / "out")


def lose_decoders_of_pictures() -> None:
    """Has no decoder be there once a large picture is to be cut."""
    read_picture = pool.DecoderPool.read_picture

    def failing(self: pool.DecoderPool, *arguments: Any, **options: Any) -> Any:
        self.close()
        self.children._is_closed = False
        refuse_processes(errno.EMFILE)
        return read_picture(self, *arguments, **options)

    pool.DecoderPool.read_picture = failing


@pytest.mark.parametrize("words", [["plan"], ["run", "--max-credits", "100"]], ids=" ".join)
def test_what_reads_headers_only_ends_with_one_line(
    tmp_path: Path, inputs: Path, tiny_weights: Path, words: list[str]
) -> None:
    name, *options = words
    where = [inputs, tmp_path / "out", *quick(tiny_weights)] if name == "run" else [inputs]

    ended = command_elsewhere(
        tmp_path,
        *(name, *where, *options),
        prepare=functools.partial(refuse_processes, errno.EAGAIN),
    )

    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith("beam-upscale: decoder_unavailable: no decoder process could be started")
    assert "[while running" not in last


def own_pipeline(source: Path, output: Path, weights: Path) -> None:
    """A pipeline of one's own, in this process."""
    settings = {"device": "cpu", "precision": "fp32", "threads": 1, "weights": str(weights)}
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        (
            pipeline
            | bu.ReadImages(str(source), output=str(output))
            | bu.Upscale(ENGINE, oversize="tile", fan_out_above=1, scratch=str(output), **settings)
            | bu.WriteDataset(str(output))
        )


def broken_pipeline(source: Path, output: Path, weights: Path) -> None:
    """The same on a device that is lost."""
    lose_device(sound=0)
    own_pipeline(source, output, weights)


@slow
def test_a_pipeline_of_ones_own_is_not_complete_and_goes_on(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    photograph(1, 700, 600).save(source / "large.png")
    photograph(2, 20, 20).save(source / "small.png")
    broken = processes.Process(target=broken_pipeline, args=(source, output, tiny_weights))
    broken.start()
    broken.join()

    dataset = DatasetFolder(str(output))
    begun = dataset.read_run()
    found = [*dataset.committed_rows(), *dataset.read_records()]
    own_pipeline(source, output, tiny_weights)

    assert broken.exitcode == 0
    assert begun is not None and not begun.complete
    assert found == []
    ended = dataset.read_run()
    assert ended is not None and ended.complete
    assert {name: row.status for name, row in rows(output).items()} == {
        "large.png": Status.UPSCALED,
        "small.png": Status.UPSCALED,
    }
