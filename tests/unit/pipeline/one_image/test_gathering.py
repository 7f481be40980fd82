"""Which runs gather small images, how many of them, and what becomes of those that fail."""

import dataclasses
import functools
import io
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_frames import png
from input_states import committed, known
from one_image import LATENT
from PIL import Image

from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.decoding.small_images import MOST_FILE_BYTES
from beam_upscale.images.processes import children
from beam_upscale.images.reading import pixels
from beam_upscale.inference.networks.device import Device
from beam_upscale.pipeline.one_image import gathering
from beam_upscale.pipeline.one_image.gathering import (
    MOST_BYTES,
    MOST_SECONDS,
    MOST_TOGETHER,
    Gathering,
    InFlight,
    ReadInput,
    gathers,
    is_read_ahead,
)
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.sources.inputs.source_image import SourceImage, source_image

Pin = Callable[..., PinnedSettings]

PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    with DecoderPool(1) as pool:
        yield pool


@pytest.fixture
def nearest(pin: Pin) -> PinnedSettings:
    return pin(weights="nearest")


def on(settings: PinnedSettings, device: Device) -> PinnedSettings:
    """Settings whose engines run on another device."""
    stages = [
        dataclasses.replace(stage, pinned=dataclasses.replace(stage.pinned, device=device))
        for stage in settings.stages
    ]
    return dataclasses.replace(settings, stages=tuple(stages))


def chained(*settings: PinnedSettings) -> PinnedSettings:
    """Settings with the engines of several, one after the other."""
    stages = tuple(stage for each in settings for stage in each.stages)
    return dataclasses.replace(settings[0], stages=stages)


# Runs that gather


def test_filters_gather(nearest: PinnedSettings) -> None:
    assert gathers(nearest)


def test_networks_gather_where_an_accelerator_runs_them(settings: PinnedSettings) -> None:
    assert not gathers(settings)
    assert gathers(on(settings, Device.CUDA))
    assert gathers(on(settings, Device.MPS))


def test_services_gather_nothing(remote: PinnedSettings) -> None:
    assert not gathers(remote)


def test_chains_gather_if_each_engine_does(
    nearest: PinnedSettings, settings: PinnedSettings, remote: PinnedSettings
) -> None:
    assert gathers(chained(nearest, on(settings, Device.CUDA)))
    assert not gathers(chained(nearest, settings))
    assert not gathers(chained(settings, nearest))
    assert not gathers(chained(nearest, remote))


def test_guided_engines_gather_nothing(nearest: PinnedSettings) -> None:
    guided = UpscaleSettings.of(LATENT, weights="nearest").pin()

    assert not gathers(guided)
    assert not gathers(chained(nearest, guided))


def test_runs_that_spread_large_images_gather_nothing(pin: Pin) -> None:
    assert not gathers(pin(weights="nearest", oversize="tile", fan_out_above=0.06))


# How many are gathered


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose time is its one item."""
    now = [1000.0]
    monkeypatch.setattr(gathering.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.usefixtures("clock")
def test_so_many_are_enough() -> None:
    gathered = Gathering[int](10**9)

    answers = [gathered.add(number, 1) for number in range(MOST_TOGETHER)]

    assert answers == [False] * (MOST_TOGETHER - 1) + [True]
    assert gathered.take() == list(range(MOST_TOGETHER))


@pytest.mark.usefixtures("clock")
def test_so_large_is_enough() -> None:
    gathered = Gathering[str](100)

    assert not gathered.add("a", 60)
    assert not gathered.add("b", 39)
    assert gathered.add("c", 1)
    assert Gathering[str](100).add("large", 100)


def test_so_long_is_enough(clock: list[float]) -> None:
    gathered = Gathering[str](100)

    assert not gathered.add("a", 1)
    clock[0] += 0.99 * MOST_SECONDS
    assert not gathered.add("b", 1)
    clock[0] += 0.02 * MOST_SECONDS
    assert gathered.add("c", 1)


@pytest.mark.parametrize("forget", [Gathering.take, Gathering.clear])
def test_what_was_gathered_counts_no_more(
    forget: Callable[[Gathering[str]], object], clock: list[float]
) -> None:
    gathered = Gathering[str](100)
    for _ in range(MOST_TOGETHER - 1):
        gathered.add("a", 6)

    forget(gathered)
    clock[0] += 2 * MOST_SECONDS

    assert not gathered.add("b", 99)
    assert gathered.take() == ["b"]
    assert gathered.take() == []


# Inputs whose bytes are read


def test_bytes_are_read_once(nearest: PinnedSettings, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    read = ReadInput.of(source_image(str(tmp_path / "a.png")), nearest)

    (tmp_path / "a.png").unlink()

    assert read.read() == png()
    assert read.is_small


def test_bytes_that_an_input_holds_are_read(nearest: PinnedSettings) -> None:
    assert ReadInput.of(SourceImage("a", data=b"bytes"), nearest).read() == b"bytes"


def test_error_of_reading_is_raised_where_the_bytes_are_wanted(
    nearest: PinnedSettings, pin: Pin, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(101))
    missing = ReadInput.of(source_image(str(tmp_path / "none")), nearest)
    large = ReadInput.of(
        source_image(str(tmp_path / "large")), pin(weights="nearest", max_input_bytes=100)
    )

    for read, code in ((missing, ErrorCode.NOT_FOUND), (large, ErrorCode.FILE_TOO_LARGE)):
        assert not read.is_small
        with pytest.raises(ImageError) as caught:
            read.read()
        assert caught.value.code is code


def test_any_error_of_reading_is_kept(
    nearest: PinnedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(SourceImage, "read", fail)
    read = ReadInput.of(SourceImage("a", data=b""), nearest)

    with pytest.raises(ZeroDivisionError, match="a mistake"):
        read.read()


def test_small_is_what_is_no_longer_than_a_small_file() -> None:
    few, many = (
        ReadInput(SourceImage("a"), bytes(count))
        for count in (MOST_FILE_BYTES, MOST_FILE_BYTES + 1)
    )

    assert few.is_small
    assert not many.is_small
    assert MOST_FILE_BYTES < MOST_BYTES


def test_input_that_is_done_or_postponed_is_not_read_ahead() -> None:
    image = SourceImage("a", data=b"bytes")
    earlier = committed(Record(Row("a", "a", Status.UPSCALED), None))

    assert is_read_ahead(image)
    assert is_read_ahead(known(image))
    assert not is_read_ahead(known(image, earlier=earlier))
    assert not is_read_ahead(known(image, is_postponed=True))


# Inputs that are decoded


def large_file() -> bytes:
    """A PNG of more bytes than a small one has."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def test_small_ones_among_others_are_decoded_in_their_order(
    nearest: PinnedSettings, decoders: DecoderPool, tmp_path: Path
) -> None:
    files = {
        "first": png(seed=1),
        "large": large_file(),
        "broken": b"broken",
        "second": png(8, 6, seed=2),
        "missing": None,
        "empty": b"",
        "third": png(3, 4, seed=3),
    }
    inputs = [
        ReadInput.of(
            SourceImage(name, data=data, uri=str(tmp_path / "none") if data is None else None),
            nearest,
        )
        for name, data in files.items()
    ]

    found = gathering.decoded(inputs, nearest, decoders)

    assert [each.source.input_id for each in found] == list(files)
    assert [each.data for each in found] == list(files.values())
    assert [name for name, each in zip(files, found, strict=True) if each.image] == [
        "first",
        "second",
        "third",
    ]
    for each in found:
        if each.image is not None:
            expected = pixels.decode(each.read(), max_pixels=10**6)
            np.testing.assert_array_equal(each.image.color, expected.color)
    assert isinstance(found[4].error, ImageError)


def test_inputs_wait_once_for_a_decoder_that_cannot_be_started(
    nearest: PinnedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "START_SECONDS", 0.0)
    missing = SourceImage("b", uri="/no/such/file")
    inputs = [ReadInput.of(each, nearest) for each in (SourceImage("a", data=png()), missing)]

    with DecoderPool(1, command=["/no/such/program"]) as decoders:
        found = gathering.decoded(inputs, nearest, decoders)

    with pytest.raises(BrokenProcessError) as caught:
        found[0].read()
    assert caught.value.code is ErrorCode.DECODER_UNAVAILABLE
    with pytest.raises(ImageError):
        found[1].read()


def test_no_decoder_is_asked_where_nothing_is_small(nearest: PinnedSettings) -> None:
    inputs = [ReadInput(SourceImage("a"), large_file()), ReadInput(SourceImage("b"), None)]

    with DecoderPool(1, command=["/no/such/program"]) as decoders:
        assert gathering.decoded(inputs, nearest, decoders) == inputs
        assert gathering.decoded([], nearest, decoders) == []


def test_animations_are_decoded_as_the_settings_say(pin: Pin, decoders: DecoderPool) -> None:
    buffer = io.BytesIO()
    frames = [Image.new("L", (4, 4), level) for level in (0, 99)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    inputs = [ReadInput(SourceImage("a"), buffer.getvalue()), ReadInput(SourceImage("b"), png())]

    first, refused = (
        gathering.decoded(inputs, pin(weights="nearest", animated=animated), decoders)
        for animated in ("first", "reject")
    )

    assert [each.image is None for each in first] == [False, False]
    assert [each.image is None for each in refused] == [True, False]


# Exchanges under way


def test_so_many_exchanges_are_left_under_way_and_the_first_are_taken_first() -> None:
    in_flight = InFlight[int](2)
    may_end = threading.Event()

    def exchange(number: int) -> int:
        assert may_end.wait(PATIENCE_SECONDS)
        return number

    for number in range(2):
        in_flight.begin(functools.partial(exchange, number))
    assert list(in_flight.taken()) == []

    may_end.set()
    in_flight.begin(lambda: 2)
    assert list(in_flight.taken()) == [0]
    assert list(in_flight.rest()) == [1, 2]
    assert list(in_flight.rest()) == []


def test_exchanges_of_a_failed_bundle_are_forgotten() -> None:
    in_flight = InFlight[int](1)
    in_flight.begin(lambda: 1)
    in_flight.clear()

    in_flight.begin(lambda: 2)

    assert list(in_flight.rest()) == [2]


def test_error_of_an_exchange_is_raised_where_its_result_is_taken() -> None:
    in_flight = InFlight[float](1)

    in_flight.begin(lambda: 1 / 0)
    in_flight.begin(lambda: 1)

    with pytest.raises(ZeroDivisionError):
        next(in_flight.taken())
    assert list(in_flight.rest()) == [1]


def test_forked_process_has_threads_of_its_own() -> None:
    in_flight = InFlight[int](1)
    in_flight.begin(os.getpid)
    assert list(in_flight.rest()) == [os.getpid()]

    def begin_here() -> None:
        in_flight.begin(os.getpid)
        assert list(in_flight.rest()) == [os.getpid()]

    child = multiprocessing.get_context("fork").Process(target=begin_here)
    child.start()
    child.join(PATIENCE_SECONDS)

    assert child.exitcode == 0
