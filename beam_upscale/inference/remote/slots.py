"""Limits the calls that a process has under way, by blocking the threads that request them."""

import threading
from collections import deque


class Slots:
    """Places for calls, granted in the order of the requests.

    Args:
        calls: the number of places, at least 1.
        pixels: the most input pixels of all calls together. A larger call runs alone.
    """

    def __init__(self, calls: int, pixels: int) -> None:
        self._calls = calls
        self._pixels = pixels
        self._lock = threading.Lock()
        self._taken = 0
        self._taken_pixels = 0
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    def take(self, pixels: int) -> None:
        """Takes a place for a call of `pixels` input pixels; waits until there is one."""
        with self._lock:
            turn = threading.Event()
            self._waiting.append((pixels, turn))
            self._grant()
        try:
            turn.wait()
        except BaseException:  # Interrupted: nothing else would give the place back.
            self._leave(pixels, turn)
            raise

    def _leave(self, pixels: int, turn: threading.Event) -> None:
        with self._lock:
            if not turn.is_set():
                self._waiting.remove((pixels, turn))
                self._grant()
                return
        self.give(pixels)

    def give(self, pixels: int) -> None:
        """Gives back a place that was taken for `pixels` input pixels."""
        with self._lock:
            self._taken -= 1
            self._taken_pixels -= pixels
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            pixels, turn = self._waiting.popleft()
            self._taken += 1
            self._taken_pixels += pixels
            turn.set()

    def _fits(self, pixels: int) -> bool:
        if not self._taken:
            return True
        return self._taken < self._calls and self._taken_pixels + pixels <= self._pixels
