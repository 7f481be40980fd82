"""Results as others open them: Hugging Face's datasets, webdataset, DuckDB and pandas."""

import functools
import hashlib
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import rows, upscale

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.layouts.shard_files import write_images
from beam_upscale.dataset.manifest.row import Row, Status

ALL_LAYOUTS = pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
# Where packed images are not looked at, one layout that packs them stands for the others.
FILES_OR_PACKED = pytest.mark.parametrize("layout", ["files", "parquet"])
IMAGES = 7


def image_column(layout: str) -> str:
    """What `load_dataset` calls the images: in a tar it goes by their extension."""
    return "png" if layout == "webdataset" else "image"


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
) -> Callable[[str], Path]:
    """Makes a dataset of several shards, to be read only; each layout once."""
    inputs = pictures(tmp_path_factory.mktemp("in"), photograph)

    @functools.cache
    def make(layout: str) -> Path:
        output = tmp_path_factory.mktemp(layout) / "out"
        upscale(inputs, output, tiny_weights, layout=layout, shard_rows=3)
        return output

    return make


def pictures(folder: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Images of different sizes in folders that look like labels and splits."""
    for number in range(IMAGES):
        below = folder / ("", "cats", "dogs", "train", "test/validation")[number % 5]
        below.mkdir(parents=True, exist_ok=True)
        photograph(number, 20 + number, 14).save(below / f"{number}.png")
    (folder / "broken.png").write_text("not an image")
    return folder


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`datasets.load_dataset` without a network, and with a cache of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def load_dataset(*arguments: str, **options: Any) -> Any:
        return datasets.load_dataset(*arguments, cache_dir=str(tmp_path / "cache"), **options)

    return load_dataset


@ALL_LAYOUTS
def test_load_dataset_opens_the_images(
    made: Callable[[str], Path], load: Callable[..., Any], layout: str
) -> None:
    import datasets

    found = load(str(made(layout)))

    assert list(found) == ["train"]
    assert isinstance(found["train"].features[image_column(layout)], datasets.Image)
    assert "label" not in found["train"].features
    assert sorted(row[image_column(layout)].size for row in found["train"]) == [
        (40 + 2 * number, 28) for number in range(IMAGES)
    ]


@ALL_LAYOUTS
def test_load_dataset_streams(
    made: Callable[[str], Path], load: Callable[..., Any], layout: str
) -> None:
    found = load(str(made(layout)), split="train", streaming=True)

    assert len([row[image_column(layout)].size for row in found]) == IMAGES


@FILES_OR_PACKED
def test_load_dataset_opens_the_manifest(
    made: Callable[[str], Path], load: Callable[..., Any], layout: str
) -> None:
    found = load("parquet", data_files=f"{made(layout)}/manifest/*.parquet", split="train")

    assert len(found) == IMAGES + 1
    assert sum(found["credits"]) == Decimal("1.4")


def test_card_of_parquet_opens_the_manifest_too(
    made: Callable[[str], Path], load: Callable[..., Any]
) -> None:
    assert len(load(str(made("parquet")), "manifest", split="train")) == IMAGES + 1


@ALL_LAYOUTS
def test_images_with_unusual_names_are_opened(
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    load: Callable[..., Any],
    layout: str,
) -> None:
    names = [
        "a b.png",
        "é.png",
        "[x].png",
        "100%.png",
        "new\nline.png",
        "#1.png",
        "q?.png",
        "*.png",
    ]
    names += ["__init__/x.png", "x..png", "metadata.png", "data/train-00000.png"]
    folder = tmp_path / "in"
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(number).save(folder / name)

    upscale(folder, tmp_path / "out", tiny_weights, layout=layout)

    assert len(rows(tmp_path / "out")) == len(names)
    assert len(load(str(tmp_path / "out"), split="train")) == len(names)


@FILES_OR_PACKED
def test_manifest_loads_where_there_is_no_image(
    tmp_path: Path, tiny_weights: Path, load: Callable[..., Any], layout: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/broken.png").write_text("not an image")
    upscale(tmp_path / "in", tmp_path / "out", tiny_weights, layout=layout)

    assert len(load(str(tmp_path / "out"), "manifest", split="train")) == 1


@pytest.mark.parametrize("filled", [[0], [1], [0, 2], [1, 2]])
def test_shards_without_images_are_no_obstacle(
    tmp_path: Path,
    photograph: Callable[..., Image.Image],
    load: Callable[..., Any],
    filled: list[int],
) -> None:
    """One of three shards has a column that is null in it, too."""
    kind = pa.struct([("file_name", pa.string()), ("label", pa.int64())])
    shards = [[sample(number, photograph)] if number in filled else [] for number in range(3)]
    (tmp_path / "data").mkdir()
    for number, samples in enumerate(shards):
        with (tmp_path / f"data/{number}.parquet").open("wb") as file:
            rows, images = [row for row, _ in samples], [data for _, data in samples]
            write_images(file, Layout.PARQUET, rows, images, kind)
    pattern = str(tmp_path / "data/*.parquet")

    eager = load("parquet", data_files=pattern, split="train")
    streamed = load("parquet", data_files=pattern, split="train", streaming=True)

    ids = [row.input_id for samples in shards for row, _ in samples]
    assert eager["input_id"][:] == [row["input_id"] for row in streamed] == ids
    assert [image.size for image in eager["image"]] == [(8, 8)] * len(ids)
    assert eager["input"][0]["label"] == (None if filled[0] == 1 else filled[0])
    assert duckdb.sql(f"SELECT input_id FROM '{pattern}' ORDER BY 1").fetchall() == [
        (each,) for each in ids
    ]
    assert polars.read_parquet(pattern)["input_id"].to_list() == ids
    assert ds.dataset(tmp_path / "data").to_table()["input_id"].to_pylist() == ids
    frames = [pd.read_parquet(path) for path in sorted((tmp_path / "data").iterdir())]
    assert [len(frame) for frame in frames] == [len(samples) for samples in shards]


def sample(number: int, photograph: Callable[..., Image.Image]) -> tuple[Row, bytes]:
    """A row with its image; that of the number 1 has no label."""
    file = io.BytesIO()
    photograph(number, 8, 8).save(file, "PNG")
    row = Row(
        f"{number}.png",
        f"{number}.png",
        Status.UPSCALED,
        output_format="png",
        output_width=8,
        output_height=8,
        input={"file_name": f"{number}.png", "label": None if number == 1 else number},
    )
    return row, file.getvalue()


@FILES_OR_PACKED
def test_duckdb_and_pandas_read_the_manifest(made: Callable[[str], Path], layout: str) -> None:
    manifest = made(layout) / "manifest"

    [(count, listed, file_names)] = duckdb.sql(
        "select count(*), sum(credits), count(distinct input.file_name) "
        f"from read_parquet('{manifest}/*.parquet')"
    ).fetchall()
    frame = pd.read_parquet(manifest)

    assert (count, listed, file_names) == (IMAGES + 1, Decimal("1.4"), IMAGES + 1)
    assert frame["credits"].sum() == Decimal("1.4")
    assert frame["usd"].sum() == Decimal("0.014")
    assert frame["billed_credits"].sum() == 0
    assert sorted(frame["status"].value_counts().items()) == [("failed", 1), ("upscaled", IMAGES)]


def test_parquet_holds_images_as_others_write_them(
    made: Callable[[str], Path],
) -> None:
    table = pq.read_table(made("parquet") / "data/000000.parquet")

    assert table.column_names == ["image", "input_id", "width", "height", "input"]
    assert b"huggingface" in table.schema.metadata
    for row in table.to_pylist():
        assert row["image"]["bytes"].startswith(b"\x89PNG")
        assert (row["width"], row["height"]) == (row["width"], 28)


def test_webdataset_opens_the_tars(made: Callable[[str], Path]) -> None:
    import webdataset

    output = made("webdataset")
    tars = f"{output}/data/{{000000..000002}}.tar"

    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))

    done = sorted((r for r in rows(output).values() if r.output_uri), key=lambda r: r.input_id)
    assert [sample["json"]["input_id"] for sample in samples] == [row.input_id for row in done]
    for sample, row in zip(samples, done, strict=True):
        assert sample["__url__"] == str(output / str(row.output_uri))
        assert sample["__key__"] == sample["json"]["key"]
        assert sample["png"].size == (sample["json"]["width"], sample["json"]["height"])
        assert sample["png"].size == (row.output_width, row.output_height)
        assert sample["json"]["input"] == row.input
    plain = webdataset.WebDataset(tars, shardshuffle=False)
    for sample, row in zip(plain, done, strict=True):
        assert hashlib.sha256(sample["png"]).hexdigest() == row.output_sha256


def test_tars_open_where_the_first_has_no_image(
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    load: Callable[..., Any],
) -> None:
    inputs = pictures(tmp_path / "in", photograph)
    for number in range(2):
        (inputs / f"000{number}.png").write_text("not an image")
    upscale(
        inputs,
        tmp_path / "out",
        tiny_weights,
        layout="webdataset",
        shard_rows=2,
        output_format="webp",
        lossless=True,
    )

    found = load(str(tmp_path / "out"), split="train")

    assert sorted(row["webp"].width for row in found) == [40 + 2 * n for n in range(IMAGES)]
