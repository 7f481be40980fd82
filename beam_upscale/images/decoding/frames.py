"""The messages between a parent and its decoders: a JSON object, and raw buffers behind it.

A frame is four bytes with the length of the object, the object, and the buffers, whose lengths are
in the object. Nothing is pickled: an attacker who controls a child must not be able to pass objects
to the parent.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_MAX_OBJECT = 2**20


class Readable(Protocol):
    """A stream that a frame is read from."""

    def readinto(self, view: memoryview, /) -> int:
        """Fills the view as far as it can; returns the bytes read, 0 at the end."""


class Writable(Protocol):
    """A stream that a frame is written to."""

    def write(self, view: memoryview, /) -> int:
        """Writes as much as it can; returns the bytes written."""


@dataclass(frozen=True)
class Frame:
    """A message without its buffers, which are still to be read from the stream.

    Attributes:
        fields: the JSON object.
        lengths: bytes of each buffer; None for one that is absent.
    """

    fields: dict[str, Any]
    lengths: tuple[int | None, ...]


def write_frame(
    stream: Writable,
    fields: dict[str, Any],
    buffers: Sequence[bytes | memoryview | None] = (),
) -> None:
    """Sends a message; the lengths of its buffers are added to the fields."""
    lengths = [None if buffer is None else len(buffer) for buffer in buffers]
    encoded = json.dumps({**fields, "lengths": lengths}).encode()
    _write_all(stream, struct.pack(">I", len(encoded)) + encoded)
    for buffer in buffers:
        if buffer is not None:
            _write_all(stream, buffer)


def read_frame(stream: Readable) -> Frame:
    """Reads a message up to its buffers.

    Raises:
        EOFError: the stream ends.
        ValueError: the stream holds no frame.
    """
    (length,) = struct.unpack(">I", read_buffer(stream, 4))
    if length > _MAX_OBJECT:
        raise ValueError(f"a frame's object of {length} bytes; at most {_MAX_OBJECT} are taken")
    fields = json.loads(read_buffer(stream, length))
    return Frame(fields, tuple(fields.pop("lengths")))


def read_buffer(stream: Readable, length: int) -> bytearray:
    """Reads exactly `length` bytes.

    Raises:
        EOFError: the stream ends.
    """
    buffer = bytearray(length)
    read_into(stream, memoryview(buffer))
    return buffer


def read_into(stream: Readable, view: memoryview) -> None:
    """Fills `view` with bytes of the stream.

    Raises:
        EOFError: the stream ends.
    """
    while view:
        count = stream.readinto(view)
        if not count:
            raise EOFError("the stream ended within a message")
        view = view[count:]


def _write_all(stream: Writable, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]
