"""The loop of a decoder process, with its pipes in this process or as a program."""

import dataclasses
import io
import os
import resource
import signal
import threading
from typing import Any

import pytest
from decoder_frames import DECODE, frame, png, serve, take
from PIL import AvifImagePlugin

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.decoding import child, limits
from beam_upscale.images.reading import inspection, pixels
from beam_upscale.images.values import DecodedImage, ImageHeader


def test_main_answers_on_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    exited = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: exited.set())
    monkeypatch.setattr(signal, "signal", lambda number, action: None)
    # This process goes on, with as many files as it likes.
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    monkeypatch.setattr(limits, "harden", lambda: None)
    monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 0)

    def read_header(data: bytes) -> ImageHeader:
        # The watch ends with the pipe, which is closed; this process is not to end with it later.
        assert exited.wait(30)
        return inspection.read_header(data)

    request_reader, request_writer = os.pipe()
    reply_reader, reply_writer = os.pipe()
    os.write(request_writer, frame({"request": "header"}, png(2, 1)))
    os.close(request_writer)
    standard = [os.dup(descriptor) for descriptor in (0, 1, 2)]
    try:
        os.dup2(request_reader, 0)
        os.dup2(reply_writer, 1)
        child.main(read_header=read_header)
    finally:
        for descriptor, original in enumerate(standard):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(request_reader)
        os.close(reply_writer)

    with os.fdopen(reply_reader, "rb") as stream:
        replies = io.BytesIO(stream.read())
    assert "ready" in take(replies)[0]
    assert take(replies)[0]["header"]["width"] == 2


def test_loop_answers_between_two_readies() -> None:
    replies = serve(frame({"request": "header"}, png()), frame(DECODE, png()))

    ready, header, _, decoded, _ = (take(replies) for _ in range(5))
    expected = pixels.decode(png(), max_pixels=1000)
    assert ready[0]["ready"] > 1_000_000
    assert header[0]["header"] == dataclasses.asdict(expected.header)
    assert decoded[0]["shape"] == [20, 30, 3]
    assert decoded[1][0] == expected.color.tobytes()
    assert replies.read() == b""


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

    replies = serve(frame(DECODE, b"x"), frame(DECODE, b"x"), decode=fail)

    answers = [take(replies)[0] for _ in range(5)]
    assert [answer.get("error") for answer in answers] == [None, code, None, code, None]


def test_cores_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)

    assert child.usable_cores() == os.cpu_count()


def test_process_ends_when_its_pipe_has_no_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    reader, writer = os.pipe()
    watch = threading.Thread(target=child.exit_with_parent, args=(reader,))
    watch.start()

    was_watching = watch.is_alive()
    os.close(writer)
    watch.join()

    os.close(reader)
    assert was_watching
    assert ended.is_set()
