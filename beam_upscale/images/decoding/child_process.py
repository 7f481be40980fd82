"""One child process: starts it, sends it requests with deadlines, and ends it."""

import contextlib
import dataclasses
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from beam_upscale.images.decoding.child import SIGNALS_OF_PARENT
from beam_upscale.images.decoding.connection import Connection
from beam_upscale.images.decoding.environment import module_path, plain_environment
from beam_upscale.images.decoding.limits import address_space_of
from beam_upscale.images.decoding.replies import (
    OverLimitError,
    Receive,
    ReportedError,
    reported_error,
)

CHILD_COMMAND: tuple[str, ...] = (sys.executable, "-m", "beam_upscale.images.decoding")
"""The command that starts a child. Any other command has to call `main`."""

_EXIT_SECONDS = 5.0
"""Seconds that a child may take to end by itself, once its socket is closed."""
START_SECONDS = 5.0
"""Seconds for which the system may refuse to start a child while no other one works."""
SECONDS_BETWEEN_STARTS = 0.1

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

T = TypeVar("T")


class ChildLostError(Exception):
    """The child ended, or sent an invalid answer; the text says how."""


@dataclass(frozen=True)
class Exchange:
    """A request to a child.

    Attributes:
        request: the fields of the message.
        seconds: the longest that the child may take.
        data: a file's bytes; None if the fields name the file, or the child holds its bytes.
    """

    request: dict[str, Any]
    seconds: float
    data: bytes | None = None

    def of_held_bytes(self) -> "Exchange":
        """Returns the same request to a child that holds the bytes."""
        return dataclasses.replace(self, data=None)

    def send(self, child: Connection, **fields: Any) -> None:
        """Sends the request, with further fields."""
        buffers = [] if self.data is None else [self.data]
        child.send({**self.request, "seconds": self.seconds, **fields}, buffers)


class Child:
    """The parent's end of one child process."""

    def __init__(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        try:
            # The child inherits the block; else a signal could end it before it can ignore signals.
            with theirs, blocked(SIGNALS_OF_PARENT):
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    cwd=os.path.sep,
                    env={**plain_environment(), **_CHILD_ENVIRONMENT, "PYTHONPATH": module_path()},
                    process_group=0,
                )
        except BaseException:
            ours.close()
            raise
        self._connection = Connection(ours)

    def must_answer_within(self, seconds: float) -> None:
        """Sets a deadline from now on; after it, an exchange raises TimeoutError."""
        self._connection.deadline = time.monotonic() + seconds

    def wait_until_ready(self) -> int:
        """Waits until the child is ready; returns the bytes of memory that it holds.

        Address space that it has not given back counts half: it leaves less for the next image.
        """
        fields = self._connection.receive_fields()
        return max(int(fields["ready"]), int(fields.get("grown", 0)) // 2)

    def ask(self, exchange: Exchange, receive: Receive[T]) -> T | ReportedError:
        """Sends a request; returns the result of `receive` for the reply, or the error in it.

        Raises:
            EOFError, OSError, ValueError, KeyError, TypeError: the child ended, or its reply is
                none.
            SharedMemoryError: this process lacks memory or descriptors.
        """
        exchange.send(self._connection)
        with self._connection.receive() as reply:
            return reported_error(reply) or receive(reply, self._connection)

    def let_go(self) -> None:
        """Has the child drop the bytes that it holds, after which it is ready."""
        self._connection.send({"request": "let_go"})

    def look_again(self, exchange: Exchange, limit: int) -> tuple[int, int]:
        """Decodes again without a limit; returns the peak address space before and after, in bytes.

        Raises:
            OverLimitError: the child takes more than `limit` bytes, at this moment.
        """
        self._connection.check = functools.partial(_check_address_space, self._process.pid, limit)
        try:
            exchange.send(self._connection, second_look=True)
            fields = self._connection.receive_fields()
        finally:
            self._connection.check = None
        return int(fields["before"]), int(fields["peak"])

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
        self._connection.close()


def _check_address_space(pid: int, limit: int) -> None:
    taken = address_space_of(pid)
    if taken is not None and taken > limit:
        raise OverLimitError


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
