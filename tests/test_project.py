"""What must hold of the project itself: its locks, its samples, its files."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image, ImageOps
from places import ROOT, SAMPLES

PACKAGE = ROOT / "beam_upscale"

RUN_LOCK = "requirements.lock"
DEV_LOCK = "requirements-dev.lock"
BUILD_LOCK = ".ci/requirements-build.lock"
INSTALLER_LOCK = ".ci/requirements-installer.lock"
RUNNERS_LOCK = "tests/runners/requirements.lock"
WORKER_LOCK = "pipelines/requirements.lock"
PEERS_LOCK = "benchmarks/pipeline/peers/requirements.lock"
LOCKS = [RUN_LOCK, DEV_LOCK, BUILD_LOCK, INSTALLER_LOCK, RUNNERS_LOCK, WORKER_LOCK, PEERS_LOCK]

MODEL_LIBRARIES = {"diffusers", "safetensors", "spandrel", "torch", "torchvision", "transformers"}


def locked_versions(lock: str) -> dict[str, set[str]]:
    """The pinned versions of each distribution; more than one where they differ by platform."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)(?:\[\S+\])?==(\S+)", (ROOT / lock).read_text(), re.M
    ):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def direct_requirements() -> Iterator[tuple[str, Requirement]]:
    """Each lock together with each requirement of pyproject.toml that it is computed from."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = settings["project"]["optional-dependencies"]
    groups = settings["dependency-groups"]
    package = settings["project"]["dependencies"]
    engines = [*extras["esrgan"], *extras["heif"], *extras["latent"]]
    run = [*package, *engines, *extras["serve"], *extras["yaml"]]
    stores = [each for name in ("gcs", "s3", "azure", "hdfs") for each in extras[name]]
    asked = {
        RUN_LOCK: run,
        WORKER_LOCK: [*package, *engines, *stores],
        PEERS_LOCK: package,
        DEV_LOCK: [*run, *groups["test"], *groups["reference"]],
        BUILD_LOCK: [*settings["build-system"]["requires"], *groups["build"]],
        INSTALLER_LOCK: groups["installer"],
    }
    for lock, requirements in asked.items():
        for requirement in requirements:
            yield lock, Requirement(requirement)


@pytest.mark.parametrize(
    ("lock", "requirement"),
    [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in direct_requirements()],
)
def test_locks_satisfy_every_direct_dependency(lock: str, requirement: Requirement) -> None:
    versions = locked_versions(lock).get(canonicalize_name(requirement.name), set())

    assert versions, f"{requirement} is not in {lock}: run make lock"
    assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)


@pytest.mark.parametrize("lock", [RUN_LOCK, BUILD_LOCK, WORKER_LOCK, PEERS_LOCK])
def test_development_lock_has_the_versions_of_the_other_locks(lock: str) -> None:
    development = locked_versions(DEV_LOCK)

    different = {
        name: (versions, development[name])
        for name, versions in locked_versions(lock).items()
        if name in development and development[name] != versions
    }

    assert different == {}
    if lock == RUN_LOCK:
        assert set(locked_versions(RUN_LOCK)) <= set(development)


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_pin_every_distribution_by_hash_and_name_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    # One entry a distribution: its pin, then its hashes on continued lines.
    entries = re.findall(r"^[\w.-]+==.*(?:\\\n.*)+", text, re.M)

    assert entries
    assert len(entries) == len(re.findall(r"^[^\s#]", text, re.M))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_no_file_names_a_package_registry() -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()}
    registry = re.compile(rb"pypi\.org|pythonhosted|download\.pytorch|://\S+/simple\b")
    this_file = Path(__file__).resolve()

    naming = [file for file in files - {this_file} if registry.search(file.read_bytes())]

    assert this_file in files
    assert naming == []


def test_importing_the_package_pulls_in_no_model_library() -> None:
    program = "import sys, beam_upscale; print(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )

    imported = set(run.stdout.split())

    assert "beam_upscale" in imported
    assert imported.isdisjoint(MODEL_LIBRARIES)


def test_a_run_over_grpc_needs_no_model_library() -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(MODEL_LIBRARIES)!r}))  # None: their import fails.
import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
import beam_upscale as bu, beam_upscale.cli.main, beam_upscale.run
settings = bu.UpscaleSettings.of("esrgan-v1-x2plus", backend="grpc", endpoint="localhost:1")
with beam.Pipeline(runner=FnApiRunner()) as pipeline:
    pipeline | beam.Create([]) | bu.Upscale(settings.pin())
"""

    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert run.returncode == 0, run.stderr


def sample_images() -> list[Path]:
    return sorted(path for path in SAMPLES.rglob("*") if path.is_file() and path.suffix != ".md")


def test_every_sample_has_its_license_in_the_readme() -> None:
    readme = (SAMPLES / "README.md").read_text()
    licensed = re.findall(r"^\| `([^`]+)` \|.*\| (?:CC0|public domain) \|$", readme, re.M)

    assert sorted(licensed) == [path.relative_to(SAMPLES).as_posix() for path in sample_images()]


def test_samples_are_small() -> None:
    assert 6 <= len(sample_images()) <= 10
    assert sum(path.stat().st_size for path in sample_images()) < 1_500_000


def test_samples_show_what_they_are_there_for() -> None:
    with Image.open(SAMPLES / "drawings/badge.png") as badge:
        assert badge.mode == "RGBA"
        assert set(badge.getchannel("A").tobytes()) > {0, 128, 255}
    with Image.open(SAMPLES / "photos/photographer.png") as photographer:
        assert photographer.mode == "L"
    with Image.open(SAMPLES / "photos/cat.jpg") as cat:
        assert cat.info["icc_profile"]
    with Image.open(SAMPLES / "photos/astronaut.jpg") as astronaut:
        assert astronaut.size == (200, 160)
        assert ImageOps.exif_transpose(astronaut).size == (160, 200)
    with Image.open(SAMPLES / "drawings/panorama.jpg") as panorama:
        assert panorama.width * panorama.height > 1024 * 1024
        assert panorama.height < 600
    with Image.open(SAMPLES / "drawings/poster.png") as poster:
        assert min(poster.size) >= 600
    with (
        Image.open(SAMPLES / "photos/cut-in-half.jpg") as broken,
        pytest.raises(OSError, match="truncated"),
    ):
        broken.load()
