"""A hub on the loopback interface with one repository, and the cache of the hub's library."""

import hashlib
import json
import os
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class LocalHub:
    """What the hub has, and what it was asked for.

    Attributes:
        name: of its repository.
        commit: the only one of it.
        files: by their names.
        library_cache: where the library keeps what it fetches.
        port: where the hub listens.
        status: of its answers, for one that is troubled.
        error: the library's name for the trouble, as a header.
        requests: their paths.
    """

    name: str
    commit: str
    files: Mapping[str, bytes]
    library_cache: Path
    port: int = 0
    status: int = 200
    error: str | None = None
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spec(self) -> str:
        return f"{self.name}@{self.commit}"

    @property
    def snapshot(self) -> Path:
        """The repository's folder in the library's cache."""
        repository = self.library_cache / f"models--{self.name.replace('/', '--')}"
        return repository / "snapshots" / self.commit

    def fill_library_cache(self, *names: str) -> None:
        """Puts files into the library's cache as the library does: links to blobs."""
        blobs = self.snapshot.parent.parent / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        for name in names:
            blob = blobs / _etag(self.files[name])
            blob.write_bytes(self.files[name])
            link = self.snapshot / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serve(
    name: str, commit: str, files: Mapping[str, bytes], library_cache: Path
) -> Iterator[LocalHub]:
    """Runs a hub whose answers are those that its library asks for."""
    hub = LocalHub(name, commit, files, library_cache)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urllib.parse.unquote(self.path.partition("?")[0])
            hub.requests.append(path)
            if hub.status != 200:
                self._answer(b"{}", hub.status, {"X-Error-Code": hub.error or ""})
            elif path == f"/api/models/{name}/revision/{commit}":
                siblings = [{"rfilename": file} for file in hub.files]
                answer = {"id": name, "sha": commit, "siblings": siblings}
                self._answer(json.dumps(answer).encode())
            elif path == f"/api/models/{name}/tree/{commit}":
                self._answer(json.dumps([_entry(*file) for file in hub.files.items()]).encode())
            elif (file := path.removeprefix(f"/{name}/resolve/{commit}/")) in hub.files:
                content = hub.files[file]
                self._answer(content, headers={"X-Repo-Commit": commit, "ETag": _etag(content)})
            else:
                self._answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})

        def _answer(
            self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for header, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        server.shutdown()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "oid": _etag(content), "size": len(content)}
