import json
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout, shard_name
from beam_upscale.dataset.manifest import table
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record, Telemetry, record_from_json

TELEMETRY = Telemetry(
    device_seconds=0.1 + 0.2,
    queue_seconds=1e-9,
    attempts=1,
    batch_size=3,
    worker="host:1",
    started_at=1_700_000_000.123456,
)


def row(input_id: str, **values: object) -> Row:
    return Row(input_id, input_id, Status.UPSCALED, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("telemetry", [TELEMETRY, None])
def test_a_record_survives_json_exactly(telemetry: Telemetry | None) -> None:
    record = Record(
        row(
            "line\nbreak é",
            credits=Decimal("0.2"),
            notes=("one", "two"),
            input={"label": [1, None]},
        ),
        telemetry,
    )

    assert record_from_json(record.to_json()) == record


def test_places(tmp_path: Path) -> None:
    dataset = DatasetFolder("gs://bucket/out")

    assert shard_name(12) == "000012"
    assert dataset.manifest_uri(12) == "gs://bucket/out/manifest/000012.parquet"
    assert dataset.data_uri(0, Layout.PARQUET) == "gs://bucket/out/data/000000.parquet"
    assert dataset.data_uri(0, Layout.WEBDATASET) == "gs://bucket/out/data/000000.tar"
    assert dataset.resolve("images/a.png") == "gs://bucket/out/images/a.png"
    for place in (dataset.stop_file, dataset.progress, dataset.partial, dataset.assignment_json):
        assert place.startswith("gs://bucket/out/.staging/")


def test_every_input_has_a_place_of_its_own() -> None:
    dataset = DatasetFolder("out")
    ids = ["a", "A", "a/b", "line\nbreak", "../../x"]

    places = {dataset.record_uri(id_) for id_ in ids} | {dataset.waiting_image_uri(i) for i in ids}

    assert len(places) == 10
    assert all(place.startswith("out/.staging/") and ".." not in place for place in places)


def test_persisted_records_are_found_again(tmp_path: Path) -> None:
    dataset = DatasetFolder(str(tmp_path))
    one, other = Record(row("one"), TELEMETRY), Record(row("other"), None)
    for record in (one, other):
        dataset.write(dataset.record_uri(record.row.input_id), record.to_json())

    assert dataset.read_record("one") == one
    assert dataset.read_record("third") is None
    assert sorted(dataset.read_records(), key=lambda each: each.row.input_id) == [one, other]


def test_committed_shards_are_those_with_a_manifest(tmp_path: Path) -> None:
    dataset = DatasetFolder(str(tmp_path))
    (tmp_path / "manifest").mkdir()
    for shard, ids in ((10, ["c"]), (2, ["b", "a"])):
        pq.write_table(table.table(row(id_) for id_ in ids), dataset.manifest_uri(shard))
    (tmp_path / "manifest" / "notes.txt").touch()
    (tmp_path / "manifest" / "mine.parquet").touch()

    assert dataset.committed_shards() == [2, 10]
    assert [(shard, row.input_id) for shard, row in dataset.committed_rows()] == [
        (2, "a"),
        (2, "b"),
        (10, "c"),
    ]


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    dataset = DatasetFolder(str(tmp_path / "none"))

    assert dataset.committed_shards() == []
    assert list(dataset.read_records()) == []
    assert dataset.read_run() is None
    assert dataset.read_assignment() is None


def test_equal_values_give_equal_json(tmp_path: Path) -> None:
    dataset = DatasetFolder(str(tmp_path))

    dataset.write_json(dataset.run_json, {"b": Decimal("0.20"), "a": [1]})

    assert (tmp_path / "run.json").read_text() == '{\n  "a": [\n    1\n  ],\n  "b": "0.20"\n}\n'
    assert json.loads((tmp_path / "run.json").read_text()) == {"a": [1], "b": "0.20"}
    with pytest.raises(TypeError, match="set cannot be written as JSON"):
        dataset.write_json(dataset.run_json, {"a": set()})
    assert json.loads((tmp_path / "run.json").read_text()) == {"a": [1], "b": "0.20"}


@pytest.mark.parametrize("text", ["{}", '{"format": "another"}', "[]", "not JSON", ""])
def test_a_run_json_that_no_run_wrote_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)

    assert DatasetFolder(str(tmp_path)).read_run() is None
