"""Writers and readers of PNGs: CPU time and bytes of ours beside those of other libraries.

    python benchmarks/encoders.py --output benchmarks/results

Pictures are doubled photographs (what `--weights nearest` writes), photographs as an upscaler gives
them, a drawing and text, of several sizes, modes and depths. A time is the least CPU time of a call
in a stretch of calls, a size that of the file; each is also given as a ratio to Pillow's default.
Compressors are compared on the same filtered rows. Every part is run twice. Peers that are not
installed are named: imagecodecs, fpng, isal and opencv-python-headless are no dependencies. Prints
each result and writes the raw numbers as JSON.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import io
import json
import platform
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deflate
import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from zlib_ng import zlib_ng

from beam_upscale.images.containers import png
from beam_upscale.images.reading import pixels as reading
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions

Pixels = NDArray[Any]
Encode = Callable[[Pixels], bytes]

DEFAULT = "Pillow 6"
SUBJECTS = ["astronaut", "chelsea", "coffee", "rocket"]
PACKAGES = [
    *("deflate", "fpng", "imagecodecs", "isal", "numpy", "opencv-python-headless", "pillow"),
    *("pyvips-binary", "zlib-ng"),
]


# Pictures


def photograph(subject: str, side: int) -> Pixels:
    """A square of a photograph, reduced or enlarged to so many pixels a side."""
    from skimage import data

    whole = Image.fromarray(getattr(data, subject)())
    least = min(whole.size)
    taken = min(least, side * 2)
    corner = ((whole.width - taken) // 2, (whole.height - taken) // 2)
    square = whole.crop((*corner, corner[0] + taken, corner[1] + taken))
    return np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))


def doubled(subject: str, side: int) -> Pixels:
    return photograph(subject, side // 2).repeat(2, 0).repeat(2, 1)


def drawing(side: int) -> Pixels:
    """Flat shapes with outlines, as smooth at their edges as an upscaler makes them."""
    canvas = Image.new("RGB", (side, side), (250, 248, 240))
    draw, random = ImageDraw.Draw(canvas), np.random.default_rng(1)
    for _ in range(40):
        x, y = map(int, random.integers(0, side, 2))
        radius = int(random.integers(4, side // 5))
        color = tuple(map(int, random.integers(0, 256, 3)))
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=color, outline=(0, 0, 0))
    half = canvas.resize((side // 2, side // 2), Image.Resampling.LANCZOS)
    return np.asarray(half.resize((side, side), Image.Resampling.LANCZOS))


def text(side: int) -> Pixels:
    canvas = Image.new("L", (side, side), 255)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for number, top in enumerate(range(2, side, 18)):
        line = f"Line {number} of the quick brown fox jumps over the lazy dog. "
        draw.text((3, top), line * (side // 300 + 1), fill=20, font=font)
    return np.asarray(canvas.convert("RGB"))


def in_mode(pixels: Pixels, mode: str, bits: int) -> Pixels:
    """An RGB picture as gray, or with an alpha that fades to its edges, in 8 or 16 bits."""
    if mode == "L":
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., np.newaxis]
    if mode == "RGBA":
        fade = np.minimum(255, 8 * np.minimum.outer(*[_to_edge(len(pixels))] * 2)).astype(np.uint8)
        pixels = np.dstack([pixels, fade])
    if bits == 16:
        low = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint16)
        pixels = pixels.astype(np.uint16) * 256 + low
    return np.ascontiguousarray(pixels)


def _to_edge(side: int) -> Pixels:
    places = np.arange(side)
    return np.minimum(places, places[::-1])


def pictures(kind: str, side: int, mode: str = "RGB", bits: int = 8) -> list[Pixels]:
    if kind in ("drawing", "text"):
        found = [{"drawing": drawing, "text": text}[kind](side)]
    else:
        make = {"photographs": photograph, "doubled photographs": doubled}[kind]
        found = [make(subject, side) for subject in SUBJECTS[: 4 if side < 1000 else 1]]
    return [in_mode(each, mode, bits) for each in found]


CASES = [
    *(("doubled photographs", side, "RGB", 8) for side in (128, 512)),
    *(("photographs", side, "RGB", 8) for side in (128, 512, 2048)),
    *(("drawing", side, "RGB", 8) for side in (128, 512, 2048)),
    *(("text", side, "RGB", 8) for side in (128, 512, 2048)),
    *(("photographs", 128, mode, 8) for mode in ("L", "RGBA")),
    *(("photographs", side, mode, 16) for side in (128, 512) for mode in ("L", "RGB", "RGBA")),
]


# Encoders


def ours(level: int) -> Encode:
    def encode(pixels: Pixels) -> bytes:
        color, alpha = pixels, None
        if pixels.shape[2] == 4:
            color, alpha = pixels[..., :3], pixels[..., 3]
        options = EncodeOptions(png_compression=level)
        return encoding.encode(color, alpha, options=options).data

    return encode


def by_pillow(level: int) -> Encode:
    def encode(pixels: Pixels) -> bytes:
        if pixels.dtype != np.uint8 and pixels.shape[2] > 1:
            raise NotImplementedError
        buffer = io.BytesIO()
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        picture.save(buffer, "png", compress_level=level)
        return buffer.getvalue()

    return encode


def by_libvips(level: int, filters: str = "all") -> Encode:
    def encode(pixels: Pixels) -> bytes:
        height, width, bands = pixels.shape
        kind = "uchar" if pixels.dtype == np.uint8 else "ushort"
        image = pyvips.Image.new_from_memory(pixels, width, height, bands, kind)
        color = ("b-w" if bands < 3 else "srgb", "grey16" if bands < 3 else "rgb16")
        image = image.copy(interpretation=color[kind == "ushort"])
        data: bytes = image.write_to_buffer(".png", compression=level, filter=filters, keep="none")
        return data

    return encode


def encoders() -> tuple[dict[str, Encode], list[str]]:
    """The encoders, and the names of those that are not installed."""
    found = {f"ours {level}": ours(level) for level in (1, 2, 3, 4, 5, 6, 9)}
    found |= {f"Pillow {level}": by_pillow(level) for level in range(1, 10)}
    found |= {f"libvips {level}": by_libvips(level) for level in (1, 3, 6)}
    found["libvips 3, Paeth"] = by_libvips(3, "paeth")
    missing = []
    for name, peers in (("cv2", opencv), ("imagecodecs", imagecodecs), ("fpng", fpng)):
        try:
            found |= peers(importlib.import_module(name))
        except ImportError:
            missing.append(name)
    return found, missing


def opencv(cv2: Any) -> dict[str, Encode]:
    orders = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}

    def at(level: int) -> Encode:
        def encode(pixels: Pixels) -> bytes:
            order = orders.get(pixels.shape[2])
            turned = pixels if order is None else cv2.cvtColor(pixels, order)
            done, data = cv2.imencode(".png", turned, [cv2.IMWRITE_PNG_COMPRESSION, level])
            assert done
            return bytes(data)

        return encode

    return {f"OpenCV {level}": at(level) for level in (1, 3, 6)}


def imagecodecs(library: Any) -> dict[str, Encode]:
    by_name = {"libpng": library.png_encode, "libspng": library.spng_encode}
    return {
        f"imagecodecs {name} {level}": lambda pixels, encode=encode, level=level: bytes(
            encode(pixels if pixels.shape[2] > 1 else pixels[..., 0], level)
        )
        for name, encode in by_name.items()
        for level in (1, 3, 6)
    }


def fpng(library: Any) -> dict[str, Encode]:
    def encode(pixels: Pixels) -> bytes:
        if pixels.dtype != np.uint8 or pixels.shape[2] < 3:
            raise NotImplementedError
        data: bytes = library.from_ndarray(pixels)
        return data

    return {"fpng": encode}


# Compressors


def compressors() -> tuple[dict[str, Callable[[bytes], Any]], list[str]]:
    """The compressors of filtered rows, and the names of those that are not installed."""

    def streaming(library: Any, level: int) -> Callable[[bytes], bytes]:
        def compress(rows: bytes) -> bytes:
            stream = library.compressobj(level)
            return bytes(stream.compress(rows) + stream.flush())

        return compress

    found: dict[str, Callable[[bytes], Any]] = {
        f"libdeflate {level}": lambda rows, level=level: deflate.zlib_compress(rows, level)
        for level in range(1, 13)
    }
    found |= {f"zlib-ng {level}": streaming(zlib_ng, level) for level in range(1, 10)}
    found |= {f"zlib {level}": streaming(zlib, level) for level in (1, 3, 6)}
    try:
        isal = importlib.import_module("isal.isal_zlib")
    except ImportError:
        return found, ["isal"]
    return found | {f"ISA-L {level}": streaming(isal, level) for level in range(4)}, []


def filtered_rows(pixels: Pixels) -> bytes:
    """The rows of our PNG before they are compressed."""
    data = ours(1)(pixels)
    chunks = (data[each.start : each.end] for each in png.png_chunks(data) if each.type == b"IDAT")
    return zlib.decompress(b"".join(chunks))


# Measuring


def cpu_seconds(action: Callable[[], Any], stretch: float) -> tuple[float, int]:
    """The least CPU time of the calls that fit into a stretch of it; and the length of a result."""
    first = least = float("inf")
    while first == float("inf") or time.process_time() < first + stretch:
        started = time.process_time()
        first = min(first, started)
        length = len(action())
        least = min(least, time.process_time() - started)
    return least, length


def measured(
    actions: dict[str, Callable[[Any], Any]], values: list[Any], stretch: float
) -> dict[str, Any]:
    """Milliseconds and bytes of each action, the mean over the values; None where it cannot."""
    results: dict[str, Any] = {}
    for name, action in actions.items():
        try:
            found = [
                cpu_seconds(lambda value=value, action=action: action(value), stretch / len(values))
                for value in values
            ]
        except NotImplementedError:
            results[name] = None
            continue
        seconds, size = np.mean(found, axis=0)
        results[name] = {"cpu_ms": 1000 * float(seconds), "bytes": float(size)}
    return results


def with_ratios(results: dict[str, Any], base: Any) -> dict[str, Any]:
    if base is None:
        return results
    return {
        name: found
        and {
            **found,
            "cpu_ratio": found["cpu_ms"] / base["cpu_ms"],
            "bytes_ratio": found["bytes"] / base["bytes"],
        }
        for name, found in results.items()
    }


def writing(stretch: float) -> Iterator[dict[str, Any]]:
    found, _ = encoders()
    others, _ = compressors()
    for kind, side, mode, bits in CASES:
        values = pictures(kind, side, mode, bits)
        # The levels that take seconds for a large picture are seen at smaller ones.
        chosen = {name: found[name] for name in found if side < 1000 or name[-1] not in "789"}
        results = measured(chosen, values, stretch)
        case = {"kind": kind, "side": side, "mode": mode, "bits": bits}
        base = results[DEFAULT]
        yield {"part": "writing", **case, "results": with_ratios(results, base)}
        if (mode, bits) == ("RGB", 8) and side < 1000:
            rows = [filtered_rows(each) for each in values]
            results = measured(others, rows, stretch)
            yield {"part": "compressing", **case, "results": with_ratios(results, base)}


def reading_of(stretch: float) -> Iterator[dict[str, Any]]:
    readers: dict[str, Callable[[bytes], Any]] = {
        "ours": lambda data: reading.decode(data, max_pixels=1 << 30).color,
        "libvips": lambda data: pyvips.Image.new_from_buffer(
            data, "", access="sequential", fail_on="error"
        ).write_to_memory(),
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
    }
    try:
        cv2 = importlib.import_module("cv2")
        readers["OpenCV"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), -1)
    except ImportError:
        pass
    try:
        library = importlib.import_module("imagecodecs")
        readers["imagecodecs libpng"] = library.png_decode
        readers["imagecodecs libspng"] = library.spng_decode
    except ImportError:
        pass
    for side in (64, 128, 256, 512, 2048):
        files = [by_pillow(6)(each) for each in pictures("photographs", side)]
        results = measured(readers, files, stretch)
        times = {name: {"cpu_ms": found["cpu_ms"]} for name, found in results.items()}
        yield {"part": "reading", "kind": "photographs", "side": side, "results": times}


def measure(stretch: float) -> Iterator[dict[str, Any]]:
    yield from writing(stretch)
    yield from reading_of(stretch)


def line(found: dict[str, Any]) -> str:
    """A part's numbers in a few lines."""
    about = [str(found[key]) for key in ("part", "kind", "side", "mode", "bits") if key in found]
    lines = [" ".join(about)]
    for name, each in found["results"].items():
        if each is not None:
            size = f"{each['bytes'] / 1000:10.1f} kB" if "bytes" in each else ""
            ratio = f"{each['bytes_ratio']:7.3f}" if "bytes_ratio" in each else ""
            lines.append(f"    {name:24}{each['cpu_ms']:10.3f} ms{size}{ratio}")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.2, help="of calls of each encoder")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    missing = [*encoders()[1], *compressors()[1]]
    print(f"not installed: {', '.join(missing) or 'none'}", flush=True)
    started = datetime.datetime.now(datetime.UTC)
    runs: list[list[dict[str, Any]]] = []
    for _ in range(arguments.repeats):
        runs.append([])
        for found in measure(arguments.seconds):
            runs[-1].append(found)
            print(line(found), flush=True)
    report = {
        "machine": platform.machine(),
        "versions": versions(),
        "missing": missing,
        "runs": runs,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / f"encoders-{started:%Y%m%dT%H%M%SZ}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
