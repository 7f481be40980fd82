import csv
import datetime as dt
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_filesystem import MemoryFileSystem

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.parameters import MAX_NOISE_LEVEL, MAX_SEED, MAX_STEPS, Parameters
from beam_upscale.sources.parsing.metadata_files import (
    Columns,
    is_metadata_name,
    nearest,
    read_metadata,
)

Rows = Sequence[Mapping[str, Any]]


def column_names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def json_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def comma_separated(rows: Rows) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, column_names(rows))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Rows | pa.Table) -> bytes:
    if not isinstance(rows, pa.Table):
        rows = pa.table({name: [row.get(name) for row in rows] for name in column_names(rows)})
    file = io.BytesIO()
    pq.write_table(rows, file)
    return file.getvalue()


def read(folder: Path, name: str, data: bytes | str) -> dict[str, Columns]:
    """What a metadata file says, by path relative to its folder."""
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    found = read_metadata(str(path))
    return {uri.removeprefix(f"{folder}/"): columns for uri, columns in found.items()}


def refusal(folder: Path, name: str, data: bytes | str) -> str:
    """Why a metadata file is refused, without its path, which every message begins with."""
    with pytest.raises(SettingsError) as refused:
        read(folder, name, data)
    assert refused.value.code is ErrorCode.INVALID_METADATA
    assert str(folder / name) in refused.value.message
    return refused.value.message.removeprefix(f"{folder / name}")


@pytest.mark.parametrize("name", ["metadata.csv", "a/metadata.jsonl", "/in/metadata.parquet"])
def test_metadata_is_known_by_its_name(name: str) -> None:
    assert is_metadata_name(name)


@pytest.mark.parametrize("name", ["metadata.json", "my-metadata.csv", "Metadata.csv", "metadata"])
def test_no_other_file_is_metadata(name: str) -> None:
    assert not is_metadata_name(name)


# What is read


def test_json_values_are_kept_as_they_are(tmp_path: Path) -> None:
    first: dict[str, Any] = {
        "prompt": "a cat",
        "seed": 7,
        "tags": ["x", 1.5],
        "box": {"w": None},
        "good": True,
    }
    rows = [{"file_name": "a.png", **first}, {"file_name": "sub/b.png", "label": None}]

    assert read(tmp_path, "metadata.jsonl", json_lines(rows)) == {
        "a.png": first,
        "sub/b.png": {"label": None},
    }


def test_csv_cells_are_text_and_empty_ones_are_no_value(tmp_path: Path) -> None:
    text = 'file_name,seed,text\na.png,007,"say ""hi"",\nworld"\n\nb.png,,\nc.png,1\n'

    assert read(tmp_path, "metadata.csv", text) == {
        "a.png": {"seed": "007", "text": 'say "hi",\nworld'},
        "b.png": {"seed": None, "text": None},
        "c.png": {"seed": "1", "text": None},
    }


def test_an_index_that_pandas_wrote_gets_the_name_that_it_gives_it(tmp_path: Path) -> None:
    assert read(tmp_path, "metadata.csv", ",file_name\n0,a.png\n") == {"a.png": {"Unnamed: 0": "0"}}


def test_parquet_values_are_pythons(tmp_path: Path) -> None:
    taken = dt.datetime(2024, 5, 17, 12, 0, 0, 5, dt.UTC)
    values = {"taken": taken, "raw": b"\0\xff", "sizes": [1, 2], "nested": {"a": "b"}, "no": None}

    found = read(tmp_path, "metadata.parquet", parquet([{"file_name": "a.png", **values}]))

    assert found == {"a.png": values}


def test_nanoseconds_are_microseconds_or_text(tmp_path: Path) -> None:
    table = pa.table(
        {
            "file_name": ["a.png"],
            "at": pa.array([1_700_000_000_000_001_999], pa.timestamp("ns", "UTC")),
            "took": pa.array([2_999], pa.duration("ns")),
            "time": pa.array([3_999], pa.time64("ns")),
            "even": pa.array([1_700_000_000_000_001_000], pa.timestamp("ns", "UTC")),
        }
    )

    (columns,) = read(tmp_path, "metadata.parquet", parquet(table)).values()

    assert columns == {
        "at": "2023-11-14T22:13:20.000001999Z",
        "took": "2999 ns",
        "time": "00:00:00.000003999",
        "even": dt.datetime(2023, 11, 14, 22, 13, 20, 1, dt.UTC),
    }
    assert type(columns["even"]) is dt.datetime


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_byte_order_mark_and_other_line_ends_are_taken(tmp_path: Path, name: str) -> None:
    rows = [{"file_name": "ä.png", "prompt": "né\u2028e"}, {"file_name": "b.png", "prompt": "x"}]
    data = json_lines(rows) if name == "metadata.jsonl" else comma_separated(rows)
    data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")

    found = read(tmp_path, name, b"\xef\xbb\xbf" + data)

    assert found == {"ä.png": {"prompt": "né\u2028e"}, "b.png": {"prompt": "x"}}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_long_cells_are_read_whole(tmp_path: Path, name: str) -> None:
    rows = [{"file_name": "a.png", "text": "z" * 300_000}]
    data = json_lines(rows) if name == "metadata.jsonl" else comma_separated(rows)
    (tmp_path / name).write_bytes(data)

    assert read_metadata(str(tmp_path / name)) == {f"{tmp_path}/a.png": {"text": "z" * 300_000}}


def test_empty_json_lines_are_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, "metadata.jsonl", '\n{"file_name": "a"}\n  \n\n') == {"a": {}}
    assert read(tmp_path, "metadata.jsonl", "") == {}


@pytest.mark.parametrize(
    "name", ["./sub/a.png", "sub//a.png", "sub/x/../a.png", "sub\\a.png", "sub/a.png"]
)
def test_a_path_may_be_written_in_several_ways(tmp_path: Path, name: str) -> None:
    assert list(read(tmp_path, "metadata.jsonl", json_lines([{"file_name": name}]))) == [
        "sub/a.png"
    ]


def test_metadata_is_read_from_any_file_system() -> None:
    MemoryFileSystem.files.clear()
    MemoryFileSystem.files["mem://b/in/metadata.jsonl"] = json_lines([{"file_name": "x/a.png"}])

    assert read_metadata("mem://b/in/metadata.jsonl") == {"mem://b/in/x/a.png": {}}


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "prompt": texts,
        "negative_prompt": texts,
        "cfg_scale": st.floats(0, 1e6) | st.integers(0, 100),
        "steps": st.integers(1, MAX_STEPS),
        "seed": st.integers(0, MAX_SEED),
        "noise_level": st.integers(0, MAX_NOISE_LEVEL),
    },
)


@given(st.lists(parameters, min_size=1, max_size=4))
def test_parameters_are_the_same_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, images: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    rows = [{"file_name": f"{number}.png", **image} for number, image in enumerate(images)]

    of_lines = read(folder, "metadata.jsonl", json_lines(rows))
    of_cells = read(folder, "metadata.csv", comma_separated(rows))
    of_table = read(folder, "metadata.parquet", parquet(rows))

    for number, image in enumerate(images):
        expected = Parameters().overridden(image)
        for found in (of_lines, of_cells, of_table):
            assert Parameters().overridden(found[f"{number}.png"]) == expected


# What is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "b.png",}', "it is not JSON from column 23 on"),
        ("file_name: b.png", "it is not JSON from column 1 on"),
        ('["b.png"]', "is not a JSON object"),
        ('"b.png"', "is not a JSON object"),
        ("null", "null is not a JSON object"),
        ("[" * 100_000, "it is nested more deeply than can be read"),
        ('{"file_name": "b', "it is not JSON from column 15 on"),
        ("[" * 100_000, "nested more deeply"),
        ('{"file_name": "b.png", "x": "\\ud800"}', "not valid Unicode"),
        ('{"image": "b.png"}', "there is no file_name, only image"),
        ("{}", "there is no file_name, only nothing"),
        ('{"file_name": null}', "file_name is None"),
        ('{"file_name": 7}', "file_name is 7"),
        ('{"file_name": ""}', "file_name is ''"),
        ('{"file_name": "/in/b.png"}', "below the folder"),
        ('{"file_name": "../b.png"}', "below the folder"),
        ('{"file_name": "x/../../b.png"}', "below the folder"),
        ('{"file_name": "gs://bucket/b.png"}', "below the folder"),
        ('{"file_name": "x/../a.png"}', "names a.png, which line 1 does too"),
    ],
)
def test_a_json_line_that_is_wrong_is_named(tmp_path: Path, line: str, message: str) -> None:
    refused = refusal(tmp_path, "metadata.jsonl", f'{{"file_name": "a.png"}}\n\n{line}\n')

    assert refused.startswith(", line 3: ")
    assert message in refused


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "line 1", "there is no file_name, only nothing"),
        ("image,text\na.png,x\n", "line 1", "there is no file_name, only image, text"),
        ("file_name,x,x\n", "line 1", "two columns are called x"),
        ("file_name\na.png\n,\n", "line 3", "2 cells where the first line has 1"),
        ('file_name,x\na.png,"1\n2"\nb.png,3,4\n', "line 4", "3 cells where the first line has 2"),
        ('file_name,x\n\na.png,"b"c\n', "line 3", "comma-separated"),
        ('file_name,x\na.png,"open\n', "line 2", "comma-separated"),
        ("file_name,x\n,1\n", "line 2", "file_name is None"),
        ("file_name\na.png\nb.png\na.png\n", "line 4", "names a.png, which line 2 does too"),
    ],
)
def test_a_csv_line_that_is_wrong_is_named(
    tmp_path: Path, text: str, place: str, message: str
) -> None:
    refused = refusal(tmp_path, "metadata.csv", text)

    assert refused.startswith(f", {place}: ")
    assert message in refused


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_text_that_is_not_utf8_is_refused(tmp_path: Path, name: str) -> None:
    rows = [{"file_name": "a.png", "x": "a"}, {"file_name": "b.png", "x": "é"}]
    data = json_lines(rows) if name == "metadata.jsonl" else comma_separated(rows)

    refused = refusal(tmp_path, name, data.decode().encode("latin-1"))

    line = 2 if name == "metadata.jsonl" else 3
    assert refused == f", line {line}: byte 0xe9 is not UTF-8; save it as UTF-8"


def test_parquet_that_is_wrong_is_refused(tmp_path: Path) -> None:
    whole = parquet([{"file_name": "a.png"}])

    assert "is not a Parquet file" in refusal(tmp_path, "metadata.parquet", b"PAR1 no")
    assert "is not a Parquet file" in refusal(tmp_path, "metadata.parquet", whole[:-20])
    assert ", schema: there is no file_name, only image" in refusal(
        tmp_path, "metadata.parquet", parquet([{"image": "a.png"}])
    )
    assert ", row 2: file_name is None" in refusal(
        tmp_path, "metadata.parquet", parquet([{"file_name": "a.png"}, {"file_name": None}])
    )
    assert ", row 2: names a.png, which row 1 does too" in refusal(
        tmp_path, "metadata.parquet", parquet([{"file_name": "a.png"}] * 2)
    )


def test_what_is_wrong_is_told_shortly_and_on_one_line(tmp_path: Path) -> None:
    whole = parquet([{"file_name": "a.png"}])
    length = int.from_bytes(whole[-8:-4], "little")
    damaged = whole[: -8 - length] + b"\xff" * length + whole[-8:]
    image = parquet([{"file_name": bytes(100_000)}])

    assert "\n" not in refusal(tmp_path, "metadata.parquet", damaged)
    assert len(refusal(tmp_path, "metadata.parquet", image)) < 200


def test_metadata_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").symlink_to("gone.csv")

    with pytest.raises(SettingsError) as refused:
        read_metadata(str(tmp_path / "metadata.csv"))

    assert refused.value.code is ErrorCode.INVALID_METADATA
    assert "metadata.csv does not exist" in refused.value.message


# Which row counts


def test_the_row_of_the_deepest_folder_counts() -> None:
    files: dict[str, dict[str, Columns]] = {
        "/in/a/b/metadata.csv": {"/in/a/b/3.png": {"x": "b"}},
        "/in/metadata.jsonl": {
            "/in/1.png": {"x": 0},
            "/in/a/2.png": {"x": 0, "y": 0},
            "/in/a/b/3.png": {"x": 0},
        },
        "/in/a/metadata.jsonl": {"/in/a/2.png": {"x": 1}, "/in/a/b/3.png": {"x": 1}},
    }

    assert nearest(files) == {
        "/in/1.png": {"x": 0},
        "/in/a/2.png": {"x": 1},
        "/in/a/b/3.png": {"x": "b"},
    }


def test_two_files_in_a_folder_do_not_name_one_image() -> None:
    files: dict[str, dict[str, Columns]] = {
        "/metadata.csv": {"/a.png": {}, "/b.png": {}},
        "/metadata.jsonl": {"/c.png": {}, "/b.png": {}},
    }

    with pytest.raises(SettingsError) as refused:
        nearest(files)

    assert refused.value.code is ErrorCode.INVALID_METADATA
    assert "/metadata.csv and /metadata.jsonl both name /b.png" in refused.value.message
    del files["/metadata.jsonl"]["/b.png"]
    assert nearest(files) == {"/a.png": {}, "/b.png": {}, "/c.png": {}}
