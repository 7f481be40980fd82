"""Reports the progress of a computation of many steps from a network to listeners that show it.

Networks and listeners know only this module, not each other. The networks' locks let a process
compute one thing at a time, so the last report is that of the process.
"""

import logging
import threading
from collections.abc import Callable

Listener = Callable[[int, int], None]
"""A function of the passes done and of their total; equal numbers end the computation."""

_logger = logging.getLogger(__name__)
_lock = threading.Lock()
_listeners: dict[object, Listener] = {}


def report(done: int, total: int) -> None:
    """Calls all listeners, in the caller's thread; without any, costs nothing.

    A listener that raises is logged and no longer called, so that it cannot cost an image.

    Args:
        done: passes of the network that are done, 0 to `total`.
        total: passes of the computation in total. Equal numbers end it, and must be reported even
            if it fails; `report(0, 0)` does if the total is not at hand.
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
    """Registers a listener, which is called at every report.

    Returns:
        A function that unregisters it; calling the function more than once does no harm.
    """
    key = object()
    with _lock:
        _listeners[key] = listener
    return lambda: _forget(key)


def _forget(key: object) -> None:
    with _lock:
        _listeners.pop(key, None)
