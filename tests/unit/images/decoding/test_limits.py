"""What a decoder may take and know, and what is said of a file that asks it for more."""

import ctypes
import io
import os
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.decoding import limits
from beam_upscale.images.decoding.limits import ImageLimits
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.processes import child_process, memory_use
from beam_upscale.images.processes.environment import plain_environment
from beam_upscale.images.reading import pixels
from beam_upscale.images.values import ImageHeader
from beam_upscale.planning.plan_options import Animated

MAX_PIXELS = 10_000_000
linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc, which Linux has"
)


def saved(picture: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def decoder(before: str, decode: str = "pixels.decode(data, **options)") -> tuple[str, ...]:
    """The command of a decoder whose limits and decoding are others."""
    program = f"""
import os, resource, signal, time
from beam_upscale.images.decoding import child, limits
from beam_upscale.images.processes import memory_use
from beam_upscale.images.reading import pixels
{before}
def decode(data, **options):
    return {decode}
child.main(decode)
"""
    return (sys.executable, "-c", program)


def code_of(pool: DecoderPool, data: bytes) -> ErrorCode | None:
    try:
        pool.decode(data, max_pixels=MAX_PIXELS)
    except ImageError as error:
        return error.code
    return None


@linux_only
def test_decoder_knows_and_holds_nothing_of_its_parent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for strangers")
    monkeypatch.setenv("TMPDIR", "here")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.chdir(tmp_path)
    inheritable = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inheritable, True)

    with DecoderPool(1) as pool:
        pool.read_header(saved(Image.new("L", (3, 2)), "PNG"))
        (child,) = pool.children.idle
        process = psutil.Process(child._process.pid)
        environment = process.environ()
        opened = {str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
        status = Path(f"/proc/{process.pid}/status").read_text()
        hard = {
            kind: process.rlimit(kind)[1] for kind in (psutil.RLIMIT_CORE, psutil.RLIMIT_NOFILE)
        }

    os.close(inheritable)
    assert "not for strangers" not in environment.values()
    assert environment["TMPDIR"] == str(tmp_path / "here")
    assert environment["LC_TIME"] == "C"
    assert set(environment) <= {
        *plain_environment(),
        *child_process._CHILD_ENVIRONMENT,
        "PYTHONPATH",
    }
    assert {each.partition(":")[0] for each in opened} == {os.devnull, "socket"}
    assert "NoNewPrivs:\t1" in status
    assert hard == {psutil.RLIMIT_CORE: 0, psutil.RLIMIT_NOFILE: 64}


def test_decoder_works_in_the_root_folder_on_files_named_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(saved(Image.new("L", (3, 2)), "PNG"))

    with DecoderPool(1) as pool:
        assert pool.read_file_header(Path("a.png")).width == 3


@pytest.fixture(scope="module")
def narrow_pool() -> Iterator[DecoderPool]:
    """Decoders that may take 76 MiB over what they took first, and nothing for pixels."""
    narrow = """
limits.HEADROOM_BYTES, limits.PIXEL_BYTES, limits._FILE_COPIES = 76 << 20, 0, 0
at_first = memory_use.address_space_of()
memory_use.address_space_of = lambda: at_first
"""
    with DecoderPool(1, command=decoder(narrow)) as pool:
        yield pool


SIDE = 3000
LARGE = {
    "png": lambda flat: saved(flat, "PNG"),
    "jpeg": lambda flat: saved(flat.convert("RGB"), "JPEG", progressive=True),
    "cmyk jpeg": lambda flat: saved(flat.convert("CMYK"), "JPEG"),
    "webp": lambda flat: saved(flat, "WEBP", method=0),
    "avif": lambda flat: saved(flat, "AVIF", speed=10),
    "gif": lambda flat: saved(flat.convert("P"), "GIF"),
    "bmp": lambda flat: saved(flat.convert("RGB"), "BMP"),
    "tiff": lambda flat: saved(flat, "TIFF", compression="tiff_lzw"),
}


@linux_only
@pytest.mark.parametrize("format_", LARGE)
def test_file_that_asks_for_more_memory_than_its_decoder_has_is_not_called_damaged(
    narrow_pool: DecoderPool, format_: str
) -> None:
    flat = Image.new("RGBA", (SIDE, SIDE), (10, 20, 30, 40))

    assert code_of(narrow_pool, LARGE[format_](flat)) is ErrorCode.OUT_OF_MEMORY


@pytest.mark.parametrize("disposals", [(2,), (3,), (0, 2), (2, 0, 3)])
def test_gif_of_a_large_frame_takes_no_memory_for_its_header(
    narrow_pool: DecoderPool, disposals: tuple[int, ...]
) -> None:
    controls = [bytes([0x21, 0xF9, 4, way << 2 | 1, 0, 0, 0, 0]) for way in disposals]
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, 65_535, 65_535, 0) + b"\2\2\x4c\1\0"
    screen = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\1\2\3\4\5\6"
    data = screen + b"".join(controls) + frame + b";"

    header = narrow_pool.read_header(data)

    assert (header.width, header.height) == (65_535, 65_535)
    assert code_of(narrow_pool, data) is ErrorCode.TOO_MANY_PIXELS


@linux_only
def test_damaged_file_is_called_damaged_under_a_narrow_limit() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    tiff = bytearray(saved(noise, "TIFF", compression="tiff_lzw"))
    tiff[200:1000] = bytes(800)
    half = saved(noise, "JPEG")[:700]

    with DecoderPool(1, command=decoder("limits.HEADROOM_BYTES = 64 << 20")) as pool:
        codes = [code_of(pool, data) for data in (bytes(tiff), half, saved(noise, "PNG"))]

    assert codes == [ErrorCode.CORRUPT, ErrorCode.TRUNCATED, None]


@linux_only
def test_soft_limits_follow_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    soft: dict[int, int] = {}
    monkeypatch.setattr(resource, "setrlimit", lambda kind, both: soft.update({kind: both[0]}))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (-1, resource.RLIM_INFINITY))
    image_limits = ImageLimits()

    with image_limits.of_image(10**9, 1000, 5, is_watched=False):
        before = dict(soft)
        image_limits.allow(ImageHeader("png", "RGB", 1000, 1000, 1, 8))
        with_pixels = dict(soft)
        image_limits.begin_next()
        next_image = dict(soft)
        image_limits.allow(ImageHeader("png", "RGB", 1000, 1000, 1, 8))
        with_next_pixels = dict(soft)
        image_limits.allow_reply(9 * 10**6)
        small_reply = dict(soft)
        image_limits.allow_reply(10**8)
        large_reply = dict(soft)

    assert before[resource.RLIMIT_AS] == 10**9 + 4 * 1000 + (512 << 20)
    assert with_pixels[resource.RLIMIT_AS] == before[resource.RLIMIT_AS] + 64 * 10**6
    # Another image of the same request has no room of the one before it.
    assert next_image[resource.RLIMIT_AS] == before[resource.RLIMIT_AS]
    assert with_next_pixels == with_pixels
    assert before[resource.RLIMIT_NOFILE] < 64
    assert with_pixels[resource.RLIMIT_FSIZE] == before[resource.RLIMIT_FSIZE] + 8 * 10**6
    assert before[resource.RLIMIT_CPU] > 20
    # The memory of a reply counts as a written file, which may hold more metadata than pixels.
    assert small_reply == with_pixels
    assert large_reply == {**with_pixels, resource.RLIMIT_FSIZE: 10**8}
    assert set(soft.values()) == {resource.RLIM_INFINITY}
    with image_limits.of_image(10**9, 1000, 5, is_watched=True):
        assert soft[resource.RLIMIT_AS] == resource.RLIM_INFINITY


def test_hard_limits_are_never_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    hard: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", hard.__setitem__)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (20, 30))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: type("C", (), {"prctl": lambda *_: -1})())

    limits.harden()

    assert hard == {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_NOFILE: (30, 30)}


def test_system_that_does_not_tell_address_space_limits_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: Any, **__: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)

    assert memory_use.address_space_of() is None
    assert memory_use.peak_address_space() is None


def test_decoder_that_uses_up_its_cpu_seconds_is_late() -> None:
    command = decoder("", "os.kill(os.getpid(), signal.SIGXCPU)")

    with DecoderPool(1, command=command) as pool, pytest.raises(ImageError) as caught:
        pool.decode(b"", max_pixels=1)

    assert caught.value.code is ErrorCode.DECODER_TIMEOUT


@linux_only
def test_cpu_seconds_are_limited() -> None:
    # Far less than its parent would wait.
    used = "limits.CODEC_THREADS = 0"
    spin = "[None for _ in iter(int, 1)]"

    with DecoderPool(1, 60, command=decoder(used, spin)) as pool:
        assert code_of(pool, b"") is ErrorCode.DECODER_TIMEOUT


def test_header_has_less_time_than_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_upscale.images.decoding.pool.HEADER_TIMEOUT_SECONDS", 0.2)
    program = (
        "import time; from beam_upscale.images.decoding import child; "
        "child.main(read_header=lambda data: time.sleep(600))"
    )

    with (
        DecoderPool(1, command=(sys.executable, "-c", program)) as pool,
        pytest.raises(ImageError) as caught,
    ):
        pool.read_header(b"")

    assert caught.value.code is ErrorCode.DECODER_TIMEOUT
    assert "0.2 seconds" in caught.value.message


def test_picture_turned_by_its_file_is_spooled_within_the_limits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    noise = np.random.default_rng(0).integers(0, 256, (900, 1100, 3), np.uint8)
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(Image.fromarray(noise), "JPEG", exif=exif))
    whole = pixels.decode(path.read_bytes(), max_pixels=MAX_PIXELS).color

    with DecoderPool(1) as pool:
        rows = pool.read_bands(
            path,
            100,
            lambda _, bands: np.concatenate(list(bands)),
            max_pixels=MAX_PIXELS,
            animated=Animated.FIRST,
        )

    np.testing.assert_array_equal(rows, whole)


def test_memory_where_the_system_tells_only_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)

    assert memory_use.resident_bytes() > 1_000_000
