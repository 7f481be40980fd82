"""The loop of a decoder process, with its socket in this process or as a program."""

import dataclasses
import errno
import os
import resource
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_frames import DECODE, converse, png, serve
from PIL import AvifImagePlugin

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.decoding import child, limits
from beam_upscale.images.processes import child as processes_child
from beam_upscale.images.processes import connection
from beam_upscale.images.processes.connection import Connection
from beam_upscale.images.processes.sealed_memory import SharedMemoryError
from beam_upscale.images.reading import pixels
from beam_upscale.images.values import DecodedImage


def test_main_answers_on_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    exited = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: exited.set())
    monkeypatch.setattr(signal, "signal", lambda number, action: None)
    # This process goes on, with as many files as it likes.
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    monkeypatch.setattr(limits, "harden", lambda: None)
    monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 0)

    ours, theirs = socket.socketpair()
    standard = [os.dup(descriptor) for descriptor in (0, 1, 2)]
    try:
        os.dup2(theirs.fileno(), 0)
        os.dup2(theirs.fileno(), 1)
        theirs.close()
        with ThreadPoolExecutor(1) as other:
            messages = other.submit(converse, ours, [({"request": "header"}, [png(2, 1)])])
            child.main()
    finally:
        for descriptor, original in enumerate(standard):
            os.dup2(original, descriptor)
            os.close(original)
    ours.close()

    # The watch ends with the parent's end; this process is not to end with it later.
    assert exited.wait(30)
    ready, (header, _), _ = messages.result()
    assert "ready" in ready[0]
    assert header["header"]["width"] == 2


def test_loop_answers_between_two_readies() -> None:
    messages = serve(({"request": "header"}, [png()]), (DECODE, [png()]))

    ready, header, _, decoded, last = messages
    expected = pixels.decode(png(), max_pixels=1000)
    assert ready[0]["ready"] > 1_000_000
    assert header[0]["header"] == dataclasses.asdict(expected.header)
    assert decoded[0]["shape"] == [20, 30, 3]
    assert decoded[1][0] == expected.color.tobytes()
    assert "ready" in last[0]


HOLD = {"request": "header", "is_held": True}


def test_loop_holds_a_file_for_one_further_request() -> None:
    messages = serve(
        *((HOLD, [png()]), (DECODE, []), (HOLD, [png()]), ({"request": "let_go"}, [])),
        *((HOLD, [b"no image"]), (DECODE, [])),
    )

    names = [next(iter(fields)) for fields, _ in messages]
    held, let_go = ["header", "resolution", "ready"], ["header", "ready"]
    assert names == ["ready", *held, *let_go, "error", "ready", "error", "ready"]
    assert messages[2][1][0] == pixels.decode(png(), max_pixels=1000).color.tobytes()
    # The bytes of a refused file are not held, and those of an earlier one neither.
    assert [messages[index][0]["error"] for index in (6, 8)] == ["not_an_image", "empty_file"]


def test_rows_are_sent_as_they_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a\udcff.png"
    path.write_bytes(png())
    request = {**DECODE, "request": "bands", "path": str(path), "height": 8}

    messages = serve((request, []), (DECODE, [png()]))

    assert [fields.get("rows") for fields, _ in messages[2:5]] == [8, 8, 4]
    decoded = pixels.decode(png(), max_pixels=1000)
    assert decoded.alpha is not None
    rows = b"".join(buffers[0] for _, buffers in messages[2:5])
    assert rows == np.dstack([decoded.color, decoded.alpha]).tobytes()
    assert messages[6][1][0] == decoded.color.tobytes()


def test_loop_ends_with_its_parent() -> None:
    ours, theirs = socket.socketpair()
    ours.close()

    child.serve(Connection(theirs))

    theirs.close()


def test_answer_without_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fill = connection.filled_memory

    def fail(buffers: Any) -> int:
        if threading.current_thread() is threading.main_thread():
            raise SharedMemoryError(full)
        return fill(buffers)

    monkeypatch.setattr(connection, "MOST_WITHIN", 0)
    monkeypatch.setattr(connection, "filled_memory", fail)

    messages = serve((DECODE, [png()]), ({"request": "header"}, [png()]))

    assert messages[1][0]["full_disk"] == errno.ENOSPC
    assert messages[3][0]["header"]["width"] == 30


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImageError(ErrorCode.CORRUPT, "damaged"), "corrupt"),
        (MemoryError(), "out_of_memory"),
        (ZeroDivisionError("a mistake"), "internal_error"),
    ],
)
def test_loop_goes_on_after_an_error(error: Exception, code: str) -> None:
    def fail(*_: Any, **__: Any) -> DecodedImage:
        raise error

    answers = serve((DECODE, [b"x"]), (DECODE, [b"x"]), decode=fail)

    assert [fields.get("error") for fields, _ in answers] == [None, code, None, code, None]


def test_cores_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)

    assert processes_child.usable_cores() == os.cpu_count()


def test_process_ends_when_its_parent_closes_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    ours, theirs = socket.socketpair()
    watch = threading.Thread(target=processes_child.exit_with_parent, args=(theirs.fileno(),))
    watch.start()

    ours.send(b"a request")
    was_watching = watch.is_alive()
    ours.close()
    watch.join()

    theirs.close()
    assert was_watching
    assert ended.is_set()
