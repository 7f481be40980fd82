"""Frames between a process and its decoders."""

import io

import pytest
from decoder_frames import frame

from beam_upscale.images.decoding import frames


def test_frame_of_an_absurd_length_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        frames.read_frame(io.BytesIO(b"\xff\xff\xff\xff" + bytes(100)))


def test_stream_that_ends_within_a_frame() -> None:
    with pytest.raises(EOFError):
        frames.read_frame(io.BytesIO(frame({"ready": 1})[:-3]))
