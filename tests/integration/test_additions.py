"""A new input format and a new layout are one module and one line each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

SUPPORT = ROOT / "tests/support"
ADDITIONS = SUPPORT / "additions"


def add(module: Path, package: Path, line: str) -> None:
    """Adds a module to a package, and a line to the registry there, before that of the last."""
    shutil.copy(module, package)
    (registry,) = [path for path in package.glob("*.py") if "    WEBDATASET = " in path.read_text()]
    before, last, after = registry.read_text().partition("    WEBDATASET = ")
    registry.write_text(f"{before}    {line}\n{last}{after}")


@pytest.mark.slow
def test_an_input_format_and_a_layout_are_added_by_a_module_and_a_line(tmp_path: Path) -> None:
    source, copy = ROOT / "beam_upscale", tmp_path / "package" / "beam_upscale"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    add(ADDITIONS / "lst.py", copy / "sources/formats", 'LST = "lst", "lists of paths"')
    add(ADDITIONS / "zip.py", copy / "dataset/layouts", 'ZIP = "zip", "zip archives"')
    used = tmp_path / "used"
    used.mkdir()

    path = os.pathsep.join(map(str, [copy.parent, SUPPORT, ROOT]))
    ended = subprocess.run(
        # Safe: the folder of the program itself, which has a module `zip`, is no place for imports.
        [sys.executable, "-P", ADDITIONS / "scenario.py", used],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 0, ended.stderr
