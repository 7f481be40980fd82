"""CPU time of the process that hands pixels to an encoder, beside encoding and resizing itself.

    python benchmarks/encoder_exchange.py --output benchmarks/results

It decides from which size on pixels are handed over: `LEAST_PIXELS` and `LEAST_RESIZED` of
`beam_upscale.images.encoding.pool`. Of each size and work it prints the milliseconds of CPU time
for an image: of this process with an encoder, of both, and of this process alone; the least of
short stretches, as other work on the machine makes them longer. Pictures are smooth with some
noise, as photographs are.
"""

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from beam_upscale.images.encoding import pool
from beam_upscale.images.encoding.pool import EncoderPool
from beam_upscale.images.encoding.unencoded import ResizedPart, UnencodedImage
from beam_upscale.images.values import NO_METADATA
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.planning.tile_layout import Box

Act = Callable[[], object]

SIDES = (32, 48, 64, 96, 128, 192, 256, 512)
FORMATS = (OutputFormat.PNG, OutputFormat.JPEG)
SECONDS = 0.05
"""The length of a stretch of calls."""


def picture(side: int) -> NDArray[np.uint8]:
    """(side, side, 3): smooth colors with noise of a few levels."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (side // 16 + 2, side // 16 + 2, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth).astype(np.int16) + random.integers(-3, 4, (side, side, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def milliseconds(act: Act, stretches: int, child: psutil.Process | None) -> list[float]:
    """CPU milliseconds of a call: the least of this process, and with the mean of a child."""
    least, calls, others = float("inf"), 0, _cpu_of(child)
    for _ in range(stretches):
        begun, until, own = calls, time.perf_counter() + SECONDS, time.process_time()
        while time.perf_counter() < until:
            act()
            calls += 1
        least = min(least, (time.process_time() - own) / (calls - begun))
    both = least + (_cpu_of(child) - others) / calls
    return [round(1000 * each, 3) for each in (least, both)]


def _cpu_of(child: psutil.Process | None) -> float:
    if child is None:
        return 0.0
    times = child.cpu_times()
    return float(times.user + times.system)


def measure(stretches: int) -> Iterator[dict[str, Any]]:
    """Yields a row for each kind of work and size."""
    with (
        EncoderPool(1) as encoders,
        mock.patch.multiple(pool, LEAST_PIXELS=dict.fromkeys(OutputFormat, 0), LEAST_RESIZED=0),
    ):
        encoders.encode(lambda: unencoded(64, OutputFormat.PNG))
        child = psutil.Process(encoders.children.idle[0].pid)
        for work, side, hand_over, alone in works(encoders):
            own, both = milliseconds(hand_over, stretches, child)
            here, _ = milliseconds(alone, stretches, None)
            yield {"work": work, "side": side, "own": own, "both": both, "alone": here}


def unencoded(side: int, format_: OutputFormat) -> UnencodedImage:
    """A picture that is to be encoded as it is."""
    return UnencodedImage(picture(side), None, side, side, NO_METADATA, EncodeOptions(format_))


def works(encoders: EncoderPool) -> Iterator[tuple[str, int, Act, Act]]:
    """Yields names and sides of works, as an encoder does them and as this process does."""
    for side in SIDES:
        for format_ in FORMATS:
            image = unencoded(side, format_)
            yield format_, side, partial(encoders.encode, lambda i=image: i), image.encoded
        box = Box(0, 0, side // 2, side // 2)
        part = ResizedPart(picture(side), side // 2, side // 2, box)
        yield "reduction", side, partial(encoders.resize, part), part.resized


LINE = "{work:10} {side:4}  own {own:7.3f}  both {both:7.3f}  alone {alone:7.3f} ms"


def main() -> None:
    """Prints each row, and writes all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stretches", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for row in measure(options.stretches):
        print(LINE.format(**row), flush=True)
        rows.append(row)
    if options.output is not None:
        found = {"machine": platform.machine(), "python": platform.python_version(), "rows": rows}
        now = datetime.datetime.now(datetime.UTC)
        path = options.output / f"encoder_exchange-{now:%Y%m%dT%H%M%SZ}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
