"""What crosses from a decoder process, and what is not believed of it."""

import dataclasses
import errno
import io
from typing import Any

import pytest
from decoder_frames import DECODE, frame, png, serve, take

from beam_upscale.images.decoding.frames import Frame
from beam_upscale.images.decoding.replies import receive_image, reported_error
from beam_upscale.images.reading import inspection
from beam_upscale.images.values import DecodedImage


@pytest.mark.parametrize("folder", [None, "/tmp"])
def test_full_disk_crosses_with_its_number_and_nothing_else_does_so(folder: str | None) -> None:
    full = OSError(errno.EDQUOT, "Disk quota exceeded", *([folder] if folder else []))

    def fail(*_: Any, **__: Any) -> DecodedImage:
        raise full

    replies = serve(frame(DECODE, b"x"), decode=fail)
    _, (fields, _), _ = (take(replies) for _ in range(3))
    reported = reported_error(Frame(fields, ()))

    assert isinstance(reported, OSError)
    assert (reported.errno, str(reported)) == (errno.EDQUOT, str(full))
    with pytest.raises(ValueError, match="full disk"):
        reported_error(Frame({**fields, "full_disk": errno.EACCES}, ()))


def reply_to_decode(**changes: Any) -> tuple[Frame, io.BytesIO]:
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
    lengths = fields.pop("lengths")
    return Frame(fields, lengths), io.BytesIO(bytes(1000))


def test_honest_reply_is_taken() -> None:
    assert receive_image(2, *reply_to_decode()).color.shape == (1, 2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [100_000, 100_000, 3]},
        {"shape": [0, 2, 3]},
        {"shape": [-1, -2, 3]},
        {"shape": [1, 2, 4]},
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
    with pytest.raises((ValueError, KeyError, TypeError)):
        receive_image(2, *reply_to_decode(**changes))
