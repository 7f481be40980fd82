"""Exceptions of our own code, injected into each step of each decoder: they are told as ours."""

import errno
import io
import logging
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pyvips
from decoder_frames import serve
from PIL import Image

from beam_upscale import errors
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.codecs import CodecError, damage_as_image_error
from beam_upscale.images.containers import gif, iso, jpeg, parts, png, tiff, webp
from beam_upscale.images.decoding import child
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.metadata import exif, iso_properties
from beam_upscale.images.reading import (
    carried_metadata,
    identification,
    inspection,
    jpeg_repair,
    pixels,
    regions,
    row_readers,
    small_png,
    tiff_samples,
)

WIDTH, HEIGHT = 40, 30


def saved(picture: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def heic(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer)
    return buffer.getvalue()


def turned() -> Image.Exif:
    block = Image.Exif()
    block[274] = 6
    return block


NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
RGB = Image.fromarray(NOISE)
DEEP = pyvips.Image.new_from_array(NOISE.astype(np.uint16) * 257).copy(interpretation="rgb16")

FILES = {
    "png": saved(RGB, "PNG"),
    "png16": DEEP.write_to_buffer(".png"),
    "jpeg": saved(RGB, "JPEG", exif=turned()),
    "print": saved(RGB.convert("CMYK"), "JPEG"),
    "webp": saved(RGB, "WEBP"),
    "gif": saved(RGB.quantize(9), "GIF"),
    "bmp": saved(RGB, "BMP"),
    "avif": saved(RGB, "AVIF"),
    "heif": heic(RGB),
    "tiff": saved(RGB, "TIFF", compression="tiff_lzw"),
    "tiff16": DEEP.write_to_buffer(".tif", tile=True, tile_width=16, tile_height=16),
}

MISTAKES = [
    *(IndexError("index"), KeyError("x"), ValueError("value"), TypeError("type")),
    *(struct.error("unpack"), EOFError(), SyntaxError("not identified by this driver")),
    *(OverflowError("far"), ZeroDivisionError(), AttributeError("None"), RecursionError()),
    *(OSError("truncated"), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), AssertionError()),
]

EVERY = tuple(FILES)

STEPS: list[tuple[Any, str, tuple[str, ...]]] = [
    (identification, "identify", EVERY),
    (inspection, "_source", EVERY),
    (png, "png_info", ("png", "png16")),
    (jpeg, "jpeg_info", ("jpeg", "print")),
    (webp, "webp_info", ("webp",)),
    (tiff, "tiff_info", ("tiff", "tiff16")),
    (gif, "gif_frames", ("gif",)),
    (iso, "check_boxes", ("avif", "heif")),
    (iso, "check_iso_sizes", ("avif", "heif")),
    (parts, "unpack", ("png", "png16", "webp", "tiff", "tiff16", "avif", "heif", "gif")),
    (iso_properties, "iso_info", ("avif", "heif")),
    (inspection, "check_acceptable", EVERY),
    (pixels, "_check_complete", EVERY),
    (jpeg, "check_jpeg", ("jpeg", "print")),
    (jpeg_repair, "mended", ()),
    (pixels, "_read_png", ("png", "png16")),
    (small_png, "_compressed_rows", ("png",)),
    (small_png, "_are_rows", ("png",)),
    (pixels, "_read_jpeg", ("jpeg", "print")),
    (pixels, "_read_tiff", ("tiff", "tiff16")),
    (tiff_samples, "layout", ("tiff", "tiff16")),
    (pixels, "tiff_bands", ("tiff16",)),
    (pixels, "_samples", ("png16", "jpeg", "print", "tiff16")),
    (pixels, "_read_by_pillow", ("webp", "gif", "bmp", "avif", "heif", "tiff")),
    (pixels, "_to_gray_or_rgb", ("webp", "gif", "bmp", "avif", "heif", "tiff")),
    (pixels, "_cmyk_to_rgb", ("print",)),
    (pixels, "_assemble", EVERY),
    (carried_metadata, "upright", ("jpeg",)),
    (exif, "of_result", ("jpeg",)),
    (carried_metadata, "kept_metadata", EVERY),
]

ROW_STEPS: list[tuple[Any, str, tuple[str, ...]]] = [
    (regions, "_inspect", EVERY),
    (regions, "_reader", EVERY),
    (png, "check_png_file", ("png", "png16")),
    (regions, "_jpeg", ("jpeg",)),
    (regions, "_tiff", ("tiff", "tiff16")),
    (regions, "_picture", ("png", "png16", "jpeg", "tiff16")),
    (regions, "_described", ("print", "webp", "gif", "avif")),
    (row_readers, "_fetched", ("png", "png16", "jpeg", "tiff16")),
    (row_readers, "_regrouped", ("png", "print", "webp")),
    (row_readers, "_turned", ("jpeg",)),
    (row_readers, "_spooled", ("jpeg",)),
    (parts, "unpack", ("tiff16",)),
]


def last_answer(fields: dict[str, Any], *buffers: bytes) -> dict[str, Any]:
    """What a decoder's loop says last of a request, run in this process."""
    found, _ = serve((fields, list(buffers)))[-2]
    return found


OPTIONS = {"max_pixels": 10_000, "animated": "first", "height": 7, "box": (0, 0, 9, 9)}


@pytest.mark.parametrize(("module", "step", "formats"), STEPS, ids=lambda each: str(each)[:40])
def test_mistake_in_a_step_of_decoding(
    module: Any, step: str, formats: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(formats):
        for mistake in MISTAKES[number % 3 :: 3]:
            with monkeypatch.context() as broken:
                break_at(broken, module, step, mistake)
                answer = last_answer({"request": "decode", **OPTIONS}, FILES[name])
            assert answer.get("error") == "internal_error", (name, mistake, answer)
            assert type(mistake).__name__ in answer["message"]
            assert step in answer["traceback"] or "fail" in answer["traceback"]


@pytest.mark.parametrize(("module", "step", "formats"), ROW_STEPS, ids=lambda each: str(each)[:40])
def test_mistake_in_a_step_of_reading_by_rows(
    module: Any,
    step: str,
    formats: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for number, name in enumerate(formats):
        path = tmp_path / name
        path.write_bytes(FILES[name])
        for mistake in MISTAKES[number % 3 :: 3]:
            with monkeypatch.context() as broken:
                break_at(broken, module, step, mistake)
                answer = last_answer({"request": "bands", "path": str(path), **OPTIONS})
            assert answer.get("error") == "internal_error", (name, mistake, answer)


def break_at(patch: pytest.MonkeyPatch, module: Any, step: str, mistake: Exception) -> None:
    """Replaces a function of a module, in each module that imported it by name too."""

    def fail(*_: Any, **__: Any) -> Any:
        raise mistake.with_traceback(None)

    original = getattr(module, step)
    for name, other in list(sys.modules.items()):
        if name.startswith("beam_upscale.images.") and vars(other).get(step) is original:
            patch.setattr(other, step, fail)


def test_files_are_read_where_nothing_is_broken(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
        assert "error" not in last_answer({"request": "decode", **OPTIONS}, data)
        request = {"request": "bands", "path": str(tmp_path / name), **OPTIONS}
        assert "error" not in last_answer(request)


def test_what_a_codec_raises_is_damage_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise IndexError("of a codec")

    fail.__globals__["__name__"], name = "PIL.Fake", __name__
    try:
        with pytest.raises(CodecError) as caught, damage_as_image_error("gif"):
            fail(None)
    finally:
        fail.__globals__["__name__"] = name

    assert caught.value.code is ErrorCode.TRUNCATED


def test_file_that_is_gone_is_no_mistake(tmp_path: Path) -> None:
    answer = last_answer({"request": "bands", "path": str(tmp_path / "none"), **OPTIONS})

    assert answer["error"] == "read_error"
    failed = child._failure_of_files(OSError(errno.EIO, "broken"), in_memory=True)
    assert failed["error"] == "internal_error"


@pytest.fixture
def nothing_logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(errors, "_logged_tracebacks", set())
    yield


@pytest.mark.usefixtures("nothing_logged")
def test_traceback_of_a_decoder_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    script = (
        "from beam_upscale.images.decoding import child\n"
        "child.main(lambda data, **_: {}[bytes(data).hex()])"
    )
    command = (sys.executable, "-c", script)

    with caplog.at_level(logging.ERROR), DecoderPool(1, command=command) as pool:
        for data in (b"first", b"second"):
            with pytest.raises(ImageError) as caught:
                pool.decode(data, max_pixels=1)

    assert caught.value.code is ErrorCode.INTERNAL_ERROR
    assert "a mistake in beam-upscale, not in the file" in caught.value.message
    (record,) = caplog.records
    assert "KeyError" in record.getMessage()
    assert "Traceback" in record.getMessage()


@pytest.mark.usefixtures("nothing_logged")
def test_only_so_many_places_are_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "_MAX_LOGGED", 2)

    with caplog.at_level(logging.ERROR):
        for number in range(5):
            errors.log_mistake(f'File "a.py", line {number}')
        long = errors.internal_error(ValueError("x" * 9000))

    assert len(caplog.records) == 2
    assert len(long.message) < 600
    assert inspection.read_header(FILES["png"]).width == WIDTH
