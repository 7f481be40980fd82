"""Each command imports what it needs, and no heavy library besides."""

import contextlib
import gc
import importlib
import importlib.util
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs import quick
from small_networks import noise

from beam_upscale.cli.commands.start_up import (
    import_inference,
    keeping_modules,
    loading_network,
)
from beam_upscale.inference.local_engines import EsrganEngine
from beam_upscale.inference.networks import device
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Precision
from beam_upscale.inference.networks.openvino import early
from beam_upscale.inference.networks.openvino.early import Wanted
from beam_upscale.inference.weights import find, registry
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.chain import Backend

HEAVY = frozenset(
    {
        *("PIL", "apache_beam", "bson", "diffusers", "grpc", "numpy", "openvino", "pandas"),
        *("pyarrow", "pymongo", "pyvips", "requests", "scipy", "spandrel", "torch"),
        *("torchvision", "transformers"),
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


# Beam's own, and those of images and of what they are stored in.
OF_BEAM = frozenset({"apache_beam", "grpc", "numpy", "pandas", "pyarrow", "requests"})
OF_IMAGES = frozenset({"PIL", "pyvips"})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(noise(16, 16, 3)).save(folder / "noise.png")
    return folder


def test_plan_imports_no_network(photos: Path) -> None:
    assert heavy_imports("plan", photos) <= OF_BEAM | OF_IMAGES


@pytest.mark.parametrize(
    ("network_backend", "its_own"),
    [
        ("openvino", {"openvino"}),
        pytest.param("torch", {"spandrel", "torch"}, marks=pytest.mark.slow),
    ],
)
def test_run_imports_what_runs_its_network_and_no_other(
    network_backend: str, its_own: set[str], photos: Path, tiny_weights: Path
) -> None:
    if network_backend == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    output = photos.parent / "output"
    arguments = [*quick(tiny_weights), "--network-backend", network_backend]

    imported = heavy_imports("run", photos, output, *arguments)

    assert imported - OF_BEAM - OF_IMAGES == its_own
    assert (output / "images/noise.png").is_file()


IMPORT_OF_INFERENCE = """
import sys
from beam_upscale.cli.commands.start_up import import_inference

import_inference()
from apache_beam.ml.inference import base
assert base.ModelManager is None
assert base.resource is sys.modules["resource"]
assert sys.modules.keys().isdisjoint(("torch", "pymongo", "bson"))
# What asks for them later can import them, such as the manager of models.
assert "apache_beam.ml.inference.model_manager" not in sys.modules
import pymongo
"""


def test_inference_is_imported_without_what_no_command_uses() -> None:
    subprocess.run([sys.executable, "-c", IMPORT_OF_INFERENCE], check=True)


def test_inference_that_is_imported_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda _: pytest.fail("imported"))
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))

    import_inference()


def test_the_collector_passes_over_modules_and_goes_on() -> None:
    frozen = gc.get_freeze_count()
    try:
        with pytest.raises(ImportError), keeping_modules():
            assert not gc.isenabled()
            raise ImportError

        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()


# Networks that are loaded while Beam is imported


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Wanted]]:
    """The networks whose loading is begun."""
    pytest.importorskip("openvino")
    begun: list[tuple[Path, Wanted]] = []

    @contextlib.contextmanager
    def loading(*network: Any) -> Iterator[None]:
        begun.append(network)
        yield

    monkeypatch.setattr(early, "loading", loading)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return begun


def test_the_network_that_a_run_takes_is_loaded(
    loads: list[tuple[Path, Wanted]],
) -> None:
    found = find.resolve(None, "esrgan-v1-x2plus")
    settings = UpscaleSettings.of(precision="fp32", device="cpu", threads=3)

    with loading_network(settings):
        pinned = settings.pin().stages[0].pinned

    assert isinstance(pinned, EsrganEngine)
    wanted = Wanted(found.sha256, Precision.FP32, 3)
    assert loads == [(found.path, wanted)]
    assert wanted == Wanted(pinned.weights_sha256, pinned.precision, pinned.threads)


def test_no_other_network_is_loaded_early(
    loads: list[tuple[Path, Wanted]],
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latent = "stable-diffusion-x4-latent-upscaler"
    for settings in (
        UpscaleSettings.of(network_backend=NetworkBackend.TORCH),
        UpscaleSettings.of(backend=Backend.GRPC, endpoint="localhost:1"),
        UpscaleSettings.of((latent,)),
        UpscaleSettings.of(weights="nearest"),
        UpscaleSettings.of(weights=str(tiny_weights)),
        UpscaleSettings.of(weights="nothing of this name"),
        UpscaleSettings.of(weights={latent: "for no engine of this run"}),
    ):
        with loading_network(settings):
            pass
    # Nothing is fetched for it, nor made of a package; and what is wrong is told by the run.
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path))
    path = registry.REGISTRY["realesrgan-x4plus-ncnn"].path
    assert path.is_relative_to(tmp_path)
    with loading_network(UpscaleSettings()):
        assert not path.exists()
    path.mkdir(parents=True)
    with loading_network(UpscaleSettings()):
        pass

    assert loads == []


def test_no_network_is_loaded_early_where_that_needs_pytorch(
    loads: list[tuple[Path, Wanted]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "needs_torch_to_settle", lambda: True)

    with loading_network(UpscaleSettings()):
        pass

    assert loads == []
