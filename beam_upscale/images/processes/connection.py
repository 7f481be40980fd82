"""The messages between a parent and its children, over a Unix socket.

A frame is eight bytes with the length of a JSON object and of the bytes behind it, and both. Its
buffers lie one behind the other: small ones in those bytes, larger ones in sealed memory, whose
descriptor comes with the first byte. Their lengths are in the object. Nothing is pickled: an
attacker who controls a child must not be able to pass objects to the parent.
"""

import errno
import json
import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beam_upscale.images.processes.sealed_memory import (
    ReceivedBytes,
    ReceivedMemory,
    SharedMemoryError,
    filled_memory,
)

Buffer = bytes | memoryview

MOST_WITHIN = 64 << 10
"""Bytes. Buffers of no more in all are sent within the message: copying them twice takes less time
than to make, seal, check and close memory."""

_MAX_OBJECT = 2**20
_START = struct.Struct(">II")
_DESCRIPTOR = struct.Struct("i")
_ROOM_FOR_RIGHTS = socket.CMSG_LEN(_DESCRIPTOR.size)
# Elsewhere than on Linux, a process that is started meanwhile may inherit a received descriptor.
_CLOSE_ON_EXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))

_TRUNCATED = int(socket.MSG_CTRUNC)

_SECONDS_BETWEEN_CHECKS = 0.005


@dataclass(frozen=True)
class Frame:
    """A message; a context that closes the memory of its buffers.

    Attributes:
        fields: the JSON object.
        lengths: bytes of each buffer; None for one that is absent.
        memory: the buffers that are there, still to be taken; None if there are none.
    """

    fields: dict[str, Any]
    lengths: tuple[int | None, ...] = ()
    memory: ReceivedMemory | ReceivedBytes | None = None

    def take(self, length: int) -> NDArray[np.uint8]:
        """Returns the next buffer's bytes: (length,), writable.

        Raises:
            ValueError, OSError: there is none of that length.
        """
        if self.memory is None:
            raise ValueError("a message without buffers")
        return self.memory.take(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.memory is not None:
            self.memory.close()


@dataclass(frozen=True)
class Parcel:
    """Buffers that can be sent, more than once if need be; a context that closes their memory.

    Attributes:
        lengths: bytes of each buffer; None for one that is absent.
        within: the bytes of small buffers, which go within the message.
        memory: the descriptor of the memory of larger ones; None for small ones.
    """

    lengths: Sequence[int | None]
    within: bytes = b""
    memory: int | None = None

    @classmethod
    def of(cls, buffers: Sequence[Buffer | None]) -> "Parcel":
        """Copies buffers.

        Raises:
            SharedMemoryError: the system lacks memory or descriptors.
        """
        lengths = [None if buffer is None else len(buffer) for buffer in buffers]
        present = [buffer for buffer in buffers if buffer is not None]
        if sum(map(len, present)) <= MOST_WITHIN:
            return cls(lengths, within=b"".join(present))
        return cls(lengths, memory=filled_memory(present))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.memory is not None:
            os.close(self.memory)


class Connection:
    """One end of the socket between a parent and a child.

    Attributes:
        deadline: seconds of the monotonic clock; a later wait raises TimeoutError.
        check: called repeatedly while this end waits; None for nothing.
    """

    def __init__(self, end: socket.socket) -> None:
        """Takes over one end of a pair of stream sockets."""
        end.setblocking(False)
        self.deadline = math.inf
        self.check: Callable[[], None] | None = None
        self._end = end
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(end, select.POLLIN)
        self._writable.register(end, select.POLLOUT)

    def send(self, fields: dict[str, Any], buffers: Sequence[Buffer | None] = ()) -> None:
        """Sends a message; the lengths of its buffers are added to the fields.

        Raises:
            SharedMemoryError: the system lacks memory or descriptors; nothing was sent.
            OSError: the other process is gone, or the deadline is over.
        """
        with Parcel.of(buffers) as parcel:
            self.send_parcel(fields, parcel)

    def send_parcel(self, fields: dict[str, Any], parcel: Parcel) -> None:
        """Sends a message with buffers that stay in their parcel; their lengths are added.

        Raises:
            OSError: the other process is gone, or the deadline is over.
        """
        encoded = json.dumps({**fields, "lengths": parcel.lengths}).encode()
        start = _START.pack(len(encoded), len(parcel.within))
        rights = []
        if parcel.memory is not None:
            descriptor = _DESCRIPTOR.pack(parcel.memory)
            rights.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor))
        self._send(b"".join((start, encoded, parcel.within)), rights)

    def receive(self) -> Frame:
        """Receives a message, and takes over the memory of its buffers.

        Raises:
            EOFError: the other process closed its end.
            SharedMemoryError: this process lacks a descriptor for the memory.
            ValueError, KeyError, TypeError: this is no message, or its memory is refused.
            OSError: the other process is gone, or the deadline is over.
        """
        descriptors: list[int] = []
        try:
            size, within = _START.unpack(self._receive_start(descriptors))
            if size > _MAX_OBJECT or within > MOST_WITHIN:
                raise ValueError(f"a message of {size} and {within} bytes")
            received = self._receive_rest(size + within)
            fields = json.loads(received[:size].decode())
            if not isinstance(fields, dict):
                raise ValueError(f"a message that is a {type(fields).__name__}")
            lengths = tuple(fields.pop("lengths"))
            memory = _received_memory(lengths, received[size:], descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return Frame(fields, lengths, memory)

    def receive_fields(self) -> dict[str, Any]:
        """Receives a message without buffers; its errors are those of `receive`."""
        with self.receive() as frame:
            if frame.lengths:
                raise ValueError(f"{len(frame.lengths)} buffers where none are due")
            return frame.fields

    def close(self) -> None:
        """Closes this end."""
        self._end.close()

    def _send(self, message: bytes, rights: list[tuple[int, int, bytes]]) -> None:
        while message:
            try:
                count = self._end.sendmsg([message], rights)
            except BlockingIOError:
                self._wait(self._writable)
                continue
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                # Linux bounds the descriptors that all processes of a user have on their way, by
                # the sender's limit of open files, which is low in a decoder.
                self._pause()
                continue
            message, rights = message[count:], []

    def _receive_start(self, descriptors: list[int]) -> bytes:
        """Receives the length of a message, and the descriptor that comes with it."""
        start = b""
        while len(start) < _START.size:
            self._wait(self._readable)
            try:
                part, rights, flags, _ = self._end.recvmsg(
                    _START.size - len(start), _ROOM_FOR_RIGHTS, _CLOSE_ON_EXEC
                )
            except BlockingIOError:
                continue
            # There is room for one descriptor, and for nothing else.
            descriptors.extend(_DESCRIPTOR.unpack(data)[0] for _, _, data in rights)
            if flags & _TRUNCATED:
                self._check_descriptors()
                raise ValueError("a message with more descriptors than one")
            if not part:
                raise EOFError("the other process closed its socket")
            start += part
        return start

    def _check_descriptors(self) -> None:
        """Raises SharedMemoryError if this process can have no further descriptor."""
        try:
            os.close(os.dup(self._end.fileno()))
        except OSError as error:
            raise SharedMemoryError(error) from error

    def _receive_rest(self, size: int) -> bytearray:
        # Without room for descriptors, the system closes any that come with these bytes.
        received = bytearray(size)
        view = memoryview(received)
        while view:
            try:
                count = self._end.recv_into(view)
            except BlockingIOError:
                self._wait(self._readable)
                continue
            if not count:
                raise EOFError("the other process closed its socket within a message")
            view = view[count:]
        return received

    def _pause(self) -> None:
        if time.monotonic() >= self.deadline:
            raise TimeoutError
        time.sleep(_SECONDS_BETWEEN_CHECKS)

    def _wait(self, poll: select.poll) -> None:
        while (seconds := self.deadline - time.monotonic()) > 0:
            if self.check is not None:
                self.check()
                seconds = min(seconds, _SECONDS_BETWEEN_CHECKS)
            if poll.poll(None if seconds == math.inf else math.ceil(1000 * seconds)):
                return
        raise TimeoutError


def _received_memory(
    lengths: tuple[int | None, ...], within: bytearray, descriptors: list[int]
) -> ReceivedMemory | ReceivedBytes | None:
    """Returns the buffers of a message: its own bytes, or else the one descriptor, taken out."""
    present = [length for length in lengths if length is not None]
    if not all(type(length) is int and length >= 0 for length in present):
        raise ValueError(f"buffers of {lengths} bytes")
    due = sum(present)
    if descriptors:
        if within or not present:
            raise ValueError(f"memory where {len(within)} bytes for {len(present)} buffers came")
        return ReceivedMemory(descriptors.pop(), due)
    if len(within) != due:
        raise ValueError(f"{len(within)} bytes where {due} are due")
    return ReceivedBytes(within) if present else None
