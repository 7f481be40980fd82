"""Plots of what was measured: the same for the same rows."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import measured_rows
import pytest
from places import ROOT, SUPPORT

from benchmarks.pipeline import plots

PROGRAM = """
import sys
from pathlib import Path
import measured_rows
from benchmarks.pipeline import plots
plots.write(measured_rows.all_parts(), Path(sys.argv[1]))
"""


def drawn_elsewhere(folder: Path, hash_seed: str) -> dict[str, str]:
    """The hashes of plots that another process draws."""
    folder.mkdir()
    path = f"{ROOT}{os.pathsep}{SUPPORT}"
    environment = {"PYTHONPATH": path, "PYTHONHASHSEED": hash_seed, "HOME": str(folder)}
    words = [sys.executable, "-c", PROGRAM, str(folder / "all")]
    subprocess.run(words, check=True, env=environment, cwd=ROOT)
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.svg")
    }


@pytest.mark.slow
def test_other_processes_draw_the_same_bytes(tmp_path: Path) -> None:
    first = drawn_elsewhere(tmp_path / "first", "1")
    second = drawn_elsewhere(tmp_path / "second", "2")

    assert sorted(first) == [
        *("all-images.svg", "all-megapixels.svg", "all-service.svg", "all-throughput.svg"),
    ]
    assert first == second


def test_plots_have_neither_a_date_nor_a_random_id(tmp_path: Path) -> None:
    [path] = plots.write(measured_rows.throughput(), tmp_path / "a")

    text = path.read_text()

    assert "<dc:date>" not in text
    assert "images a second" in text


def test_parts_that_were_not_measured_have_no_plot(tmp_path: Path) -> None:
    written = plots.write(list(measured_rows.growth()), tmp_path / "a")

    assert [path.name for path in written] == ["a-images.svg", "a-megapixels.svg"]
    assert plots.write([], tmp_path / "b") == []
