"""Networks that OpenVINO begins to load before they are needed.

Most of that is compiling, which goes on beside the imports of a run: it needs no lock of Python's.
The imports of PyTorch do, and so PyTorch's networks are not loaded like this.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from beam_upscale.models.device import Precision
from beam_upscale.models.super_resolution import SuperResolution

_Key = tuple[Path, Precision, int]

_begun: dict[_Key, Future[SuperResolution]] = {}


@contextlib.contextmanager
def loading(path: Path, precision: Precision, threads: int) -> Iterator[None]:
    """Loads a network in a thread; within this context `take` gives it.

    Afterwards nothing keeps it, also where it is still being loaded then.

    Args:
        path: the file of its weights.
        precision: fp32 or bf16.
        threads: of one pass, at least 1.
    """
    # Imported before the thread begins: two threads that import the same modules at once may see
    # them half done.
    from beam_upscale.models.openvino_network import OpenVinoModel

    key = path, precision, threads
    executor = ThreadPoolExecutor(1, "load")
    _begun[key] = executor.submit(OpenVinoModel.load, path, precision, threads)
    executor.shutdown(wait=False)
    try:
        yield
    finally:
        _begun.pop(key, None)


def take(path: Path, precision: Precision, threads: int) -> SuperResolution | None:
    """The network whose loading was begun, once it is loaded; it is given once.

    Returns:
        None where none was begun, or where it failed: who loads it anew learns why.
    """
    begun = _begun.pop((path, precision, threads), None)
    if begun is None or begun.exception() is not None:
        return None
    return begun.result()
