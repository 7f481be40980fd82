"""Messages between a process and its decoders, and what is not taken for one."""

import array
import errno
import gc
import json
import math
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from beam_upscale.images.processes.connection import MOST_WITHIN, Connection, Parcel
from beam_upscale.images.processes.sealed_memory import SharedMemoryError, filled_memory


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the socket of the other process."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ours)
        connection.deadline = time.monotonic() + 60
        yield connection, theirs


Pair = tuple[Connection, socket.socket]


def message(fields: Any, within: bytes = b"") -> bytes:
    encoded = json.dumps(fields).encode()
    return struct.pack(">II", len(encoded), len(within)) + encoded + within


def send(end: socket.socket, data: bytes, *descriptors: int) -> None:
    """Sends bytes and descriptors, which are closed here."""
    rights = array.array("i", descriptors)
    end.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else [])
    for descriptor in descriptors:
        os.close(descriptor)


def open_files() -> int:
    gc.collect()
    return int(psutil.Process().num_fds())


def test_fields_and_buffers_cross(pair: Pair) -> None:
    connection, theirs = pair
    large = os.urandom(3 << 20)
    other = Connection(theirs)
    before = open_files()

    other.send({"a": "ü\udcff"}, [b"first", None, memoryview(large), b""])
    other.send({"b": 2})
    with connection.receive() as frame:
        first, *rest = [frame.take(length) for length in frame.lengths if length is not None]
    with connection.receive() as without:
        pass

    assert (frame.fields, frame.lengths) == ({"a": "ü\udcff"}, (5, None, 3 << 20, 0))
    assert (first.tobytes(), rest[0].tobytes(), rest[1].size) == (b"first", large, 0)
    assert (without.fields, without.lengths) == ({"b": 2}, ())
    # A large buffer stays mapped, for which its mapping has a descriptor.
    rest.clear()
    assert open_files() == before
    with pytest.raises(ValueError, match="without buffers"):
        without.take(0)


def test_message_of_many_bytes_crosses_in_parts(pair: Pair) -> None:
    connection, theirs = pair
    text = "x" * 900_000
    other = Connection(theirs)

    with ThreadPoolExecutor(1) as thread:
        sent = thread.submit(other.send, {"message": text}, [b"and bytes"])
        with connection.receive() as frame:
            taken = frame.take(9).tobytes()
        sent.result()

    assert frame.fields == {"message": text}
    assert taken == b"and bytes"


@pytest.mark.parametrize(
    ("data", "descriptors", "error"),
    [
        (struct.pack(">II", 2**20 + 1, 0) + bytes(100), 0, "a message of 1048577 and 0 bytes"),
        (struct.pack(">II", 2, MOST_WITHIN + 1) + b"{}", 0, "a message of 2 and 65537 bytes"),
        (message([1]), 0, "a list"),
        (message("text"), 0, "a str"),
        (struct.pack(">II", 2, 0) + b"{]", 0, "Expecting"),
        (message({"lengths": [6]}), 0, "0 bytes where 6 are due"),
        (message({"lengths": [6]}, b"seventh"), 0, "7 bytes where 6 are due"),
        (message({"lengths": []}, b"bytes"), 0, "5 bytes where 0 are due"),
        (message({"lengths": []}), 1, "memory where 0 bytes for 0 buffers"),
        (message({"lengths": [None]}), 1, "memory where 0 bytes for 0 buffers"),
        (message({"lengths": [6]}, b"pixels"), 1, "memory where 6 bytes for 1 buffers"),
        (message({"lengths": [6]}), 2, "more descriptors"),
        (message({"lengths": [6]}), 9, "more descriptors"),
        (message({"lengths": [7]}), 1, "memory of 6 bytes where 7 are due"),
        (message({"lengths": [5]}), 1, "memory of 6 bytes where 5 are due"),
        (message({"lengths": [6, 6]}), 1, "memory of 6 bytes where 12 are due"),
        (message({"lengths": [7, -1]}), 1, "buffers of"),
        (message({"lengths": [6.0]}), 1, "buffers of"),
        (message({"lengths": [True]}), 1, "buffers of"),
        (message({"lengths": ["6"]}), 1, "buffers of"),
        (message({}), 1, "lengths"),
        (message({"lengths": 6}), 1, "int"),
    ],
)
def test_what_is_no_message_is_refused_and_leaves_no_descriptor(
    pair: Pair, data: bytes, descriptors: int, error: str
) -> None:
    connection, theirs = pair
    before = open_files()
    send(theirs, data, *(filled_memory([b"pixels"]) for _ in range(descriptors)))

    with pytest.raises((ValueError, KeyError, TypeError), match=error):
        connection.receive()

    assert open_files() == before


def test_descriptors_within_a_message_are_dropped(pair: Pair) -> None:
    connection, theirs = pair
    data = message({"lengths": []})
    before = open_files()
    send(theirs, data[:8])
    send(theirs, data[8:13], filled_memory([b"pixels"]))
    send(theirs, data[13:])

    assert connection.receive_fields() == {}
    assert open_files() == before


def test_descriptor_of_something_else_is_refused(pair: Pair, tmp_path: Path) -> None:
    connection, theirs = pair
    (tmp_path / "file").write_bytes(b"pixels")
    before = open_files()
    for descriptor in (os.open(tmp_path / "file", os.O_RDWR), os.open(tmp_path, os.O_RDONLY)):
        send(theirs, message({"lengths": [6]}), descriptor)
        with pytest.raises((OSError, ValueError)):
            connection.receive()

    assert open_files() == before


def test_few_bytes_cross_without_a_descriptor(pair: Pair) -> None:
    connection, theirs = pair
    half = os.urandom(MOST_WITHIN // 2)
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, descriptors[1]))
    try:
        Connection(theirs).send({}, [half, None, b"", half])
        with connection.receive() as frame:
            found = [frame.take(length) for length in frame.lengths if length is not None]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)

    assert [each.tobytes() for each in found] == [half, b"", half]
    assert all(each.flags.writeable for each in found)
    with pytest.raises(ValueError, match="1 bytes where 0 are left"):
        frame.take(1)


@pytest.mark.parametrize("size", [MOST_WITHIN, MOST_WITHIN + 1])
def test_parcel_is_sent_twice(pair: Pair, size: int) -> None:
    connection, theirs = pair
    data = os.urandom(size)
    other, before = Connection(theirs), open_files()

    with Parcel.of([data]) as parcel, ThreadPoolExecutor(1) as thread:
        for number in range(2):
            sent = thread.submit(other.send_parcel, {"number": number}, parcel)
            with connection.receive() as frame:
                assert frame.fields == {"number": number}
                assert frame.take(size).tobytes() == data
            sent.result()

    assert (parcel.memory is None) == (size == MOST_WITHIN)
    assert open_files() == before


@pytest.mark.parametrize("length", [0, 3, 8, 13])
def test_socket_that_is_closed_within_a_message(pair: Pair, length: int) -> None:
    connection, theirs = pair
    data = message({"lengths": [6]})[:length]
    before = open_files()
    if data:
        send(theirs, data, filled_memory([b"pixels"]))
    theirs.shutdown(socket.SHUT_WR)

    with pytest.raises(EOFError):
        connection.receive()

    assert open_files() == before


def test_fields_alone_have_no_buffers(pair: Pair) -> None:
    connection, theirs = pair
    before = open_files()
    Connection(theirs).send({"ready": 1}, [b"pixels"])

    with pytest.raises(ValueError, match="1 buffers where none are due"):
        connection.receive_fields()

    assert open_files() == before


def test_late_message_is_not_waited_for(pair: Pair) -> None:
    connection, theirs = pair
    send(theirs, message({"lengths": []})[:13])
    connection.deadline = time.monotonic() + 0.05

    with pytest.raises(TimeoutError):
        connection.receive()


def test_reader_that_takes_nothing_is_not_waited_for(pair: Pair) -> None:
    connection, _ = pair
    connection.deadline = time.monotonic() + 0.05

    with pytest.raises(TimeoutError):
        while True:
            connection.send({"message": "x" * 100_000})


def test_check_is_called_while_nothing_comes(pair: Pair) -> None:
    class TooMuchError(Exception):
        pass

    connection, _ = pair
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TooMuchError

    connection.check = check

    with pytest.raises(TooMuchError):
        connection.receive()
    assert connection.deadline < math.inf


def test_process_without_free_descriptors_says_so(pair: Pair) -> None:
    connection, theirs = pair
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    large = bytes(MOST_WITHIN + 1)
    Connection(theirs).send({}, [large])
    os.close(free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(SharedMemoryError, match="Too many open files"):
            connection.receive()
        with pytest.raises(SharedMemoryError, match="Too many open files"):
            connection.send({}, [large])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_message_waits_while_too_many_descriptors_are_on_their_way(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, theirs = pair
    send = connection._end.sendmsg
    refusals = iter([True, True, False])

    class Refusing:
        """A socket that refuses descriptors at first, as Linux does above a user's limit."""

        def sendmsg(self, *arguments: Any) -> int:
            if next(refusals):
                raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
            return send(*arguments)

    monkeypatch.setattr(connection, "_end", Refusing())
    connection.send({"number": 1})

    assert Connection(theirs).receive_fields() == {"number": 1}


def test_message_does_not_wait_beyond_its_deadline_for_descriptors(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, _ = pair

    class Refusing:
        def sendmsg(self, *_: Any) -> int:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    monkeypatch.setattr(connection, "_end", Refusing())
    connection.deadline = time.monotonic() + 0.02

    with pytest.raises(TimeoutError):
        connection.send({"number": 1})
