"""gRPC over HTTP/2 by hand, as peers speak it that keep to no rules."""

import contextlib
import dataclasses
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    *(0, 1, 3, 4, 6, 7, 8, 9),
)
END_STREAM = ACK = 1
END_HEADERS = 4

_PATIENCE = 60.0
_HEADER_TABLE_SIZE = 1
# Of HPACK's static table: what servers take from it.
_STATIC = {8: (":status", "200"), 13: (":status", "404"), 14: (":status", "500")}


@dataclasses.dataclass(frozen=True)
class Frame:
    """What arrives.

    Attributes:
        kind: `DATA`, `HEADERS`, ...
        flags: of that kind.
        stream: 0 for the connection's own.
        payload: without its nine bytes of header.
    """

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends_stream(self) -> bool:
        """Whether nothing follows in the stream."""
        return self.kind == RST_STREAM or bool(
            self.kind in (DATA, HEADERS) and self.flags & END_STREAM
        )


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a call ended.

    Attributes:
        status: of gRPC; None where the stream was reset, or the connection closed.
        message: for people.
        trailers: all of them.
    """

    status: int | None
    message: str = ""
    trailers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as it is sent."""
    length = struct.pack(">I", len(payload))[1:]
    return length + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def message(data: bytes, *, length: int | None = None, compressed: int = 0) -> bytes:
    """A message of gRPC with its prefix; `length` is what that says, true or not."""
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data


def request_headers(path: bytes, metadata: Mapping[str, str | bytes] | None = None) -> bytes:
    """The headers of a call, each as a literal that changes no table."""
    values: dict[str, str | bytes] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **(metadata or {}),
    }
    return b"".join(
        b"\0" + _string(name.encode()) + _string(v.encode() if isinstance(v, str) else v)
        for name, v in values.items()
    )


def opening() -> bytes:
    """What a client sends first: it asks the server to change no table of headers."""
    settings = struct.pack(">HI", _HEADER_TABLE_SIZE, 0)
    return PREFACE + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, ACK, 0)


class Connection:
    """A client's side of a connection.

    Args:
        port: of the server, on the loopback interface.
        first: what is sent at once.
        source: address of this machine that it comes from.
    """

    def __init__(self, port: int, first: bytes | None = None, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), _PATIENCE, (source, 0))
        self._received = b""
        self._next_stream = 1
        self.send(opening() if first is None else first)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.socket.sendall(data)

    def open_stream(
        self, path: bytes | str, metadata: Mapping[str, str | bytes] | None = None
    ) -> int:
        """Sends the headers of a call; the id of its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        name = path.encode() if isinstance(path, str) else path
        self.send(frame(HEADERS, END_HEADERS, stream, request_headers(name, metadata)))
        return stream

    def send_message(self, data: bytes, stream: int = 1, flags: int = END_STREAM) -> None:
        """Sends a message that is small enough for one frame."""
        self.send(frame(DATA, flags, stream, message(data)))

    def frames(self, seconds: float = _PATIENCE) -> Iterator[Frame]:
        """What arrives, until the connection is closed; pings are answered.

        Raises:
            TimeoutError: it is not closed within so many seconds.
        """
        until = time.monotonic() + seconds
        while True:
            while (found := self._take()) is not None:
                if found.kind == PING and not found.flags & ACK:
                    with contextlib.suppress(OSError):
                        self.send(frame(PING, ACK, 0, found.payload))
                yield found
            self.socket.settimeout(max(1e-3, until - time.monotonic()))
            try:
                data = self.socket.recv(2**20)
            except ConnectionError:
                return
            if not data:
                return
            self._received += data

    def answer(self, stream: int = 1) -> Answer:
        """How a call ends."""
        for found in self.frames():
            if found.stream != stream or not found.ends_stream:
                continue
            if found.kind == RST_STREAM:
                break
            trailers = dict(_decoded(found.payload))
            return Answer(int(trailers["grpc-status"]), trailers.get("grpc-message", ""), trailers)
        return Answer(None)

    def _take(self) -> Frame | None:
        data = self._received
        if len(data) < 9 or len(data) < 9 + (length := int.from_bytes(data[:3])):
            return None
        self._received = data[9 + length :]
        return Frame(data[3], data[4], int.from_bytes(data[5:9]), data[9 : 9 + length])


def _string(data: bytes) -> bytes:
    return _number(len(data), 7) + data


def _number(value: int, bits: int) -> bytes:
    """A number as HPACK has it, after zeros in the first byte."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    found = [most]
    value -= most
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _decoded(data: bytes) -> Iterator[tuple[str, str]]:
    """Headers of a server that uses no table of its own; what is in Huffman code is left out.

    gRPC's server has only the values of names that end in -bin in it.
    """
    position = 0
    while position < len(data):
        first = data[position]
        if first & 0x80:
            index, position = _read_number(data, position, 7)
            yield _STATIC.get(index, ("", ""))
        elif first & 0xE0 == 0x20:
            _, position = _read_number(data, position, 5)
        else:
            index, position = _read_number(data, position, 6 if first & 0x40 else 4)
            name, position = ("", position) if index else _read_string(data, position)
            value, position = _read_string(data, position)
            yield name, value


def _read_string(data: bytes, position: int) -> tuple[str, int]:
    is_huffman = bool(data[position] & 0x80)
    length, position = _read_number(data, position, 7)
    text = "" if is_huffman else data[position : position + length].decode("latin-1")
    return text, position + length


def _read_number(data: bytes, position: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value = data[position] & most
    position += 1
    if value < most:
        return value, position
    shift = 0
    while True:
        byte = data[position]
        position += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
