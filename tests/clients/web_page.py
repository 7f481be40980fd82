"""The page that calls the service, and a browser without a window that opens it."""

import contextlib
import http.server
import os
import queue
import signal
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import set_up

CHROMIUM = set_up.BROWSER / "node_modules" / "chromium"

# It runs as root in a machine of its own, and is to call nobody but the page's servers.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

LONGEST_SECONDS = 120


def call_from_page(
    image: bytes, profile: Path, port: int, host: str = "127.0.0.1", **query: str
) -> tuple[str, bytes]:
    """Opens the page in a browser and waits for what it posts.

    Args:
        image: that the page upscales.
        profile: a new folder for the browser.
        port: of the page, on this machine.
        host: what the browser calls this machine.
        **query: of the page: `endpoint`, `engine`, and if wanted `width` and `key`.

    Returns:
        `/result` and the upscaled image, or `/error` and the message.
    """
    address = f"http://{host}:{port}/page.html?{urllib.parse.urlencode(query)}"
    with _site(port, image) as posted, _browser(profile, address):
        return posted.get(timeout=LONGEST_SECONDS)


@contextlib.contextmanager
def _browser(profile: Path, address: str) -> Iterator[None]:
    command = [CHROMIUM / "chromium", *FLAGS, f"--user-data-dir={profile}", address]
    environment = {
        **os.environ,
        "FONTCONFIG_PATH": str(CHROMIUM),
        "LD_LIBRARY_PATH": str(CHROMIUM / "lib"),
    }
    # What it says of missing graphics is of no interest.
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _site(port: int, image: bytes) -> Iterator["queue.Queue[tuple[str, bytes]]"]:
    """Serves the page; gives what it posts."""
    posted: queue.Queue[tuple[str, bytes]] = queue.Queue()
    files = {
        "/page.html": ("text/html", (set_up.BROWSER / "page.html").read_bytes()),
        "/page.js": ("text/javascript", (set_up.BROWSER / "out" / "page.js").read_bytes()),
        "/image": ("image/png", image),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urllib.parse.urlsplit(self.path).path
            if path not in files:
                self.send_error(404)
                return
            kind, content = files[path]
            self._answer(kind, content)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer("text/plain", b"")
            posted.put((self.path, content))

        def _answer(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield posted
        finally:
            server.shutdown()
            thread.join()
