"""Real encoder processes: the bytes that they give, and those that crash, hang or cannot start."""

import errno
import gc
import os
import signal
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from encoder_calls import MARKED, misbehaving, noise, unencoded
from PIL import Image, ImageCms

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError
from beam_upscale.images.encoding import pool as encoders
from beam_upscale.images.encoding.pool import (
    LEAST_RESIZED,
    EncoderPool,
    shared_encoders,
)
from beam_upscale.images.encoding.unencoded import EncodedFile, ResizedPart, UnencodedImage
from beam_upscale.images.processes import children, connection
from beam_upscale.images.processes.pool import leave_children_to_parent
from beam_upscale.images.processes.sealed_memory import SharedMemoryError
from beam_upscale.images.values import NO_METADATA, Metadata, Resolution
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.planning.tile_layout import Box

FEW = 1000


@pytest.fixture(autouse=True)
def least_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the smallest images go to children."""
    monkeypatch.setattr(encoders, "LEAST_PIXELS", dict.fromkeys(OutputFormat, FEW))


@pytest.fixture(scope="module")
def pool() -> Iterator[EncoderPool]:
    with EncoderPool(2) as pool:
        yield pool


def encoded(pool: EncoderPool, **fields: Any) -> EncodedFile:
    return pool.encode(lambda: unencoded(**fields))


def pids(pool: EncoderPool) -> list[int]:
    return [child.pid for child in pool.children.idle]


def open_files() -> int:
    """The descriptors that this process has."""
    gc.collect()
    return int(psutil.Process().num_fds())


@pytest.mark.parametrize("format_", OutputFormat)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_bytes_are_those_of_this_process(
    pool: EncoderPool, format_: OutputFormat, dtype: Any, channels: int, has_alpha: bool
) -> None:
    for size in (None, (61, 47), (120, 110)):
        image = unencoded(
            *(90, 70),
            size=size,
            channels=channels,
            dtype=dtype,
            has_alpha=has_alpha,
            format=format_,
        )

        assert pool.encode(lambda image=image: image) == image.encoded()


@pytest.mark.parametrize("format_", OutputFormat)
def test_metadata_is_that_of_this_process(pool: EncoderPool, format_: OutputFormat) -> None:
    exif = Image.Exif()
    exif[271] = "Maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    metadata = Metadata(
        profile, exif.tobytes().removeprefix(b"Exif\0\0"), b"<x/>", Resolution(300.0, 299.5, False)
    )
    image = unencoded(metadata=metadata, format=format_)

    file = pool.encode(lambda: image)

    assert file == image.encoded()
    assert b"Maker" in file.data


def test_large_image_crosses(pool: EncoderPool) -> None:
    image = unencoded(1500, 1100, has_alpha=True, png_compression=0)

    assert pool.encode(lambda: image) == image.encoded()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_resized_pixels_are_those_of_this_process(
    pool: EncoderPool, dtype: Any, channels: int
) -> None:
    pixels = noise(300, 400, channels, dtype=dtype)
    assert pixels.size // channels >= LEAST_RESIZED
    for box in (Box(0, 0, 200, 150), Box(10, 20, 90, 71)):
        part = ResizedPart(pixels, 200, 150, box)

        found = pool.resize(part)

        assert found.shape == (box.height, box.width, channels)
        np.testing.assert_array_equal(found, part.resized())
        assert found.flags.writeable


def test_what_is_hardly_resized_is_resized_here() -> None:
    few, large = noise(159, 160, 1), noise(300, 400, 1)
    box = Box(1, 2, 30, 40)

    with EncoderPool(1, command=["/no/such/program"]) as pool:
        reduced = pool.resize(ResizedPart(few, 80, 79, box))
        cut = pool.resize(ResizedPart(large, 400, 300, box))

    np.testing.assert_array_equal(reduced, ResizedPart(few, 80, 79, box).resized())
    np.testing.assert_array_equal(cut, large[2:42, 1:31])
    assert cut.base is None


def test_error_of_an_image_crosses(pool: EncoderPool) -> None:
    image = unencoded(17_000, 1, format=OutputFormat.WEBP)
    with pytest.raises(ImageError) as here:
        image.encoded()

    with pytest.raises(ImageError) as there:
        pool.encode(lambda: image)

    assert (there.value.code, there.value.message) == (here.value.code, here.value.message)
    assert there.value.code is ErrorCode.ENCODE_ERROR


def test_error_of_the_stitching_is_raised_as_it_is(pool: EncoderPool) -> None:
    def fail() -> UnencodedImage:
        raise ValueError("no tiles")

    with pytest.raises(ValueError, match="no tiles"):
        pool.encode(fail)


GROUP = {
    "RGB": unencoded(),
    "gray": unencoded(channels=1),
    "alpha": unencoded(has_alpha=True),
    "16 bits": unencoded(dtype=np.uint16, has_alpha=True),
    "resized": unencoded(size=(45, 31)),
    "few pixels": unencoded(1, 1),
    "JPEG with alpha": unencoded(has_alpha=True, format=OutputFormat.JPEG),
    "JPEG of 16 bits": unencoded(dtype=np.uint16, format=OutputFormat.JPEG),
    "WebP": unencoded(has_alpha=True, format=OutputFormat.WEBP),
    "TIFF": unencoded(channels=1, dtype=np.uint16, format=OutputFormat.TIFF),
    "metadata": unencoded(metadata=MARKED),
    "all metadata": unencoded(
        metadata=Metadata(
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
            b"MM\0*\0\0\0\x08\0\0\0\0\0\0",
            b"<x/>",
            Resolution(300.0, 299.5, False),
        ),
        format=OutputFormat.JPEG,
    ),
}


def asked_of_children(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the requests that are sent to children from now on."""
    names: list[str] = []
    ask = encoders._Child.ask

    def asking(child: Any, request: Any, receive: Any) -> Any:
        names.append(request.fields["request"])
        return ask(child, request, receive)

    monkeypatch.setattr(encoders._Child, "ask", asking)
    return names


def test_group_gives_the_files_of_each_alone(
    pool: EncoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_of_children(monkeypatch)

    found = pool.encode_small(list(GROUP.values()))

    assert asked == ["encode_small"]
    for name, file in zip(GROUP, found, strict=True):
        assert file == GROUP[name].encoded(), name
    by_name = dict(zip(GROUP, found, strict=True))
    # The images are as different as they are meant to be.
    assert by_name["JPEG of 16 bits"] is not None
    assert by_name["JPEG of 16 bits"].notes == ("reduced to 8 bits",)
    assert by_name["JPEG with alpha"] is not None
    assert by_name["JPEG with alpha"].notes == ("alpha flattened",)
    assert by_name["all metadata"] is not None
    assert b"ICC_PROFILE" in by_name["all metadata"].data


def test_group_crosses_in_memory_of_its_own_and_within_the_message(pool: EncoderPool) -> None:
    small = [unencoded(40, 30, seed=seed) for seed in range(2)]
    large = [unencoded(200, 150, has_alpha=seed % 2 == 0, seed=seed) for seed in range(5)]

    for images in (small, large, [*small, *large]):
        assert pool.encode_small(images) == [image.encoded() for image in images]


def test_image_of_a_group_that_no_file_can_hold_is_left_out(pool: EncoderPool) -> None:
    first, last = unencoded(seed=1), unencoded(has_alpha=True, seed=2)
    too_wide = unencoded(17_000, 1, format=OutputFormat.WEBP)

    found = pool.encode_small([first, too_wide, last, too_wide])

    assert found == [first.encoded(), None, last.encoded(), None]
    assert pool.encode_small([too_wide]) == [None]


@pytest.mark.parametrize(
    "behavior",
    [
        "raise MemoryError",
        "raise ImageError(ErrorCode.ENCODE_ERROR, 'no')",
        "raise ZeroDivisionError",
        "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))",
    ],
)
def test_image_of_a_group_whose_encoder_fails_is_left_out(behavior: str) -> None:
    images = [unencoded(seed=1), unencoded(metadata=MARKED), unencoded(seed=2)]

    with EncoderPool(1, command=misbehaving(behavior)) as pool:
        first, failed, last = pool.encode_small(images)

        assert (first, failed, last) == (images[0].encoded(), None, images[2].encoded())
        assert len(pids(pool)) == 1


@pytest.mark.parametrize("behavior", ["os.abort()", "os.kill(os.getpid(), 9)", "os._exit(3)"])
def test_lost_children_leave_out_a_whole_group(behavior: str) -> None:
    images = [unencoded(seed=1), unencoded(metadata=MARKED), unencoded(seed=2)]
    before = open_files()

    with EncoderPool(1, command=misbehaving(behavior)) as pool:
        assert pool.encode_small(images) == [None] * 3

        assert encoded(pool, seed=1) == images[0].encoded()
        assert pool.encode_small(images[::2]) == [images[0].encoded(), images[2].encoded()]
    assert open_files() == before


def test_child_that_takes_too_long_leaves_out_a_whole_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with EncoderPool(1, command=misbehaving("time.sleep(600)")) as pool:
        encoded(pool)
        # Not before: the same limit holds for how long a child takes to start.
        monkeypatch.setattr(encoders, "TIMEOUT_SECONDS", 0.5)
        monkeypatch.setattr(encoders, "PIXELS_A_SECOND", 10**9)
        assert pool.encode_small([unencoded(), unencoded(metadata=MARKED)]) == [None] * 2
        assert pids(pool) == []

        monkeypatch.undo()
        assert pool.encode_small([unencoded()]) == [unencoded().encoded()]


def test_small_images_wait_once_for_a_child_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "START_SECONDS", 0.0)

    with (
        EncoderPool(1, command=["/no/such/program"]) as pool,
        pytest.raises(BrokenProcessError) as caught,
    ):
        pool.encode_small([unencoded(), unencoded()])

    assert caught.value.code is ErrorCode.ENCODER_UNAVAILABLE


def test_lack_of_memory_for_small_images_is_no_fault_of_theirs(
    pool: EncoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any) -> int:
        raise SharedMemoryError(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(connection, "MOST_WITHIN", 0)
    monkeypatch.setattr(connection, "filled_memory", full)

    with pytest.raises(BrokenProcessError, match="No space left"):
        pool.encode_small([unencoded(), unencoded()])


def test_mistake_in_a_groups_answer_leaves_it_out(
    pool: EncoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise OverflowError("too large")

    monkeypatch.setattr(encoders, "answered_small", fail)

    assert pool.encode_small([unencoded(), unencoded()]) == [None] * 2
    assert encoded(pool) == unencoded().encoded()


def test_child_is_asked_for_all_but_few_pixels(pool: EncoderPool) -> None:
    for format_ in OutputFormat:
        assert [pool.is_asked(pixels, format_) for pixels in (FEW - 1, FEW)] == [False, True]


def test_image_of_few_pixels_is_encoded_here() -> None:
    few = unencoded(FEW - 1, 1)

    with EncoderPool(1, command=["/no/such/program"]) as pool:
        assert pool.encode(lambda: few) == few.encoded()


def test_child_serves_many_images() -> None:
    with EncoderPool(1) as pool:
        encoded(pool)
        first = pids(pool)
        for seed in range(20):
            assert encoded(pool, seed=seed) == unencoded(seed=seed).encoded()

        assert pids(pool) == first


def test_threads_share_children(pool: EncoderPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = threads.map(lambda seed: encoded(pool, seed=seed), range(40))

        for seed, file in enumerate(results):
            assert file == unencoded(seed=seed).encoded()
    assert 1 <= len(pids(pool)) <= 2


def test_no_descriptor_is_left(pool: EncoderPool) -> None:
    encoded(pool)
    before = open_files()

    for _ in range(5):
        encoded(pool)
        encoded(pool, width=2000, height=1000, png_compression=0)
        with pytest.raises(ImageError):
            encoded(pool, width=17_000, height=1, format=OutputFormat.WEBP)

    # One socket of each child; a second one may have been started.
    assert open_files() <= before + 1


def test_no_descriptor_is_left_of_a_lost_child() -> None:
    before = open_files()
    with EncoderPool(1, command=misbehaving("os.abort()")) as pool:
        for _ in range(3):
            with pytest.raises(ImageError):
                encoded(pool, metadata=MARKED)

    assert open_files() == before


def test_arrays_are_freed_while_the_child_works(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays: list[weakref.ref[np.ndarray]] = []
    ask = EncoderPool._ask

    def make() -> UnencodedImage:
        image = unencoded(has_alpha=True)
        assert image.alpha is not None
        arrays.extend(map(weakref.ref, (image.color, image.alpha)))
        return image

    def asking(*arguments: Any) -> EncodedFile:
        assert [array() for array in arrays] == [None, None]
        return ask(*arguments)

    monkeypatch.setattr(EncoderPool, "_ask", asking)

    with EncoderPool(1) as pool:
        assert pool.encode(make) == unencoded(has_alpha=True).encoded()


def test_idle_child_has_given_its_memory_back() -> None:
    def flat() -> UnencodedImage:
        color = np.zeros((4000, 5000, 3), np.uint8)
        return UnencodedImage(color, None, 5000, 4000, NO_METADATA, EncodeOptions())

    with EncoderPool(1) as pool:
        encoded(pool)
        (pid,) = pids(pool)
        before = psutil.Process(pid).memory_info().rss
        pool.encode(flat)

        assert pids(pool) == [pid]
        # Of 60 MB of pixels; 16 MiB are kept for the next image.
        assert psutil.Process(pid).memory_info().rss < before + 30 * 2**20


@pytest.mark.parametrize(
    ("behavior", "found"),
    [
        ("os.abort()", "SIGABRT"),
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os._exit(3)", "exit status 3"),
    ],
)
def test_image_that_ends_two_children_fails(behavior: str, found: str, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    counted = f"open({str(tries)!r}, 'a').write('x'); {behavior}"

    with EncoderPool(1, command=misbehaving(counted)) as pool:
        encoded(pool)
        with pytest.raises(ImageError) as caught:
            encoded(pool, metadata=MARKED)

        assert caught.value.code is ErrorCode.ENCODE_ERROR
        assert "two encoder processes were lost on this input" in caught.value.message
        assert found in caught.value.message
        assert tries.read_text() == "xx"
        assert encoded(pool) == unencoded().encoded()


def test_child_that_is_lost_once_is_replaced(tmp_path: Path) -> None:
    once = tmp_path / "once"
    once.touch()
    behavior = f"os.path.exists({str(once)!r}) and (os.remove({str(once)!r}), os.abort())"

    with EncoderPool(1, command=misbehaving(behavior)) as pool:
        file = encoded(pool, metadata=MARKED)

    assert file == unencoded(metadata=MARKED).encoded()
    assert not once.exists()


def test_idle_child_that_was_killed_is_replaced() -> None:
    with EncoderPool(1) as pool:
        encoded(pool)
        (pid,) = pids(pool)
        os.kill(pid, signal.SIGKILL)

        assert encoded(pool) == unencoded().encoded()
        assert pids(pool) != [pid]


def test_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with EncoderPool(1, command=misbehaving("time.sleep(600)")) as pool:
        encoded(pool)
        # Not before: the same limit holds for how long a child takes to start.
        monkeypatch.setattr(encoders, "TIMEOUT_SECONDS", 0.5)
        monkeypatch.setattr(encoders, "PIXELS_A_SECOND", 10**9)
        with pytest.raises(ImageError) as caught:
            encoded(pool, metadata=MARKED)

        assert caught.value.code is ErrorCode.ENCODE_ERROR
        assert "encoding took longer than 0.5" in caught.value.message
        assert pids(pool) == []


@pytest.mark.parametrize(
    ("behavior", "code"),
    [
        ("raise MemoryError", ErrorCode.OUT_OF_MEMORY),
        ("raise ImageError(ErrorCode.ENCODE_ERROR, 'no')", ErrorCode.ENCODE_ERROR),
        ("raise ZeroDivisionError", ErrorCode.INTERNAL_ERROR),
    ],
)
def test_failures_of_a_child_have_codes(behavior: str, code: ErrorCode) -> None:
    with EncoderPool(1, command=misbehaving(behavior)) as pool:
        with pytest.raises(ImageError) as caught:
            encoded(pool, metadata=MARKED)

        assert caught.value.code is code
        assert len(pids(pool)) == 1


def test_full_disk_is_no_images_fault() -> None:
    behavior = "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"

    with EncoderPool(1, command=misbehaving(behavior)) as pool:
        with pytest.raises(OSError, match="No space left") as caught:
            encoded(pool, metadata=MARKED)

        assert caught.value.errno == errno.ENOSPC
        assert len(pids(pool)) == 1


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_system_that_starts_no_child_is_no_images_fault(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(encoders._Child, "__init__", refuse)
    monkeypatch.setattr(children, "START_SECONDS", 0.0)

    with EncoderPool(1) as pool, pytest.raises(BrokenProcessError) as caught:
        encoded(pool)

    assert caught.value.code is ErrorCode.ENCODER_UNAVAILABLE
    assert "no encoder process could be started" in caught.value.message
    assert os.strerror(number) in caught.value.message


def test_child_that_ends_at_once_is_no_images_fault() -> None:
    with (
        EncoderPool(1, command=[sys.executable, "-c", "raise SystemExit(7)"]) as pool,
        pytest.raises(BrokenProcessError) as caught,
    ):
        encoded(pool)

    assert caught.value.code is ErrorCode.ENCODER_UNAVAILABLE
    assert "exit status 7" in caught.value.message


def test_full_disk_while_pixels_are_resized_is_no_images_fault(
    pool: EncoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EncoderPool, "_ask", full)

    with pytest.raises(BrokenProcessError, match="No space left"):
        pool.resize(ResizedPart(noise(300, 400, 1), 200, 150, Box(0, 0, 200, 150)))


def test_lack_of_memory_for_pixels_is_no_images_fault(
    pool: EncoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any) -> int:
        raise SharedMemoryError(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(connection, "MOST_WITHIN", 0)
    monkeypatch.setattr(connection, "filled_memory", full)

    with pytest.raises(BrokenProcessError) as caught:
        encoded(pool)

    assert caught.value.code is ErrorCode.ENCODER_UNAVAILABLE
    assert "no picture can be passed to encoder processes" in caught.value.message


def test_child_is_started_early_for_an_image_that_needs_it() -> None:
    with EncoderPool(2) as pool:
        pool.expect(FEW - 1, OutputFormat.PNG)
        assert pool.children.early == []

        pool.expect(FEW, OutputFormat.PNG)
        pool.expect(FEW, OutputFormat.PNG)
        (early,) = pool.children.early
        encoded(pool)

        assert pool.children.idle == [early]
        assert pool.children.early == []


def test_children_get_no_secrets_and_print_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEY", "not for strangers")
    chatter = "os.write(1, b'out'); os.write(2, b'err'); print('more')"

    with EncoderPool(1, command=misbehaving(chatter)) as pool:
        encoded(pool, metadata=MARKED)
        (pid,) = pids(pool)
        environment = psutil.Process(pid).environ()

    assert "not for strangers" not in environment.values()
    assert capfd.readouterr() == ("", "")


def test_children_are_left_to_the_parent_after_a_fork() -> None:
    with EncoderPool(1) as pool:
        encoded(pool)
        (inherited,) = pool.children.idle
        shared = shared_encoders()

        leave_children_to_parent()

        assert pool.children.idle == []
        assert shared_encoders() is not shared
        assert inherited._process.wait(10) == 0
        assert encoded(pool) == unencoded().encoded()
