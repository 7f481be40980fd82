"""What crosses from a decoder process, and what is not believed of it."""

import dataclasses
import errno
from typing import Any

import numpy as np
import pytest
from decoder_frames import DECODE, frame, png, serve

from beam_upscale.images.decoding.replies import (
    receive_image,
    receive_picture,
    receive_region,
    reported_error,
)
from beam_upscale.images.processes.connection import Frame
from beam_upscale.images.reading import inspection
from beam_upscale.images.values import DecodedImage, Metadata
from beam_upscale.planning.tile_layout import Box


@pytest.mark.parametrize("folder", [None, "/tmp"])
def test_full_disk_crosses_with_its_number_and_nothing_else_does_so(folder: str | None) -> None:
    full = OSError(errno.EDQUOT, "Disk quota exceeded", *([folder] if folder else []))

    def fail(*_: Any, **__: Any) -> DecodedImage:
        raise full

    _, (fields, _), _ = serve((DECODE, [b"x"]), decode=fail)
    reported = reported_error(Frame(fields, ()))

    assert isinstance(reported, OSError)
    assert (reported.errno, str(reported)) == (errno.EDQUOT, str(full))
    with pytest.raises(ValueError, match="full disk"):
        reported_error(Frame({**fields, "full_disk": errno.EACCES}, ()))


def reply_to_decode(**changes: Any) -> Frame:
    """What a child may say after a pirate took it over."""
    fields = {
        "header": dataclasses.asdict(inspection.read_header(png(2, 1))),
        "notes": [],
        "dtype": "uint8",
        "shape": [1, 2, 3],
        "resolution": None,
        "lengths": (6, None, None, None, None),
        **changes,
    }
    return frame(fields, fields.pop("lengths"), bytes(1000))


NOTHING_MORE: Any = None
"""The connection, where no further message is received."""


def test_honest_reply_is_taken() -> None:
    with reply_to_decode(lengths=(6, 2, 3, None, 0)) as reply:
        decoded = receive_image(2, reply, NOTHING_MORE)

    assert decoded.color.shape == (1, 2, 3)
    assert decoded.alpha is not None and decoded.alpha.shape == (1, 2)
    assert decoded.metadata == Metadata(bytes(3), None, b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [100_000, 100_000, 3]},
        {"shape": [0, 2, 3]},
        {"shape": [-1, -2, 3]},
        {"shape": [1, 2, 4]},
        {"shape": [1.0, 2, 3]},
        {"shape": [1, 2]},
        {"dtype": "object"},
        {"lengths": (7, None, None, None, None)},
        {"lengths": (6, 3, None, None, None)},
        {"lengths": (None, None, None, None, None)},
        {"lengths": (6, None, -1, None, None)},
        {"lengths": (6, None, None, None, 2**40)},
        {"lengths": (6,)},
        {"resolution": (300, 0, False)},
        {"resolution": (float("nan"), 300, False)},
        {"resolution": (300,)},
        {"header": {"width": 1}},
    ],
)
def test_replies_that_claim_other_sizes_are_refused(changes: dict[str, Any]) -> None:
    with (
        reply_to_decode(**changes) as reply,
        pytest.raises((ValueError, KeyError, TypeError)),
    ):
        receive_image(2, reply, NOTHING_MORE)


def described(**changes: Any) -> dict[str, Any]:
    """The description of a picture of 2 x 1 pixels."""
    return {
        "header": dataclasses.asdict(inspection.read_header(png(2, 1))),
        "notes": [],
        "dtype": "uint16",
        "channels": 3,
        "has_alpha": False,
        "by_region": True,
        "resolution": None,
        **changes,
    }


def test_region_lies_before_the_metadata() -> None:
    region = np.arange(6, dtype=np.uint16)
    data = region.tobytes() + b"profile"

    with frame(described(), (12, 7, None, None), data) as reply:
        picture, samples = receive_region(2, Box(0, 0, 2, 1), reply, NOTHING_MORE)

    assert samples.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert (picture.metadata.icc_profile, picture.by_region) == (b"profile", True)


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float64"}, {"channels": 4}, {"header": {**described()["header"], "height": 2}}],
)
def test_pictures_that_claim_too_much_are_refused(changes: dict[str, Any]) -> None:
    with (
        frame(described(**changes), (None, None, None)) as reply,
        pytest.raises(ValueError, match=r"a picture of|pixels of"),
    ):
        receive_picture(2, reply, NOTHING_MORE)


@pytest.mark.parametrize("lengths", [(11, None, None, None), (None, None, None), (12, None)])
def test_regions_of_another_size_are_refused(lengths: tuple[int | None, ...]) -> None:
    with frame(described(), lengths, bytes(1000)) as reply, pytest.raises(ValueError):
        receive_region(2, Box(0, 0, 2, 1), reply, NOTHING_MORE)
