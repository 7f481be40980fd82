"""The texts in `run_json` are those of the last code without a version in the file."""

import dataclasses
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from goldens import golden

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.totals import Totals
from beam_upscale.dataset.run_json import VERSION, CommittedShard, RunJson, given_values
from beam_upscale.errors import ErrorCode, SettingsError

GOLDENS = Path(__file__).with_name("run_json")

BEGUN = RunJson(
    settings={
        "plan": {"oversize": "reject"},
        "encode": {"format": "png", "metadata": "strip"},
        "stages": [{"engine": "e", "model": {"max_tile_pixels": 5, "network_backend": "openvino"}}],
    },
    endpoint=None,
    layout="parquet",
    shard_rows=10,
    max_credits="12.50",
    versions={"python": "3.12.1", "machine": "x86_64"},
    books=1,
    earlier_oversize="tile",
    others={"owner": {"team": ["a", 1]}},
)
STOPPED = dataclasses.replace(
    BEGUN,
    totals=Totals(
        rows=3,
        by_status={"upscaled": 2, "failed": 1},
        calls=4,
        credits=Decimal("0.8000"),
        billed_credits=Decimal("0.4"),
        usd=Decimal("0.008000"),
        output_bytes=12345,
        charged_credits=Decimal("1.2"),
        unresolved_credits=Decimal("0.2"),
        unresolved_calls=1,
    ),
)
COMPLETE = dataclasses.replace(
    STOPPED,
    complete=True,
    shards=(
        CommittedShard("000000", 2, "0a" * 32, "0b" * 32),
        CommittedShard("000001", 1, "1a" * 32, "1b" * 32),
    ),
    card_sha256="cd" * 32,
)

EVERY_FILE = pytest.mark.parametrize(
    ("name", "run_json"), [("begun", BEGUN), ("stopped", STOPPED), ("complete", COMPLETE)]
)


@EVERY_FILE
def test_the_whole_file_is_written_as_before_but_for_the_version(
    name: str, run_json: RunJson, tmp_path: Path
) -> None:
    DatasetFolder(str(tmp_path)).write_run(run_json)

    with_version = golden(GOLDENS, name).replace(
        '\n  "versions"', '\n  "version": 2,\n  "versions"'
    )
    assert (tmp_path / "run.json").read_text() == with_version


@EVERY_FILE
def test_the_whole_file_is_read(name: str, run_json: RunJson, tmp_path: Path) -> None:
    dataset = DatasetFolder(str(tmp_path))

    assert RunJson.from_json(json.loads(golden(GOLDENS, name))) == run_json
    dataset.write_run(run_json)
    assert dataset.read_run() == run_json


def test_every_value_goes_through_the_file() -> None:
    run_json = dataclasses.replace(COMPLETE, endpoint="here:1")
    usual = RunJson()

    assert all(
        getattr(run_json, field.name) != getattr(usual, field.name)
        for field in dataclasses.fields(RunJson)
    )
    assert RunJson.from_json(run_json.to_json()) == run_json


def test_a_shard_whose_images_are_files_has_no_file_of_them() -> None:
    run_json = dataclasses.replace(COMPLETE, shards=(CommittedShard("000000", 2, "0a" * 32),))

    (shard,) = run_json.to_json()["shards"]

    assert shard == {"name": "000000", "rows": 2, "manifest_sha256": "0a" * 32}
    assert RunJson.from_json(run_json.to_json()) == run_json


def test_the_start_of_a_run_is_what_was_known_before_its_end() -> None:
    assert COMPLETE.at_start() == STOPPED.at_start() == BEGUN
    assert BEGUN.at_start() == BEGUN


def test_values_are_compared_as_they_are_read_back() -> None:
    run_json = RunJson(others={"mine": (Decimal("1.50"), 2)})

    assert run_json.as_read() == RunJson(others={"mine": ["1.50", 2]})


# Files of earlier versions


@pytest.mark.parametrize("values", [{}, {"settings": None}, {"settings": {"engine": "mine"}}])
def test_a_file_made_by_hand_is_read(values: dict[str, Any]) -> None:
    assert RunJson.from_json(values) == RunJson(settings=values.get("settings"))


def test_choices_that_no_run_recorded_are_those_of_the_time() -> None:
    values = json.loads(golden(GOLDENS, "complete"))
    del values["settings"]["encode"]["metadata"]
    del values["settings"]["stages"][0]["model"]["network_backend"]
    values["settings"]["stages"].append({"engine": "of a service", "model": {"engine": "it"}})

    settings = RunJson.from_json(values).settings

    assert settings is not None
    assert settings["encode"] == {"format": "png", "metadata": "keep"}
    assert settings["stages"] == [
        {"engine": "e", "model": {"max_tile_pixels": 5, "network_backend": "torch"}},
        {"engine": "of a service", "model": {"engine": "it"}},
    ]


def test_sums_of_books_that_were_not_kept_are_0() -> None:
    values = json.loads(golden(GOLDENS, "stopped"))
    for name in ("charged_credits", "unresolved_credits", "unresolved_calls"):
        del values["totals"][name]

    totals = RunJson.from_json(values).totals

    assert totals is not None
    assert totals.charged_credits == totals.unresolved_credits == totals.unresolved_calls == 0
    assert totals.billed_credits == Decimal("0.4")


def test_a_file_of_a_later_version_is_not_guessed_at(tmp_path: Path) -> None:
    dataset = DatasetFolder(str(tmp_path))
    dataset.write_json(dataset.run_json, {**COMPLETE.to_json(), "version": VERSION + 1})

    with pytest.raises(SettingsError, match="version 3") as caught:
        dataset.read_run()

    assert caught.value.code is ErrorCode.SETTINGS_CHANGED
    assert dataset.has_run()


# Values that a user gives


def test_what_the_end_of_a_run_adds_is_not_given() -> None:
    given = given_values({**COMPLETE.to_json(), "totals": "all"})

    assert RunJson.from_json(given) == BEGUN


def test_given_values_without_a_version_are_of_the_version_before() -> None:
    assert given_values({"owner": 1}) == {"owner": 1, "version": VERSION}
    encode = given_values({"settings": {"encode": {"format": "png"}}})["settings"]["encode"]
    assert encode == {"format": "png", "metadata": "keep"}


def test_a_version_that_is_given_is_left_to_the_caller() -> None:
    assert given_values({"version": 7, "owner": 1}) == {"version": 7, "owner": 1}
