"""The official Python SDK, in an environment of its own, calls `beam-upscale serve`."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
from connect_proxy import proxy_to
from local_server import LocalServer
from PIL import Image

pytestmark = pytest.mark.slow

CONTEXT = """
import json, sys
from PIL import Image
from stability_sdk.api import Context, OutOfCreditsException
host, key, engine, path, options = sys.argv[1:]
context = Context(host, key, upscale_engine_id=engine)
context._request_timeout = 120.0
try:
    image = context.upscale(Image.open(path), **json.loads(options))
except OutOfCreditsException as error:
    sys.exit(f"out of credits: {error.details}")
sys.stdout.buffer.write(image.fp.getvalue())
"""

BALANCE = """
import sys
from stability_sdk.api import Context
print(Context(*sys.argv[1:]).get_user_info()[0])
"""


@pytest.fixture
def sdk(sdk_python: Path, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[bytes]"]:
    """Runs the SDK's Python in an empty folder, `work`, with arguments and variables."""
    (tmp_path / "work").mkdir()

    def call(*arguments: Path | str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
        kept = {name: value for name, value in os.environ.items() if "STABILITY" not in name}
        return subprocess.run(
            [sdk_python, *arguments],
            cwd=tmp_path / "work",
            env={**kept, **variables},
            capture_output=True,
            timeout=240,
        )

    return call


def written(folder: Path) -> bytes:
    """The one image that the SDK's command wrote."""
    [path] = folder.glob("upscale_*.png")
    return path.read_bytes()


def over_tls(server: LocalServer) -> dict[str, str]:
    """What the SDK is told of a server with a certificate of its own."""
    assert server.ca is not None
    return {
        "STABILITY_HOST": f"localhost:{server.port}",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(server.ca),
    }


SUPER = ["--engine", runs.ENGINE]
DIFFUSION = ["--engine", runs.DIFFUSION]


@pytest.mark.parametrize(
    ("mode", "suffix", "words", "engine", "options"),
    [
        pytest.param("RGB", "png", [], runs.ENGINE, {}, id="as documented"),
        pytest.param("RGBA", "png", [*SUPER, "-W", "72"], runs.ENGINE, {"width": 72}, id="width"),
        pytest.param("L", "jpg", [*SUPER, "-H", "44"], runs.ENGINE, {"height": 44}, id="height"),
        pytest.param(
            "P",
            "png",
            [*SUPER, "--cfg_scale", "9", "--steps", "30", "--seed", "5", "a", "cat"],
            runs.ENGINE,
            {},
            id="parameters that the engine does not take",
        ),
        pytest.param(
            "RGB",
            "png",
            [*DIFFUSION, "--cfg_scale", "7.3", "--steps", "3", "--seed", "5", "a", "cat"],
            runs.DIFFUSION,
            {"cfg_scale": 7.3, "steps": 3, "seed": 5, "prompt": "a cat"},
            id="diffusion",
        ),
        pytest.param(
            "RGBA",
            "png",
            [*DIFFUSION, "--cfg_scale", "7.3", "--steps", "2", "--width", "100"],
            runs.DIFFUSION,
            # The seed is derived from all parameters, so that 7.3 must be 7.3 to the last bit.
            {"cfg_scale": 7.3, "steps": 2, "width": 100},
            id="diffusion without prompt and seed",
        ),
    ],
)
def test_command_writes_what_the_pipeline_makes(
    open_server: LocalServer,
    sdk: Callable[..., "subprocess.CompletedProcess[bytes]"],
    as_sdk_sends: Callable[[Path], bytes],
    upscaled_locally: Callable[..., bytes],
    photograph: Callable[..., Image.Image],
    tmp_path: Path,
    mode: str,
    suffix: str,
    words: list[str],
    engine: str,
    options: dict[str, Any],
) -> None:
    path = tmp_path / f"input.{suffix}"
    photograph(mode=mode).save(path)

    run = sdk(
        *("-m", "stability_sdk", "upscale", "--init_image", path, *words),
        STABILITY_HOST=f"127.0.0.1:{open_server.port}",
        STABILITY_KEY="none is needed",
    )

    assert run.returncode == 0, run.stderr
    expected = upscaled_locally(as_sdk_sends(path), engine, **options)
    assert written(tmp_path / "work") == expected


def test_command_calls_over_tls_with_a_key(
    guarded_server: LocalServer,
    sdk: Callable[..., "subprocess.CompletedProcess[bytes]"],
    as_sdk_sends: Callable[[Path], bytes],
    upscaled_locally: Callable[..., bytes],
    photograph: Callable[..., Image.Image],
    tmp_path: Path,
) -> None:
    path = tmp_path / "input.png"
    photograph().save(path)

    run = sdk(
        *("-m", "stability_sdk", "upscale", "-i", path),
        STABILITY_KEY=guarded_server.keys["rich"],
        **over_tls(guarded_server),
    )

    assert run.returncode == 0, run.stderr
    assert written(tmp_path / "work") == upscaled_locally(as_sdk_sends(path))


def test_command_with_a_wrong_key_is_told_so(
    guarded_server: LocalServer,
    sdk: Callable[..., "subprocess.CompletedProcess[bytes]"],
    photograph: Callable[..., Image.Image],
    tmp_path: Path,
) -> None:
    path = tmp_path / "input.png"
    photograph().save(path)

    run = sdk(
        *("-m", "stability_sdk", "upscale", "-i", path),
        STABILITY_KEY="bu_wrong",
        **over_tls(guarded_server),
    )

    assert run.returncode != 0
    assert b"StatusCode.UNAUTHENTICATED" in run.stderr
    assert b"bu_wrong" not in run.stderr
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("engine", "asked", "options"),
    [
        (runs.ENGINE, {"width": 72}, {"width": 72}),
        (
            runs.DIFFUSION,
            {"prompt": "a cat", "steps": 2, "cfg_scale": 7.3, "seed": 4_000_000_000},
            {"prompt": "a cat", "steps": 2, "cfg_scale": 7.3, "seed": 4_000_000_000},
        ),
    ],
)
def test_context_gives_what_the_pipeline_makes(
    open_server: LocalServer,
    sdk: Callable[..., "subprocess.CompletedProcess[bytes]"],
    as_sdk_sends: Callable[[Path], bytes],
    upscaled_locally: Callable[..., bytes],
    photograph: Callable[..., Image.Image],
    tmp_path: Path,
    engine: str,
    asked: dict[str, Any],
    options: dict[str, Any],
) -> None:
    path = tmp_path / "input.png"
    photograph().save(path)

    host = f"127.0.0.1:{open_server.port}"
    run = sdk("-c", CONTEXT, host, "", engine, path, json.dumps(asked))

    assert run.returncode == 0, run.stderr
    assert run.stdout == upscaled_locally(as_sdk_sends(path), engine, **options)


def test_context_tells_the_balance_and_that_it_is_used_up(
    guarded_server: LocalServer,
    sdk: Callable[..., "subprocess.CompletedProcess[bytes]"],
    photograph: Callable[..., Image.Image],
    tmp_path: Path,
) -> None:
    path = tmp_path / "input.png"
    photograph().save(path)
    rich, poor = (guarded_server.keys[name] for name in ("rich", "poor"))
    # It sends keys to port 443 only.
    with proxy_to(guarded_server.port) as proxy:
        variables = {**over_tls(guarded_server), "grpc_proxy": proxy, "no_grpc_proxy": ""}

        def call(program: str, key: str, *more: Path | str) -> "subprocess.CompletedProcess[bytes]":
            return sdk("-c", program, "localhost:443", key, *more, **variables)

        before = float(call(BALANCE, rich).stdout)
        done = call(CONTEXT, rich, runs.ENGINE, path, "{}")
        after = float(call(BALANCE, rich).stdout)
        refused = call(CONTEXT, poor, runs.ENGINE, path, "{}")
        left = float(call(BALANCE, poor).stdout)

    assert done.returncode == 0, done.stderr
    assert before - after == pytest.approx(0.2)
    assert refused.stderr.startswith(b"out of credits: ")
    assert left == pytest.approx(0.1)


def test_context_has_no_end_of_credits_where_there_are_no_keys(
    open_server: LocalServer, sdk: Callable[..., "subprocess.CompletedProcess[bytes]"]
) -> None:
    run = sdk("-c", BALANCE, f"127.0.0.1:{open_server.port}", "")

    assert run.stdout == b"1000000000000.0\n", run.stderr


def test_results_above_the_command_s_own_limit_need_its_setting(
    open_server: LocalServer,
    sdk: Callable[..., "subprocess.CompletedProcess[bytes]"],
    tmp_path: Path,
) -> None:
    path = tmp_path / "input.png"
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 4), np.uint8)
    Image.fromarray(noise).save(path, compress_level=1)
    host = f"127.0.0.1:{open_server.port}"
    command = ["-m", "stability_sdk", "upscale", "-i", path]
    variables = {"STABILITY_HOST": host, "STABILITY_KEY": "none is needed"}

    by_default = sdk(*command, **variables)
    with_setting = sdk(*command, **variables, MAX_MESSAGE_SIZE=str(64 * 2**20))
    context = sdk("-c", CONTEXT, host, "", runs.ENGINE, path, "{}")

    assert b"RESOURCE_EXHAUSTED" in by_default.stderr
    assert b"larger than max" in by_default.stderr
    assert with_setting.returncode == 0, with_setting.stderr
    result = written(tmp_path / "work")
    assert 10 * 2**20 < len(result) < 20 * 2**20
    assert context.stdout == result
