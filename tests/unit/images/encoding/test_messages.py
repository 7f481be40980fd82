"""Images and files cross a socket as they are."""

import dataclasses
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from encoder_calls import unencoded

from beam_upscale.images.encoding.messages import (
    Message,
    answer_of,
    answered_file,
    answered_small,
    request_of,
    requested_image,
    requested_small,
    small_answer_of,
    small_request_of,
)
from beam_upscale.images.encoding.unencoded import EncodedFile, UnencodedImage
from beam_upscale.images.processes.connection import Connection, Frame
from beam_upscale.images.processes.sealed_memory import ReceivedBytes
from beam_upscale.images.values import Metadata, Resolution
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import MetadataRule, OutputFormat


def received(message: Message) -> Frame:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Connection(ours).send(*message)
        return Connection(theirs).receive()


def passed(image: UnencodedImage) -> UnencodedImage:
    with received(request_of(image)) as request:
        return requested_image(request)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_pixels_come_as_they_are(dtype: Any, has_alpha: bool) -> None:
    image = unencoded(31, 20, size=(7, 9), channels=1, dtype=dtype, has_alpha=has_alpha)

    found = passed(image)

    assert found.color.dtype == dtype
    np.testing.assert_array_equal(found.color, image.color)
    assert (found.width, found.height) == (7, 9)
    if image.alpha is None:
        assert found.alpha is None
    else:
        np.testing.assert_array_equal(found.alpha, image.alpha)


def test_parts_of_larger_arrays_come_as_they_are() -> None:
    whole = unencoded(40, 30)
    image = UnencodedImage(whole.color[3:20, 5:30], None, 25, 17, whole.metadata, whole.options)

    np.testing.assert_array_equal(passed(image).color, image.color)


def test_metadata_and_options_come_as_they_are() -> None:
    metadata = Metadata(b"profile", b"exif", b"xmp", Resolution(72.5, 71.25, is_ratio=False))
    options = EncodeOptions(
        OutputFormat.WEBP, 71, lossless=True, png_compression=8, metadata=MetadataRule.STRIP
    )
    image = dataclasses.replace(unencoded(metadata=metadata), options=options)

    found = passed(image)

    assert (found.metadata, found.options) == (metadata, options)
    assert isinstance(found.options.format, OutputFormat)
    assert isinstance(found.options.metadata, MetadataRule)


def test_file_comes_as_it_is() -> None:
    file = EncodedFile(b"\x89PNG" * 100, "0f", ("one", "two"))

    with received(answer_of(file)) as answer:
        assert answered_file(answer) == file


@pytest.mark.parametrize(
    ("fields", "lengths"),
    [
        ({"sha256": "", "notes": []}, [None]),
        ({"sha256": "", "notes": []}, []),
        ({"notes": []}, [1]),
        ({"sha256": "", "notes": []}, [1]),
    ],
)
def test_answer_that_makes_no_sense_is_refused(
    fields: dict[str, Any], lengths: Sequence[int | None]
) -> None:
    with pytest.raises((ValueError, KeyError)):
        answered_file(Frame(fields, tuple(lengths)))


def test_images_of_a_group_come_as_they_are() -> None:
    images = [
        unencoded(31, 20, channels=1, dtype=np.uint16),
        unencoded(8, 6, has_alpha=True, metadata=Metadata(None, b"exif", None)),
        unencoded(9, 7, size=(3, 2), metadata=Metadata(b"profile", None, b"xmp")),
    ]

    with received(small_request_of(images)) as request:
        found = list(requested_small(request))

    assert len(found) == 3
    for image, expected in zip(found, images, strict=True):
        np.testing.assert_array_equal(image.color, expected.color)
        assert image.color.dtype == expected.color.dtype
        assert (image.alpha is None) == (expected.alpha is None)
        assert (image.metadata, image.options) == (expected.metadata, expected.options)
        assert (image.width, image.height) == (expected.width, expected.height)
    assert images[1].alpha is not None
    np.testing.assert_array_equal(found[1].alpha, images[1].alpha)


def test_files_of_a_group_come_as_they_are() -> None:
    files = [
        EncodedFile(b"one", "0f", ("a", "b")),
        None,
        EncodedFile(b"", "1f"),
        EncodedFile(b"three" * 20_000, "2f"),
        None,
    ]

    with received(small_answer_of(files)) as answer:
        assert answered_small(5, answer) == files
    with received(small_answer_of([None])) as answer:
        assert answered_small(1, answer) == [None]


FILE = {"sha256": "", "notes": []}


@pytest.mark.parametrize(
    ("files", "lengths"),
    [
        ([FILE], [0, 0]),
        ([FILE, FILE], [0]),
        ([FILE] * 3, [0] * 3),
        ([FILE, {"notes": []}], [0, 0]),
        ([FILE, FILE], [0, None]),
        ([FILE, "file"], [0, 0]),
        ([FILE, FILE], [0, 1]),
        (2, [0, 0]),
    ],
)
def test_answer_for_a_group_that_makes_no_sense_is_refused(
    files: Any, lengths: Sequence[int | None]
) -> None:
    answer = Frame({"files": files}, tuple(lengths), ReceivedBytes(bytearray()))

    with pytest.raises((ValueError, KeyError, TypeError)):
        answered_small(2, answer)
