"""How far a computation of many steps is: the model tells, whoever shows progress listens.

The two are floors apart and know only this module. A process computes one thing at a time, as the
models' locks have it, so the last report stands for the process.
"""

import logging
import threading
from collections.abc import Callable

Listener = Callable[[int, int], None]
"""Takes the passes done and those in all; equal numbers mean that nothing is computed any more."""

_logger = logging.getLogger(__name__)
_lock = threading.Lock()
_listeners: dict[object, Listener] = {}


def report(done: int, total: int) -> None:
    """Tells all listeners, in the caller's thread; without any, costs nothing.

    A listener that raises is logged and no longer called: an image is worth more than the sight of
    its progress.

    Args:
        done: passes of the network that are done, 0 to `total`.
        total: passes of the computation in all. Equal numbers end it, which is due as well where it
            fails; `report(0, 0)` does where its length is not at hand.
    """
    with _lock:
        listeners = list(_listeners.items())
    for key, listener in listeners:
        try:
            listener(done, total)
        except Exception:
            _logger.warning("progress within images is no longer shown", exc_info=True)
            _forget(key)


def listen(listener: Listener) -> Callable[[], None]:
    """Has a listener called at every report.

    Returns:
        What ends that; calling it more than once does no harm.
    """
    key = object()
    with _lock:
        _listeners[key] = listener
    return lambda: _forget(key)


def _forget(key: object) -> None:
    with _lock:
        _listeners.pop(key, None)
