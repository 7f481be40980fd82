"""Handles SIGTERM, which Kubernetes, Slurm and spot instances send before SIGKILL.

A handler is set by the main thread, for the whole process: in other threads nothing here has an
effect. Only the standard library is imported, so that the command line can handle signals before it
imports anything else.
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
# in a finalizer, or in a library that catches all exceptions of an import.
_is_asked = False


class TerminatedError(SystemExit):
    """The exception that ends this process after SIGTERM; uncaught, it sets the exit code."""

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)


@contextlib.contextmanager
def raising_at_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise `TerminatedError` in the context, so that temporary files are removed.

    Without a handler, the first process of a container ignores SIGTERM.
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
    """Handles SIGTERM within the context; gives False in other threads and if it is ignored."""
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
        # A handler that was not set by Python code cannot be restored by it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class Termination:
    """Handles SIGTERM for a run, within this context.

    Before `begin`, SIGTERM ends the run at once. After it, begun images may finish within a grace
    period; when that is over, or a second signal comes, the run ends at once.

    Attributes:
        is_asked: True once SIGTERM has come.

    Args:
        grace_seconds: the grace period, 0 or more.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.is_asked = False
        self._grace_seconds = min(grace_seconds, threading.TIMEOUT_MAX)
        self._has_begun = False
        self._ask: Callable[[], None] | None = None
        self._is_over = threading.Event()
        # Held while a signal is sent, so that none comes after the previous handler is restored.
        self._ending = threading.Lock()
        self._handlers = contextlib.ExitStack()
        # A signal's handler may use this class to wake a thread; it may not use others.
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
            ask: asks the run to finish begun images; called in a thread of its own, as the main
                thread may be busy.

        Raises:
            TerminatedError: SIGTERM came before.
        """
        self._ask = ask
        self._has_begun = True
        if self.is_asked:
            # The signal came earlier, in code that could not be interrupted.
            raise TerminatedError

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        is_second, self.is_asked = self.is_asked, True
        if is_second or not self._has_begun:
            raise TerminatedError
        self._events.put("asked")

    def _watch_grace(self) -> None:
        """Asks the run to stop; after the grace period, sends SIGTERM to the main thread again."""
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
            # Repeated, since an exception that a handler raises in a finalizer is lost.
            seconds = _SECONDS_BETWEEN_REMINDERS
