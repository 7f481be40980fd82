"""One child process: starts it, waits for it with deadlines, and ends it."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from beam_upscale.images.processes.child import SIGNALS_OF_PARENT
from beam_upscale.images.processes.connection import Connection
from beam_upscale.images.processes.environment import module_path, plain_environment

_EXIT_SECONDS = 5.0
"""Seconds that a child may take to end by itself, once its socket is closed."""

_CHILD_ENVIRONMENT = {
    # Keep the working directory off the module path: a data set may hold a numpy.py.
    "PYTHONSAFEPATH": "1",
    # Processes, not threads, use the cores.
    "OPENBLAS_NUM_THREADS": "1",
    "VIPS_CONCURRENCY": "1",
    # glibc: give large blocks back to the system when they are freed.
    "MALLOC_MMAP_THRESHOLD_": "131072",
    # Also glibc: each further arena takes 64 MB of address space.
    "MALLOC_ARENA_MAX": "2",
}


class ChildLostError(Exception):
    """The child ended, or sent an invalid answer; the text says how."""


class OverLimitError(Exception):
    """A child takes more address space than it may."""


class ChildProcess:
    """The parent's end of one child process.

    Attributes:
        connection: the messages to and from the child.
        environment: the variables of the child that its parent's do not decide.
    """

    environment: ClassVar[Mapping[str, str]] = _CHILD_ENVIRONMENT

    def __init__(self, command: Sequence[str]) -> None:
        """Starts the child.

        Args:
            command: the command that starts it.

        Raises:
            OSError: the system cannot start it.
        """
        ours, theirs = socket.socketpair()
        try:
            # The child inherits the block; else a signal could end it before it can ignore signals.
            with theirs, blocked(SIGNALS_OF_PARENT):
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    cwd=os.path.sep,
                    env={**plain_environment(), **self.environment, "PYTHONPATH": module_path()},
                    process_group=0,
                )
        except BaseException:
            ours.close()
            raise
        self.connection = Connection(ours)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def must_answer_within(self, seconds: float) -> None:
        """Sets a deadline from now on; after it, an exchange raises TimeoutError."""
        self.connection.deadline = time.monotonic() + seconds

    def wait_until_ready(self) -> int:
        """Waits until the child is ready; returns the bytes of memory that it holds.

        Address space that it has not given back counts half: it leaves less for the next image.
        """
        fields = self.connection.receive_fields()
        return max(int(fields["ready"]), int(fields.get("grown", 0)) // 2)

    @property
    def ran_out_of_seconds(self) -> bool:
        """True if the child was ended by its limit of CPU seconds."""
        return self._process.returncode == -signal.SIGXCPU

    def kill(self) -> None:
        """Ends a child at once, whatever it is doing."""
        self.close_connection()
        self._process.kill()
        self._process.wait()

    def end(self) -> str:
        """Makes sure that a lost child is gone; returns the description of its end."""
        self.close_connection()
        try:
            status = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "an answer that made no sense"
        if status < 0:
            return f"signal {signal.Signals(-status).name}"
        return f"exit status {status}"

    def close(self) -> None:
        """Ends an idle child."""
        self.end()

    def close_connection(self) -> None:
        """Closes this process's end of the socket; the child ends once no process has it."""
        self.connection.close()


@contextlib.contextmanager
def blocked(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Blocks signals in this thread within the context, and for good in processes started there.

    Other threads of the process may receive them meanwhile.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
