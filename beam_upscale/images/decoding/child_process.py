"""One decoder process: its command, and the requests that it is sent."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from beam_upscale.images.decoding.replies import Receive, reported_error
from beam_upscale.images.processes.child_process import ChildProcess, OverLimitError
from beam_upscale.images.processes.connection import Connection
from beam_upscale.images.processes.failures import ReportedError
from beam_upscale.images.processes.memory_use import address_space_of

CHILD_COMMAND: tuple[str, ...] = (sys.executable, "-m", "beam_upscale.images.decoding")
"""The command that starts a child. Any other command has to call `main`."""

T = TypeVar("T")


@dataclass(frozen=True)
class Exchange:
    """A request to a child.

    Attributes:
        request: the fields of the message.
        seconds: the longest that the child may take.
        files: the bytes of files; none if the fields name a file, or the child holds its bytes.
    """

    request: dict[str, Any]
    seconds: float
    files: Sequence[bytes] = ()

    def of_held_bytes(self) -> "Exchange":
        """Returns the same request to a child that holds the bytes."""
        return dataclasses.replace(self, files=())

    def send(self, child: Connection, **fields: Any) -> None:
        """Sends the request, with further fields."""
        child.send({**self.request, "seconds": self.seconds, **fields}, self.files)


class Child(ChildProcess):
    """The parent's end of one decoder."""

    def ask(self, exchange: Exchange, receive: Receive[T]) -> T | ReportedError:
        """Sends a request; returns the result of `receive` for the reply, or the error in it.

        Raises:
            EOFError, OSError, ValueError, KeyError, TypeError: the child ended, or its reply is
                none.
            SharedMemoryError: this process lacks memory or descriptors.
        """
        exchange.send(self.connection)
        with self.connection.receive() as reply:
            return reported_error(reply) or receive(reply, self.connection)

    def let_go(self) -> None:
        """Has the child drop the bytes that it holds, after which it is ready."""
        self.connection.send({"request": "let_go"})

    def look_again(self, exchange: Exchange, limit: int) -> tuple[int, int]:
        """Decodes again without a limit; returns the peak address space before and after, in bytes.

        Raises:
            OverLimitError: the child takes more than `limit` bytes, at this moment.
        """
        self.connection.check = functools.partial(_check_address_space, self.pid, limit)
        try:
            exchange.send(self.connection, second_look=True)
            fields = self.connection.receive_fields()
        finally:
            self.connection.check = None
        return int(fields["before"]), int(fields["peak"])


def _check_address_space(pid: int, limit: int) -> None:
    taken = address_space_of(pid)
    if taken is not None and taken > limit:
        raise OverLimitError
