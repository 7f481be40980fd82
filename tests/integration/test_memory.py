"""Peak resident memory of real runs, child processes counted."""

import contextlib
import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import pyvips
import torch
from PIL import Image
from runs import quick, rows
from safetensors.torch import save_file
from small_networks import compact, esrgan

from beam_upscale.dataset.manifest.row import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 2**20
GIB = 2**30
SECONDS_BETWEEN_SAMPLES = 0.05

NO_NETWORK = ["--weights", "nearest", "--workers", "2"]

Report = Callable[[str], None]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Prints a measured figure, also where the test passes."""

    def write(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    return write


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of scale 2 that takes no time: memory is what is measured."""
    path = tmp_path_factory.mktemp("weights") / "compact-x2.safetensors"
    save_file(compact(scale=2).state_dict(), path)
    return path


@dataclasses.dataclass
class Peak:
    """The most memory that a process and its children held together, in bytes."""

    resident: int = 0


@contextlib.contextmanager
def watched(process: psutil.Process) -> Iterator[Peak]:
    """Samples a process and its children until the block ends."""
    peak, ended = Peak(), threading.Event()

    def sample() -> None:
        while not ended.wait(SECONDS_BETWEEN_SAMPLES):
            peak.resident = max(peak.resident, resident(process))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def resident(process: psutil.Process) -> int:
    """What a process and its children hold.

    A child that is about to run another program shows its parent's memory until then, and its
    parent's command line: that is no memory of its own.
    """
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        total, command = process.memory_info().rss, process.cmdline()
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.cmdline() != command:
                    total += child.memory_info().rss
    return total


def peak_of_run(folder: Path, output: Path, *options: str) -> int:
    """The peak of `beam-upscale run` as a user starts it, in bytes."""
    command = [sys.executable, "-m", "beam_upscale", "run", str(folder), str(output), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with watched(psutil.Process(process.pid)) as peak:
        _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert {row.status for row in rows(output).values()} == {Status.UPSCALED}
    return peak.resident


def test_memory_does_not_grow_with_the_dataset(
    tmp_path: Path, photograph: Callable[..., Image.Image], report: Report
) -> None:
    # The few are two shards already: until then memory grows, up to the commit of a whole shard and
    # to as many freed blocks as each thread keeps. Measured at 416 x 416: 300 images 358 MiB, 1,000
    # 365, 2,000 386, 6,000 393, 12,000 397.
    side, few, many = 256, 2000, 6000
    folders = [tmp_path / "few", tmp_path / "many"]
    for folder, count in zip(folders, (few, many), strict=True):
        folder.mkdir()
        for number in range(count):
            path = folder / f"{number:04}.jpg"
            if number < 20:
                photograph(number, side, side).save(path)
            else:
                path.hardlink_to(folder / f"{number % 20:04}.jpg")
    options = [*NO_NETWORK, "--format", "jpeg"]

    low, high = (peak_of_run(folder, Path(f"{folder}-out"), *options) for folder in folders)

    allowance = low // 10
    pixels = many * side * side * 3
    report(
        f"{few} images of {side} x {side}: {low / MIB:.0f} MiB; {many}: {high / MIB:.0f} MiB "
        f"({high / low - 1:+.1%}); input pixels {pixels / MIB:.0f} MiB"
    )
    assert pixels > 10 * allowance
    assert high <= low + allowance


def test_large_image_in_tiles(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image], report: Report
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photograph(0, 8000, 6000).save(folder / "large.jpg")

    peak = peak_of_run(folder, tmp_path / "out", *quick(tiny_weights), "--oversize", "tile")

    report(f"8,000 x 6,000 in tiles with a small network: {peak / GIB:.2f} GiB")
    assert rows(tmp_path / "out")["large.jpg"].output_width == 16_000
    assert peak < 3e9


@pytest.mark.parametrize(
    ("suffix", "side"), [(".jpg[Q=90]", 16_000), (".tif[tile,compression=deflate]", 12_000)]
)
def test_large_image_tile_by_tile(tmp_path: Path, report: Report, suffix: str, side: int) -> None:
    # By rows, and by region.
    folder, part = tmp_path / "in", 1000
    folder.mkdir()
    random = np.random.default_rng(0).integers(0, 256, (part // 50, part // 50, 3), np.uint8)
    busy = pyvips.Image.new_from_array(random).resize(50, kernel="cubic").cast("uchar")
    busy.copy(interpretation="srgb").replicate(side // part, side // part).write_to_file(
        f"{folder / 'large'}{suffix}"
    )
    options = [*NO_NETWORK, "--oversize", "tile", "--format", "tiff"]
    options += ["--max-input-pixels", str(side**2), "--fan-out-above", "500"]
    # The real network takes a machine hours, and no more memory than for any one tile.
    started = time.monotonic()

    peak = peak_of_run(folder, tmp_path / "out", *options)

    seconds = time.monotonic() - started
    name = suffix.partition("[")[0]
    report(f"{side:,} x {side:,} from {name} by tiles: {peak / GIB:.2f} GiB in {seconds:.0f} s")
    output = pyvips.Image.new_from_file(str(tmp_path / "out" / "images" / "large.tiff"))
    assert (output.width, output.height, output.bands) == (2 * side, 2 * side, 3)
    source = pyvips.Image.new_from_file(str(next(folder.iterdir())))
    left, top = 3 * part - 40, 7 * part - 40
    expected = source.crop(left, top, 80, 80).numpy().repeat(2, axis=0).repeat(2, axis=1)
    found = output.crop(2 * left, 2 * top, 160, 160).numpy()
    np.testing.assert_array_equal(found, expected)
    assert peak < 2e9


@pytest.mark.parametrize(
    "precision",
    [
        pytest.param(
            "bf16",
            marks=pytest.mark.skipif(
                not torch.cpu.get_capabilities().get("avx512_bf16"),
                reason="the CPU does not compute in bf16",
            ),
        ),
        "fp32",
    ],
)
def test_largest_image_in_one_call(
    tmp_path: Path, photograph: Callable[..., Image.Image], report: Report, precision: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photograph(0, 1024, 1024).save(folder / "square.png")
    # As wide as the default network, whose 23 blocks take minutes, and the memory of one.
    path = tmp_path / "wide-x4.safetensors"
    save_file(esrgan(filters=64, blocks=2).state_dict(), path)
    options = ["--weights", str(path), "--device", "cpu", "--precision", precision]

    peak = peak_of_run(folder, tmp_path / "out", *options)

    report(f"1,024 x 1,024 with a network of full width in {precision}: {peak / GIB:.2f} GiB")
    # The other blocks' weights have 64 MB.
    assert peak < 3e9 - 64e6
