"""One input: its name, its id, what its columns and its caption ask for."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.planning.parameters import Parameters
from beam_upscale.sources.inputs.source_image import SourceImage, source_image


def test_an_input_is_named_by_its_path() -> None:
    image = source_image("gs://bucket/photos/sub/a.tar.png", "sub/a.tar.png")

    assert image.input_id == image.source_uri == image.uri == "gs://bucket/photos/sub/a.tar.png"
    assert (image.name, image.output_name) == ("sub/a.tar.png", "sub/a.tar")
    assert image.columns == {"file_name": "sub/a.tar.png"}


def test_ids_of_odd_names_are_distinct_plain_text() -> None:
    odd = os.fsdecode(b"/in/a\xff.png")
    images = [source_image(uri) for uri in (odd, "/in/a%FF.png", "/in/a%25FF.png", "/in/a\n.png")]

    ids = {image.input_id for image in images}

    assert len(ids) == 4
    assert all(id_.encode() for id_ in ids)
    assert images[0].source_uri == "/in/a%FF.png"
    assert images[0].uri == odd


def test_a_long_name_loses_its_extension_and_then_its_end() -> None:
    image = source_image("/in/x", "v1.5 " + "x" * 245 + ".png")

    assert image.output_name.startswith("v1.5 xxx")
    assert len(image.output_name) <= 200


def test_an_input_may_hold_its_own_bytes(inputs: Path) -> None:
    image = SourceImage("row 7", data=b"bytes")

    assert (image.read(max_bytes=5), image.source_uri) == (b"bytes", "row 7")
    assert image.sha256() == hashlib.sha256(b"bytes").hexdigest()
    with pytest.raises(ImageError) as caught:
        source_image(f"{inputs}/none.png").read(max_bytes=5)
    assert caught.value.code is ErrorCode.NOT_FOUND


def captioned(inputs: Path, caption: bytes, **values: Any) -> SourceImage:
    """An image with a caption beside it."""
    (inputs / "a.txt").write_bytes(caption)
    return source_image(f"{inputs}/a.png", caption_uri=f"{inputs}/a.txt", columns=values)


def test_the_prompt_is_the_columns_else_the_captions_else_the_runs(inputs: Path) -> None:
    defaults = Parameters(prompt="default", steps=30)
    caption = b"\xef\xbb\xbf\n a c\xc3\xa4t, \r\n sitting \r\n"

    assert captioned(inputs, caption).parameters(defaults).prompt == "a cät, \r\n sitting"
    assert captioned(inputs, caption, prompt=None).parameters(defaults).prompt.startswith("a cät")
    assert captioned(inputs, caption, prompt="a dog").parameters(defaults).prompt == "a dog"
    assert captioned(inputs, caption, prompt="").parameters(defaults).prompt == ""
    assert captioned(inputs, b" \n").parameters(defaults).prompt == ""
    assert source_image("/in/a.png").parameters(defaults) == defaults


def test_columns_set_each_parameter(inputs: Path) -> None:
    image = captioned(inputs, b"caption", text="a dog", prompt=7, steps="25", seed=3, cfg_scale="")

    found = image.parameters(Parameters(cfg_scale=5, seed=1), prompt_column="text")

    assert found == Parameters(prompt="a dog", cfg_scale=5, steps=25, seed=3)


def test_a_caption_is_read_only_when_it_is_needed(inputs: Path) -> None:
    image = captioned(inputs, b"caption", prompt="a dog")
    (inputs / "a.txt").unlink()

    assert image.parameters(Parameters()).prompt == "a dog"


def test_columns_out_of_range_are_the_images_own_error(inputs: Path) -> None:
    with pytest.raises(ImageError) as refused:
        captioned(inputs, b"caption", steps=51).parameters(Parameters())

    assert refused.value.code is ErrorCode.INVALID_STEPS


def test_a_caption_that_cannot_be_a_prompt_is_the_images_own_error(inputs: Path) -> None:
    image = captioned(inputs, b"caf\xe9")

    with pytest.raises(ImageError) as not_text:
        image.parameters(Parameters())
    (inputs / "a.txt").write_bytes(b"x" * (2**20 + 5))
    with pytest.raises(ImageError) as too_large:
        image.parameters(Parameters())
    (inputs / "a.txt").unlink()
    with pytest.raises(ImageError) as gone:
        image.parameters(Parameters())

    assert not_text.value.code is too_large.value.code is ErrorCode.INVALID_PROMPT
    assert "byte 0xe9 at 3" in not_text.value.message
    assert "has 1,048,581 bytes; it may have 1,048,576" in too_large.value.message
    assert gone.value.code is ErrorCode.NOT_FOUND


def test_a_caption_of_the_largest_size_is_read(inputs: Path) -> None:
    image = captioned(inputs, b"x" * 2**20)

    assert len(image.parameters(Parameters()).prompt) == 2**20
