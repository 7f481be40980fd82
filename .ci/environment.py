"""Sets up `.venv` from the lock files; needs only Python 3.11 or newer, and a package registry.

    python3 .ci/environment.py install requirements.lock      install what is missing
    python3 .ci/environment.py uv pip compile ...             run the pinned uv

What is installed is exactly what a lock lists, checked by hash, and this checkout itself. uv does
it because it is several times faster than pip; where uv cannot run or fails, pip does the same.
pip's settings for a mirror (index, certificate, links) hold for uv as well.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

INSTALLER = Path(__file__).resolve()
ROOT = INSTALLER.parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# Copies of what was installed from: equal to the files in the checkout, there is nothing to do.
INSTALLED = VENV / "installed"
INSTALLER_LOCK = ROOT / ".ci" / "requirements-installer.lock"
BUILD_LOCK = ROOT / ".ci" / "requirements-build.lock"
RUN_LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"

# Compiled at installation: where PYTHONDONTWRITEBYTECODE is set, as in many container images, each
# process would otherwise compile PyTorch and Beam anew, which takes longer than its work. pip does
# it unasked, uv for all of `.venv`, also for what was installed before.
COMPILED = ["--compile-bytecode"]
# This checkout is compiled too, after each change.
OWN_CODE = ["beam_upscale", "pipelines", "benchmarks", "tests"]

# The build backends are locked and installed first, so that the few source packages are built by
# known versions of them. `pyvips` then finds no compiler set-up and stays pure Python, which is
# what belongs with the library in `pyvips-binary`.
LOCKED = ["--no-deps", "--no-build-isolation", "--require-hashes", "--requirement"]
EDITABLE = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]

UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}
UV_SEPARATORS = {"find-links": ",", "extra-index-url": " ", "trusted-host": " "}


class SetUpError(Exception):
    """What stands in the way of a working `.venv`, and what to do about it."""


def say(text: str) -> None:
    """Writes a line of progress to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def is_current(*sources: Path) -> bool:
    """Whether `.venv` was last installed from these very files."""
    copies = [(source, INSTALLED / source.name) for source in sources]
    return PYTHON.exists() and all(
        copy.exists() and copy.read_bytes() == source.read_bytes() for source, copy in copies
    )


def mark_current(*sources: Path) -> None:
    """Records that `.venv` holds what these files ask for."""
    INSTALLED.mkdir(exist_ok=True)
    for source in sources:
        shutil.copyfile(source, INSTALLED / source.name)


def run(*command: str | Path, env: dict[str, str] | None = None) -> bool:
    """Runs a command with its output shown; whether it succeeded."""
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=env).returncode == 0


def pip(*arguments: str | Path) -> bool:
    """Runs the pip of `.venv`."""
    return run(PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments)


def create_venv() -> None:
    """Makes `.venv`, or adds pip to one that has none."""
    if PYTHON.exists() and has_pip():
        return
    if importlib.util.find_spec("ensurepip") is None:
        raise SetUpError(
            f"{sys.executable} cannot make virtual environments: it has no ensurepip. On Debian "
            f"and Ubuntu: apt install python3.{sys.version_info.minor}-venv. Or name another "
            "Python: make PYTHON=/path/to/python3"
        )
    say(f"making .venv with Python {sys.version.split()[0]}")
    if not run(sys.executable, "-m", "venv", VENV):
        raise SetUpError(f"{sys.executable} -m venv {VENV} failed: see above")


def has_pip() -> bool:
    """Whether `.venv` can run pip; one made by another tool may not."""
    check = [str(PYTHON), "-c", "import pip"]
    return subprocess.run(check, stderr=subprocess.DEVNULL).returncode == 0


def uv_environment() -> dict[str, str]:
    """The environment for uv: ours, with pip's settings where uv's own are not set."""
    listing = subprocess.run(
        [str(PYTHON), "-m", "pip", "config", "list"], capture_output=True, text=True
    ).stdout
    settings: dict[str, dict[str, str]] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        settings.setdefault(section, {})[key] = str(ast.literal_eval(value))
    environment = dict(os.environ)
    # pip's order of precedence, strongest first.
    for section in (":env:", "install", "global"):
        for key, value in settings.get(section, {}).items():
            if key in UV_NAMES:
                separated = UV_SEPARATORS.get(key, " ").join(value.split())
                environment.setdefault(UV_NAMES[key], separated)
    # As pip does: any index may hold a file. The hashes decide which file is the right one.
    environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return environment


def uv(*arguments: str | Path) -> bool:
    """Runs the pinned uv on `.venv`; False also where there is no uv for this machine."""
    program = VENV / "bin" / "uv"
    environment = {**uv_environment(), "VIRTUAL_ENV": str(VENV)}
    return program.exists() and run(program, *arguments, env=environment)


def pip_install_lock(lock: Path) -> bool:
    """Installs a small lock by pip, unless it is installed; whether it now is."""
    if is_current(lock):
        return True
    done = pip("install", "--quiet", "--no-deps", "--require-hashes", "--requirement", lock)
    if done:
        mark_current(lock)
    return done


def install(lock: Path) -> None:
    """Installs what `lock` lists and this checkout, unless that is what `.venv` holds.

    Other locks hold the same versions as the run-time lock, and more, so that one which is
    current along with the run-time lock needs nothing.
    """
    sources = (INSTALLER, BUILD_LOCK, PROJECT, RUN_LOCK, lock)
    if not is_current(*sources):
        install_lock(lock)
        mark_current(*sources)
    compile_own_code()


def install_lock(lock: Path) -> None:
    """Installs what `lock` lists and this checkout."""
    create_venv()
    say("installing uv and the build backends")
    if not pip_install_lock(BUILD_LOCK):
        raise SetUpError(
            f"pip could not install {BUILD_LOCK.name}: see above. Is a registry reachable, and "
            "is pip set up for it (pip config list)?"
        )
    if not pip_install_lock(INSTALLER_LOCK):
        say("uv cannot be had here; pip does its work, more slowly")
    say(f"installing {lock.name}; PyTorch alone is some gigabytes the first time")
    for arguments in ([*LOCKED, lock], EDITABLE):
        if not uv("pip", "install", *COMPILED, *arguments) and not pip("install", *arguments):
            raise SetUpError(f"neither uv nor pip could install {lock.name}: see above")


def compile_own_code() -> None:
    """Compiles the files of this checkout that changed since they were last compiled."""
    run(PYTHON, "-m", "compileall", "-q", *OWN_CODE)


def main(arguments: list[str]) -> int:
    """Runs the command line given; the process's exit status."""
    command, *rest = arguments or [""]
    if command == "install" and len(rest) == 1:
        install(ROOT / rest[0])
        return 0
    if command == "uv" and rest:
        create_venv()
        return 0 if pip_install_lock(INSTALLER_LOCK) and uv(*rest) else 1
    raise SetUpError("usage: environment.py install LOCK | uv ARGUMENTS")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetUpError as error:
        say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
