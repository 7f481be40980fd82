"""What our own code raises while it reads a file is told as a mistake of ours, never as damage."""

import functools
import itertools
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from decoder_frames import serve
from seed_images import seed_images

SEEDS = seed_images()
GUARDS = {"max_pixels": 1 << 20, "animated": "first"}
MISTAKES: tuple[Exception, ...] = (
    IndexError("tuple index out of range"),
    KeyError("a"),
    TypeError("'NoneType' object is not iterable"),
    ValueError("truncated"),
    OverflowError("int too big to convert"),
    AttributeError("a"),
    struct.error("unpack requires a buffer of 4 bytes"),
    ZeroDivisionError("division by zero"),
    AssertionError(),
    EOFError(),
    SyntaxError("not a PNG file"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RuntimeError("a"),
    RecursionError("a"),
)


def answer(request: dict[str, Any], buffers: list[bytes]) -> dict[str, Any]:
    """What a decoder process answers to one request."""
    fields, _ = serve((request, buffers))[-2]
    return fields


BACK_CALLED = frozenset({"_ViewFile.seek", "_ViewFile.read"})
"""What libvips calls to read a file: nothing can be raised through it, and they raise nothing."""


def is_reading(code: CodeType, module: str) -> bool:
    """Whether a function is ours, has to do with files, and may raise something."""
    if code.co_qualname in BACK_CALLED:
        return False
    return module.startswith("beam_upscale.") and not module.startswith(
        ("beam_upscale.images.decoding", "beam_upscale.images.processes")
    )


def functions(act: Callable[[], object]) -> list[CodeType]:
    """The functions of ours that are entered, in order."""
    found: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and is_reading(frame.f_code, str(frame.f_globals.get("__name__"))):
            found[frame.f_code] = None

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return list(found)


def failing(
    function: CodeType, error: Exception, act: Callable[[], dict[str, Any]]
) -> dict[str, Any] | None:
    """What comes of it where a function of ours raises an error at once; None if none calls it."""
    has_failed = False

    def fail(frame: FrameType, event: str, _: object) -> None:
        nonlocal has_failed
        if event == "call" and frame.f_code is function:
            has_failed = True
            raise error

    sys.setprofile(fail)
    try:
        found = act()
    finally:
        sys.setprofile(None)
    return found if has_failed else None


def requests_of(path: Path) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    data = path.read_bytes()
    yield {"request": "header"}, [data]
    yield {"request": "decode", **GUARDS}, [data]
    yield {"request": "file_header", "path": str(path)}, []
    yield {"request": "bands", "path": str(path), "height": 7, **GUARDS}, []


@pytest.mark.parametrize("format_", SEEDS)
def test_mistakes_in_any_of_our_functions_are_told_as_such(format_: str, tmp_path: Path) -> None:
    path, mistakes = tmp_path / "file", itertools.cycle(MISTAKES)
    seen: set[CodeType] = set()
    for data in SEEDS[format_]:
        path.write_bytes(data)
        for request, sent in requests_of(path):
            ask = functools.partial(answer, request, sent)
            new = [function for function in functions(ask) if function not in seen]
            for function in new:
                error = next(mistakes)
                fields = failing(function, error, ask)
                # Some results are kept, and not made again.
                assert fields is None or fields.get("error") == "internal_error", (
                    f"{type(error).__name__} in {function.co_qualname} "
                    f"({Path(function.co_filename).name}), {request['request']}: {fields}"
                )
            seen.update(new)

    assert len(seen) > 30
