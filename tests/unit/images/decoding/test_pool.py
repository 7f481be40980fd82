"""Real child processes: crashed, hung and orphaned ones, and those that are replaced."""

import dataclasses
import errno
import gc
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pyvips
from children import WITHOUT_SPACE
from decoder_frames import png
from PIL import Image

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError, SettingsError
from beam_upscale.images.decoding import child_process
from beam_upscale.images.decoding.pool import DecoderPool, shared_pool
from beam_upscale.images.processes import child_process as processes_child
from beam_upscale.images.processes import children
from beam_upscale.images.processes.environment import module_path
from beam_upscale.images.processes.pool import leave_children_to_parent
from beam_upscale.images.reading import inspection
from beam_upscale.images.reading.pixels import decode
from beam_upscale.images.reading.row_readers import Picture
from beam_upscale.images.values import DecodedImage, Metadata
from beam_upscale.images.writing import encoding
from beam_upscale.planning.plan_options import Animated
from beam_upscale.planning.tile_layout import Box

MAX_PIXELS = 10_000_000


def misbehaving(behavior: str) -> list[str]:
    """A child that does something else on data which begins with "!"."""
    program = f"""
import ctypes, os, signal, sys, time
from beam_upscale.images.decoding import child
from beam_upscale.images.reading import pixels

def decode(data, **options):
    if data.startswith(b"!"):
        {behavior}
    return pixels.decode(data, **options)

child.main(decode)
"""
    return [sys.executable, "-c", program]


def same(first: DecodedImage, second: DecodedImage) -> bool:
    def plain(decoded: DecodedImage) -> dict[str, Any]:
        fields = {f.name: getattr(decoded, f.name) for f in dataclasses.fields(decoded)}
        for name in ("color", "alpha"):
            if fields[name] is not None:
                fields[name] = (fields[name].dtype, fields[name].tolist())
        return fields

    return plain(first) == plain(second)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(2) as pool:
        yield pool


def open_files() -> int:
    """The descriptors that this process has."""
    gc.collect()
    return int(psutil.Process().num_fds())


def processes_of(pool: DecoderPool) -> list[int]:
    return [child._process.pid for child in pool.children.idle]


def wait_for_end(pid: int) -> bool:
    """Whether a process that is no child of ours ends; a deadline only so that a failure ends."""
    for _ in range(1000):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_child_that_was_started_early_serves_the_first_image() -> None:
    with DecoderPool(2) as pool:
        pool.start_early()
        pool.start_early()
        (early,) = pool.children.early

        pool.read_header(png())
        pool.start_early()

        assert pool.children.idle == [early]
        assert pool.children.early == []


def test_child_that_was_started_early_ends_with_its_pool() -> None:
    pool = DecoderPool(1)
    pool.start_early()
    (early,) = pool.children.early

    pool.close()

    assert early._process.returncode is not None


def test_child_that_cannot_be_started_early_is_told_by_the_first_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "START_SECONDS", 0.0)
    with DecoderPool(1, command=["/no/such/program"]) as pool:
        pool.start_early()

        with pytest.raises(BrokenProcessError, match="no decoder process could be started"):
            pool.read_header(png())


def test_child_decodes_as_this_process_does(pool: DecoderPool) -> None:
    for data in (png(), png(1, 1), png(300, 200)):
        decoded = pool.decode(data, max_pixels=MAX_PIXELS)

        assert same(decoded, decode(data, max_pixels=MAX_PIXELS))
        assert decoded.color.flags.writeable
        assert decoded.alpha is not None
        assert decoded.metadata.exif is not None


def test_sixteen_bit_pixels_and_icc_profile_cross(pool: DecoderPool) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = np.random.default_rng(0).integers(0, 65_536, (9, 7, 3), dtype=np.uint16)
    data = encoding.encode(deep, metadata=Metadata(profile)).data

    decoded = pool.decode(data, max_pixels=MAX_PIXELS)

    assert np.array_equal(decoded.color, deep)
    assert (decoded.alpha, decoded.metadata.icc_profile) == (None, profile)


@pytest.mark.slow
def test_large_picture_crosses_and_outlives_its_child() -> None:
    """Its pixels are mapped; a memory's last descriptor and mapping are all that holds it."""
    before = open_files()
    with DecoderPool(1) as pool:
        decoded = pool.decode(png(900, 700), max_pixels=MAX_PIXELS)
        narrow = pool.decode(png(2000, 1100), max_pixels=MAX_PIXELS).alpha

    assert same(decoded, decode(png(900, 700), max_pixels=MAX_PIXELS))
    assert narrow is not None
    assert np.array_equal(narrow, decode(png(2000, 1100), max_pixels=MAX_PIXELS).alpha)
    decoded.color[:] = 0
    narrow[:] = 0
    del decoded, narrow
    assert open_files() == before


def test_child_reads_headers(pool: DecoderPool) -> None:
    assert pool.read_header(png()) == inspection.read_header(png())


GUARDS: dict[str, Any] = {"max_pixels": MAX_PIXELS, "animated": Animated.FIRST}


@pytest.fixture
def png_file(tmp_path: Path) -> Path:
    path = tmp_path / "a\udcff.png"
    path.write_bytes(png(300, 500))
    return path


@pytest.fixture
def tiff_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiles.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    picture = pyvips.Image.new_from_memory(pixels, 300, 200, 3, "uchar")
    picture.copy(interpretation="srgb").write_to_file(str(path), tile=True)
    return path


def test_child_sends_rows_of_a_file(pool: DecoderPool, png_file: Path) -> None:
    heights: list[int] = []

    def take(picture: Picture, bands: Iterator[Any]) -> np.ndarray:
        assert (picture.bands, picture.metadata.exif is None) == (4, False)
        rows = list(bands)
        heights.extend(map(len, rows))
        return np.concatenate(rows)

    pixels = pool.read_bands(png_file, 200, take, **GUARDS)

    decoded = decode(png_file.read_bytes(), max_pixels=MAX_PIXELS)
    assert decoded.alpha is not None
    np.testing.assert_array_equal(pixels, np.dstack([decoded.color, decoded.alpha]))
    assert heights == [200, 200, 100]
    assert pool.read_file_header(png_file) == decoded.header


def test_rows_that_are_not_taken_are_in_no_ones_way(pool: DecoderPool, png_file: Path) -> None:
    first = pool.read_bands(png_file, 200, lambda _, bands: next(bands), **GUARDS)

    assert first.shape == (200, 300, 4)
    assert same(pool.decode(png(), max_pixels=MAX_PIXELS), decode(png(), max_pixels=10**6))


def test_child_sends_a_region(pool: DecoderPool, tiff_file: Path, png_file: Path) -> None:
    picture, region = pool.read_region(tiff_file, Box(100, 50, 90, 70), **GUARDS)

    whole = decode(tiff_file.read_bytes(), max_pixels=MAX_PIXELS)
    np.testing.assert_array_equal(region, whole.color[50:120, 100:190])
    assert picture == pool.read_picture(tiff_file, **GUARDS)
    assert picture.by_region
    assert not pool.read_picture(png_file, **GUARDS).by_region


def test_failure_of_whoever_takes_rows_is_raised_as_it_is(
    pool: DecoderPool, png_file: Path
) -> None:
    def fill_the_disk(_: Picture, bands: Iterator[Any]) -> None:
        next(bands)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        pool.read_bands(png_file, 16, fill_the_disk, **GUARDS)

    assert same(pool.decode(png(), max_pixels=MAX_PIXELS), decode(png(), max_pixels=10**6))


def test_damage_in_mid_file_comes_after_the_rows_before(pool: DecoderPool, tmp_path: Path) -> None:
    path, taken = tmp_path / "half.jpg", []
    noise = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:60_000] + b"\xff\xd9")

    with pytest.raises(ImageError) as caught:
        pool.read_bands(path, 16, lambda _, bands: taken.extend(bands), **GUARDS)
    with pytest.raises(ImageError) as gone:
        pool.read_picture(tmp_path / "none", **GUARDS)

    assert caught.value.code is ErrorCode.CORRUPT
    assert 0 < len(taken) < 25
    assert gone.value.code is ErrorCode.READ_ERROR
    assert len(processes_of(pool)) >= 1


def test_full_temporary_folder_of_a_child_is_told_as_one(tmp_path: Path) -> None:
    path, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20)).save(path, exif=exif)

    with DecoderPool(1, command=WITHOUT_SPACE) as pool:
        with pytest.raises(OSError, match="No space left on device") as caught:
            pool.read_bands(path, 16, lambda _, bands: list(bands), **GUARDS)

        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == tempfile.gettempdir()
        assert len(processes_of(pool)) == 1
        assert pool.read_header(png()) == inspection.read_header(png())


def test_rows_begin_anew_with_another_child(png_file: Path) -> None:
    begun: list[int] = []

    def kill_the_first(_: Picture, bands: Iterator[Any]) -> int:
        begun.append(1)
        if len(begun) == 1:
            (child,) = pool.children.all
            child._process.kill()
        return sum(map(len, bands))

    with DecoderPool(1) as pool:
        assert pool.read_bands(png_file, 1, kill_the_first, **GUARDS) == 500

    assert len(begun) == 2


@pytest.mark.parametrize("height", [1, 16, 1000])
def test_damage_to_the_last_rows_is_told_before_they_are_sent(
    pool: DecoderPool, tmp_path: Path, height: int
) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((40, 200), 60).save(buffer, "JPEG")
    path = tmp_path / "damaged"
    path.write_bytes(buffer.getvalue()[:-6] + b"\xff\xd9")

    with pytest.raises(ImageError) as caught:
        pool.read_bands(path, height, lambda _, bands: list(bands), **GUARDS)

    assert caught.value.code in (ErrorCode.CORRUPT, ErrorCode.TRUNCATED)


def test_errors_of_an_image_cross(pool: DecoderPool) -> None:
    for data, limit in ((b"", 10), (b"no image", 10), (png(), 10), (png()[:-20], MAX_PIXELS)):
        with pytest.raises(ImageError) as here:
            decode(data, max_pixels=limit)
        with pytest.raises(ImageError) as there:
            pool.decode(data, max_pixels=limit)

        assert (there.value.code, there.value.message) == (here.value.code, here.value.message)


def test_animated_images_can_be_refused(pool: DecoderPool) -> None:
    buffer = io.BytesIO()
    frames = [Image.new("L", (4, 4), level) for level in (0, 99)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])

    with pytest.raises(ImageError) as caught:
        pool.decode(buffer.getvalue(), max_pixels=100, animated=Animated.REJECT)

    assert caught.value.code is ErrorCode.ANIMATED


def test_child_serves_many_images() -> None:
    with DecoderPool(1) as pool:
        pool.read_header(png())
        first = processes_of(pool)
        for seed in range(20):
            pool.decode(png(seed=seed), max_pixels=MAX_PIXELS)

        assert processes_of(pool) == first


def test_threads_share_children() -> None:
    files = [png(seed=seed) for seed in range(40)]

    with DecoderPool(2) as pool, ThreadPoolExecutor(8) as threads:
        results = threads.map(lambda data: pool.decode(data, max_pixels=MAX_PIXELS), files)

        for data, decoded in zip(files, results, strict=True):
            assert same(decoded, decode(data, max_pixels=MAX_PIXELS))
        assert 1 <= len(processes_of(pool)) <= 2


@pytest.mark.parametrize(
    ("behavior", "found"),
    [
        ("os.abort()", "SIGABRT"),
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os._exit(3)", "exit status 3"),
    ],
)
def test_input_that_ends_the_child_is_given_up_after_two_tries(
    behavior: str, found: str, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    counted = f"open({str(tries)!r}, 'a').write('x'); {behavior}"

    with DecoderPool(1, command=misbehaving(counted)) as pool:
        pool.decode(png(), max_pixels=MAX_PIXELS)
        with pytest.raises(ImageError) as caught:
            pool.decode(b"!", max_pixels=MAX_PIXELS)

        assert caught.value.code is ErrorCode.DECODER_CRASHED
        assert found in caught.value.message
        assert tries.read_text() == "xx"
        assert pool.decode(png(), max_pixels=MAX_PIXELS).header.width == 30


def test_crash_that_does_not_happen_again_is_forgiven(tmp_path: Path) -> None:
    once = tmp_path / "once"
    once.touch()
    behavior = f"os.path.exists({str(once)!r}) and (os.remove({str(once)!r}), os.abort())"

    with (
        DecoderPool(1, command=misbehaving(behavior)) as pool,
        pytest.raises(ImageError) as caught,
    ):
        pool.decode(b"!", max_pixels=MAX_PIXELS)

    assert caught.value.code is ErrorCode.NOT_AN_IMAGE


def test_child_that_takes_too_long_is_ended() -> None:
    with DecoderPool(1, command=misbehaving("time.sleep(600)")) as pool:
        pool.read_header(png())
        # Not before: the same limit holds for how long a child takes to start.
        pool._timeout_seconds = 0.5
        with pytest.raises(ImageError) as caught:
            pool.decode(b"!", max_pixels=MAX_PIXELS)

        assert caught.value.code is ErrorCode.DECODER_TIMEOUT
        assert "0.5 seconds" in caught.value.message
        assert processes_of(pool) == []


def test_what_a_codec_prints_disturbs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    chatter = "os.write(1, b'out'); os.write(2, b'err'); print('more'); os.read(0, 1)"

    with (
        DecoderPool(1, command=misbehaving(chatter)) as pool,
        pytest.raises(ImageError) as caught,
    ):
        pool.decode(b"!", max_pixels=MAX_PIXELS)

    assert caught.value.code is ErrorCode.NOT_AN_IMAGE
    assert capfd.readouterr() == ("", "")


def test_damaged_files_print_nothing(pool: DecoderPool, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    codes = set()
    for format_, options in (("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {}), ("GIF", {})):
        buffer = io.BytesIO()
        noise.save(buffer, format_, **options)
        for _ in range(20):
            damaged = bytearray(buffer.getvalue())
            for position in random.integers(0, len(damaged), 4):
                damaged[position] ^= 0xFF
            try:
                pool.decode(bytes(damaged), max_pixels=MAX_PIXELS)
            except ImageError as error:
                codes.add(error.code)

    assert ErrorCode.CORRUPT in codes
    assert ErrorCode.DECODER_CRASHED not in codes
    assert capfd.readouterr() == ("", "")


def test_children_survive_ctrl_c(pool: DecoderPool) -> None:
    pool.read_header(png())
    (pid, *_) = processes_of(pool)

    os.kill(pid, signal.SIGINT)

    assert pool.read_header(png()).width == 30
    assert pid in processes_of(pool)
    assert os.getpgid(pid) != os.getpgid(0)


def test_large_child_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "IDLE_RESIDENT_LIMIT", 1)

    with DecoderPool(1) as pool:
        assert pool.read_header(png()).width == 30
        assert processes_of(pool) == []


def test_idle_child_has_given_its_memory_back() -> None:
    flat = encoding.encode(np.zeros((4000, 5000, 3), np.uint8)).data

    with DecoderPool(1) as pool:
        pool.read_header(png())
        (pid,) = processes_of(pool)
        before = psutil.Process(pid).memory_info().rss
        pool.decode(flat, max_pixels=20_000_000)

        assert processes_of(pool) == [pid]
        assert psutil.Process(pid).memory_info().rss < before + 20 * 2**20  # of 60 MB of pixels


def test_closing_ends_children_and_takes_no_more() -> None:
    pool = DecoderPool(1)
    pool.read_header(png())
    (pid,) = processes_of(pool)

    pool.close()

    assert not psutil.pid_exists(pid)
    with pytest.raises(RuntimeError, match="closed"):
        pool.read_header(png())


def test_busy_child_ends_when_its_pool_was_closed_meanwhile() -> None:
    pool = DecoderPool(1)
    with pool.children.working(child := pool.children.start(), 60):
        pool.close()
        pool.children.keep(child, 0)

    assert processes_of(pool) == []
    assert child._process.returncode == 0


ORPHANING = """
import sys, threading, time
from beam_upscale.images.decoding.pool import DecoderPool, shared_pool
pool = DecoderPool(2, command={command!r})
threading.Thread(target=lambda: pool.decode(b"!", max_pixels=1), daemon=True).start()
pool.read_header({data!r})
while len(pool.children.all) < 2:
    time.sleep(0.01)
print(*(child._process.pid for child in pool.children.all), flush=True)
time.sleep(600)
"""


def test_children_end_with_a_parent_that_was_killed() -> None:
    """One child is idle, the other one in the middle of an image."""
    script = ORPHANING.format(command=misbehaving("time.sleep(600)"), data=png())
    environment = {**os.environ, "PYTHONPATH": module_path()}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()

    assert len(pids) == 2
    assert all(wait_for_end(pid) for pid in pids)


def test_child_that_cannot_be_started_is_an_error_of_the_settings() -> None:
    with (
        DecoderPool(1, command=[sys.executable, "-c", "raise SystemExit(7)"]) as pool,
        pytest.raises(SettingsError) as caught,
    ):
        pool.read_header(png())

    assert caught.value.code is ErrorCode.DECODER_UNAVAILABLE
    assert "exit status 7" in caught.value.message


class Scarce:
    """A system that starts so many children at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int, number: int) -> None:
        start, self.refusals = child_process.Child.__init__, 0
        living: weakref.WeakSet[child_process.Child] = weakref.WeakSet()
        turn = threading.Lock()

        def scarce(child: Any, command: Any) -> None:
            with turn:
                if sum(each._process.poll() is None for each in living) >= most:
                    self.refusals += 1
                    raise OSError(number, os.strerror(number))
                start(child, command)
                living.add(child)

        monkeypatch.setattr(child_process.Child, "__init__", scarce)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_system_that_starts_no_child_is_no_images_fault(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    scarce = Scarce(monkeypatch, 0, number)
    monkeypatch.setattr(children, "START_SECONDS", 1)

    with DecoderPool(1) as pool, pytest.raises(BrokenProcessError) as caught:
        pool.read_header(png())

    assert caught.value.code is ErrorCode.DECODER_UNAVAILABLE
    assert os.strerror(number) in caught.value.message
    assert scarce.refusals > 1


def test_fewer_children_than_asked_for_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    scarce = Scarce(monkeypatch, 1, errno.EAGAIN)
    slow = misbehaving("time.sleep(0.5)")
    data = b"!" + png()

    def read(_: int) -> Any:
        try:
            return pool.decode(data, max_pixels=MAX_PIXELS)
        except ImageError as error:
            return error.code

    with DecoderPool(3, command=slow) as pool, ThreadPoolExecutor(3) as executor:
        found = list(executor.map(read, range(4)))

    # What follows the mark is no picture.
    assert found == [ErrorCode.NOT_AN_IMAGE] * 4
    assert scarce.refusals > 0


def test_a_new_child_takes_the_place_of_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    Scarce(monkeypatch, 2, errno.EAGAIN)
    monkeypatch.setattr(children, "START_SECONDS", 30)
    with DecoderPool(2, command=misbehaving("os._exit(3)")) as pool:
        with ThreadPoolExecutor(2) as executor:
            list(executor.map(pool.read_header, [png()] * 8))
        with pytest.raises(ImageError) as caught:
            pool.decode(b"!", max_pixels=MAX_PIXELS)

    assert caught.value.code is ErrorCode.DECODER_CRASHED


HOSTILE = """
import fcntl, json, os, socket, struct, time

end = socket.socket(fileno=os.dup(0))
os.close(0); os.close(1)
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
HEADER = {"format": "png", "mode": "RGB", "width": 2, "height": 1, "frames": 1, "bits": 8}
PIXELS = {
    "header": HEADER, "notes": [], "dtype": "uint8", "shape": [1, 2, 3], "resolution": None,
    "lengths": [6, None, None, None, None],
}

def frame(fields):
    encoded = json.dumps(fields).encode()
    return struct.pack(">II", len(encoded), 0) + encoded

def memory(size=6, seals=SEALS):
    descriptor = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
    os.write(descriptor, bytes(size))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor

def send(fields, *descriptors):
    socket.send_fds(end, [frame(fields)], descriptors)

send({"ready": 1, "lengths": []})
end.recv(10_000)
BEHAVIOR
time.sleep(600)
"""


def hostile(behavior: str) -> list[str]:
    """A child that a pirate took over, and that answers one request by some statements."""
    return [sys.executable, "-c", HOSTILE.replace("BEHAVIOR", behavior)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memfd and seals, which Linux has")
@pytest.mark.parametrize(
    "behavior",
    [
        "send({'header': {'width': 1}, 'lengths': []})",
        "send(PIXELS)",
        "send(PIXELS, memory(seals=0))",
        "send(PIXELS, memory(seals=SEALS & ~fcntl.F_SEAL_SHRINK))",
        "send(PIXELS, memory(seals=SEALS & ~fcntl.F_SEAL_WRITE))",
        "send(PIXELS, memory(5))",
        "send(PIXELS, memory(7))",
        "send(PIXELS, memory(), memory())",
        "send(PIXELS, os.pipe()[0])",
        "send(PIXELS, os.open('/dev/zero', os.O_RDWR))",
        "send(PIXELS | {'shape': [1, 1, 3]}, memory())",
        "send(PIXELS | {'lengths': []}, memory())",
        "socket.send_fds(end, [frame(PIXELS)[:20]], [memory()]); end.close()",
        "socket.send_fds(end, [frame(PIXELS)[:2]], [memory()]); end.close()",
        "end.close()",
    ],
)
def test_child_that_answers_nonsense_is_lost_and_leaves_nothing(
    behavior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_child, "_EXIT_SECONDS", 0.1)
    before = open_files()

    with (
        DecoderPool(1, command=hostile(behavior)) as pool,
        pytest.raises(ImageError) as caught,
    ):
        pool.decode(png(2, 1), max_pixels=2)

    assert caught.value.code is ErrorCode.DECODER_CRASHED
    assert "an answer that made no sense" in caught.value.message
    assert open_files() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memfd and seals, which Linux has")
def test_child_that_keeps_to_the_protocol_is_believed() -> None:
    """What is refused above is refused for the one thing that is wrong with it."""
    behavior = "send(PIXELS, memory()); send({'ready': 1, 'lengths': []})"

    with DecoderPool(1, command=hostile(behavior)) as pool:
        assert pool.decode(png(2, 1), max_pixels=2).color.shape == (1, 2, 3)


@pytest.mark.slow
def test_thousands_of_images_leave_no_descriptor(
    pool: DecoderPool, png_file: Path, tiff_file: Path
) -> None:
    small, large = png(3, 2), png(900, 700)
    pool.decode(small, max_pixels=MAX_PIXELS)
    before = open_files()
    for number in range(2000):
        with pool.opened(small) as opened:
            if number % 4:
                opened.decode(max_pixels=MAX_PIXELS)
        if number % 400 == 0:
            for refused in (b"no image", small[:-20]):
                with pytest.raises(ImageError):
                    pool.decode(refused, max_pixels=MAX_PIXELS)
            pool.decode(large, max_pixels=MAX_PIXELS)
            pool.read_bands(png_file, 200, lambda _, bands: list(bands), **GUARDS)
            pool.read_region(tiff_file, Box(100, 50, 90, 70), **GUARDS)

    assert open_files() == before
    for pid in processes_of(pool):
        # Its socket, and the three standard streams that lead nowhere, and where they lead.
        assert psutil.Process(pid).num_fds() == 5


def test_killed_child_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = misbehaving("os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with DecoderPool(1, command=kill) as pool:
        pool.decode(png(900, 700), max_pixels=MAX_PIXELS)
        before = open_files()
        for _ in range(3):
            with pytest.raises(ImageError):
                pool.decode(b"!" + bytes(3 << 20), max_pixels=MAX_PIXELS)

        # The idle child is gone too, with its socket.
        assert open_files() == before - 1
    assert list(tmp_path.iterdir()) == []


def test_interrupted_exchange_ends_the_child() -> None:
    class StopRequestError(BaseException):
        """As KeyboardInterrupt, which would end the test session."""

    with DecoderPool(1) as pool:
        child = pool.children.start()
        with pytest.raises(StopRequestError), pool.children.working(child, 60):
            raise StopRequestError

        assert child._process.returncode == 0


def test_shared_pool_is_one_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(4) as threads:
        pools = set(threads.map(lambda _: shared_pool(), range(20)))

    assert len(pools) == 1
    assert pools.pop().read_header(png()).width == 30


def test_shared_pool_follows_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "CHILD_COMMAND", tuple(misbehaving("os._exit(4)")))
    monkeypatch.setattr("beam_upscale.images.decoding.pool._SHARED._pool", None)

    with pytest.raises(ImageError) as caught:
        shared_pool().decode(b"!", max_pixels=1)

    assert "exit status 4" in caught.value.message
    shared_pool().close()


FORKING = """
import os, sys
from beam_upscale.images.decoding.pool import shared_pool
data = sys.stdin.buffer.read()
shared_pool().read_header(data)
(parents,) = [child._process.pid for child in shared_pool().children.idle]
pid = os.fork()
if pid == 0:
    shared_pool().read_header(data)
    (own,) = [child._process.pid for child in shared_pool().children.idle]
    shared_pool().close()
    os._exit(0 if own != parents else 1)
_, status = os.waitpid(pid, 0)
shared_pool().read_header(data)
(after,) = [child._process.pid for child in shared_pool().children.idle]
print(status, after == parents)
"""


def test_forked_process_has_a_pool_of_its_own() -> None:
    environment = {**os.environ, "PYTHONPATH": module_path()}
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        input=png(),
        env=environment,
        capture_output=True,
        check=True,
    )

    assert finished.stdout.decode().split() == ["0", "True"]


def test_data_set_with_a_module_name_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the data set')")
    monkeypatch.chdir(tmp_path)

    with DecoderPool(1) as pool:
        assert pool.read_header(png()).width == 30


def test_children_are_left_to_the_parent_after_a_fork() -> None:
    with DecoderPool(1) as pool:
        pool.read_header(png())
        (inherited,) = pool.children.idle

        leave_children_to_parent()

        assert pool.children.idle == []
        assert inherited._process.wait(10) == 0
        assert pool.read_header(png()).width == 30
