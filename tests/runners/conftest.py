"""Inputs of every kind, and what a run in this process makes of them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import clusters
import fetch
import pytest
import runs
from PIL import Image

# With those that cannot be done, two hundred inputs.
IMAGES = 195


@pytest.fixture(scope="session")
def photographs(
    tmp_path_factory: pytest.TempPathFactory, photograph: Callable[..., Image.Image]
) -> Path:
    """Images of mixed sizes and modes in folders, between them some that cannot be done."""
    folder = tmp_path_factory.mktemp("inputs") / "in"
    for number in range(IMAGES):
        place = folder / f"part-{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        mode = ("RGB", "L", "RGBA")[number % 3]
        image = photograph(number, 16 + number * 7 % 40, 12 + number * 11 % 30, mode)
        image.save(place / f"{number:03}.png")
    photograph(1, 60, 50).save(folder / "half.jpg", quality=90)
    half = (folder / "half.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(half[: len(half) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("This is a text file, whatever its name says.\n")
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    (folder / "f\u00fcr \u2603.png").write_bytes((folder / "part-0" / "000.png").read_bytes())
    return folder


@pytest.fixture(scope="session")
def with_large(
    tmp_path_factory: pytest.TempPathFactory,
    photographs: Path,
    photograph: Callable[..., Image.Image],
) -> Path:
    """The same, and one image that takes several calls."""
    folder = tmp_path_factory.mktemp("inputs") / "with-large"
    shutil.copytree(photographs, folder, symlinks=True)
    photograph(2, 2400, 1200).save(folder / "large.png")
    return folder


@pytest.fixture(scope="session")
def in_process(
    tmp_path_factory: pytest.TempPathFactory, with_large: Path, tiny_weights: Path
) -> Path:
    """What the runner in this process leaves, which spreads no image."""
    output = tmp_path_factory.mktemp("in-process") / "out"
    runs.upscale(with_large, output, tiny_weights, oversize="tile", shard_rows=30)
    return output


@pytest.fixture(scope="session", params=["prism", "flink", "spark"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[clusters.Cluster]:
    """Each engine in turn."""
    made = {"prism": fetch.PRISM, "flink": fetch.FLINK_JOB_SERVER, "spark": fetch.SPARK_JOB_SERVER}
    if not made[request.param].exists():
        pytest.fail(f"{made[request.param]} is not there: run make runners")
    if request.param == "prism":
        yield clusters.prism()
        return
    start = {"flink": clusters.flink, "spark": clusters.spark}[request.param]
    with start(tmp_path_factory.mktemp(request.param)) as running:
        yield running
