"""No table, metadata file or tar stops a process, whatever is wrong with it."""

import os
import subprocess
import sys

import pytest
from places import SUPPORT


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_damage_anywhere_is_an_error_with_a_code(seed: int) -> None:
    script = SUPPORT / "mutated_tables.py"

    finished = subprocess.run(
        [sys.executable, script, str(seed), "700"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    # The last line says at which input it ended.
    assert finished.returncode == 0, finished.stdout[-100:] + finished.stderr[-3000:]
