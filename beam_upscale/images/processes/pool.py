"""A pool of child processes of one kind, and the pool that all of a process shares."""

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from beam_upscale.images.processes.child_process import ChildProcess
from beam_upscale.images.processes.children import Children
from beam_upscale.images.processes.kind import Kind

C = TypeVar("C", bound=ChildProcess)


class ProcessPool(Generic[C]):
    """Child processes of one kind; safe to use from any number of threads.

    Children are started when first needed, one of them earlier by `start_early`, and reused. A call
    waits while all of them are busy. If the system cannot start a further child, a call waits for
    one that works. A forked process starts children of its own.

    Attributes:
        command: the command that starts a child.
        children: the children.
    """

    def __init__(
        self,
        kind: Kind,
        process: Callable[[tuple[str, ...]], C],
        command: Sequence[str],
        max_processes: int,
        timeout_seconds: float,
    ) -> None:
        """Starts nothing yet.

        Args:
            kind: what the children are, for errors.
            process: starts a child by a command.
            command: the command that starts a child.
            max_processes: the most children at a time, at least 1.
            timeout_seconds: the longest that a child may take to become ready.
        """
        self.command = tuple(command)
        self.children = Children(kind, process, self.command, timeout_seconds)
        self._max_processes = max_processes
        self._slots = threading.BoundedSemaphore(max_processes)
        _pools.add(self)

    def start_early(self) -> None:
        """Starts a child, unless there is one; it becomes ready while its parent does other things.

        A failure to start it is ignored: the first call that needs a child reports it.
        """
        self.children.start_early()

    def close(self) -> None:
        """Ends the idle children; busy ones end with their image. The pool takes no more images."""
        self.children.close()

    def leave_children_to_parent(self) -> None:
        """Gives up, after a fork, the children that the parent uses; the fork starts its own."""
        # Another thread may have held a slot at the fork.
        self._slots = threading.BoundedSemaphore(self._max_processes)
        self.children.leave_to_parent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


P = TypeVar("P", bound=ProcessPool[Any])


class SharedPool(Generic[P]):
    """The one pool of a kind that all of a process shares; a forked process has its own.

    Args:
        make: makes the pool when it is first needed, or when another command starts its children.
        command: returns the command that starts its children.
    """

    _pool: P | None

    def __init__(self, make: Callable[[], P], command: Callable[[], Sequence[str]]) -> None:
        self._make = make
        self._command = command
        self.forget()
        _shared_pools.append(self)

    def get(self) -> P:
        """Returns the pool, which ends with this process."""
        with self._lock:
            if self._pool is None or self._pool.command != tuple(self._command()):
                self._pool = self._make()
                atexit.register(self._pool.close)
            return self._pool

    def forget(self) -> None:
        """Forgets the pool; the lock is new: another thread may have held it at a fork."""
        self._lock = threading.Lock()
        self._pool = None


_pools: weakref.WeakSet[ProcessPool[Any]] = weakref.WeakSet()
_shared_pools: list[SharedPool[Any]] = []


def leave_children_to_parent() -> None:
    """Gives up, after a fork, all children that the parent uses."""
    for shared in _shared_pools:
        shared.forget()
    for pool in list(_pools):
        pool.leave_children_to_parent()


os.register_at_fork(after_in_child=leave_children_to_parent)
