"""Loads a network while a pipeline is still being built, in a run that is in this process."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from beam_upscale.local_models import LocalModel

_begun: dict[LocalModel, Future[Any]] = {}


@contextlib.contextmanager
def loading(model: LocalModel, load: Callable[[], Any]) -> Iterator[None]:
    """Loads a network in a thread; until the end of the block `take` gives it.

    Afterwards nothing keeps it, also where it is still being loaded then.

    Args:
        model: the pinned network.
        load: loads it.
    """
    with contextlib.ExitStack() as stack:
        executor = ThreadPoolExecutor(1, "load")
        stack.callback(executor.shutdown, wait=False)
        _begun[model] = executor.submit(load)
        stack.callback(_begun.pop, model, None)
        yield


def take(model: LocalModel) -> Any:
    """The network whose loading was begun, once it is loaded; it is given once.

    Returns:
        None where none was begun, or where it failed: who loads it anew learns why.
    """
    begun = _begun.pop(model, None)
    if begun is None or begun.exception() is not None:
        return None
    return begun.result()
