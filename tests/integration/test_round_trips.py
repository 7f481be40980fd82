"""What others write opens here, and what is written here opens with them once more."""

import hashlib
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import upscale
from tar_files import write_tar

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.sources.discovery import list_images

IMAGES = 3
LABELS = [f"label {number}" for number in range(IMAGES)]


@pytest.fixture
def encoded(photograph: Callable[..., Image.Image]) -> list[bytes]:
    """Pictures of different widths, as PNG."""

    def encode(number: int) -> bytes:
        file = io.BytesIO()
        photograph(number, 12 + number, 10).save(file, "png")
        return file.getvalue()

    return [encode(number) for number in range(IMAGES)]


@pytest.fixture
def paths(tmp_path: Path, encoded: list[bytes]) -> list[str]:
    """The same as files."""
    found = [tmp_path / f"{number}.png" for number in range(IMAGES)]
    for path, data in zip(found, encoded, strict=True):
        path.write_bytes(data)
    return [str(path) for path in found]


def rows(output: Path) -> list[Row]:
    """The manifest's rows, in order."""
    return [row for _, row in DatasetFolder(str(output)).committed_rows()]


def assert_upscaled(output: Path, encoded: list[bytes]) -> None:
    """Every picture is done, under the columns that came with it."""
    found = rows(output)
    assert [row.source_sha256 for row in found] == [
        hashlib.sha256(data).hexdigest() for data in encoded
    ]
    assert [row.output_width for row in found] == [2 * (12 + n) for n in range(IMAGES)]


def opened(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.size


SIZES = [(2 * (12 + number), 20) for number in range(IMAGES)]


def test_parquet_of_datasets_comes_in_and_the_result_is_one_of_theirs(
    tmp_path: Path, tiny_weights: Path, encoded: list[bytes]
) -> None:
    import datasets

    theirs = {
        "image": [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(encoded)],
        "label": LABELS,
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    made = datasets.Dataset.from_dict(theirs, features=features)
    made.to_parquet(str(tmp_path / "theirs.parquet"))
    output = tmp_path / "out"

    upscale(tmp_path / "theirs.parquet", output, tiny_weights, layout="parquet")
    back = datasets.Dataset.from_parquet(
        str(output / "data/000000.parquet"), cache_dir=str(tmp_path / "cache")
    )

    assert_upscaled(output, encoded)
    assert isinstance(back.features["image"], datasets.Image)
    assert [row["image"].size for row in back] == SIZES
    assert [row["input"]["label"] for row in back] == LABELS


def pandas_table(path: Path, uris: list[str]) -> None:
    frame = pd.DataFrame({"uri": uris, "label": LABELS, "price": [Decimal("1.50")] * IMAGES})
    frame.to_parquet(path)


def polars_table(path: Path, uris: list[str]) -> None:
    prices = [Decimal("1.50")] * IMAGES
    polars.DataFrame({"uri": uris, "label": LABELS, "price": prices}).write_parquet(path)


@pytest.mark.parametrize("write", [pandas_table, polars_table])
def test_tables_of_uris_come_in_with_their_columns(
    tmp_path: Path, encoded: list[bytes], paths: list[str], write: Callable[[Path, list[str]], None]
) -> None:
    write(tmp_path / "theirs.parquet", paths)

    images = list_images(str(tmp_path / "theirs.parquet")).images

    assert [image.read(1 << 20) for image in images] == encoded
    assert [image.columns["label"] for image in images] == LABELS
    assert {image.columns["price"] for image in images} == {Decimal("1.50")}


def test_images_that_polars_holds_as_bytes_come_in(tmp_path: Path, encoded: list[bytes]) -> None:
    polars.DataFrame({"image": encoded, "label": LABELS}).write_parquet(tmp_path / "theirs.parquet")

    images = list_images(str(tmp_path / "theirs.parquet")).images

    assert [image.read(1 << 20) for image in images] == encoded
    assert [image.columns["label"] for image in images] == LABELS


def test_parquet_opens_with_duckdb_pandas_and_polars(
    tmp_path: Path, tiny_weights: Path, encoded: list[bytes], paths: list[str]
) -> None:
    pandas_table(tmp_path / "theirs.parquet", paths)
    output = tmp_path / "out"
    upscale(tmp_path / "theirs.parquet", output, tiny_weights, layout="parquet")
    data, manifest = f"{output}/data/*.parquet", f"{output}/manifest/*.parquet"

    in_duckdb = duckdb.sql(
        f"select image.bytes, input.label, input.price from read_parquet('{data}')"
    ).fetchall()
    in_pandas = pd.read_parquet(output / "data")
    in_polars = polars.read_parquet(data)
    rows_in_polars = polars.read_parquet(manifest)

    assert_upscaled(output, encoded)
    assert [opened(image) for image, _, _ in in_duckdb] == SIZES
    assert [(label, price) for _, label, price in in_duckdb] == [
        (label, Decimal("1.50")) for label in LABELS
    ]
    assert [opened(image["bytes"]) for image in in_pandas["image"]] == SIZES
    assert [value["label"] for value in in_pandas["input"]] == LABELS
    assert [opened(image["bytes"]) for image in in_polars["image"]] == SIZES
    assert in_polars["input"].struct.field("label").to_list() == LABELS
    assert rows_in_polars.schema["credits"] == polars.Decimal(18, 4)
    assert rows_in_polars.schema["request_ids"] == polars.List(polars.String)
    assert rows_in_polars["credits"].sum() == Decimal("0.6")
    assert rows_in_polars["output_width"].to_list() == [width for width, _ in SIZES]


def test_tars_of_webdataset_come_in_and_the_results_open_with_it(
    tmp_path: Path, tiny_weights: Path, encoded: list[bytes]
) -> None:
    import webdataset

    output = tmp_path / "out"
    with webdataset.ShardWriter(f"{tmp_path}/%03d.tar", maxcount=2, verbose=0) as writer:
        for number, data in enumerate(encoded):
            sample = {"png": data, "json": {"label": LABELS[number], "n": number}, "cls": number}
            writer.write({"__key__": f"sample.d/{number:03}", **sample})

    upscale(f"{tmp_path}/*.tar", output, tiny_weights, layout="webdataset")
    tars = [str(path) for path in sorted(output.glob("data/*.tar"))]
    back = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))

    assert_upscaled(output, encoded)
    assert [sample["png"].size for sample in back] == SIZES
    assert [sample["json"]["input"]["label"] for sample in back] == LABELS
    assert [sample["json"]["input"]["n"] for sample in back] == [0, 1, 2]


def write_as_img2dataset_does(folder: Path, encoded: list[bytes]) -> None:
    """A shard with its table and its statistics, one of whose downloads failed."""
    folder.mkdir()
    samples: list[dict[str, Any]] = []
    members: dict[str, bytes] = {}
    for number, data in enumerate([*encoded, None]):
        key = f"{number:09}"
        values = {
            "url": f"https://example.org/{number}.jpg",
            "caption": f"caption {number}",
            "key": key,
            "status": "failed_to_download" if data is None else "success",
            "error_message": "HTTP Error 404: Not Found" if data is None else None,
            "width": None if data is None else 12 + number,
            "height": None if data is None else 10,
            "original_width": None if data is None else 24 + number,
            "original_height": None if data is None else 20,
            "exif": None if data is None else "{}",
            "sha256": None if data is None else hashlib.sha256(data).hexdigest(),
        }
        samples.append(values)
        if data is not None:
            members[f"{key}.jpg"] = data
            members[f"{key}.json"] = json.dumps(values, indent=4).encode()
            members[f"{key}.txt"] = values["caption"].encode()
    write_tar(folder / "00000.tar", members)
    pq.write_table(pa.Table.from_pylist(samples), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text(json.dumps({"count": 4, "successes": 3}))


@pytest.mark.parametrize("what", ["*.tar", ""])
def test_what_img2dataset_downloaded_comes_in(
    tmp_path: Path, tiny_weights: Path, encoded: list[bytes], what: str
) -> None:
    write_as_img2dataset_does(tmp_path / "in", encoded)
    output = tmp_path / "out"

    upscale(
        f"{tmp_path}/in/{what}",
        output,
        tiny_weights,
        layout="webdataset",
        input_format="webdataset",
    )

    assert_upscaled(output, encoded)
    for number, row in enumerate(rows(output)):
        assert row.input_id.endswith(f"00000.tar#{number:09}.jpg")
        assert row.input["caption"] == f"caption {number}"
        assert row.input["sha256"] == row.source_sha256
        assert (row.input["key"], row.input["status"]) == (f"{number:09}", "success")
        assert (row.input["original_width"], row.input["original_height"]) == (24 + number, 20)


def test_captions_of_img2dataset_are_prompts(tmp_path: Path, encoded: list[bytes]) -> None:
    from beam_upscale.planning.parameters import Parameters

    write_as_img2dataset_does(tmp_path / "in", encoded)

    images = list_images(f"{tmp_path}/in/*.tar").images

    prompts = [image.parameters(Parameters()).prompt for image in images]
    assert prompts == [f"caption {number}" for number in range(IMAGES)]
