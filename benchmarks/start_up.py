"""Seconds that each command takes to start, and the imports that they go into.

    python benchmarks/start_up.py --repeats 5 --output benchmarks/results

Runs `beam-upscale` as a user does: with `--help` and the like, with `plan`, and with `run` on one
image of 16 x 16 by each network. Of each command it prints the least wall and CPU seconds, those of
its decoders included, and the packages that importing took longest for. Files of compiled Python
are there: each command runs once before it is measured.
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COMMAND = (sys.executable, "-m", "beam_upscale")

# A line of `python -X importtime`: microseconds of a module alone, with what it imports, its name.
_IMPORT = re.compile(r"import time:\s*(\d+) \|\s*\d+ \|\s*([\w.]+)")


def commands(folder: Path) -> dict[str, Sequence[str]]:
    """The arguments of each command by a name, on one small image in a folder."""
    photos, keys = str(folder / "photos"), str(folder / "keys.jsonl")
    run = ("run", photos, str(folder / "output"), "--overwrite", "--quiet")
    compact = (*run, "--weights", "realesr-animevideov3-ncnn")
    return {
        "--help": ("--help",),
        "--version": ("--version",),
        "run --help": ("run", "--help"),
        "engines": ("engines",),
        "weights list": ("weights", "list"),
        "keys list": ("keys", "list", "--keys", keys),
        "plan": ("plan", photos),
        "run, nearest": (*run, "--weights", "nearest"),
        "run, ESRGAN by OpenVINO": (*run, "--network-backend", "openvino"),
        "run, ESRGAN by PyTorch": (*run, "--network-backend", "torch"),
        "run, Compact by OpenVINO": (*compact, "--network-backend", "openvino"),
        "run, Compact by PyTorch": (*compact, "--network-backend", "torch"),
    }


def seconds(arguments: Sequence[str]) -> dict[str, float]:
    """Wall, user and system seconds of a command and its children."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall": wall,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
    }


def import_seconds(arguments: Sequence[str]) -> dict[str, float]:
    """Seconds of the imports of each package, the longest first."""
    profiled = [COMMAND[0], "-X", "importtime", *COMMAND[1:], *arguments]
    ended = subprocess.run(profiled, check=True, capture_output=True, text=True)
    sums: Counter[str] = Counter()
    for microseconds, module in _IMPORT.findall(ended.stderr):
        sums[module.partition(".")[0]] += int(microseconds)
    return {package: total / 1e6 for package, total in sums.most_common()}


def measure(arguments: Sequence[str], repeats: int) -> dict[str, Any]:
    """The measurements of one command."""
    try:
        seconds(arguments)
    except subprocess.CalledProcessError as error:
        # Such as a network without what runs it.
        return {"failed": error.stderr.decode(errors="replace").strip().splitlines()[-1:]}
    return {
        "runs": [seconds(arguments) for _ in range(repeats)],
        "imports": import_seconds(arguments),
    }


def print_line(name: str, found: Mapping[str, Any]) -> None:
    """One command's least seconds and its longest imports."""
    if "failed" in found:
        print(f"{name:26} {' '.join(found['failed'])}", flush=True)
        return
    wall = min(run["wall"] for run in found["runs"])
    cpu = min(run["user"] + run["system"] for run in found["runs"])
    longest = [f"{name} {total:.2f}" for name, total in list(found["imports"].items())[:6]]
    print(f"{name:26} {wall:5.2f} s  CPU {cpu:5.2f} s  {', '.join(longest)}", flush=True)


def main() -> None:
    """Measures, prints a line for each command, and writes the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, help="a folder for the raw numbers")
    arguments = parser.parse_args()
    started = datetime.datetime.now(datetime.UTC)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        (folder / "keys.jsonl").touch()
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos/noise.png")
        for command, words in commands(folder).items():
            found[command] = measure(words, arguments.repeats)
            print_line(command, found[command])
            shutil.rmtree(folder / "output", ignore_errors=True)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        machine = {"machine": platform.machine(), "python": platform.python_version()}
        text = json.dumps({**machine, "cpus": os.cpu_count(), "commands": found}, indent=2)
        (arguments.output / f"start_up-{started:%Y%m%dT%H%M%SZ}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
