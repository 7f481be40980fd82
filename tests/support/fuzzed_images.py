"""Damaged images on their way through a decoder process."""

import dataclasses
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fuzzed import Attempt
from mutated_images import mutated
from seed_images import seed_images

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images import values
from beam_upscale.images.decoding.child_process import CHILD_COMMAND
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.reading.row_readers import Picture
from beam_upscale.images.values import DecodedImage, Pixels
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import Animated, OutputFormat
from beam_upscale.planning.tile_layout import Box

CODES = frozenset(
    {
        ErrorCode.EMPTY_FILE,
        ErrorCode.NOT_AN_IMAGE,
        ErrorCode.UNSUPPORTED_FORMAT,
        ErrorCode.TRUNCATED,
        ErrorCode.CHECKSUM_MISMATCH,
        ErrorCode.CORRUPT,
        ErrorCode.EMPTY_IMAGE,
        ErrorCode.TOO_MANY_PIXELS,
        ErrorCode.OUT_OF_MEMORY,
    }
)
"""What may be said of a file whatever its bytes."""

_MAX_PIXELS = 1 << 20
_LARGE_PIXELS = 1 << 24
_SECONDS = 60.0
_MOST_CPU_SECONDS = 10.0
_MOST_MIB = 512
"""Beside the picture and what a decoder takes before it has one."""
_PICTURE_BYTES = 24
"""Of a pixel: samples as the file has them, turned, and as they are given."""

_GUARDS: dict[str, Any] = {"max_pixels": _MAX_PIXELS, "animated": Animated.FIRST}


class Images:
    """Images of all formats: whole, their headers, and their parts."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "image"
        self._seeds = seed_images()
        self._others = [data for seeds in self._seeds.values() for data in seeds]
        self._pool = DecoderPool(1, _SECONDS)
        self._known = {_facts(decoded) for decoded in self._decoded_seeds()}
        self._watch = _Watch(self._pool)
        # What it allocates is full of something, with glibc: pixels that no decoder wrote show.
        self._other_pool = DecoderPool(
            1, _SECONDS, command=("env", "MALLOC_PERTURB_=85", *CHILD_COMMAND)
        )

    def _decoded_seeds(self) -> Iterator[DecodedImage]:
        for data in self._others:
            try:
                yield self._pool.decode(data, **_GUARDS)
            except ImageError as error:
                assert error.code is ErrorCode.UNSUPPORTED_FORMAT

    def attempt(self, turn: int, chance: random.Random) -> Attempt:
        formats = list(self._seeds)
        format_ = formats[turn % len(formats)]
        data = mutated(chance, format_, self._seeds[format_], self._others)
        action = chance.choice(("decode", "decode", "header", "parts"))
        act = getattr(self, f"_{action}")
        fault = None
        with self._watch:
            try:
                outcome = act(data, chance)
            except ImageError as error:
                outcome = error.code.value
                if error.code not in CODES:
                    fault = str(error)
            except AssertionError as error:
                outcome, fault = "fault", f"{error}"
        fault = fault or self._watch.fault
        return Attempt(format_, action, outcome, data, fault, self._watch.took)

    def close(self) -> None:
        self._pool.close()
        self._other_pool.close()

    def _decode(self, data: bytes, chance: random.Random) -> str:
        large = chance.random() < 0.03
        guards = {**_GUARDS, "max_pixels": _LARGE_PIXELS if large else _MAX_PIXELS}
        decoded = self._pool.decode(data, **guards)
        self._watch.pixels = decoded.color[..., 0].size
        if chance.random() < 0.2:
            header = self._pool.read_header(data)
            assert header == decoded.header, f"{header} before decoding, {decoded.header} after it"
        if chance.random() < 0.1 and self._watch.pixels < 10_000:
            self._encode(decoded, chance)
        facts = _facts(decoded)
        if facts in self._known:
            return "same"
        if chance.random() < 0.3:
            again = self._other_pool.decode(data, **guards)
            assert _facts(again) == facts, "decoded again, it is another picture"
        return "changed"

    def _encode(self, decoded: DecodedImage, chance: random.Random) -> None:
        format_ = chance.choice(list(OutputFormat))
        options = EncodeOptions(format=format_, lossless=chance.random() < 0.5)
        try:
            encoding.encode(
                decoded.color,
                decoded.alpha,
                metadata=decoded.metadata,
                options=options,
            )
        except ImageError as error:
            raise AssertionError(f"decoded, but not encoded as {format_}: {error}") from error

    def _header(self, data: bytes, _: random.Random) -> str:
        header = self._pool.read_header(data)
        assert header.format in values.SUPPORTED_FORMATS
        return "header"

    def _parts(self, data: bytes, chance: random.Random) -> str:
        self._path.write_bytes(data)
        self._pool.read_file_header(self._path)
        picture = self._pool.read_picture(self._path, **_GUARDS)
        self._watch.pixels = picture.header.width * picture.header.height
        if picture.by_region and chance.random() < 0.5:
            self._pool.read_region(self._path, _box_in(picture, chance), **_GUARDS)
            return "region"
        rows = self._pool.read_bands(self._path, chance.choice((1, 7, 64)), _joined, **_GUARDS)
        self._compare(data, rows)
        return "rows"

    def _compare(self, data: bytes, rows: Pixels) -> None:
        try:
            whole = self._pool.decode(data, **_GUARDS)
        except ImageError:
            return
        samples = whole.color
        if whole.alpha is not None:
            samples = np.concatenate([whole.color, whole.alpha[..., np.newaxis]], axis=2)
        assert np.array_equal(samples, rows), "rows differ from the picture decoded whole"


def _box_in(picture: Picture, chance: random.Random) -> Box:
    left, top = chance.randrange(picture.header.width), chance.randrange(picture.header.height)
    width = chance.randint(1, picture.header.width - left)
    return Box(left, top, width, chance.randint(1, picture.header.height - top))


def _joined(_: Picture, rows: Iterator[Pixels]) -> Pixels:
    return np.concatenate(list(rows))


def _facts(decoded: DecodedImage) -> tuple[object, ...]:
    """All that there is of a picture, for comparison."""
    alpha = None if decoded.alpha is None else decoded.alpha.tobytes()
    fields = dataclasses.replace(decoded, color=decoded.color.tobytes(), alpha=alpha)
    return tuple(getattr(fields, each.name) for each in dataclasses.fields(fields))


class _Watch:
    """Looks at a decoder process before and after each request.

    Attributes:
        pixels: of the picture that was given.
        took: CPU and other seconds, and MiB at the most beside what was held before.
        fault: what is not to be: a process that was lost, or too much time or memory.
    """

    def __init__(self, pool: DecoderPool) -> None:
        self._pool = pool
        self.pixels = 0
        self.took: dict[str, float] = {}
        self.fault: str | None = None

    def __enter__(self) -> None:
        self.pixels, self.fault = 0, None
        self._child = self._pool.children.idle[-1] if self._pool.children.idle else None
        self._started = time.monotonic()
        if self._child is None:
            return
        self._cpu = _cpu_seconds(self._child._process.pid)
        # The most that it held is counted anew.
        Path(f"/proc/{self._child._process.pid}/clear_refs").write_text("5")
        self._held = _mib(self._child._process.pid, "VmRSS")

    def __exit__(self, *_: object) -> None:
        self.took = {"seconds": time.monotonic() - self._started}
        if self._child is None:
            return
        status = self._child._process.poll()
        if status is not None:
            # One that holds much is ended in order.
            self.fault = None if status == 0 else f"a decoder process ended with {status}"
            return
        self.took["CPU seconds"] = _cpu_seconds(self._child._process.pid) - self._cpu
        self.took["MiB"] = _mib(self._child._process.pid, "VmHWM") - self._held
        allowed = _MOST_MIB + self.pixels * _PICTURE_BYTES / 2**20
        if self.took["MiB"] > allowed:
            self.fault = f"{self.took['MiB']:.0f} MiB, of which {allowed:.0f} are allowed"
        if self.took["CPU seconds"] > _MOST_CPU_SECONDS:
            self.fault = f"{self.took['CPU seconds']:.1f} s of CPU"


def _cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0
