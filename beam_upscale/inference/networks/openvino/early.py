"""Loads networks by OpenVINO ahead of time, while a run imports Beam.

Most of the loading is compiling, which does not hold Python's lock. Importing PyTorch holds it for
seconds, so networks that need PyTorch, for their weights' file too, are not loaded ahead of time.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from beam_upscale.inference.networks.device import Precision
from beam_upscale.inference.networks.super_resolution import SuperResolution
from beam_upscale.inference.weights.digest import sha256_of


@dataclass(frozen=True)
class Wanted:
    """The choices that a network is loaded with.

    Attributes:
        sha256: SHA-256 of the file of weights, in hexadecimal.
        precision: fp32 or bf16.
        threads: threads of one pass, at least 1.
    """

    sha256: str
    precision: Precision
    threads: int


_begun: dict[Wanted, Future[SuperResolution]] = {}


@contextlib.contextmanager
def loading(path: Path, wanted: Wanted) -> Iterator[None]:
    """Loads a network in a thread; `take` returns it within this context.

    After the context nothing keeps the network, even if it is still being loaded.

    Args:
        path: the file of its weights.
        wanted: the choices; a file with another SHA-256 is not loaded.
    """
    # Imported before the thread begins: two threads that import the same modules at once may see
    # them half done.
    from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork

    def load() -> SuperResolution:
        # A damaged file may be replaced by a good one, under the same name, before `take`.
        if sha256_of(path) != wanted.sha256:
            raise ValueError(f"{path} has another SHA-256")
        return OpenVinoNetwork.load(path, wanted.precision, wanted.threads)

    executor = ThreadPoolExecutor(1, "load")
    _begun[wanted] = executor.submit(load)
    executor.shutdown(wait=False)
    try:
        yield
    finally:
        _begun.clear()


def take(wanted: Wanted | None) -> SuperResolution | None:
    """Returns the network that was loaded ahead of time, once it is loaded; only the first time.

    Args:
        wanted: the choices of the network that is needed now; None if OpenVINO does not run it.

    Returns:
        None if no such network was begun, or if it could not be loaded: loading it again raises the
        error. A network with other choices is dropped, as the run does not need it.
    """
    begun = None if wanted is None else _begun.get(wanted)
    _begun.clear()
    if begun is None or begun.exception() is not None:
        return None
    return begun.result()
