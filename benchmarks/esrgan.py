"""Images a second, beside `realesrgan`'s own class in the same run.

    python benchmarks/esrgan.py --device cuda --sides 128 256 512 1024 --output benchmarks/results

For each size: this package with batches and without, the peer in half precision where it is
installed, and the share of the device's own speed at a large matrix product that the network
reaches. Prints a table and writes the raw numbers as JSON. Ratios compare what was measured in one
run; the seconds alone say as much about the machine.
"""

import argparse
import datetime
import json
import platform
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from beam_upscale.inference.networks.device import Device, Precision, settle
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork
from beam_upscale.inference.weights import find

# Of the 23 blocks with 64 channels and growth 32, measured on the x4plus weights (trunk) ...
_TRUNK_MULTIPLY_ADDS = 16.7e6
# ... and of the tail: one convolution at 2 x, three at 4 x the side, the last with 3 channels.
_TAIL_MULTIPLY_ADDS = (4 * 64 * 64 + 16 * (64 * 64 + 64 * 64 + 64 * 3)) * 9
_BATCH_PIXELS = 2 * 1024 * 1024


def seconds(action: Callable[[], Any], device: Device, at_least: float = 2.0) -> float:
    """Seconds that an action takes, the mean over at least two runs after a first."""
    action()
    runs, started = 0, time.perf_counter()
    while runs < 2 or time.perf_counter() - started < at_least:
        action()
        runs += 1
    if device is Device.CUDA:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / runs


def matrix_peak(device: Device, side: int) -> float:
    """Floating-point operations a second of a bf16 matrix product."""
    a = torch.randn(side, side, dtype=torch.bfloat16, device=device.value)

    def product() -> None:
        torch.mm(a, a)
        if device is Device.CUDA:
            torch.cuda.synchronize()

    return 2 * side**3 / seconds(product, device)


def peer(path: Path, device: Device) -> Callable[[np.ndarray], Any] | None:
    """`realesrgan`'s class on the same weights, in half precision on a GPU as its program does."""
    try:
        from torchvision.transforms.functional import rgb_to_grayscale

        # The module that basicsr imports is gone from torchvision.
        stand_in = types.ModuleType("torchvision.transforms.functional_tensor")
        stand_in.rgb_to_grayscale = rgb_to_grayscale
        sys.modules[stand_in.__name__] = stand_in
        from basicsr.archs.rrdbnet_arch import RRDBNet
        from realesrgan import RealESRGANer
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x4plus.pth"
        torch.save({"params_ema": load_file(path)}, file)
        upsampler = RealESRGANer(
            scale=4,
            model_path=str(file),
            model=RRDBNet(num_in_ch=3, num_out_ch=3, num_feat=64, num_block=23, num_grow_ch=32),
            pre_pad=0,
            half=device is Device.CUDA,
            device=torch.device(device.value),
        )
    return lambda pixels: upsampler.enhance(pixels[:, :, ::-1])


def measure(side: int, device: Device, precision: Precision, path: Path) -> dict[str, Any]:
    """One size's figures."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    model = TorchNetwork.load(path, device, precision, threads=torch.get_num_threads())
    batch_size = max(1, _BATCH_PIXELS // side**2) if device is Device.CUDA else 1
    batch = np.stack([pixels] * batch_size)
    one = seconds(lambda: model.upscale(pixels[np.newaxis]), device)
    many = seconds(lambda: model.upscale(batch), device) / batch_size if batch_size > 1 else one
    enhance = peer(path, device)
    theirs = seconds(lambda: enhance(pixels), device) if enhance is not None else None
    operations = 2 * (_TRUNK_MULTIPLY_ADDS + _TAIL_MULTIPLY_ADDS) * side**2
    return {
        "side": side,
        "batch_size": batch_size,
        "images_per_second": 1 / one,
        "images_per_second_batched": 1 / many,
        "peer_images_per_second": None if theirs is None else 1 / theirs,
        "ratio_to_peer": None if theirs is None else theirs / many,
        "operations_per_second": operations / many,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", choices=[str(device) for device in Device])
    parser.add_argument("--precision", default="auto", choices=[str(p) for p in Precision])
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    device, precision = settle(Device(arguments.device), Precision(arguments.precision))
    path = find.resolve(None, "esrgan-v1-x2plus").path
    on_gpu = device is Device.CUDA
    peak = matrix_peak(device, side=8192 if on_gpu else 2048)
    rows = [measure(side, device, precision, path) for side in arguments.sides]
    for row in rows:
        row["fraction_of_matrix_peak"] = row["operations_per_second"] / peak
        print(json.dumps(row))
    report = {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor(),
        "precision": str(precision),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bf16_matrix_peak": peak,
        "rows": rows,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    file = arguments.output / f"esrgan-{device}-{day}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
