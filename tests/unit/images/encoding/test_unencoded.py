"""What becomes of pixels: a file at another size, and its hash."""

import hashlib

import numpy as np
from encoder_calls import unencoded

from beam_upscale.images import resampling
from beam_upscale.images.writing import encoding
from beam_upscale.planning.plan_options import OutputFormat


def test_pixels_are_resized_encoded_and_hashed() -> None:
    image = unencoded(80, 60, size=(40, 30), has_alpha=True)
    assert image.alpha is not None

    file = image.encoded()

    color = resampling.resize(image.color, 40, 30)
    alpha = resampling.resize(image.alpha, 40, 30)
    expected = encoding.encode(color, alpha[:, :, 0])
    assert file.data == expected.data
    assert file.sha256 == hashlib.sha256(expected.data).hexdigest()
    assert file.notes == expected.notes == ()


def test_notes_say_what_does_not_fit() -> None:
    image = unencoded(dtype=np.uint16, has_alpha=True, format=OutputFormat.JPEG)

    assert image.encoded().notes == ("reduced to 8 bits", "alpha flattened")


def test_pixels_are_those_that_are_read_or_written() -> None:
    assert unencoded(80, 60).pixels == 4800
    assert unencoded(80, 60, size=(8, 6)).pixels == 4800
    assert unencoded(8, 6, size=(80, 60)).pixels == 4800
