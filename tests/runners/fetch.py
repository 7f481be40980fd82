"""Fetches and builds the runners that the tests run, and two stores: `make runners`.

Prism and a fake of Google Cloud Storage come from their Go modules, Flink and Spark from their
Python packages, and Beam's job servers for them and HDFS from Maven. Versions and hashes stand in
the files beside this one (Maven compares the registry's checksums); registries and mirrors are
those that each of the clients is set up for.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = HERE / "out"
PYTHON = OUT / ".venv" / "bin" / "python"
PRISM = OUT / "prism"
GCS = OUT / "gcs"
FLINK_JOB_SERVER = OUT / "flink" / "flink-job-server.jar"
SPARK_JOB_SERVER = OUT / "spark" / "spark-job-server.jar"
HDFS = OUT / "hdfs" / "lib"

# What the Go modules beside this file are there for, by the names of their folders.
_GO_PACKAGES = {
    "prism": "github.com/apache/beam/sdks/v2/go/cmd/prism",
    "gcs": "github.com/fsouza/fake-gcs-server",
}

sys.path.insert(0, str(ROOT / ".ci"))
import environment  # noqa: E402
from environment import SetUpError, say  # noqa: E402


def fetch() -> None:
    """Does what is missing; without anything to do it takes no time."""
    for program, why in (
        ("go", "builds Prism and the store"),
        ("mvn", "fetches Beam's job servers and HDFS"),
    ):
        if shutil.which(program) is None:
            raise SetUpError(f"there is no {program}, which {why}")
    OUT.mkdir(exist_ok=True)
    _once("engines", [HERE / "requirements.lock"], _install_engines)
    for name in _GO_PACKAGES:
        pins = [HERE / name / "go.mod", HERE / name / "go.sum"]
        _once(name, pins, lambda name=name: _build_with_go(name))
    for name in ("flink", "spark", "hdfs"):
        _once(name, [HERE / name / "pom.xml"], lambda name=name: _build_with_maven(name))


def _once(name: str, sources: Sequence[Path], make: Callable[[], None]) -> None:
    """Makes something from files that pin it, unless that was done; copies of them say so."""
    copy = OUT / f"{name}.made-from"
    pins = b"".join(source.read_bytes() for source in sources)
    if copy.exists() and copy.read_bytes() == pins:
        return
    say(f"fetching what {sources[0].relative_to(ROOT)} lists; the first time it takes minutes")
    copy.unlink(missing_ok=True)
    make()
    copy.write_bytes(pins)


def _install_engines() -> None:
    folder = PYTHON.parents[1]
    shutil.rmtree(folder, ignore_errors=True)
    if not environment.run(sys.executable, "-m", "venv", "--without-pip", folder):
        raise SetUpError(f"{folder} could not be made: see above")
    locked = ["--no-deps", "--require-hashes", "--requirement"]
    # They are source packages that hold jars; what builds them is locked as well, and comes first.
    engines = HERE / "requirements.lock"
    for arguments in (
        [*locked, environment.BUILD_LOCK],
        ["--no-build-isolation", *locked, engines],
    ):
        if environment.uv("pip", "install", "--quiet", "--python", PYTHON, *arguments):
            continue
        if not environment.pip("--python", PYTHON, "install", "--quiet", *arguments):
            raise SetUpError("neither uv nor pip could install Flink and Spark: see above")


def _build_with_go(name: str) -> None:
    package = _GO_PACKAGES[name]
    _succeed("go", "build", "-mod=readonly", "-o", OUT / name, package, folder=HERE / name)


def _build_with_maven(name: str) -> None:
    shutil.rmtree(OUT / name, ignore_errors=True)
    flags = ["--batch-mode", "--quiet", "--strict-checksums", "--no-transfer-progress"]
    _succeed("mvn", *flags, "package", folder=HERE / name)


def _succeed(*command: Path | str, folder: Path) -> None:
    words = [str(word) for word in command]
    if subprocess.run(words, cwd=folder, env=dict(os.environ)).returncode != 0:
        raise SetUpError(f"{' '.join(words)} failed in {folder.relative_to(ROOT)}: see above")


if __name__ == "__main__":
    try:
        fetch()
    except SetUpError as error:
        say(f"error: {error}")
        sys.exit(1)
