"""`beam-upscale serve` in a process of its own, as clients find it."""

import contextlib
import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

BEAM_UPSCALE = Path(sys.executable).with_name("beam-upscale")
LONGEST_SECONDS = 240


@dataclasses.dataclass(frozen=True)
class LocalServer:
    """Where a server is found and what it asks for.

    Attributes:
        port: of gRPC.
        web_port: of gRPC-Web.
        ca: PEM of who signed its certificate, for `localhost`; None where it has none.
        keys: by their names.
    """

    port: int
    web_port: int
    ca: Path | None = None
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def serving(log: Path, server: LocalServer, *options: Path | str) -> Iterator[LocalServer]:
    """Runs a server until it is no longer needed; it must end well.

    Args:
        log: where its output is kept.
        server: where it is to be.
        *options: of `beam-upscale serve`, beside its ports.
    """
    ports = ["--port", str(server.port), "--web-port", str(server.web_port)]
    command = [BEAM_UPSCALE, "serve", *ports, *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(process, log, server)
        yield server
        process.terminate()
        assert process.wait(LONGEST_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", log: Path, server: LocalServer) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not (_is_open(server.port) and _is_open(server.web_port)):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
