"""Files that a child decodes in one exchange: those that come, and those that are left out."""

import dataclasses
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from decoder_frames import frame, png
from PIL import Image
from small_images import SRGB, by_vips, exif_with, gradient, rgb, saved

from beam_upscale.errors import BrokenProcessError, ErrorCode
from beam_upscale.images.decoding import small_images
from beam_upscale.images.decoding.child_process import Child, Exchange
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.decoding.small_images import (
    MOST_FILE_BYTES,
    MOST_PIXELS,
    image_message,
    receive_images,
)
from beam_upscale.images.processes import children
from beam_upscale.images.reading import pixels
from beam_upscale.images.values import DecodedImage
from beam_upscale.planning.plan_options import Animated

ANIMATION = saved(
    Image.new("L", (4, 4), 1), "GIF", save_all=True, append_images=[Image.new("L", (4, 4), 99)]
)

MIXED = {
    "RGB": saved(rgb(), "PNG"),
    "RGBA": png(),
    "gray": saved(rgb().convert("L"), "PNG"),
    "16 bits": by_vips(gradient(3, np.uint16), ".png"),
    "16 bits with alpha": by_vips(gradient(4, np.uint16), ".png"),
    "palette": saved(rgb().quantize(16), "PNG"),
    "sideways": saved(rgb(), "JPEG", exif=exif_with(6), icc_profile=SRGB),
    "unusable profile": saved(rgb(), "JPEG", icc_profile=b"no profile"),
    "webp": saved(Image.fromarray(gradient(4)), "WEBP", lossless=True, xmp=b"<x/>"),
    "gif": saved(rgb().quantize(256), "GIF"),
    "animated": ANIMATION,
    "resolution": saved(rgb(), "PNG", dpi=(300, 300)),
    "one pixel": png(1, 1),
    "most pixels": saved(Image.new("L", (MOST_PIXELS // 2, 2), 7), "PNG"),
}


def profile_of(size: int) -> bytes:
    """A usable ICC profile of so many bytes, most of them zeros."""
    return struct.pack(">I", size) + SRGB[4:].ljust(size - 4, b"\0")


LEFT_OUT = {
    "truncated": saved(rgb(), "JPEG")[:-200],
    "text": b"no image",
    "empty": b"",
    "one row too many": saved(Image.new("L", (MOST_PIXELS // 2, 3)), "PNG"),
    "a large profile": saved(rgb(), "PNG", icc_profile=profile_of(3 << 20)),
}


def plain(decoded: DecodedImage) -> dict[str, Any]:
    """All that there is of an image, for a comparison."""
    fields = {each.name: getattr(decoded, each.name) for each in dataclasses.fields(decoded)}
    for name in ("color", "alpha"):
        if fields[name] is not None:
            fields[name] = fields[name].dtype, fields[name].tolist()
    return fields


def misbehaving(behavior: str) -> list[str]:
    """The command of a child that does something else on data which begins with "!"."""
    program = f"""
import os, signal, time
from beam_upscale.images.decoding import child
from beam_upscale.images.reading import pixels

def decode(data, **options):
    if data.startswith(b"!"):
        {behavior}
    return pixels.decode(data, **options)

child.main(decode)
"""
    return [sys.executable, "-c", program]


def processes_of(pool: DecoderPool) -> list[int]:
    return [child.pid for child in pool.children.idle]


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(1) as pool:
        yield pool


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of files in each exchange."""
    counts: list[int] = []
    ask = Child.ask

    def asking(child: Child, exchange: Exchange, receive: Any) -> Any:
        counts.append(len(exchange.files))
        return ask(child, exchange, receive)

    monkeypatch.setattr(Child, "ask", asking)
    return counts


def test_images_come_as_each_does_alone(pool: DecoderPool, asked: list[int]) -> None:
    found = pool.decode_small(list(MIXED.values()))

    assert asked == [len(MIXED)]
    alone = [pool.decode(data, max_pixels=MOST_PIXELS) for data in MIXED.values()]
    for name, image, expected in zip(MIXED, found, alone, strict=True):
        assert image is not None, name
        assert plain(image) == plain(expected), name
        assert image.color.flags.writeable
    by_name = dict(zip(MIXED, alone, strict=True))
    # The files are as different as they are meant to be.
    assert by_name["16 bits"].color.dtype == np.uint16
    assert by_name["RGBA"].alpha is not None
    assert by_name["sideways"].color.shape[:2] == (24, 16)
    assert by_name["sideways"].metadata.icc_profile == SRGB
    assert by_name["webp"].metadata.xmp is not None
    assert by_name["unusable profile"].notes


@pytest.mark.parametrize("name", LEFT_OUT)
def test_file_that_fails_is_left_out_and_its_neighbors_come(pool: DecoderPool, name: str) -> None:
    first, failed, last = pool.decode_small([MIXED["RGBA"], LEFT_OUT[name], MIXED["gif"]])

    assert failed is None
    for image, data in ((first, MIXED["RGBA"]), (last, MIXED["gif"])):
        assert image is not None
        assert plain(image) == plain(pixels.decode(data, max_pixels=MOST_PIXELS))


def test_empty_file_does_not_shift_others_in_memory_of_their_own(pool: DecoderPool) -> None:
    large = saved(Image.effect_noise((200, 200), 60).convert("RGB"), "PNG")
    files = [b"", MIXED["gif"], large, b"", MIXED["RGB"], b""]
    assert sum(map(len, files)) > MOST_FILE_BYTES

    found = pool.decode_small(files)

    assert [image is None for image in found] == [True, False, False, True, False, True]
    for image, data in zip(found, files, strict=True):
        assert image is None or plain(image) == plain(pixels.decode(data, max_pixels=MOST_PIXELS))


def test_files_that_all_fail_are_all_left_out(pool: DecoderPool) -> None:
    assert pool.decode_small(list(LEFT_OUT.values())) == [None] * len(LEFT_OUT)
    assert pool.decode_small([b""]) == [None]
    assert pool.decode_small([]) == []


def test_profile_that_is_no_small_one_comes_with_its_file_alone(pool: DecoderPool) -> None:
    data = LEFT_OUT["a large profile"]

    assert len(data) <= MOST_FILE_BYTES
    assert pool.decode(data, max_pixels=MOST_PIXELS).metadata.icc_profile == profile_of(3 << 20)


def test_animation_is_left_out_where_it_is_refused(pool: DecoderPool) -> None:
    files = [ANIMATION, MIXED["gif"]]

    refused, still = pool.decode_small(files, animated=Animated.REJECT)
    first, _ = pool.decode_small(files, animated=Animated.FIRST)

    assert refused is None
    assert still is not None
    assert first is not None
    assert first.header.frames == 2


def test_child_that_decoded_a_group_serves_the_next_request(pool: DecoderPool) -> None:
    pool.decode_small(list(MIXED.values()))
    (pid,) = processes_of(pool)

    pool.decode_small([*LEFT_OUT.values()])
    pool.decode(png(), max_pixels=MOST_PIXELS)

    assert processes_of(pool) == [pid]


@pytest.mark.parametrize("behavior", ["os.abort()", "os.kill(os.getpid(), 9)", "os._exit(3)"])
def test_child_that_is_lost_leaves_out_all(behavior: str, asked: list[int]) -> None:
    with DecoderPool(1, command=misbehaving(behavior)) as pool:
        assert pool.decode_small([png(), b"!", png()]) == [None] * 3
        # Each is to be asked for alone, so that no second try is made.
        assert asked == [3]

        (image,) = pool.decode_small([png()])
        assert image is not None
        assert plain(image) == plain(pool.decode(png(), max_pixels=MOST_PIXELS))


def test_child_that_was_killed_while_idle_leaves_out_all() -> None:
    with DecoderPool(1) as pool:
        pool.decode_small([png()])
        (child,) = pool.children.idle
        child._process.kill()

        assert pool.decode_small([png(), png()]) == [None] * 2
        assert None not in pool.decode_small([png(), png()])
        assert processes_of(pool) != [child.pid]


def test_child_that_hangs_leaves_out_all() -> None:
    with DecoderPool(1, command=misbehaving("time.sleep(600)")) as pool:
        pool.decode_small([png()])
        # Not before: the same limit holds for how long a child takes to start.
        pool._header_seconds = 0.5

        assert pool.decode_small([png(), b"!"]) == [None] * 2
        assert processes_of(pool) == []

        pool._header_seconds = 30.0
        assert pool.decode(png(), max_pixels=MOST_PIXELS).header.width == 30


@pytest.mark.parametrize(
    "failure", ["raise MemoryError", "raise RecursionError", "raise ZeroDivisionError"]
)
def test_file_on_which_the_decoder_fails_is_left_out(failure: str) -> None:
    with DecoderPool(1, command=misbehaving(failure)) as pool:
        first, failed, last = pool.decode_small([png(), b"!", png()])

        assert failed is None
        assert first is not None
        assert last is not None


def test_system_without_children_is_no_fault_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "START_SECONDS", 0.0)

    for command in (["/no/such/program"], [sys.executable, "-c", "raise SystemExit(7)"]):
        with DecoderPool(1, command=command) as pool, pytest.raises(BrokenProcessError) as caught:
            pool.decode_small([png(), png()])
        assert caught.value.code is ErrorCode.DECODER_UNAVAILABLE


# Children that lie

HOSTILE = """
import json, struct
from beam_upscale.images.processes.child import connected_to_parent

with connected_to_parent() as parent:
    parent.send({"ready": 0})
    parent.receive()
    %s
    parent.receive()
"""

BLACK = DecodedImage(
    header=pixels.decode(png(), max_pixels=MOST_PIXELS).header,
    color=np.zeros((20, 30, 3), np.uint8),
    alpha=None,
    metadata=pixels.decode(saved(rgb(), "PNG"), max_pixels=MOST_PIXELS).metadata,
)
FIELDS, BUFFERS = image_message(BLACK)


def answered(count: int, images: Any, buffers: list[bytes | None]) -> list[DecodedImage | None]:
    """What is taken of an answer for some files."""
    lengths = [None if each is None else len(each) for each in buffers]
    data = b"".join(each for each in buffers if each is not None)
    with frame({"images": images}, lengths, data or None) as reply:
        return receive_images(count, reply, None)  # type: ignore[arg-type]


BYTES = [None if each is None else bytes(each) for each in BUFFERS]


def test_answer_of_some_of_the_files_is_taken() -> None:
    first, second, third = answered(3, [FIELDS, None, FIELDS], BYTES * 2)

    assert second is None
    assert first is not None
    assert third is not None
    assert plain(first) == plain(third) == plain(BLACK)


WIDE = dataclasses.replace(BLACK, color=np.zeros((2, MOST_PIXELS // 2 + 1, 3), np.uint8))

NONSENSE: dict[str, Callable[[], object]] = {
    "fewer images": lambda: answered(2, [FIELDS], BYTES),
    "more images": lambda: answered(1, [FIELDS] * 2, BYTES * 2),
    "images that are none": lambda: answered(1, 1, BYTES),
    "an image that is text": lambda: answered(1, ["color"], BYTES),
    "an image without fields": lambda: answered(1, [{}], BYTES),
    "no buffers": lambda: answered(1, [FIELDS], []),
    "a missing buffer": lambda: answered(2, [FIELDS] * 2, (BYTES * 2)[:-1]),
    "no pixels": lambda: answered(1, [FIELDS], [None] * 5),
    "another shape": lambda: answered(1, [FIELDS | {"shape": [20, 31, 3]}], BYTES),
    "a shape of two": lambda: answered(1, [FIELDS | {"shape": [20, 90]}], BYTES),
    "two channels": lambda: answered(1, [FIELDS | {"shape": [30, 30, 2]}], BYTES),
    "no height": lambda: answered(1, [FIELDS | {"shape": [0, 30, 3]}], BYTES),
    "a type of no samples": lambda: answered(1, [FIELDS | {"dtype": "object"}], BYTES),
    "a wider type": lambda: answered(1, [FIELDS | {"dtype": "uint16"}], BYTES),
    "too many pixels": lambda: answered(
        1,
        [image_message(WIDE)[0]],
        [None if each is None else bytes(each) for each in image_message(WIDE)[1]],
    ),
    "a header of something else": lambda: answered(1, [FIELDS | {"header": {"a": 1}}], BYTES),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_answer_that_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        NONSENSE[name]()


@pytest.mark.parametrize(
    "answer",
    [
        'parent.send({"images": [None]})',
        'parent.send({"images": [{}, {}]}, [b"x"] * 10)',
        'parent.send({"images": [None] * 2}); parent.send({"ready": float("inf")})',
        'parent.send({"error": "no such code", "message": ""})',
        'parent.send({"full_disk": 28, "message": "", "in": None}); parent.send({"ready": 0})',
        'parent._send(struct.pack(">II", 200_000, 0) + b"[" * 200_000, [])',
        'parent._send(struct.pack(">II", 2**21, 0), [])',
    ],
)
def test_child_whose_answer_makes_no_sense_leaves_out_all(answer: str) -> None:
    command = [sys.executable, "-c", HOSTILE % answer]

    with DecoderPool(1, command=command) as pool:
        assert pool.decode_small([png(), png()]) == [None] * 2


def test_request_has_the_limits_of_small_images() -> None:
    assert small_images.request_of(Animated.REJECT) == {
        "request": small_images.REQUEST,
        "max_pixels": MOST_PIXELS,
        "animated": "reject",
    }
