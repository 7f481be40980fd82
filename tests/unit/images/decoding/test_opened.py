"""A file that is passed to a child once: its header, and then its pixels or nothing more."""

import io
import os
import signal
import sys
from typing import Any

import numpy as np
import psutil
import pytest
from decoder_frames import png
from PIL import Image

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.processes import connection
from beam_upscale.images.processes.sealed_memory import SharedMemoryError
from beam_upscale.images.reading import inspection, pixels

MAX_PIXELS = 10_000_000


def decoder(decode: str, read_header: str = "inspection.read_header(data)") -> list[str]:
    """The command of a child that decodes by an expression."""
    program = f"""
import os, signal, time
from beam_upscale.images.decoding import child, limits
from beam_upscale.images.processes import memory_use
from beam_upscale.images.reading import inspection, pixels

def decode(data, **options):
    return {decode}

child.main(decode, lambda data: {read_header})
"""
    return [sys.executable, "-c", program]


PLAIN = "pixels.decode(data, **options)"


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files that are passed to children here."""
    found: list[bytes] = []
    pack = connection.Parcel.of

    def packed(buffers: Any) -> connection.Parcel:
        found.extend(buffers)
        return pack(buffers)

    monkeypatch.setattr(connection.Parcel, "of", packed)
    return found


def pids(pool: DecoderPool) -> list[int]:
    return [child._process.pid for child in pool.children.idle]


def test_header_and_pixels_come_from_one_child_that_is_sent_the_bytes_once(
    passed: list[bytes],
) -> None:
    with DecoderPool(2) as pool:
        with pool.opened(png()) as opened:
            (child,) = pool.children.all
            assert pids(pool) == []
            decoded = opened.decode(max_pixels=MAX_PIXELS)
            # It is free for others as soon as the pixels are there.
            assert pids(pool) == [child._process.pid]

        assert opened.header == decoded.header == inspection.read_header(png())
        expected = pixels.decode(png(), max_pixels=MAX_PIXELS)
        assert np.array_equal(decoded.color, expected.color)
        assert passed == [png()]
        assert len(pool.children.all) == 1


def test_nothing_more_is_asked_of_a_file_that_is_not_wanted(passed: list[bytes]) -> None:
    with DecoderPool(1) as pool:
        for _ in range(3):
            with pool.opened(png()) as opened:
                assert opened.header.width == 30
        with pytest.raises(ZeroDivisionError), pool.opened(png()):
            raise ZeroDivisionError

        assert pool.read_header(png()).width == 30
        assert len(pids(pool)) == len(pool.children.all) == 1
        assert passed == [png()] * 5


def test_header_that_is_known_is_not_read() -> None:
    header = inspection.read_header(png())
    with DecoderPool(1, command=decoder(PLAIN, "os.abort()")) as pool:
        with pool.opened(png(), header) as opened:
            assert len(pool.children.all) == 0
            decoded = opened.decode(max_pixels=MAX_PIXELS)
        with pool.opened(png(), header):
            pass

    assert opened.header == decoded.header == header


def test_refused_header_leaves_the_child_to_others() -> None:
    with DecoderPool(1) as pool:
        with pytest.raises(ImageError) as caught, pool.opened(b"no image"):
            raise AssertionError("no image was opened")

        assert caught.value.code is ErrorCode.NOT_AN_IMAGE
        assert len(pids(pool)) == 1


def test_refused_pixels_are_the_error_of_decoding() -> None:
    with DecoderPool(1) as pool:
        with pool.opened(png()) as opened, pytest.raises(ImageError) as caught:
            opened.decode(max_pixels=10)

        assert caught.value.code is ErrorCode.TOO_MANY_PIXELS
        assert len(pids(pool)) == 1


def test_child_that_is_lost_meanwhile_is_replaced(passed: list[bytes]) -> None:
    with DecoderPool(1) as pool:
        with pool.opened(png()) as opened:
            (first,) = pool.children.all
            psutil.Process(first._process.pid).kill()
            decoded = opened.decode(max_pixels=MAX_PIXELS)

        assert first._process.returncode == -signal.SIGKILL
        assert pids(pool) != [first._process.pid]

    assert decoded.header == opened.header
    assert passed == [png()] * 2


def test_child_that_is_lost_while_nothing_is_asked_of_it_is_no_error() -> None:
    with DecoderPool(1) as pool:
        with pool.opened(png()):
            (first,) = pool.children.all
            psutil.Process(first._process.pid).kill()

        assert pids(pool) == []
        assert pool.read_header(png()).width == 30


@pytest.mark.parametrize("is_in_header", [True, False])
def test_file_that_ends_two_children_is_given_up(is_in_header: bool, tmp_path: Any) -> None:
    tries = tmp_path / "tries"
    fatal = f"(open({str(tries)!r}, 'a').write('x'), os.abort())"
    command = decoder(PLAIN, fatal) if is_in_header else decoder(fatal)

    with (
        DecoderPool(1, command=command) as pool,
        pytest.raises(ImageError) as caught,
        pool.opened(png()) as opened,
    ):
        opened.decode(max_pixels=MAX_PIXELS)

    assert caught.value.code is ErrorCode.DECODER_CRASHED
    assert "SIGABRT" in caught.value.message
    assert tries.read_text() == "xx"


def test_crash_in_a_header_that_does_not_happen_again_is_forgiven(tmp_path: Any) -> None:
    once = tmp_path / "once"
    once.touch()
    crash = f"os.path.exists({str(once)!r}) and (os.remove({str(once)!r}), os.abort())"
    command = decoder(PLAIN, f"{crash} or inspection.read_header(data)")

    with DecoderPool(1, command=command) as pool:
        with pool.opened(png()) as opened:
            decoded = opened.decode(max_pixels=MAX_PIXELS)
        assert len(pids(pool)) == 1

    assert decoded.header == opened.header


@pytest.mark.parametrize("is_in_header", [True, False])
def test_each_part_has_its_time(is_in_header: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = "time.sleep(600)"
    command = decoder(PLAIN, waiting) if is_in_header else decoder(waiting)

    with DecoderPool(1, command=command) as pool:
        pool.children.keep(pool.children.start(), 0)
        # Not before: the same limit holds for how long a child takes to start.
        pool._timeout_seconds, pool._header_seconds = (60, 0.2) if is_in_header else (0.3, 60)
        with pytest.raises(ImageError) as caught, pool.opened(png()) as opened:
            opened.decode(max_pixels=MAX_PIXELS)

        assert caught.value.code is ErrorCode.DECODER_TIMEOUT
        assert f"{0.2 if is_in_header else 0.3} seconds" in caught.value.message
        assert list(pids(pool)) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS limits no address space")
def test_file_whose_codec_asks_for_too_much_memory_is_looked_at_again() -> None:
    narrow = decoder(PLAIN)
    narrow[-1] = narrow[-1].replace(
        "def decode",
        "limits.HEADROOM_BYTES, limits.PIXEL_BYTES, limits._FILE_COPIES = 76 << 20, 0, 0\n"
        "at_first = memory_use.address_space_of()\n"
        "memory_use.address_space_of = lambda: at_first\n"
        "def decode",
    )
    file = io.BytesIO()
    Image.new("RGBA", (3000, 3000)).save(file, "PNG")

    with (
        DecoderPool(1, command=narrow) as pool,
        pool.opened(file.getvalue()) as opened,
        pytest.raises(ImageError) as caught,
    ):
        opened.decode(max_pixels=MAX_PIXELS)

    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_lack_of_descriptors_stops_the_run_and_is_no_images_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: Any) -> int:
        raise SharedMemoryError(OSError(24, os.strerror(24)))

    with DecoderPool(1) as pool:
        pool.read_header(png())
        with monkeypatch.context() as patch:
            patch.setattr(connection, "MOST_WITHIN", 0)
            patch.setattr(connection, "filled_memory", full)
            with pytest.raises(BrokenProcessError) as caught, pool.opened(png()):
                pass

        assert pool.read_header(png()).width == 30

    assert caught.value.code is ErrorCode.DECODER_UNAVAILABLE
    assert os.strerror(24) in caught.value.message
