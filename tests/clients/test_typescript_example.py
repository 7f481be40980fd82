"""The documented TypeScript example, compiled and run by Node against `beam-upscale serve`."""

import json
import os
import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import set_up
from local_server import LocalServer
from PIL import Image

LOCKS = [set_up.EXAMPLE / "package-lock.json", set_up.BROWSER / "package-lock.json"]


@pytest.fixture
def run_example(
    example: Path, photograph: Callable[..., Image.Image], tmp_path: Path
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the example beside an `init_image.png` in an empty folder, `work`."""
    (tmp_path / "work").mkdir()
    photograph().save(tmp_path / "work" / "init_image.png")

    def run(**variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [set_up.NODE_FOLDER / "node", example],
            cwd=tmp_path / "work",
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run


@pytest.mark.slow
def test_example_writes_what_the_pipeline_makes(
    open_server: LocalServer,
    run_example: Callable[..., "subprocess.CompletedProcess[str]"],
    upscaled_locally: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    run = run_example(ENDPOINT=f"http://127.0.0.1:{open_server.web_port}")

    assert run.returncode == 0, run.stderr
    given = (tmp_path / "work" / "init_image.png").read_bytes()
    assert (tmp_path / "work" / "image-0.png").read_bytes() == upscaled_locally(given)


@pytest.mark.slow
def test_example_calls_over_tls_with_a_key(
    guarded_server: LocalServer,
    run_example: Callable[..., "subprocess.CompletedProcess[str]"],
    upscaled_locally: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    run = run_example(
        ENDPOINT=f"https://localhost:{guarded_server.web_port}",
        API_KEY=guarded_server.keys["rich"],
        NODE_EXTRA_CA_CERTS=str(guarded_server.ca),
    )

    assert run.returncode == 0, run.stderr
    given = (tmp_path / "work" / "init_image.png").read_bytes()
    assert (tmp_path / "work" / "image-0.png").read_bytes() == upscaled_locally(given)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["bu_wrong", ""])
def test_example_without_a_valid_key_is_told_so(
    guarded_server: LocalServer,
    run_example: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    key: str,
) -> None:
    run = run_example(
        ENDPOINT=f"https://localhost:{guarded_server.web_port}",
        API_KEY=key,
        NODE_EXTRA_CA_CERTS=str(guarded_server.ca),
    )

    assert run.returncode == 1
    assert "Failed to upscale image: Error: Unauthenticated: " in run.stderr
    assert "bu_wrong" not in run.stderr
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["init_image.png"]


@pytest.mark.slow
@pytest.mark.skipif(not set_up.BROWSER_RUNS, reason="its protoc runs on Linux and x86-64 only")
def test_generated_messages_are_current(example: Path) -> None:
    generator = runpy.run_path(str(set_up.EXAMPLE / "generate.py"))

    generated = generator["generate"]()

    committed = {path.name: path.read_text() for path in generator["GENERATED"].iterdir()}
    assert committed == generated, "run make protos"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name)
def test_package_locks_hold_hashes_and_name_no_registry(lock: Path) -> None:
    packages = json.loads(lock.read_text())["packages"]
    this = packages.pop("")

    assert packages
    assert all("integrity" in package for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
    assert "://" not in lock.read_text()
    asked = this["dependencies"] | this.get("devDependencies", {})
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in asked.values())
