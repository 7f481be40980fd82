"""The event loop that runs all calls of this process, in a thread of its own.

grpc.aio reports spurious errors where several loops of a process poll it at once.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

# In seconds; tasks that have not ended by then are left to the end of the process.
_SECONDS_TO_END = 5.0


class EventLoop:
    """An event loop and its thread, which ends with the process and never delays its end."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # asyncio itself keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="grpc-calls", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Runs a coroutine on the loop, from any other thread."""
        future: Future[T] = Future()
        self._loop.call_soon_threadsafe(self._start, work, future)
        return future

    def _start(self, work: Coroutine[Any, Any, T], future: "Future[T]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)

        def settle(done: "asyncio.Task[T]") -> None:
            self._tasks.discard(done)
            if done.cancelled():
                future.cancel()
            elif (error := done.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result())

        task.add_done_callback(settle)

    def end(self) -> None:
        """Cancels all tasks and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)
        self._thread.join(_SECONDS_TO_END)

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_SECONDS_TO_END)
        self._loop.stop()


_lock = threading.Lock()
_shared: EventLoop | None = None
_of_parent: EventLoop | None = None


def shared_loop() -> EventLoop:
    """Returns the process's loop.

    Raises:
        RuntimeError: this process was forked off one that makes calls, where gRPC would hang.
    """
    global _shared
    with _lock:
        if _of_parent is not None:
            raise RuntimeError(
                "this process was forked off one that makes gRPC calls, and gRPC cannot make any "
                "here: start processes by spawn or forkserver, or before the first call"
            )
        if _shared is None:
            _shared = EventLoop()
            atexit.register(_shared.end)
        return _shared


def _leave_loop_to_parent() -> None:
    global _lock, _shared, _of_parent
    _lock = threading.Lock()
    if _shared is not None:
        atexit.unregister(_shared.end)
        # Kept open: closing it here would affect the parent's loop.
        _shared, _of_parent = None, _shared


os.register_at_fork(after_in_child=_leave_loop_to_parent)
