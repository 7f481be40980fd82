"""A page of another origin calls `beam-upscale serve` from a browser."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import runs
from local_server import LocalServer
from PIL import Image
from web_page import call_from_page

pytestmark = pytest.mark.slow


@pytest.fixture
def png(photograph: Callable[..., Image.Image]) -> bytes:
    """An image that the page upscales."""
    encoded = BytesIO()
    photograph().save(encoded, "PNG")
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("engine", "query", "options"),
    [(runs.ENGINE, {}, {}), (runs.DIFFUSION, {"width": "100"}, {"width": 100})],
)
def test_page_gets_what_the_pipeline_makes(
    browser: Path,
    open_server: LocalServer,
    page_port: int,
    upscaled_locally: Callable[..., bytes],
    png: bytes,
    tmp_path: Path,
    engine: str,
    query: dict[str, str],
    options: dict[str, int],
) -> None:
    endpoint = f"http://127.0.0.1:{open_server.web_port}"

    kind, content = call_from_page(
        png, tmp_path / "profile", page_port, endpoint=endpoint, engine=engine, **query
    )

    assert (kind, content) == ("/result", upscaled_locally(png, engine, **options))


def test_page_is_told_why_its_call_is_refused(
    browser: Path, open_server: LocalServer, page_port: int, png: bytes, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{open_server.web_port}"

    kind, message = call_from_page(
        png, tmp_path / "profile", page_port, endpoint=endpoint, engine="none-such"
    )

    # A browser shows a page the status only where the server exposes it.
    assert kind == "/error"
    assert message.startswith(b"NotFound: ")
    assert b"none-such" in message


def test_page_of_an_origin_that_is_not_allowed_gets_nothing(
    browser: Path, open_server: LocalServer, page_port: int, png: bytes, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{open_server.web_port}"

    kind, message = call_from_page(
        png,
        tmp_path / "profile",
        page_port,
        # The same address, but the origin is the name.
        host="localhost",
        endpoint=endpoint,
        engine=runs.ENGINE,
    )

    assert (kind, message) == ("/error", b"Unknown: Response closed without headers")
