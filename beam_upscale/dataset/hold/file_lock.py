"""The operating system's lock on an output on a local disk."""

import fcntl
import os
import threading
from collections.abc import Callable

# The longest wait for writes in progress when the output is given up. If they take longer, the lock
# ends with the process, and the lease by its missing signs of life.
_SECONDS_TO_FINISH = 10.0


class FileLock:
    """A lock of the operating system on a file; it ends with the process.

    Args:
        path: the file's path.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._identity = 0, 0

    def take(self) -> bool:
        """Locks the file for this process alone, and creates it; returns False if it is locked.

        Raises:
            FileNotFoundError: there is no folder for the file.
            OSError: the file cannot be opened or locked.
        """
        return self._take(os.O_CREAT, fcntl.LOCK_EX)

    def share(self) -> bool:
        """Locks the file, shared with other processes; returns False if one has it alone.

        Raises:
            FileNotFoundError: there is no file.
            OSError: the file cannot be opened or locked.
        """
        return self._take(0, fcntl.LOCK_SH)

    def _take(self, flags: int, operation: int) -> bool:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            found = os.fstat(descriptor)
            self._identity = found.st_dev, found.st_ino
            if self.is_in_place():
                self._descriptor, descriptor = descriptor, -1
                return True
            # The file was removed before it was locked.
            return False
        except BlockingIOError:
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    @property
    def is_held(self) -> bool:
        """True if this process has the lock."""
        return self._descriptor is not None

    def is_in_place(self) -> bool:
        """Checks whether the locked file still has its name; else others would lock a new file."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 (quick)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def release(self) -> None:
        """Releases the lock, also for processes that were forked meanwhile."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Leaves the lock to the parent of this process, which was forked."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Writers:
    """The writers of this process: the contexts that write or delete at the moment."""

    def __init__(self) -> None:
        self._number = 0
        self._changed = threading.Condition()
        self._act: Callable[[], None] | None = None

    def __enter__(self) -> None:
        with self._changed:
            self._number += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._number -= 1
            if self._number:
                return
            self._changed.notify_all()
            act, self._act = self._act, None
        if act is not None:
            act()

    def have_finished(self) -> bool:
        """Waits up to `_SECONDS_TO_FINISH` for all writers; returns True if none is left."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._number, _SECONDS_TO_FINISH)

    def when_finished(self, act: Callable[[], None]) -> None:
        """Calls a function after the last writer has finished; at once if there is none."""
        with self._changed:
            if self._number:
                self._act = act
                return
        act()
