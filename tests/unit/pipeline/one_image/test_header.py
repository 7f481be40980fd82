"""Headers that are read from the beginning of a file, and plans that are made from them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from one_image import encoded
from PIL import Image

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.images.writing.encoding import encode
from beam_upscale.pipeline.one_image.header import plan_of, read_header, read_large_header
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import get_engine
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.sources.inputs.source_image import SourceImage, source_image
from beam_upscale.storage import files

RULES = Rules((get_engine("esrgan-v1-x2plus"),))


def test_a_mistake_of_ours_costs_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("tuple index out of range")

    monkeypatch.setattr("beam_upscale.pipeline.one_image.header.read_header", fail)

    with pytest.raises(ImageError, match="tuple index out of range") as caught:
        plan_of(SourceImage("a", data=b""), RULES, shared_pool())

    assert caught.value.code is ErrorCode.INTERNAL_ERROR


def padded_png(width: int, height: int, padding: int) -> bytes:
    """A PNG whose size stands at its beginning and whose pixels come late."""
    data = encoded(Image.new("L", (width, height)))
    text = b"tEXt" + b"Comment\0" + b"x" * padding
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize("where", ["beginning", "end"])
def test_a_header_is_read_from_the_beginning_or_else_from_the_whole_file(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    if where == "beginning":
        path.write_bytes(padded_png(300, 200, padding=10**6))
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (500, 600, 3), np.uint8)
        # Its directory comes last.
        path.write_bytes(encode(pixels, options=EncodeOptions(OutputFormat.TIFF)).data)
    limits: list[int | None] = []
    read, read_at_most = files.read, files.read_at_most
    monkeypatch.setattr(
        files, "read", lambda uri, limit=None: limits.append(limit) or read(uri, limit)
    )
    monkeypatch.setattr(
        files, "read_at_most", lambda uri, most: limits.append(None) or read_at_most(uri, most)
    )

    header = read_header(source_image(str(path)), shared_pool(), max_bytes=10**8)

    expected = (300, 200) if where == "beginning" else (600, 500)
    assert (header.width, header.height) == expected
    assert limits[0] is not None
    assert limits[1:] == ([] if where == "beginning" else [None])


def test_a_broken_header_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")

    with pytest.raises(ImageError) as caught:
        read_header(source_image(str(tmp_path / "a.png")), shared_pool(), max_bytes=10**8)

    assert caught.value.code is ErrorCode.EMPTY_FILE


@pytest.mark.parametrize(("least_pixels", "is_large"), [(59_999, True), (60_000, False)])
def test_a_large_image_has_more_pixels_than_the_least(
    least_pixels: int, is_large: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(padded_png(300, 200, padding=10**6))
    source = source_image(str(path))

    found = read_large_header(source, shared_pool(), 10**8, least_pixels)

    assert (found is not None) == is_large
    if found is not None:
        assert (found[0].width, found[0].height) == (300, 200)


def test_what_is_in_memory_too_long_or_broken_is_no_large_image(tmp_path: Path) -> None:
    data = padded_png(300, 200, padding=10**6)
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "text.png").write_bytes(b"a text file")
    image, text = (source_image(str(tmp_path / name)) for name in ("a.png", "text.png"))
    pool = shared_pool()

    assert read_large_header(SourceImage("a", data=data), pool, 10**8, 1) is None
    assert read_large_header(image, pool, len(data) - 1, 1) is None
    assert read_large_header(text, pool, 10**8, 1) is None
    assert read_large_header(image, pool, len(data), 1) is not None
