"""The dataset's own columns: one type in all files, whatever runs come one after the other."""

import datetime as dt
import functools
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from runs import ENGINE, command, command_elsewhere, quick, rows, signal_after, tree, upscale

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.verify import verify
from beam_upscale.pipeline.commit.completion import shards_to_retype
from beam_upscale.pipeline.commit.shards import commit_shard
from beam_upscale.sources.inputs.source_image import SourceImage, source_image

IMAGES = 6
SHARD_ROWS = 3
# Where packed images are not looked at, one layout that packs them stands for the others.
FILES_OR_PACKED = pytest.mark.parametrize("layout", ["files", "parquet"])
FILES_OR_SLOWLY_PACKED = pytest.mark.parametrize(
    "layout", ["files", pytest.param("parquet", marks=pytest.mark.slow)]
)


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Images `0.png` to `5.png`, of two shards."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(IMAGES):
        photograph(number, 20, 14).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run_into(inputs: Path, tiny_weights: Path) -> Callable[[Path, str], dict[str, str]]:
    """Runs into an output, and gives the SHA-256 of what is there then."""

    def run(output: Path, layout: str) -> dict[str, str]:
        upscale(inputs, output, tiny_weights, layout=layout, shard_rows=SHARD_ROWS)
        assert list(verify(str(output))) == []
        return tree(output)

    return run


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`datasets.load_dataset` without a network, and with a cache of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def load_dataset(*arguments: str, **options: Any) -> Any:
        cache = str(tmp_path / "cache")
        return datasets.load_dataset(*arguments, cache_dir=cache, split="train", **options)

    return load_dataset


def describe(inputs: Path, columns: Mapping[int, Mapping[str, Any]]) -> None:
    """Writes the metadata of images, by their numbers."""
    lines = [
        json.dumps({"file_name": f"{number}.png", **values}) for number, values in columns.items()
    ]
    (inputs / "metadata.jsonl").write_text("\n".join(lines))


def input_types(output: Path) -> list[pa.DataType]:
    """The types of the column `input` in all files that have one."""
    files = [*output.glob("manifest/*.parquet"), *output.glob("data/*.parquet")]
    return [pq.read_schema(path).field("input").type for path in files]


def write_times(output: Path) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns
        for path in output.rglob("*.p*")
        if "telemetry" not in path.parts
    }


def assert_all_open(output: Path, load: Callable[..., Any], expected: Mapping[str, Any]) -> None:
    """Asserts that all files have one type, and others see a column's values, by images' names."""
    types = input_types(output)
    assert all(kind.equals(types[0], check_metadata=True) for kind in types)
    found = {
        row["input"]["file_name"]: row["input"]
        for row in load("parquet", data_files=f"{output}/manifest/*.parquet")
    }
    by_duckdb = duckdb.sql(
        f"select input.file_name, input.label from read_parquet('{output}/manifest/*.parquet')"
    ).fetchall()
    labels = {name: columns["label"] for name, columns in found.items()}

    assert labels == dict(by_duckdb) == expected
    if list(output.glob("data/*")):
        inputs = [(row.get("json") or row)["input"] for row in load(str(output))]
        assert {columns["file_name"]: columns["label"] for columns in inputs} == expected
    else:
        assert len(load(str(output))) == len(expected)


PARTIAL: dict[str, dict[int, dict[str, Any]]] = {
    "one image": {0: {"label": "cat"}},
    "images of the second shard": {4: {"label": "cat"}, 5: {"label": "dog"}},
    "numbers of two types": {0: {"label": 1}, 4: {"label": 0.5}},
    "an empty list": {0: {"label": []}, 4: {"label": ["a"]}},
    "an object": {0: {"label": None, "size": 2}, 4: {"label": {"a": 1}}},
    "no value at all": {number: {"label": None} for number in range(6)},
}


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        *(("parquet", name) for name in PARTIAL),
        ("webdataset", "images of the second shard"),
    ],
)
def test_columns_of_some_images_are_those_of_all_files(
    tmp_path: Path,
    inputs: Path,
    load: Callable[..., Any],
    run_into: Callable[[Path, str], dict[str, str]],
    layout: str,
    name: str,
) -> None:
    columns = PARTIAL[name]
    describe(inputs, columns)

    run_into(tmp_path / "out", layout)

    assert len(input_types(tmp_path / "out")) == (4 if layout == "parquet" else 2)
    expected = {f"{n}.png": columns.get(n, {}).get("label") for n in range(IMAGES)}
    assert_all_open(tmp_path / "out", load, expected)


@FILES_OR_SLOWLY_PACKED
def test_columns_that_come_later_are_those_of_all_files(
    tmp_path: Path,
    inputs: Path,
    photograph: Callable[..., Image.Image],
    load: Callable[..., Any],
    run_into: Callable[[Path, str], dict[str, str]],
    layout: str,
) -> None:
    run_into(tmp_path / "out", layout)
    photograph(9, 20, 14).save(inputs / "9.png")
    describe(inputs, {9: {"label": "new"}})

    added = run_into(tmp_path / "out", layout)
    times = write_times(tmp_path / "out")
    again = run_into(tmp_path / "out", layout)

    assert added == again == run_into(tmp_path / "fresh", layout)
    assert {path for path in times if write_times(tmp_path / "out")[path] != times[path]} == set()
    expected = {f"{n}.png": None for n in range(IMAGES)} | {"9.png": "new"}
    assert_all_open(tmp_path / "out", load, expected)


CHANGES = [
    pytest.param({0: {"label": "a", "score": 1}}, {}, id="no columns any more"),
    pytest.param({0: {"label": "a", "score": 1}}, {0: {"label": "a"}}, id="one column fewer"),
    pytest.param({4: {"label": 1}}, {4: {"label": 1}, 0: {"label": 0.5}}, id="whole to double"),
    pytest.param({4: {"label": 1}, 0: {"label": 0.5}}, {4: {"label": 1}}, id="double to whole"),
    pytest.param(
        {4: {"label": 1}, 5: {"label": 0.5}},
        {4: {"label": 1}, 5: {"label": 0.5}, 0: {"label": "a"}},
        id="double to JSON text",
    ),
    pytest.param({4: {"label": 3}, 0: {"label": "3"}}, {4: {"label": 3}}, id="JSON text to whole"),
    pytest.param(
        {4: {"label": 3}, 0: {"label": "3"}},
        {0: {"label": "3"}},
        id="JSON text to text",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        {4: {"a": {"x": 1}}},
        {4: {"a": {"x": 1}}, 0: {"a": {"y": 1}}},
        id="more members",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("before", "now"), CHANGES)
def test_rerun_leaves_the_columns_of_a_fresh_run(
    tmp_path: Path,
    inputs: Path,
    run_into: Callable[[Path, str], dict[str, str]],
    before: dict[int, dict[str, Any]],
    now: dict[int, dict[str, Any]],
) -> None:
    describe(inputs, before)
    run_into(tmp_path / "out", "parquet")
    describe(inputs, now)

    changed = run_into(tmp_path / "out", "parquet")
    times = write_times(tmp_path / "out")
    again = run_into(tmp_path / "out", "parquet")

    assert changed == again == run_into(tmp_path / "fresh", "parquet")
    assert write_times(tmp_path / "out") == times


@FILES_OR_SLOWLY_PACKED
def test_values_of_inputs_that_are_gone_stay_as_they_are(
    tmp_path: Path,
    inputs: Path,
    run_into: Callable[[Path, str], dict[str, str]],
    layout: str,
) -> None:
    mixed = {0: {"label": 3}, 1: {"label": "3"}, 2: {"label": '"y"'}, 4: {"label": [1, "é"]}}
    describe(inputs, mixed)
    run_into(tmp_path / "out", layout)
    for gone in ("1.png", "2.png", "4.png"):
        (inputs / gone).unlink()

    trees = []
    for text in ("a", "b", "a"):
        # Each change has the shards written anew, with the rows of what is gone.
        describe(inputs, {0: {"label": 3}, 3: {"label": text}, 5: {"label": text}})
        trees.append(run_into(tmp_path / "out", layout))

    labels = {name: row.input["label"] for name, row in rows(tmp_path / "out").items()}
    assert labels == {
        "0.png": 3,
        "1.png": "3",
        "2.png": '"y"',
        "3.png": "a",
        "4.png": [1, "é"],
        "5.png": "a",
    }
    assert trees[0] == trees[2] != trees[1]


@FILES_OR_SLOWLY_PACKED
def test_column_that_only_inputs_have_that_are_gone_stays(
    tmp_path: Path,
    inputs: Path,
    load: Callable[..., Any],
    run_into: Callable[[Path, str], dict[str, str]],
    layout: str,
) -> None:
    describe(inputs, {0: {"label": "a"}, 1: {"other": None}})
    run_into(tmp_path / "out", layout)
    (inputs / "0.png").unlink()
    describe(inputs, {})

    first = run_into(tmp_path / "out", layout)
    second = run_into(tmp_path / "out", layout)

    assert first == second
    expected = {f"{n}.png": None for n in range(IMAGES)} | {"0.png": "a"}
    assert_all_open(tmp_path / "out", load, expected)
    assert "other" not in input_types(tmp_path / "out")[0].names


@pytest.mark.parametrize(
    ("layout", "pattern", "counts"),
    [
        ("files", r"manifest/.*\.parquet", (1, 1)),
        pytest.param("parquet", r"manifest/.*\.parquet", (1, 1), marks=pytest.mark.slow),
        pytest.param("parquet", r"data/.*\.parquet", (1, 2), marks=pytest.mark.slow),
        pytest.param("webdataset", r"data/.*\.tar", (1, 2), marks=pytest.mark.slow),
    ],
)
def test_rerun_that_is_killed_while_types_change_goes_on(
    tmp_path: Path,
    inputs: Path,
    tiny_weights: Path,
    run_into: Callable[[Path, str], dict[str, str]],
    layout: str,
    pattern: str,
    counts: tuple[int, int],
) -> None:
    describe(inputs, {0: {"label": "a"}})
    run_into(tmp_path / "out", layout)
    # The second shard has no image whose columns change: only its type does.
    describe(inputs, {0: {"label": 1}, 1: {"score": 2}})
    arguments = [*quick(tiny_weights), "--layout", layout, "--shard-rows", str(SHARD_ROWS)]

    killed = [
        command_elsewhere(
            tmp_path,
            *("run", inputs, tmp_path / "out", *arguments),
            prepare=functools.partial(signal_after, pattern, count),
        )
        for count in counts
    ]
    finished = command("run", inputs, tmp_path / "out", *arguments)

    assert [each.code for each in killed] == [-signal.SIGKILL] * 2
    assert finished.code == 0
    assert tree(tmp_path / "out") == run_into(tmp_path / "fresh", layout)


def write_sources(
    sources: list[SourceImage], output: Path, weights: Path, **options: Any
) -> dict[str, str]:
    """Runs a pipeline of one's own, and gives the SHA-256 of what is there then."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create(sources)
            | bu.Upscale(ENGINE, weights=str(weights), device="cpu", precision="fp32", threads=1)
            | bu.WriteDataset(str(output), **options)
        )
    assert list(verify(str(output))) == []
    return tree(output)


def numbered(inputs: Path, number: int, **columns: Any) -> SourceImage:
    """An input in the shard that its number is odd or even for."""
    name = f"{number}.png"
    columns = {"file_name": name, **columns}
    return source_image(f"{inputs}/{name}", columns=columns, shard=number % 2)


@FILES_OR_PACKED
def test_shards_of_a_pipeline_of_ones_own_agree_in_the_end(
    tmp_path: Path,
    inputs: Path,
    tiny_weights: Path,
    load: Callable[..., Any],
    layout: str,
) -> None:
    sources = [
        numbered(inputs, 0, label=1),
        numbered(inputs, 1),
        numbered(inputs, 2, label=0.5, other="x"),
        numbered(inputs, 3),
    ]

    first = write_sources(sources, tmp_path / "out", tiny_weights, layout=layout)
    again = write_sources(sources[::-1], tmp_path / "out", tiny_weights, layout=layout)

    assert first == again
    expected = {"0.png": 1.0, "1.png": None, "2.png": 0.5, "3.png": None}
    assert_all_open(tmp_path / "out", load, expected)


@FILES_OR_PACKED
def test_type_that_is_given_holds(
    tmp_path: Path, inputs: Path, tiny_weights: Path, layout: str
) -> None:
    kind = pa.struct(
        [("label", pa.int16()), ("at", pa.timestamp("s")), ("tags", pa.list_(pa.string()))]
    )
    sources = [numbered(inputs, 0, label=1), numbered(inputs, 1, tags=["a"])]

    first = write_sources(sources, tmp_path / "out", tiny_weights, layout=layout, input_type=kind)
    found = DatasetFolder(str(tmp_path / "out"))

    assert list(shards_to_retype(found, kind)) == []
    assert input_types(tmp_path / "out")[0].names == ["label", "at", "tags"]
    assert [row.input["label"] for _, row in found.committed_rows()] == [1, None]
    assert first == write_sources(
        sources, tmp_path / "out", tiny_weights, layout=layout, input_type=kind
    )


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_what_text_hardly_holds_breaks_no_shard(
    tmp_path: Path, inputs: Path, tiny_weights: Path, layout: str
) -> None:
    huge, half = 10 ** (sys.get_int_max_str_digits() + 1), "\ud800"
    sources = [
        numbered(inputs, 0, huge=huge, half=half),
        numbered(inputs, 1, huge=2, half="a"),
        numbered(inputs, 2, file_name=half),
    ]

    write_sources(sources, tmp_path / "out", tiny_weights, layout=layout)

    found = rows(tmp_path / "out")
    assert (found["0.png"].input["huge"] == huge, found["0.png"].input["half"]) == (True, half)
    assert (found["1.png"].input["huge"], found["1.png"].input["half"]) == (2, "a")


@FILES_OR_PACKED
def test_only_shards_of_another_type_are_found(
    tmp_path: Path, inputs: Path, tiny_weights: Path, layout: str
) -> None:
    write_sources(
        [numbered(inputs, 0, label=1), numbered(inputs, 1, label="a")],
        tmp_path / "out",
        tiny_weights,
        layout=layout,
    )
    dataset = DatasetFolder(str(tmp_path / "out"))
    as_text = dataset.manifest_schema(0).field("input").type
    commit_shard(1, [], dataset, Layout(layout), "run")

    (found,) = shards_to_retype(dataset)

    assert found[0] == 1
    assert found[1] is not None
    assert found[1].equals(as_text, check_metadata=True)
    assert [shard for shard, _ in shards_to_retype(dataset, pa.struct([("x", pa.int8())]))] == [
        0,
        1,
    ]


def test_values_that_python_does_not_hold_reach_the_manifest(
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    load: Callable[..., Any],
) -> None:
    """Of three images, in shards of their own, one is beside the table and one is none."""
    photograph(0, 8, 8).save(tmp_path / "0.png")
    data = (tmp_path / "0.png").read_bytes()
    images = [{"bytes": data, "path": None}, {"bytes": b"", "path": "0.png"}, {"bytes": b"no"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    days = pa.array([19_000, 10_000_000, None], pa.int32()).view(pa.date32())
    times = pa.array([0, 2**62, None], pa.int64()).view(pa.timestamp("us", "Mars/Base"))
    pairs = pa.array([[("a", 1), ("a", 2)], [], None], pa.map_(pa.string(), pa.int64()))
    table = {"image": pa.array(images, kind), "day": days, "time": times, "pairs": pairs}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    output = tmp_path / "out"

    upscale(tmp_path / "in.parquet", output, tiny_weights, layout="parquet", shard_rows=1)
    before = tree(output)
    upscale(tmp_path / "in.parquet", output, tiny_weights, layout="parquet", shard_rows=1)

    assert tree(output) == before
    assert list(verify(str(output))) == []
    found = [row for _, row in DatasetFolder(str(output)).committed_rows()]
    assert [row.error_code for row in found] == [None, None, "not_an_image"]
    assert [row.source_uri for row in found[:2]] == [
        *(f"{tmp_path}/in.parquet", f"{tmp_path}/0.png"),
    ]
    assert [row.input["day"] for row in found] == [dt.date(2022, 1, 8), "+29349-01-26", None]
    assert found[0].input["time"] == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert found[1].input["time"] == "+148108-07-06T14:00:27.387904Z"
    assert found[0].input["pairs"] == [["a", 1], ["a", 2]]
    assert len(load(str(output))) == 2
