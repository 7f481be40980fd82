"""Rows as the measurements leave them, of made-up seconds."""

from collections.abc import Iterator
from typing import Any

from benchmarks.pipeline.participants import BEAM, DAFT, DAFT_OUR_ENCODER, OURS, RAY

RATES = {OURS: 400.0, DAFT: 320.0, DAFT_OUR_ENCODER: 800.0, BEAM: 200.0, RAY: 250.0}
START_SECONDS = 5.0
REPEATS = (0, 1)


def throughput(rates: dict[str, float] = RATES, kind: str = "PNG 64") -> list[dict[str, Any]]:
    """Runs of all commands, with what each takes once and for each image."""
    return [
        {
            "part": "throughput",
            "kind": kind,
            "repeat": repeat,
            "images": images,
            "command": command,
            "seconds": START_SECONDS + images / rate,
            "main_cpu": 2 + 0.0008 * images,
            "all_cpu": 3 + 0.004 * images,
            "peak_mib": 0,
            "png_bytes": images * (9_900 if command == OURS else 9_000),
        }
        for repeat in REPEATS
        for command, rate in rates.items()
        for images in (1000, 6000)
    ]


def real_weights(ours: float = 2.9, bare: float = 3.0) -> Iterator[dict[str, Any]]:
    """Photographs by the command and by the bare network, at so many a second."""
    for repeat in REPEATS:
        for images in (20, 120):
            row = {"part": "real weights", "repeat": repeat, "images": images}
            yield {**row, "command": OURS, "seconds": START_SECONDS + images / ours}
            yield {**row, "command": "bare network", "seconds": images / bare}


def service() -> Iterator[dict[str, Any]]:
    """Calls that leave a twentieth of the time unused, and a tenth more with 16 workers."""
    for setting, numbers in {"one process": (1, 2, 16), "Flink": (4, 16)}.items():
        for workers in numbers:
            rate = workers * 5 * (0.95 if workers < 16 else 0.855)
            for repeat in REPEATS:
                for images in (20 * workers, 80 * workers):
                    row = {"part": "service", "setting": setting, "workers": workers}
                    yield {**row, "repeat": repeat, "latency": 0.2, "images": images} | {
                        "command": OURS,
                        "seconds": START_SECONDS + images / rate,
                    }


def growth() -> Iterator[dict[str, Any]]:
    """Seconds along a line, flat memory of images, and memory along a line of megapixels."""
    for repeat in REPEATS:
        for x in (100, 1_000, 10_000):
            row = {"part": "growth", "axis": "images", "x": x, "repeat": repeat}
            yield {**row, "command": OURS, "seconds": START_SECONDS + x / 400, "peak_mib": 700}
        for megapixels, x in ((0.1, 0.1), (1, 1.0), (10, 14.0), (100, 150.0)):
            row = {"part": "growth", "axis": "megapixels", "x": x, "repeat": repeat}
            measured = {"seconds": START_SECONDS + 1.5 * x, "peak_mib": 700 + 20 * x}
            yield {**row, "megapixels": megapixels, "command": OURS, **measured}


def all_parts() -> list[dict[str, Any]]:
    """Rows of every part."""
    return [*throughput(), *throughput(kind="JPEG 256"), *real_weights(), *service(), *growth()]
