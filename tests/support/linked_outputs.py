"""What runs leave, as far as listings look at it."""

import json
from pathlib import Path

from PIL import Image

from beam_upscale.dataset.run_json import RUN_FORMAT
from beam_upscale.storage import files

RUN = json.dumps({"format": RUN_FORMAT, "complete": True, "layout": "files"})


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (len(name), 0, 0)).save(path, "png")
    return folder


def make_dataset(folder: Path, *images: str) -> Path:
    """What a run leaves, as far as listings look at it."""
    make(folder, *(f"images/{name}" for name in images))
    for name in ("manifest/000000.parquet", "telemetry/000000-1.parquet", "README.md"):
        files.write(f"{folder}/{name}", b"")
    (folder / "run.json").write_text(RUN)
    return folder
