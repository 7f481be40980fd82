"""Each command imports what it needs, and no heavy library besides."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = frozenset(
    {
        *("PIL", "apache_beam", "diffusers", "grpc", "numpy", "openvino", "pandas", "pyarrow"),
        *("pyvips", "requests", "scipy", "spandrel", "torch", "torchvision", "transformers"),
    }
)

# Runs the command line, and says on standard error which modules it has imported.
PROGRAM = """
import sys
from beam_upscale.__main__ import main
try:
    main()
finally:
    print("modules", *sys.modules, file=sys.stderr)
"""


def heavy_imports(*arguments: Path | str) -> set[str]:
    """The heavy libraries that a command imports, which must end well."""
    words = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return HEAVY & set(ended.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "command",
    [
        *("--help", "--version", "run --help", "plan --help", "verify --help", "serve --help"),
        *("engines", "engines --json", "weights list"),
        *("keys add me --keys keys.jsonl", "keys list --keys kept.jsonl"),
    ],
)
def test_what_only_looks_something_up_imports_nothing_heavy(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kept.jsonl").touch()

    assert heavy_imports(*command.split()) == set()
