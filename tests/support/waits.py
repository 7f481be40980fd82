"""Waits for what happens in another thread or process."""

import time
from collections.abc import Callable

# Longer than any of this takes; what is not done by then never will be.
_PATIENCE = 120


def until(condition: Callable[[], object]) -> None:
    """Waits until something is true, in this process or in another."""
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
