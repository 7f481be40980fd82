"""Makes the Python that the peers are measured in: `make bench-pipeline` begins with it.

    python -m benchmarks.pipeline.peers.set_up [FOLDER]

What is installed is what `requirements.lock` lists, checked by hash, from the registry that pip is
set up for. With nothing to do it takes no time.
"""

import shutil
import sys
from pathlib import Path

from benchmarks.pipeline.participants import PEERS_PYTHON, ROOT

LOCK = Path(__file__).with_name("requirements.lock")

sys.path.insert(0, str(ROOT / ".ci"))
import environment  # noqa: E402
from environment import SetUpError, say  # noqa: E402


def set_up(folder: Path) -> None:
    """Installs the lock into a virtual environment, unless that was done.

    Args:
        folder: the environment; a copy of the lock in it says that it is complete.

    Raises:
        SetUpError: it could not be made, or the lock not installed.
    """
    copy = folder / "installed.lock"
    if copy.exists() and copy.read_bytes() == LOCK.read_bytes():
        return
    say(f"installing {LOCK.relative_to(ROOT)}")
    shutil.rmtree(folder, ignore_errors=True)
    if not environment.run(sys.executable, "-m", "venv", "--without-pip", folder):
        raise SetUpError(f"{folder} could not be made: see above")
    locked = ["--no-deps", "--no-build-isolation", "--require-hashes", "--requirement"]
    # A few source packages are built by what the first lock lists.
    for lock in (environment.BUILD_LOCK, LOCK):
        _install(folder / "bin" / "python", *locked, lock)
    shutil.copyfile(LOCK, copy)


def _install(python: Path, *arguments: Path | str) -> None:
    quiet = ["--quiet", "--python", python]
    if environment.uv("pip", "install", *quiet, *environment.COMPILED, *arguments):
        return
    if not environment.pip("--python", python, "install", "--quiet", *arguments):
        raise SetUpError("neither uv nor pip could install the peers: see above")


if __name__ == "__main__":
    try:
        set_up(Path(sys.argv[1]).absolute() if sys.argv[1:] else PEERS_PYTHON.parents[1])
    except SetUpError as error:
        sys.exit(f"error: {error}")
