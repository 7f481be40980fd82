"""Gathers the results of a bundle into groups, which are made durable together."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

# A group is made durable with this many results or bytes, or so many seconds after its first
# result, whichever comes first: a kill must not cost more. Its results wait in memory.
MOST_RESULTS = 64
MOST_BYTES = 16 << 20
MOST_SECONDS = 1.0

_Result = TypeVar("_Result")
_Durable = TypeVar("_Durable")


@dataclasses.dataclass
class _Open(Generic[_Result]):
    """The group that is being gathered."""

    results: list[_Result] = dataclasses.field(default_factory=list)
    bytes: int = 0
    timer: threading.Timer | None = None


class Groups(Generic[_Result, _Durable]):
    """The results of one bundle, group by group.

    A group whose seconds are over is made durable by a thread of its own, since that of the bundle
    may be busy with the next image for long. What it gives, or raises, is handed over by `take`.

    Args:
        make_durable: makes results durable, and returns what the step passes on for them. It is
            called for one group at a time, in any thread.
    """

    def __init__(self, make_durable: Callable[[Sequence[_Result]], Sequence[_Durable]]) -> None:
        self._make_durable = make_durable
        self._turn = threading.Lock()
        self._open: _Open[_Result] = _Open()
        self._durable: list[_Durable] = []
        self._error: BaseException | None = None

    def add(self, result: _Result, size: int, *, is_urgent: bool = False) -> None:
        """Adds a result, and makes the group durable if it is full.

        Args:
            result: the result.
            size: the bytes of memory that it takes.
            is_urgent: True makes the group durable now.
        """
        with self._turn:
            group = self._open
            group.results.append(result)
            group.bytes += size
            is_full = len(group.results) >= MOST_RESULTS or group.bytes >= MOST_BYTES
            if is_full or is_urgent:
                self._close()
            elif group.timer is None:
                group.timer = threading.Timer(MOST_SECONDS, self._close_late, [group])
                group.timer.daemon = True
                group.timer.start()

    def flush(self) -> None:
        """Makes the results that were added durable."""
        with self._turn:
            self._close()

    def take(self) -> list[_Durable]:
        """Returns what the step passes on for the results that became durable since.

        Raises:
            Exception: the one of `make_durable` in a thread of its own.
        """
        with self._turn:
            error, self._error = self._error, None
            if error is not None:
                raise error
            durable, self._durable = self._durable, []
            return durable

    def abandon(self) -> None:
        """Drops the results that are not durable yet; the runner repeats their bundle."""
        with self._turn:
            self._next()

    def _next(self) -> list[_Result]:
        """Begins another group; returns the results of the one before."""
        group, self._open = self._open, _Open()
        # The timer and the group refer to each other: neither may keep the images in memory.
        timer, group.timer = group.timer, None
        results, group.results = group.results, []
        if timer is not None:
            timer.cancel()
        return results

    def _close(self) -> None:
        results = self._next()
        if results:
            self._durable += self._make_durable(results)

    def _close_late(self, group: _Open[_Result]) -> None:
        with self._turn:
            if group is not self._open:
                return
            try:
                self._close()
            except BaseException as error:
                # The thread of the bundle raises it.
                self._error = error
