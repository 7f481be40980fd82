"""Files written from rows, against those written from whole pictures."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms
from small_networks import noise

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError
from beam_upscale.images.containers import parts, tiff
from beam_upscale.images.reading.pixels import decode
from beam_upscale.images.values import Metadata, Resolution, Shape
from beam_upscale.images.writing import encoding, streaming
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.images.writing.streaming import encode_rows
from beam_upscale.planning.plan_options import OutputFormat

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDTH, HEIGHT = 301, 203


def exif() -> bytes:
    fields = Image.Exif()
    fields[271] = "Maker"
    return fields.tobytes().removeprefix(parts.EXIF_PREFIX)


METADATA = Metadata(SRGB, exif(), b"<xmp/>", Resolution(300, 150))


def in_bands(pixels: np.ndarray, height: int = 50) -> Iterator[np.ndarray]:
    for top in range(0, len(pixels), height):
        yield pixels[top : top + height]


KINDS = [
    pytest.param(channels, has_alpha, dtype, id=f"{channels}{'a' if has_alpha else ''} {dtype}")
    for channels in (1, 3)
    for has_alpha in (False, True)
    for dtype in ("uint8", "uint16")
]


def written(
    path: Path, pixels: np.ndarray, has_alpha: bool, format_: OutputFormat
) -> tuple[str, ...]:
    channels = pixels.shape[2] - has_alpha
    shape = Shape(WIDTH, HEIGHT, channels, has_alpha, pixels.dtype.name)
    return encode_rows(
        path,
        in_bands(pixels),
        shape,
        metadata=METADATA,
        options=EncodeOptions(format=format_),
    )


@pytest.mark.parametrize(("channels", "has_alpha", "dtype"), KINDS)
def test_png_has_the_bytes_of_the_whole(
    channels: int, has_alpha: bool, dtype: str, tmp_path: Path
) -> None:
    pixels = noise(HEIGHT, WIDTH, channels + has_alpha, dtype=getattr(np, dtype))
    color, alpha = pixels[..., :channels], pixels[..., -1] if has_alpha else None
    path = tmp_path / "out.png"

    notes = written(path, pixels, has_alpha, OutputFormat.PNG)

    expected = encoding.encode(np.ascontiguousarray(color), alpha, metadata=METADATA)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == hashlib.sha256(expected.data).hexdigest()
    assert notes == expected.notes
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("channels", "has_alpha", "dtype"), KINDS)
def test_tiff_is_a_big_one_of_tiles_with_the_same_samples(
    channels: int, has_alpha: bool, dtype: str, tmp_path: Path
) -> None:
    pixels = noise(HEIGHT, WIDTH, channels + has_alpha, dtype=getattr(np, dtype))
    path = tmp_path / "out.tiff"

    notes = written(path, pixels, has_alpha, OutputFormat.TIFF)

    data = path.read_bytes()
    decoded = decode(data, max_pixels=WIDTH * HEIGHT)
    np.testing.assert_array_equal(decoded.color, pixels[..., :channels])
    if decoded.alpha is not None:
        np.testing.assert_array_equal(decoded.alpha, pixels[..., -1])
    assert (decoded.alpha is not None) == has_alpha
    assert decoded.metadata.icc_profile == (SRGB if channels == 3 else None)
    assert data[:4] == b"II\x2b\x00"
    assert tiff.tiff_info(data).is_tiled
    assert notes == ("EXIF not kept in a BigTIFF",)


def failing() -> Iterator[np.ndarray]:
    yield noise(100, WIDTH, 3)
    raise ImageError(ErrorCode.READ_ERROR, "a tile is gone")


def options(rows: Iterator[np.ndarray], path: Path, format_: OutputFormat) -> tuple[str, ...]:
    shape = Shape(WIDTH, HEIGHT, 3, False, "uint8")
    return encode_rows(path, rows, shape, metadata=Metadata(), options=EncodeOptions(format_))


def unreadable() -> Iterator[np.ndarray]:
    yield noise(100, WIDTH, 3)
    raise PermissionError(errno.EACCES, "no tile may be read")


@pytest.mark.parametrize("format_", sorted(streaming.STREAMED_FORMATS))
def test_failure_to_give_rows_is_raised_as_it_is(tmp_path: Path, format_: OutputFormat) -> None:
    with pytest.raises(ImageError, match="a tile is gone"):
        options(failing(), tmp_path / "out", format_)
    with pytest.raises(PermissionError, match="no tile may be read"):
        options(unreadable(), tmp_path / "out", format_)
    with pytest.raises(ValueError, match="rows for"):
        options(in_bands(noise(100, WIDTH, 3)), tmp_path / "out", format_)


@pytest.mark.parametrize("format_", sorted(streaming.STREAMED_FORMATS))
def test_file_that_cannot_be_written_is_an_encode_error(
    tmp_path: Path, format_: OutputFormat
) -> None:
    with pytest.raises(ImageError) as caught:
        options(in_bands(noise(HEIGHT, WIDTH, 3)), tmp_path / "none" / "out", format_)

    assert caught.value.code is ErrorCode.ENCODE_ERROR


@pytest.mark.parametrize("format_", [OutputFormat.PNG, OutputFormat.TIFF])
def test_full_disk_is_no_fault_of_the_picture(tmp_path: Path, format_: OutputFormat) -> None:
    (tmp_path / "out").symlink_to("/dev/full")

    with pytest.raises(OSError, match="No space left") as caught:
        written(tmp_path / "out", noise(HEIGHT, WIDTH, 3), False, format_)

    assert caught.value.errno == errno.ENOSPC


def saved_by(monkeypatch: pytest.MonkeyPatch, save: Callable[[Any, str], None]) -> None:
    """Has pictures saved by this, which is given the picture and the path."""

    class Picture:
        def __init__(self, picture: Any, _: Metadata) -> None:
            self._picture = picture

        def tiffsave(self, path: str, **_: Any) -> None:
            save(self._picture, path)

    monkeypatch.setattr(streaming, "with_tiff_metadata", Picture)


def test_disk_that_is_full_no_more_was_full_where_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(picture: Any, path: str) -> None:
        try:
            picture.tiffsave("/dev/full")
        finally:
            # Another worker's file is gone, and there is space again.
            Path(path).touch()

    saved_by(monkeypatch, save)

    with pytest.raises(OSError, match="No space left") as caught:
        written(tmp_path / "out", noise(HEIGHT, WIDTH, 3), False, OutputFormat.TIFF)

    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_full_disk_is_known_by_the_words_of_the_system(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(_: Any, __: str) -> None:
        raise pyvips.Error(f"write error\nsystem error: {os.strerror(number)}\n")

    saved_by(monkeypatch, save)

    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        written(tmp_path / "out", noise(HEIGHT, WIDTH, 3), False, OutputFormat.TIFF)

    assert caught.value.errno == number


def test_disk_that_is_full_still_is_known_without_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(_: Any, path: str) -> None:
        Path(path).symlink_to("/dev/full")
        raise pyvips.Error("write failed")

    saved_by(monkeypatch, save)

    with pytest.raises(OSError, match="No space left") as caught:
        written(tmp_path / "out", noise(HEIGHT, WIDTH, 3), False, OutputFormat.TIFF)

    assert caught.value.errno == errno.ENOSPC
