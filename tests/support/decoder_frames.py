"""What a process and its decoders say to each other."""

import io
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from beam_upscale.images.decoding import child
from beam_upscale.images.processes.connection import Connection, Frame
from beam_upscale.images.processes.sealed_memory import ReceivedMemory, filled_memory

Message = tuple[dict[str, Any], list[bytes]]
"""The fields of a frame, and its buffers."""


def png(width: int = 30, height: int = 20, seed: int = 0) -> bytes:
    samples = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "PNG", exif=b"II*\x00\x08\x00\x00\x00" + bytes(6))
    return buffer.getvalue()


def frame(
    fields: dict[str, Any], lengths: Sequence[int | None], data: bytes | None = None
) -> Frame:
    """A frame as it is received, with memory of the given bytes behind it."""
    if data is None:
        return Frame(fields, tuple(lengths))
    return Frame(fields, tuple(lengths), ReceivedMemory(filled_memory([data]), len(data)))


def serve(*requests: Message, **functions: Any) -> list[Message]:
    """All that a decoder's loop, which runs in this thread, sends for some requests."""
    ours, theirs = socket.socketpair()
    with ours, ThreadPoolExecutor(1) as other, theirs:
        messages = other.submit(converse, ours, requests)
        child.serve(Connection(theirs), **functions)
        return messages.result()


def converse(ours: socket.socket, requests: Sequence[Message]) -> list[Message]:
    """Does the parent's part: sends a request when the child is ready, and says what it has taken.

    Returns:
        The messages of the child, the last of which says that it is ready once more.
    """
    connection, left = Connection(ours), list(requests)
    found: list[Message] = []
    is_held = False
    while True:
        try:
            received = connection.receive()
        except EOFError:
            return found
        with received:
            lengths = [length or 0 for length in received.lengths]
            found.append((received.fields, [received.take(n).tobytes() for n in lengths if n]))
        if "rows" in received.fields:
            connection.send({"taken": True})
        elif "ready" in received.fields or (is_held and "error" not in received.fields):
            if not left:
                ours.shutdown(socket.SHUT_WR)
                return found
            fields, buffers = left.pop(0)
            is_held = bool(fields.get("is_held"))
            connection.send(fields, buffers)


DECODE = {"request": "decode", "max_pixels": 1000, "animated": "first"}
