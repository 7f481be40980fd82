"""The default network on a CPU: speed, likeness to fp32, and memory, each beside a peer in one run.

    python benchmarks/network.py --output benchmarks/results

Speed is a ratio to OpenVINO running the same weights as one graph in the same precision, to
`realesrgan`'s own class, and to this package on PyTorch; each is the best of several turns, which
alternate. Likeness is to this package on PyTorch in fp32. Memory is a process's own peak. Every
part is run twice. Prints each result and writes the raw numbers as JSON.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from beam_upscale.images.processes.child import usable_cores
from beam_upscale.inference.networks.device import Device, Precision, settle
from beam_upscale.inference.networks.openvino.graphs import EsrganGraphs, image_input
from beam_upscale.inference.networks.openvino.network import Compiler, OpenVinoNetwork
from beam_upscale.inference.networks.openvino.runtime import openvino
from beam_upscale.inference.networks.recognition import Esrgan, recognize
from beam_upscale.inference.networks.weight_files import read_arrays, read_shapes
from beam_upscale.inference.weights import find

Pixels = NDArray[Any]

SUBJECTS = ["astronaut", "camera", "chelsea", "coffee", "hubble_deep_field", "rocket", "page"]
THREADS = usable_cores()
MIB = 1 << 20


def path_of_weights() -> Path:
    return find.resolve(None, "esrgan-v1-x2plus").path


def fastest_precision() -> Precision:
    return settle(Device.CPU, Precision.AUTO)[1]


def best(actions: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """The fewest seconds that each action takes, of several turns.

    Each turn begins with another one: what ran before leaves caches, clocks and threads behind.
    """
    seconds = {name: float("inf") for name in actions}
    for action in actions.values():
        action()
    names = list(actions)
    for turn in range(turns):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            started = time.perf_counter()
            actions[name]()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def one_graph(path: Path, precision: Precision) -> Callable[[Pixels], Pixels]:
    """The network as one graph of OpenVINO, which is all that there is to tell it."""
    found = recognize(read_shapes(path) or {})
    assert found is not None
    network = found.architecture
    assert isinstance(network, Esrgan)
    arrays = read_arrays(path)
    parts = EsrganGraphs({name: arrays[in_file] for name, in_file in found.names.items()})
    image = image_input(network.channels)
    features = parts.trunk(network, parts.convolution("first", image))
    result = parts.convolution("last", parts.tail(network, features))
    return Compiler(THREADS).compile(openvino.Model([result], [image]), precision)


def realesrgan_class(path: Path) -> Callable[[Pixels], Any] | None:
    from esrgan import peer

    return peer(path, Device.CPU)


def speed(turns: int) -> Iterator[dict[str, Any]]:
    from beam_upscale.inference.networks.torch.esrgan import TorchNetwork

    path, precision = path_of_weights(), fastest_precision()
    ours = OpenVinoNetwork.load(path, precision, THREADS)
    on_torch = TorchNetwork.load(path, Device.CPU, precision, THREADS)
    whole, theirs = one_graph(path, precision), realesrgan_class(path)
    for side in (128, 256):
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        values = np.ascontiguousarray(np.moveaxis(pixels, 2, 0)[None] / np.float32(255))
        actions: dict[str, Callable[[], Any]] = {
            "ours": lambda pixels=pixels: ours.upscale(pixels[None]),
            "one graph": lambda values=values: whole(values),
            "ours on PyTorch": lambda pixels=pixels: on_torch.upscale(pixels[None]),
        }
        if theirs is not None:
            actions["realesrgan"] = lambda pixels=pixels: theirs(pixels)
        seconds = best(actions, turns)
        yield {
            "part": "speed",
            "side": side,
            "precision": str(precision),
            "seconds": seconds,
            "ratios": {name: each / seconds["ours"] for name, each in seconds.items()},
        }


def photographs(count: int, side: int) -> Iterator[NDArray[np.uint8]]:
    """Square crops of photographs, each another one, those of the tests."""
    from PIL import Image
    from skimage import data

    random = np.random.default_rng(0)
    for number in range(count):
        whole = np.asarray(Image.fromarray(getattr(data, SUBJECTS[number % 7])()).convert("RGB"))
        left = int(random.integers(0, whole.shape[1] - side + 1))
        top = int(random.integers(0, whole.shape[0] - side + 1))
        yield whole[top : top + side, left : left + side]


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def decibels(result: Pixels, expected: Pixels) -> float:
    error = np.mean((result.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def likeness(count: int) -> Iterator[dict[str, Any]]:
    from beam_upscale.inference.networks.torch.esrgan import TorchNetwork

    path = path_of_weights()
    reference = TorchNetwork.load(path, Device.CPU, Precision.FP32, THREADS)
    pictures = list(photographs(count, 96))
    expected = [reference.upscale(each[None])[0] for each in pictures]
    ramp = np.broadcast_to(np.linspace(20_000, 45_000, 512).astype(np.uint16), (16, 512))
    ramp = np.ascontiguousarray(np.repeat(ramp[None, :, :, None], 3, axis=3))
    levels_in_fp32 = levels(reference.upscale(ramp))
    for precision in dict.fromkeys([Precision.FP32, fastest_precision()]):
        model = OpenVinoNetwork.load(path, precision, THREADS)
        results = [model.upscale(each[None])[0] for each in pictures]
        pairs = list(zip(results, expected, strict=True))
        reduced = [decibels(halved(result), halved(other)) for result, other in pairs]
        off = [np.abs(result.astype(int) - other) for result, other in pairs]
        yield {
            "part": "likeness",
            "precision": str(precision),
            "photographs": count,
            "least_decibels": min(reduced),
            "decibels": reduced,
            "most_levels_off": int(max(each.max() for each in off)),
            "equal": float(np.mean([np.mean(each == 0) for each in off])),
            "levels_of_a_ramp": levels(model.upscale(ramp)),
            "levels_of_a_ramp_in_fp32": levels_in_fp32,
        }


def levels(result: Pixels) -> int:
    """Values in the middle row of a picture."""
    return len(np.unique(result[0, result.shape[1] // 2]))


def memory_of_a_large_image(precision: Precision) -> dict[str, Any]:
    model = OpenVinoNetwork.load(path_of_weights(), precision, THREADS)
    loaded = psutil.Process().memory_info().rss
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1024, 1024, 3), np.uint8)
    started = time.perf_counter()
    model.upscale(pixels)
    return {
        "part": "memory of 1,024 x 1,024",
        "precision": str(precision),
        "seconds": time.perf_counter() - started,
        "mib_loaded": loaded // MIB,
        "mib_at_most": peak() // MIB,
    }


def peak() -> int:
    """The most bytes that this process had resident; of `ru_maxrss` it inherits its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def memory_of_many_sizes(precision: Precision, sizes: int) -> dict[str, Any]:
    model = OpenVinoNetwork.load(path_of_weights(), precision, THREADS)
    random = np.random.default_rng(0)
    mib = []
    # Each once, in no order: 20 to 51 px a side.
    for count, number in enumerate(random.permutation(32 * 32)[:sizes]):
        height, width = 20 + number // 32, 20 + number % 32
        model.upscale(random.integers(0, 256, (1, height, width, 3), np.uint8))
        if count % 50 == 49:
            mib.append(psutil.Process().memory_info().rss // MIB)
    return {"part": "memory of many sizes", "precision": str(precision), "mib": mib}


def elsewhere(part: str, precision: Precision, *words: str) -> dict[str, Any]:
    """A part in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--part", part, "--precision", str(precision), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(photographs: int, turns: int, sizes: int) -> Iterator[dict[str, Any]]:
    precision = fastest_precision()
    yield from speed(turns)
    yield from likeness(photographs)
    yield elsewhere("large", precision)
    yield elsewhere("sizes", precision, "--sizes", str(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=int, default=50)
    parser.add_argument("--turns", type=int, default=3, help="of each network at each size")
    parser.add_argument("--sizes", type=int, default=1000, help="of images in one process")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--part", choices=["large", "sizes"], help=argparse.SUPPRESS)
    parser.add_argument("--precision", default=str(fastest_precision()), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    precision = Precision(arguments.precision)
    if arguments.part == "large":
        print(json.dumps(memory_of_a_large_image(precision)))
        return
    if arguments.part == "sizes":
        print(json.dumps(memory_of_many_sizes(precision, arguments.sizes)))
        return
    started = datetime.datetime.now(datetime.UTC)
    runs: list[list[dict[str, Any]]] = []
    for _ in range(arguments.repeats):
        runs.append([])
        for found in measure(arguments.photographs, arguments.turns, arguments.sizes):
            runs[-1].append(found)
            print(json.dumps({k: v for k, v in found.items() if k != "decibels"}), flush=True)
    report = {
        "machine": platform.machine(),
        "cpu_bf16": str(fastest_precision()),
        "threads": THREADS,
        "openvino": openvino.__version__,
        "runs": runs,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / f"network-{started:%Y%m%dT%H%M%SZ}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
