"""One child process: starts it, sends it requests with deadlines, and ends it."""

import contextlib
import functools
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from beam_upscale.images.decoding.child import SIGNALS_OF_PARENT
from beam_upscale.images.decoding.environment import module_path, plain_environment
from beam_upscale.images.decoding.frames import read_frame, write_frame
from beam_upscale.images.decoding.limits import address_space_of
from beam_upscale.images.decoding.replies import (
    OverLimitError,
    Receive,
    ReportedError,
    reported_error,
)

CHILD_COMMAND: tuple[str, ...] = (sys.executable, "-m", "beam_upscale.images.decoding")
"""The command that starts a child. Any other command has to call `main`."""

_PIPE_SIZE = 2**20
"""Bytes; the most that Linux gives an ordinary user."""
_EXIT_SECONDS = 5.0
"""Seconds that a child may take to end by itself, once its streams are closed."""
START_SECONDS = 5.0
"""Seconds for which the system may refuse to start a child while no other one works."""
SECONDS_BETWEEN_STARTS = 0.1

_SECONDS_BETWEEN_LOOKS = 0.005
"""Seconds between checks of the address space of a child that the system does not limit."""

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
        data: a file's bytes, or its name.
        seconds: the longest that the child may take.
    """

    request: dict[str, Any]
    data: bytes
    seconds: float

    def send(self, stream: "_TimedPipe", **fields: Any) -> None:
        """Sends the request, with further fields."""
        write_frame(stream, {**self.request, "seconds": self.seconds, **fields}, [self.data])


class Child:
    """The parent's end of one child process."""

    def __init__(self, command: Sequence[str]) -> None:
        # The child inherits the block; else a signal could end it before it can ignore signals.
        with blocked(SIGNALS_OF_PARENT):
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=os.path.sep,
                env={**plain_environment(), **_CHILD_ENVIRONMENT, "PYTHONPATH": module_path()},
                process_group=0,
                pipesize=_PIPE_SIZE,
            )
        self._requests = _TimedPipe(self._process.stdin, select.POLLOUT)
        self._replies = _TimedPipe(self._process.stdout, select.POLLIN)

    def must_answer_within(self, seconds: float) -> None:
        """Sets a deadline from now on; after it, an exchange raises TimeoutError."""
        self._requests.deadline = self._replies.deadline = time.monotonic() + seconds

    def wait_until_ready(self) -> int:
        """Waits until the child is ready; returns the bytes of memory that it holds.

        Address space that it has not given back counts half: it leaves less for the next image.
        """
        fields = read_frame(self._replies).fields
        return max(int(fields["ready"]), int(fields.get("grown", 0)) // 2)

    def ask(self, exchange: Exchange, receive: Receive[T]) -> T | ReportedError:
        """Sends a request; returns the result of `receive` for the reply, or the error in it.

        Raises:
            EOFError, OSError, ValueError, KeyError, TypeError: the child ended, or its reply is
                none.
        """
        exchange.send(self._requests)
        reply = read_frame(self._replies)
        return reported_error(reply) or receive(reply, self._replies)

    def look_again(self, exchange: Exchange, limit: int) -> tuple[int, int]:
        """Decodes again without a limit; returns the peak address space before and after, in bytes.

        Raises:
            _OverLimitError: the child takes more than `limit` bytes, at this moment.
        """
        self._replies.check = functools.partial(_check_address_space, self._process.pid, limit)
        try:
            exchange.send(self._requests, second_look=True)
            fields = read_frame(self._replies).fields
        finally:
            self._replies.check = None
        return int(fields["before"]), int(fields["peak"])

    @property
    def ran_out_of_seconds(self) -> bool:
        """True if the child was ended by its limit of CPU seconds."""
        return self._process.returncode == -signal.SIGXCPU

    def kill(self) -> None:
        """Ends a child at once, whatever it is doing."""
        self.close_pipes()
        self._process.kill()
        self._process.wait()

    def end(self) -> str:
        """Makes sure that a lost child is gone; returns the description of its end."""
        self.close_pipes()
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

    def close_pipes(self) -> None:
        """Closes this process's ends of the pipes; the child ends once no process has them."""
        self._requests.close()
        self._replies.close()


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


class _TimedPipe:
    """The parent's end of a pipe, read or written with a deadline.

    Attributes:
        deadline: the deadline in seconds of the monotonic clock; a later read or write raises
            TimeoutError.
        check: called repeatedly while a read or write waits; None for nothing.
    """

    def __init__(self, end: Any, event: int) -> None:
        """Takes over one unbuffered end of a pipe.

        Args:
            end: a stream of `subprocess.Popen`.
            event: the event that `select.poll` waits for.
        """
        os.set_blocking(end.fileno(), False)
        self._end = end
        self._poll = select.poll()
        self._poll.register(end, event)
        self.deadline = math.inf
        self.check: Callable[[], None] | None = None

    def readinto(self, view: memoryview) -> int:
        while (count := self._end.readinto(view)) is None:
            self._wait()
        return int(count)

    def write(self, view: memoryview) -> int:
        while (count := self._end.write(view)) is None:
            self._wait()
        return int(count)

    def close(self) -> None:
        self._end.close()

    def _wait(self) -> None:
        while (seconds := self.deadline - time.monotonic()) > 0:
            if self.check is not None:
                self.check()
                seconds = min(seconds, _SECONDS_BETWEEN_LOOKS)
            if self._poll.poll(math.ceil(1000 * seconds)):
                return
        raise TimeoutError
