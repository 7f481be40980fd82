"""The loop of an encoder process, with its socket in this process."""

import errno
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from encoder_calls import unencoded

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.encoding import child
from beam_upscale.images.encoding.messages import answered_file, request_of
from beam_upscale.images.encoding.unencoded import EncodedFile, UnencodedImage
from beam_upscale.images.processes import connection
from beam_upscale.images.processes.connection import Connection
from beam_upscale.images.processes.failures import reported_error
from beam_upscale.images.processes.sealed_memory import SharedMemoryError
from beam_upscale.planning.plan_options import OutputFormat

Answer = EncodedFile | ImageError | OSError


def answers(*images: UnencodedImage, **functions: Any) -> list[Answer]:
    """What the loop, which runs in this thread, answers to requests for images."""
    ours, theirs = socket.socketpair()
    with ours, ThreadPoolExecutor(1) as other, theirs:
        found = other.submit(converse, ours, images)
        child.serve(Connection(theirs), **functions)
        return found.result()


def converse(ours: socket.socket, images: tuple[UnencodedImage, ...]) -> list[Answer]:
    parent, found = Connection(ours), list[Answer]()
    assert parent.receive_fields()["ready"] > 1_000_000
    for image in images:
        parent.send(*request_of(image))
        with parent.receive() as answer:
            found.append(reported_error(answer.fields) or answered_file(answer))
            assert answer.fields["ready"] > 1_000_000
    ours.shutdown(socket.SHUT_RDWR)
    return found


def test_loop_answers_each_request() -> None:
    first, second = unencoded(seed=1), unencoded(seed=2, format=OutputFormat.JPEG)

    assert answers(first, second) == [first.encoded(), second.encoded()]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ImageError(ErrorCode.ENCODE_ERROR, "too wide"), "encode_error", "too wide"),
        (MemoryError(), "out_of_memory", "does not fit in memory"),
        (OSError(errno.ENOMEM, "no memory"), "out_of_memory", "does not fit in memory"),
        (ZeroDivisionError("a mistake"), "internal_error", "a mistake"),
    ],
)
def test_loop_goes_on_after_an_error(error: Exception, code: str, message: str) -> None:
    errors = [error]

    def encode(image: UnencodedImage) -> EncodedFile:
        if errors:
            raise errors.pop()
        return image.encoded()

    failed, done = answers(unencoded(), unencoded(), encode=encode)

    assert isinstance(failed, ImageError)
    assert failed.code == code
    assert message in failed.message
    assert done == unencoded().encoded()


def test_full_disk_is_told_as_one() -> None:
    def encode(_: UnencodedImage) -> EncodedFile:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp")

    (failed,) = answers(unencoded(), encode=encode)

    assert isinstance(failed, OSError)
    assert (failed.errno, failed.filename) == (errno.ENOSPC, "/tmp")


def test_file_without_memory_for_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = connection.filled_memory

    def fail(buffers: Any) -> int:
        if threading.current_thread() is threading.main_thread():
            raise SharedMemoryError(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
        return fill(buffers)

    monkeypatch.setattr(connection, "MOST_WITHIN", 0)
    monkeypatch.setattr(connection, "filled_memory", fail)

    (failed,) = answers(unencoded())

    assert isinstance(failed, ImageError)
    assert failed.code is ErrorCode.OUT_OF_MEMORY


def test_loop_ends_with_its_parent() -> None:
    ours, theirs = socket.socketpair()
    ours.close()

    child.serve(Connection(theirs))

    theirs.close()
