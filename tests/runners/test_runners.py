"""One dataset on Prism, Flink and Spark: the bytes of the runner in this process."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import clusters
import pytest
import runs
from clusters import Step
from fetch import ROOT

from beam_upscale.dataset.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BEAM_UPSCALE = Path(sys.executable).with_name("beam-upscale")

# Megapixels of output, of which one image has more.
LARGE_ABOVE = "5"

# Engines give two workers about a half each.
LEAST_SHARE = 0.1


def run_as_user(folder: Path, *command: Path | str) -> None:
    """Runs a command in a folder of its own, which no worker shares; it must succeed."""
    folder.mkdir()
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def elements(cluster: clusters.Cluster) -> dict[Step, dict[str, int]]:
    """How many elements each worker took in by now."""
    return {step: dict(cluster.elements(step)) for step in Step}


def assert_two_workers_had_a_share(counts: Mapping[Any, int]) -> None:
    """What only wrote a shard took in a few elements at most, and none of these."""
    least = max(1, sum(counts.values()) * LEAST_SHARE)
    assert len([count for count in counts.values() if count >= least]) >= clusters.WORKERS, counts


def taken(
    step: Step, before: Mapping[Step, Mapping[str, int]], cluster: clusters.Cluster
) -> Counter[str]:
    """How many elements of a step each worker has taken in since then."""
    now = Counter(cluster.elements(step))
    now.subtract(before[step])
    return now


def test_command_leaves_the_bytes_of_the_runner_in_this_process(
    tmp_path: Path,
    cluster: clusters.Cluster,
    with_large: Path,
    in_process: Path,
    tiny_weights: Path,
) -> None:
    before = elements(cluster)

    run_as_user(
        tmp_path / "elsewhere",
        *(BEAM_UPSCALE, "run", with_large, tmp_path / "out", "--shard-rows", "30"),
        *("--weights", tiny_weights, "--device", "cpu", "--precision", "fp32", "--threads", "1"),
        *("--oversize", "tile", "--fan-out-above", LARGE_ABOVE, "--", *cluster.options),
    )

    assert runs.tree(tmp_path / "out") == runs.tree(in_process)
    assert list(verify(str(tmp_path / "out"))) == []
    rows = runs.rows(tmp_path / "out")
    codes = {name: row.error_code for name, row in rows.items()}
    assert {name: code for name, code in codes.items() if code is not None} == {
        "half.jpg": "truncated",
        "empty.png": "empty_file",
        "text.jpg": "not_an_image",
        "link.png": "not_found",
    }
    assert rows["large.png"].calls >= 2 * clusters.WORKERS
    if cluster.has_workers:
        assert_two_workers_had_a_share(taken(Step.IMAGES, before, cluster))
        assert_two_workers_had_a_share(runs.workers_of(tmp_path / "out"))
        tiles = taken(Step.TILES, before, cluster)
        # All of them are of one image.
        assert tiles.total() == rows["large.png"].calls
        if cluster.spreads_few:
            assert_two_workers_had_a_share(tiles)


# The command has been on all three; that pipelines begin as well does not depend on the engine.
@pytest.mark.parametrize("cluster", ["spark"], indirect=True)
def test_pipeline_leaves_the_bytes_of_the_runner_in_this_process(
    tmp_path: Path, cluster: clusters.Cluster, photographs: Path, tiny_weights: Path
) -> None:
    before = elements(cluster)
    automatic = {"device": "auto", "precision": "auto", "threads": None}
    runs.upscale(photographs, tmp_path / "here", tiny_weights, layout="parquet", **automatic)

    run_as_user(
        tmp_path / "elsewhere",
        *(sys.executable, ROOT / "pipelines" / "upscale_images.py"),
        *(photographs, tmp_path / "there", "--weights", tiny_weights, "--layout", "parquet"),
        *cluster.options,
    )

    here, there = runs.tree(tmp_path / "here"), runs.tree(tmp_path / "there")
    here.pop("run.json")  # It says more of a run of the command line.
    there.pop("run.json")
    assert there == here
    if cluster.has_workers:
        assert_two_workers_had_a_share(taken(Step.IMAGES, before, cluster))
        assert_two_workers_had_a_share(runs.workers_of(tmp_path / "there"))
