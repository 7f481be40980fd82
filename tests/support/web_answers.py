"""What web servers of tests hold, and what reading them comes to."""

import itertools
from collections.abc import Callable

import pytest

from beam_upscale.errors import ErrorCode, ImageError

DATA = bytes(range(256)) * 400


def code_of(act: Callable[[], object]) -> ErrorCode:
    with pytest.raises(ImageError) as caught:
        act()
    return caught.value.code


LEADS = {
    "nowhere.example": itertools.repeat([]),
    "inside.example": itertools.repeat(["169.254.169.254"]),
    "both.example": itertools.repeat(["169.254.169.254", "127.0.0.1"]),
    "rebinding.example": itertools.chain(
        [["127.0.0.1"]], itertools.repeat(["::ffff:169.254.169.254"])
    ),
}
