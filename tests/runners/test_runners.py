"""One dataset on Prism, Flink and Spark: the bytes of the runner in this process."""

import subprocess
import sys
from pathlib import Path

import clusters
import pytest
import runs
from fetch import ROOT

from beam_upscale.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BEAM_UPSCALE = Path(sys.executable).with_name("beam-upscale")


def run_as_user(folder: Path, *command: Path | str) -> None:
    """Runs a command in a folder of its own, which no worker shares; it must succeed."""
    folder.mkdir()
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def assert_two_workers_took_part(before: dict[str, int], cluster: clusters.Cluster) -> None:
    now = cluster.elements()
    took = {worker: count - before.get(worker, 0) for worker, count in now.items()}
    assert len([count for count in took.values() if count > 0]) >= clusters.WORKERS, took


def test_command_leaves_the_bytes_of_the_runner_in_this_process(
    tmp_path: Path,
    cluster: clusters.Cluster,
    photographs: Path,
    in_process: Path,
    tiny_weights: Path,
) -> None:
    before = dict(cluster.elements()) if cluster.has_workers else {}

    run_as_user(
        tmp_path / "elsewhere",
        *(BEAM_UPSCALE, "run", photographs, tmp_path / "out", "--shard-rows", "30"),
        *("--weights", tiny_weights, "--device", "cpu", "--precision", "fp32", "--threads", "1"),
        *("--", *cluster.options),
    )

    assert runs.tree(tmp_path / "out") == runs.tree(in_process)
    assert list(verify(str(tmp_path / "out"))) == []
    codes = runs.error_codes(tmp_path / "out")
    assert {name: code for name, code in codes.items() if code is not None} == {
        "half.jpg": "truncated",
        "empty.png": "empty_file",
        "text.jpg": "not_an_image",
        "link.png": "not_found",
    }
    if cluster.has_workers:
        assert_two_workers_took_part(before, cluster)


# The command has been on all three; that pipelines begin as well does not depend on the engine.
@pytest.mark.parametrize("cluster", ["prism", "spark"], indirect=True)
def test_pipeline_leaves_the_bytes_of_the_runner_in_this_process(
    tmp_path: Path, cluster: clusters.Cluster, photographs: Path, tiny_weights: Path
) -> None:
    before = dict(cluster.elements()) if cluster.has_workers else {}
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
        assert_two_workers_took_part(before, cluster)
