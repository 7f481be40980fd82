"""Inputs for comparisons of two checkouts: made once, the same each time."""

import csv
import io
import json
import shutil
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from PIL import Image
from seed_images import chunk, seed_images
from skimage import data

_SUBJECTS = ("astronaut", "camera", "chelsea", "coffee", "hubble_deep_field", "rocket", "page")

# Modes of Pillow, and the names of files that can hold them.
_FEW = (
    ("RGB", "a.png"),
    ("RGB", "b.jpg"),
    ("L", "c.png"),
    ("RGBA", "more/d.png"),
    ("P", "more/e.png"),
    ("CMYK", "more/f.jpg"),
    ("I;16", "more/deep/g.png"),
    ("1", "more/deep/h.png"),
)

_ORIENTATION = 0x0112

PIPELINE = """\
import sys

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

import beam_upscale as bu

source, output = sys.argv[1:]
with beam.Pipeline(runner=FnApiRunner()) as pipeline:
    (
        pipeline
        | bu.ReadImages(source, output=output, shard_rows=3)
        | beam.Filter(lambda image: not image.name.endswith("c.png"))
        | bu.Upscale("esrgan-v1-x2plus", weights="nearest", oversize="shrink", output_format="webp")
        | bu.WriteDataset(output, layout="parquet")
    )
"""

PIPELINE_OF_BYTES = """\
import pathlib
import sys

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

import beam_upscale as bu

source, output = sys.argv[1:]
images = [
    bu.SourceImage(
        input_id=f"photo {number}",
        data=path.read_bytes(),
        name=path.name,
        output_name=f"{number % 3}/{path.stem}",
        columns={"number": number},
    )
    for number, path in enumerate(sorted(pathlib.Path(source).glob("0*.png")))
]
with beam.Pipeline(runner=FnApiRunner()) as pipeline:
    (
        pipeline
        | beam.Create(images)
        | bu.Upscale(["esrgan-v1-x2plus", "esrgan-v1-x2plus"], weights="nearest", width=200)
        | bu.WriteDataset(output)
    )
"""


def make_inputs(folder: Path, samples: Path, url: str) -> None:
    """Makes all inputs.

    Args:
        folder: where; it must not exist.
        samples: the folder of samples of a checkout.
        url: the address at which `folder` is served, without a slash at its end.
    """
    folder.mkdir(parents=True)
    shutil.copytree(samples, folder / "samples")
    _photographs(folder / "photographs")
    _few(folder / "few")
    _kinds(folder / "kinds")
    _large(folder / "large")
    _bad(folder / "bad", folder / "photographs")
    _tables(folder, url)
    (folder / "pipeline.py").write_text(PIPELINE)
    (folder / "pipeline_of_bytes.py").write_text(PIPELINE_OF_BYTES)


def _crops(count: int, width: int, height: int) -> Iterator[Image.Image]:
    """Yields crops of photographs, each another one."""
    draw = np.random.default_rng(0)
    for number in range(count):
        whole = Image.fromarray(getattr(data, _SUBJECTS[number % len(_SUBJECTS)])())
        left = int(draw.integers(0, whole.width - width + 1))
        top = int(draw.integers(0, whole.height - height + 1))
        yield whole.crop((left, top, left + width, top + height)).convert("RGB")


def _photographs(folder: Path) -> None:
    folder.mkdir()
    for number, crop in enumerate(_crops(50, 96, 96)):
        crop.save(folder / f"{number:02}.png")


def _few(folder: Path) -> None:
    """Makes pictures of several modes in nested folders, with columns, a prompt and a caption."""
    (folder / "more/deep").mkdir(parents=True)
    rows = []
    turned = Image.Exif()
    turned[_ORIENTATION] = 6
    for number, ((mode, name), crop) in enumerate(zip(_FEW, _crops(8, 40, 28), strict=True)):
        if mode == "I;16":
            deep = np.asarray(crop.convert("L")).astype(np.uint16) * 257
            Image.fromarray(deep).save(folder / name)
        else:
            options = {"exif": turned, "quality": 92} if name == "b.jpg" else {}
            crop.convert(mode).save(folder / name, **options)
        row = {"file_name": name, "score": number / 4, "tags": ["x"] * number, "license": "CC0"}
        rows.append(row if number % 2 else {**row, "prompt": f"photograph {number}", "seed": 7})
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "more/f.txt").write_text("a caption")


def _kinds(folder: Path) -> None:
    """Makes a file of every kind of image that is read."""
    folder.mkdir()
    for form, images in seed_images().items():
        for number, image in enumerate(images):
            (folder / f"{form}-{number:02}.{form}").write_bytes(image)


def _large(folder: Path) -> None:
    """Makes three pictures above the limit of an engine, and one below."""
    folder.mkdir()
    smooth = np.add.outer(np.arange(900), np.arange(1300))
    planes = np.stack([smooth % 256, smooth // 3 % 256, smooth // 7 % 256, smooth // 5 % 256], -1)
    samples = planes.astype(np.uint8)
    Image.fromarray(samples[..., :3].copy()).save(folder / "a.jpg", quality=90)
    Image.fromarray(samples).save(folder / "b.png")
    deep = samples[..., :3].astype(np.uint16) * 257
    tifffile.imwrite(folder / "c.tif", deep, photometric="rgb", tile=(256, 256), metadata=None)
    Image.fromarray(samples[:60, :80, :3].copy()).save(folder / "d.png")


def _bad(folder: Path, photographs: Path) -> None:
    """Makes files that are refused, each for another reason, and two that are not."""
    folder.mkdir()
    good = (photographs / "00.png").read_bytes()
    (folder / "good.png").write_bytes(good)
    (folder / "good-too.png").write_bytes((photographs / "01.png").read_bytes())
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    (folder / "damaged.png").write_bytes(damaged)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    claims = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    (folder / "claims.png").write_bytes(good[:8] + claims + good[33:])
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(folder / "too-large.png")
    frames = [Image.new("P", (30, 20), color) for color in (1, 2)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])


def _tables(folder: Path, url: str) -> None:
    """Makes a table or a tar of each input format over the same few pictures."""
    names = [name for _, name in _FEW]
    rows = [
        {"image": f"few/{name}", "score": number / 8, "label": f"label {number}"}
        for number, name in enumerate(names)
    ]
    _jsonl(folder / "few.jsonl", rows)
    _jsonl(folder / "urls.jsonl", [{"url": f"{url}/few/{name}"} for name in [*names, "none.png"]])
    bad = [{"image": "few/none.png"}, {"image": 3}, {"image": "ftp://host/a.png"}, {"other": 1}]
    _jsonl(folder / "bad.jsonl", [*rows[:2], *bad, *rows[:1]])
    for name, separator in (("few.csv", ","), ("few.tsv", "\t")):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "few.parquet", row_group_size=3)
    embedded = [
        {**row, "image": {"bytes": (folder / "few" / name).read_bytes(), "path": name}}
        for row, name in zip(rows, names, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(embedded), folder / "embedded.parquet", row_group_size=3)
    _tar(folder / "few.tar", folder / "few", names)


def _jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _tar(path: Path, pictures: Path, names: list[str]) -> None:
    """Writes a tar in WebDataset's form: an image and its columns share a key."""
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            members = {
                name: (pictures / name).read_bytes(),
                f"{name.partition('.')[0]}.json": json.dumps({"number": number}).encode(),
            }
            for member, content in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
