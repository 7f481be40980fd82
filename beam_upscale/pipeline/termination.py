"""SIGTERM asks a process to end: Kubernetes, Slurm and spot instances send it before SIGKILL.

A handler belongs to the main thread, and is for all of the process: in other threads nothing here
has an effect. Beyond that thread and the standard library nothing is needed, so that the command
line has it before anything else is imported.
"""

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_TERMINATED = 128 + signal.SIGTERM
"""The exit code of a process that SIGTERM ended, as shells have it."""

# The reason of a run that was stopped by hand, and of one that SIGTERM stopped.
INTERRUPTED = "interrupted"
TERMINATED = "terminated"

_SECONDS_BETWEEN_REMINDERS = 1.0

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None

# True once SIGTERM came within `raising_at_sigterm`. The error that its handler raises may be lost:
# in a finalizer, or in a library that catches whatever an import raises.
_is_asked = False


class TerminatedError(SystemExit):
    """SIGTERM ends this process. Where nothing catches it, it is the exit code."""

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)


@contextlib.contextmanager
def raising_at_sigterm() -> Iterator[None]:
    """Has SIGTERM raise `TerminatedError` within it, so that temporary files are removed.

    The first process of a container ignores SIGTERM where it has no handler.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        global _is_asked
        _is_asked = True
        raise TerminatedError

    global _is_asked
    before = _is_asked
    with _handling(handle) as is_handled:
        try:
            yield
        finally:
            if is_handled:
                _is_asked = before


def raise_if_asked() -> None:
    """Raises `TerminatedError` if SIGTERM came before and the error was lost."""
    if _is_asked:
        raise TerminatedError


@contextlib.contextmanager
def _handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[bool]:
    """Handles SIGTERM within it; whether it does: not in other threads, nor where it is ignored."""
    is_main = threading.current_thread() is threading.main_thread()
    before: _Handler = signal.getsignal(signal.SIGTERM)
    if not is_main or before is signal.SIG_IGN:
        yield False
        return
    signal.signal(signal.SIGTERM, handle)
    try:
        raise_if_asked()
        yield True
    finally:
        # A handler that was not set from Python cannot be set from here again.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class Termination:
    """Handles SIGTERM for a run, within this context.

    Before anything is begun the run ends at once. After that it is to finish what is begun, within
    a grace; once that is over, or a second signal comes, it ends at once.

    Attributes:
        is_asked: whether the run is to finish what is begun.

    Args:
        grace_seconds: 0 or more.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.is_asked = False
        self._grace_seconds = min(grace_seconds, threading.TIMEOUT_MAX)
        self._has_begun = False
        self._ask: Callable[[], None] | None = None
        self._is_over = threading.Event()
        # Held while a signal is sent, so that none comes once the handler is the one before.
        self._ending = threading.Lock()
        self._handlers = contextlib.ExitStack()
        # Of all ways to wake a thread this one may be used by a signal's handler.
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        if self._handlers.enter_context(_handling(self._handle)):
            threading.Thread(target=self._watch_grace, name="grace", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._handlers:
            with self._ending:
                self._is_over.set()
            self._events.put("over")

    def begin(self, ask: Callable[[], None]) -> None:
        """Marks the point after which SIGTERM lets begun images finish.

        Args:
            ask: asks the run to finish it; called in a thread of its own, whatever the main thread
                does by then.

        Raises:
            TerminatedError: SIGTERM came before.
        """
        self._ask = ask
        self._has_begun = True
        if self.is_asked:
            # The signal came before, in code that could not be interrupted.
            raise TerminatedError

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        is_second, self.is_asked = self.is_asked, True
        if is_second or not self._has_begun:
            raise TerminatedError
        self._events.put("asked")

    def _watch_grace(self) -> None:
        """Has the run stop; sends SIGTERM anew once the grace is over, to the main thread."""
        if self._events.get() == "over":
            return
        threading.Thread(target=self._ask, name="stop", daemon=True).start()
        seconds = self._grace_seconds
        main = threading.main_thread().ident
        assert main is not None
        while not self._is_over.wait(seconds):
            with self._ending:
                if not self._is_over.is_set():
                    signal.pthread_kill(main, signal.SIGTERM)
            # Again: what a handler raises in a finalizer is lost.
            seconds = _SECONDS_BETWEEN_REMINDERS
