"""Servers that the clients of others call, and what the pipeline makes of the same images."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import pytest
import runs
import set_up
import trustme
from local_server import LocalServer, serving
from ports import free_port

from beam_upscale.server.accounts.keys import add_key

# What a run of the tests' own does, so that bytes are equal.
EXACTLY = ("--device", "cpu", "--precision", "fp32", "--threads", "1")

AS_SENT = """
import sys
from PIL import Image
from stability_sdk import api, utils
sys.stdout.buffer.write(utils.image_to_png_bytes(Image.open(sys.argv[1])))
"""


@pytest.fixture(scope="session")
def weights(tiny_weights: Path, tiny_pipeline: Path) -> Mapping[str, Path]:
    """Small random weights by the engines' names."""
    return {runs.ENGINE: tiny_weights, runs.DIFFUSION: tiny_pipeline}


def served(weights: Mapping[str, Path]) -> list[Path | str]:
    """The options of `serve` for these engines."""
    chosen = [("--engine", name, "--weights", f"{name}={path}") for name, path in weights.items()]
    return [*(word for words in chosen for word in words), *EXACTLY]


@pytest.fixture(scope="session")
def page_port() -> int:
    """Where the page is that may call the open server."""
    return free_port()


@pytest.fixture(scope="session")
def open_server(
    tmp_path_factory: pytest.TempPathFactory, weights: Mapping[str, Path], page_port: int
) -> Iterator[LocalServer]:
    """Both engines without keys and TLS; pages of `page_port` at 127.0.0.1 may call it."""
    log = tmp_path_factory.mktemp("open") / "log"
    origin = f"http://127.0.0.1:{page_port}"
    server = LocalServer(free_port(), free_port())
    with serving(log, server, *served(weights), "--cors-origin", origin) as running:
        yield running


@pytest.fixture(scope="session")
def guarded_server(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path
) -> Iterator[LocalServer]:
    """One engine with keys and TLS, on a port that tells the SDK so.

    The key `rich` has 25 credits, `poor` 0.1.
    """
    folder = tmp_path_factory.mktemp("guarded")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for link in certificate.cert_chain_pems:
        link.write_to_path(str(folder / "chain.pem"), append=True)
    keys = {
        name: add_key(folder / "keys.jsonl", name, granted=granted)
        for name, granted in (("rich", Decimal(25)), ("poor", Decimal("0.1")))
    }
    server = LocalServer(free_port(ending="443"), free_port(), folder / "ca.pem", keys)
    options = [
        *("--keys", folder / "keys.jsonl", "--ledger", folder / "ledger.sqlite"),
        *("--tls-cert", folder / "chain.pem", "--tls-key", folder / "key.pem"),
    ]
    weights = {runs.ENGINE: tiny_weights}
    with serving(folder / "log", server, *served(weights), *options) as running:
        yield running
        log = (folder / "log").read_text()
        assert not any(key in log for key in keys.values())


@pytest.fixture
def upscaled_locally(tmp_path: Path, weights: Mapping[str, Path]) -> Callable[..., bytes]:
    """What the pipeline makes of an image, given as bytes, with an engine and options."""

    def upscale(image: bytes, engine: str = runs.ENGINE, **options: object) -> bytes:
        source = tmp_path / "source" / "image.png"
        source.parent.mkdir()
        source.write_bytes(image)
        runs.upscale(source.parent, tmp_path / "local", weights[engine], engine=engine, **options)
        [written] = (tmp_path / "local" / "images").rglob("*.png")
        return written.read_bytes()

    return upscale


@pytest.fixture(scope="session")
def sdk_python() -> Path:
    """The Python of the SDK's environment."""
    if not set_up.SDK_RUNS:
        pytest.skip("the SDK's gRPC has no wheels for this Python")
    return _installed(set_up.SDK / ".venv" / "bin" / "python")


@pytest.fixture(scope="session")
def as_sdk_sends(sdk_python: Path) -> Callable[[Path], bytes]:
    """The image that the SDK makes of an image file and sends."""

    def read(image: Path) -> bytes:
        return subprocess.run(
            [sdk_python, "-c", AS_SENT, image], check=True, capture_output=True
        ).stdout

    return read


@pytest.fixture(scope="session")
def example() -> Path:
    """The TypeScript example, compiled."""
    return _installed(set_up.EXAMPLE / "out" / "upscale.js")


@pytest.fixture(scope="session")
def browser() -> Path:
    """The browser and the page for it."""
    if not set_up.BROWSER_RUNS:
        pytest.skip("there is no browser for this machine in the package registry")
    return _installed(set_up.BROWSER / "out" / "page.js")


def _installed(path: Path) -> Path:
    if not path.exists():
        pytest.fail(f"{path} is not there: run make clients")
    return path
