"""Rows of earlier runs: which still hold, and what is taken over from them."""

import dataclasses
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from earlier_runs import REQUESTED, commit, make, put_aside, refused, upscaled
from hypothesis import given
from hypothesis import strategies as st
from input_states import earlier_record, known

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest import table
from beam_upscale.dataset.manifest.own_columns import infer_input_type
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record, record_from_json
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import ErrorCode
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.pipeline.budget import claim, spent
from beam_upscale.pipeline.read import FindDone, FindEarlier, ReadBatch, write_down
from beam_upscale.pipeline.run_state.input_state import Allowance, state_of
from beam_upscale.pipeline.run_state.resume import (
    RequestedParameters,
    relabeled,
    requested_parameters,
    still_holds,
)
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import get_engine
from beam_upscale.sources.inputs.found_inputs import Inputs
from beam_upscale.sources.inputs.source_image import SourceImage, source_image
from beam_upscale.storage import files
from beam_upscale.storage.local.local_disk import LocalDisk

RULES = Rules((get_engine("esrgan-v1-x2plus"),))


@pytest.fixture
def picture(inputs: Path) -> SourceImage:
    make(inputs, "a.png")
    return source_image(f"{inputs}/a.png", "a.png")


def find(
    image: SourceImage, dataset: DatasetFolder, retry: frozenset[Status] = frozenset()
) -> SourceImage:
    (found,) = FindEarlier(dataset, retry).process(image)
    return found


def is_committed(image: SourceImage) -> bool:
    earlier = state_of(image).earlier
    return earlier is not None and earlier.is_committed


def with_committed(image: SourceImage, row: Row, dataset: DatasetFolder) -> SourceImage:
    commit(dataset, 0, [row])
    (image,) = listed([image], dataset)
    return image


def listed(images: Iterable[SourceImage], dataset: DatasetFolder) -> Iterator[SourceImage]:
    """Inputs as workers find them in the listing."""
    reader = ReadBatch(dataset)
    for batch in list(write_down(Inputs(images), dataset, 10)):
        yield from reader.process(batch)


def test_there_is_work_to_do_for_a_new_input(picture: SourceImage, dataset: DatasetFolder) -> None:
    assert find(picture, dataset) == picture


def test_a_committed_result_holds(picture: SourceImage, dataset: DatasetFolder) -> None:
    image = with_committed(picture, upscaled(picture), dataset)

    assert find(image, dataset) == image
    assert is_committed(image)


def test_a_persisted_result_holds_and_beats_a_committed_one(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    image = with_committed(picture, upscaled(picture, notes=("old",)), dataset)
    persisted = put_aside(dataset, upscaled(picture, notes=("new",)))

    found = find(image, dataset)

    assert earlier_record(found) == persisted
    assert not is_committed(found)


@pytest.mark.parametrize(
    ("made", "stands", "expected"),
    [
        pytest.param({"credits": Decimal("0.2")}, {}, "0.2", id="as it was made"),
        pytest.param(
            {"billed_credits": Decimal("0.2"), "request_ids": ("since",)},
            {"billed_credits": Decimal("0.4"), "request_ids": ("before", "since")},
            "0.4",
            id="with what was billed before",
        ),
    ],
)
def test_a_record_of_what_is_committed_is_that_result(
    picture: SourceImage,
    dataset: DatasetFolder,
    made: dict[str, Any],
    stands: dict[str, Any],
    expected: str,
) -> None:
    row = upscaled(picture, **made)
    image = with_committed(picture, dataclasses.replace(row, **stands), dataset)
    # A run that is stopped leaves the records of shards that it has committed.
    put_aside(dataset, row)

    found = find(image, dataset)

    assert is_committed(found)
    # Its price stands in the shard, and is not to be counted twice.
    assert claim(found, RULES, shared_pool()).credits == 0
    assert spent(dataset.root, None) == Decimal(expected)


def test_columns_that_were_persisted_since_are_told_from_those_that_were_committed(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    (image,) = listed([with_columns(picture, label="then")], dataset)
    row = upscaled(image, input=as_stored(image.columns))
    image = with_committed(image, row, dataset)
    # A run with other labels is stopped before it commits, and the labels are taken back.
    put_aside(dataset, dataclasses.replace(row, input={"label": "between"}))

    found = find(image, dataset)

    earlier = state_of(found).earlier
    assert earlier is not None and earlier.record.row == row
    assert earlier.is_committed and earlier.has_other_record
    assert claim(found, RULES, shared_pool()).credits == 0


def test_what_was_done_behind_a_budget_is_found(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    (image,) = listed([picture], dataset)
    behind = FindDone(dataset, frozenset())
    beyond = known(image, allowance=Allowance(Decimal(0), is_within_budget=False))
    assert list(behind.process(image)) == [image]

    # A worker is lost after this, and what it was given is given again.
    persisted = put_aside(dataset, upscaled(image))

    assert [earlier_record(found) for found in behind.process(image)] == [persisted]
    assert list(behind.process(beyond)) == [beyond]
    row = dataclasses.replace(upscaled(image, output_uri=None), status=Status.FAILED)
    failed = put_aside(dataset, row)
    assert [earlier_record(found) for found in behind.process(image)] == [failed]
    (again,) = FindDone(dataset, frozenset({Status.FAILED})).process(image)
    assert earlier_record(again) is None


def test_statuses_to_retry_are_done_again(picture: SourceImage, dataset: DatasetFolder) -> None:
    failed = Row(
        picture.input_id,
        picture.source_uri,
        Status.FAILED,
        source_sha256=picture.sha256(),
        error_code=ErrorCode.TRUNCATED,
    )
    image = with_committed(picture, failed, dataset)

    assert earlier_record(find(image, dataset)) == Record(failed, None)
    kept = find(image, dataset, frozenset({Status.OVER_BUDGET}))
    assert earlier_record(kept) == Record(failed, None)
    again = find(image, dataset, frozenset({Status.FAILED}))
    assert (state_of(again).earlier, again.shard) == (None, 0)


def test_changed_content_is_done_again(picture: SourceImage, dataset: DatasetFolder) -> None:
    image = with_committed(picture, upscaled(picture), dataset)
    files.write(picture.uri or "", b"other bytes")

    found = find(image, dataset)

    assert state_of(found).earlier is None


@pytest.mark.parametrize("left", [None, b"cut"])
def test_a_result_that_is_gone_or_cut_is_made_again(
    picture: SourceImage, dataset: DatasetFolder, left: bytes | None
) -> None:
    image = with_committed(picture, upscaled(picture), dataset)
    files.delete(dataset.resolve("images/a.png"))
    if left is not None:
        files.write(dataset.resolve("images/a.png"), left)

    assert earlier_record(find(image, dataset)) is None


@pytest.mark.parametrize("error_code", ["internal_error", "needs_fan_out"])
def test_what_failed_for_no_fault_of_the_input_is_looked_at_anew(
    error_code: str, picture: SourceImage, dataset: DatasetFolder
) -> None:
    row = dataclasses.replace(
        upscaled(picture, output_uri=None), status=Status.FAILED, error_code="corrupt"
    )
    ours = dataclasses.replace(row, error_code=error_code)

    assert still_holds(picture, row, dataset)
    assert not still_holds(picture, ours, dataset)


def test_a_result_in_parquet_holds_where_its_shard_or_its_waiting_image_is(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    row = upscaled(picture, output_uri="data/000000.parquet")

    assert not still_holds(picture, row, dataset)
    files.write(dataset.waiting_image_uri(picture.input_id), b"done")
    assert still_holds(picture, row, dataset)
    files.delete(dataset.staging)
    files.write(dataset.resolve("data/000000.parquet"), b"shard")
    assert still_holds(picture, row, dataset)


def test_an_input_that_cannot_be_read_holds_while_it_fails_alike(
    inputs: Path, dataset: DatasetFolder
) -> None:
    image = source_image(f"{inputs}/gone.png")
    not_found = Row(image.input_id, "", Status.FAILED, error_code=ErrorCode.NOT_FOUND)
    denied = Row(image.input_id, "", Status.FAILED, error_code=ErrorCode.PERMISSION_DENIED)

    assert still_holds(image, not_found, dataset)
    assert not still_holds(image, denied, dataset)
    make(inputs, "gone.png")
    assert not still_holds(image, not_found, dataset)


def test_a_file_that_was_too_large_is_not_read_again(
    picture: SourceImage, dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(picture.input_id, "", Status.REJECTED, error_code=ErrorCode.FILE_TOO_LARGE)
    opened: list[str] = []
    monkeypatch.setattr(LocalDisk, "open_read", lambda _, uri: opened.append(uri))

    assert not still_holds(picture, row, dataset)
    assert opened == []


def with_columns(image: SourceImage, **values: Any) -> SourceImage:
    return dataclasses.replace(image, columns={**image.columns, **values})


def guided(image: SourceImage, **values: Any) -> Row:
    """The row of an input that was done with parameters; a seed that none asked for is 999."""
    found = dataclasses.asdict(image.parameters(REQUESTED.parameters))
    seed = found.pop("seed") or 999
    columns = as_stored(image.columns)
    return upscaled(image, **{**found, "seed": seed, "input": columns, **values})


def as_stored(columns: Mapping[str, Any], *others: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a manifest gives back of columns, in a shard with other rows."""
    rows = [
        Row(str(number), "", Status.SKIPPED, input=each)
        for number, each in enumerate([columns, *others])
    ]
    file = io.BytesIO()
    pq.write_table(table.table(rows), file)
    return table.rows_of(pq.read_table(file))[0].input


def holds(image: SourceImage, row: Row, dataset: DatasetFolder) -> bool:
    if row.output_uri is not None:
        dataset.write(dataset.resolve(row.output_uri), b"done")
    return still_holds(image, row, dataset, REQUESTED)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"prompt": "a cat", "steps": "25", "cfg_scale": 7},
        {"seed": 5},
        {"seed": "0", "noise_level": ""},
        {"label": "x"},
    ],
)
def test_a_row_holds_while_the_same_is_asked(
    picture: SourceImage, dataset: DatasetFolder, values: dict[str, Any]
) -> None:
    image = with_columns(picture, **values)

    assert holds(image, guided(image), dataset)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"prompt": "a cat"}),
        ({"prompt": "a cat"}, {}),
        ({"prompt": "a cat"}, {"prompt": ""}),
        ({}, {"negative_prompt": "blur"}),
        ({"cfg_scale": 7}, {"cfg_scale": 7.5}),
        ({"steps": 30}, {"steps": 31}),
        ({}, {"noise_level": 0}),
        ({}, {"seed": 7}),
        ({"seed": 7}, {"seed": 8}),
        ({"seed": 7}, {}),
        ({"seed": "7"}, {"seed": "0"}),
        ({}, {"steps": 51}),
    ],
)
def test_a_row_does_not_hold_when_something_else_is_asked(
    picture: SourceImage, dataset: DatasetFolder, before: dict[str, Any], now: dict[str, Any]
) -> None:
    row = guided(with_columns(picture, **before))

    assert not holds(with_columns(picture, **now), row, dataset)


def test_what_was_asked_does_not_matter_to_engines_without_parameters(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    row = upscaled(picture)
    dataset.write(dataset.resolve("images/a.png"), b"done")

    assert still_holds(
        with_columns(picture, prompt="a cat", steps=51), row, dataset, requested=None
    )


def test_a_caption_that_changes_is_asked_anew(picture: SourceImage, dataset: DatasetFolder) -> None:
    caption = Path(picture.uri or "").with_suffix(".txt")
    caption.write_text("a cat")
    image = dataclasses.replace(picture, caption_uri=str(caption))
    row = guided(image)

    before = holds(image, row, dataset)
    caption.write_text("a cat\n")
    trimmed = holds(image, row, dataset)
    caption.write_text("a dog")

    assert (before, trimmed, holds(image, row, dataset)) == (True, True, False)
    assert not holds(dataclasses.replace(image, caption_uri=None), row, dataset)


def test_a_seed_that_is_asked_for_where_it_was_derived_is_the_same(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    row = guided(picture)

    assert holds(with_columns(picture, seed=999), row, dataset)


@pytest.mark.parametrize("status", [Status.SKIPPED, Status.REJECTED, Status.OVER_BUDGET])
def test_rows_that_parameters_did_not_reach_hold_whatever_is_asked(
    picture: SourceImage, dataset: DatasetFolder, status: Status
) -> None:
    row = upscaled(picture, output_uri=None)
    row = dataclasses.replace(row, status=status, error_code=ErrorCode.INPUT_TOO_LARGE)

    assert holds(with_columns(picture, prompt="new"), row, dataset)
    assert holds(with_columns(picture, steps=51), row, dataset)


@pytest.mark.parametrize("was_read", [False, True])
def test_parameters_that_were_wrong_hold_while_the_same_is_wrong(
    picture: SourceImage, dataset: DatasetFolder, was_read: bool
) -> None:
    row = refused(with_columns(picture, steps=52))
    row = row if was_read else dataclasses.replace(row, source_sha256=None)

    assert holds(with_columns(picture, steps=52), row, dataset)
    assert not holds(with_columns(picture, seed=-1), row, dataset)
    # The row's message would be wrong.
    assert not holds(with_columns(picture, steps=53), row, dataset)
    assert not holds(with_columns(picture, steps=50), row, dataset)


@pytest.mark.parametrize("was_read", [False, True])
def test_a_caption_that_was_gone_holds_until_it_is_back(
    picture: SourceImage, dataset: DatasetFolder, was_read: bool
) -> None:
    caption = Path(picture.uri or "").with_suffix(".txt")
    image = dataclasses.replace(picture, caption_uri=str(caption))
    row = refused(image)
    row = row if was_read else dataclasses.replace(row, source_sha256=None)

    assert holds(image, row, dataset)
    caption.write_text("a cat")
    assert not holds(image, row, dataset)


def test_an_image_that_is_gone_holds_with_and_without_its_parameters(
    inputs: Path, dataset: DatasetFolder
) -> None:
    image = source_image(f"{inputs}/gone.png")
    without = Row(image.input_id, "", Status.FAILED, error_code=ErrorCode.NOT_FOUND)
    row = dataclasses.replace(without, **{**dataclasses.asdict(REQUESTED.parameters), "seed": None})

    assert holds(image, without, dataset)
    assert holds(image, row, dataset)
    assert not holds(with_columns(image, prompt="new"), row, dataset)
    make(inputs, "gone.png")
    assert not holds(image, without, dataset)
    assert not holds(image, row, dataset)


def test_a_seed_among_values_of_other_types_is_told_from_none(
    picture: SourceImage, dataset: DatasetFolder
) -> None:
    none, some = with_columns(picture, seed=""), with_columns(picture, seed=7)
    stored_none = as_stored(none.columns, {"seed": 7})
    stored_some = as_stored(some.columns, {"seed": ""})

    assert (stored_none["seed"], stored_some["seed"]) == ("", 7)
    assert holds(none, guided(none, input=stored_none), dataset)
    assert holds(some, guided(some, input=stored_some), dataset)
    assert not holds(none, guided(some, input=stored_some), dataset)


def test_what_a_run_asked_is_read_from_its_file() -> None:
    parameters = dataclasses.asdict(REQUESTED.parameters)
    settings = {"parameters": parameters, "prompt_column": "text"}

    assert requested_parameters(RunJson(settings)) == RequestedParameters(
        REQUESTED.parameters, "text"
    )
    unguided = {"parameters": None, "prompt_column": None}
    for run_json in (RunJson(unguided), RunJson({}), RunJson(None), None):
        assert requested_parameters(run_json) is None


def test_the_search_for_earlier_rows_asks_what_the_run_does(
    picture: SourceImage, dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"parameters": dataclasses.asdict(REQUESTED.parameters), "prompt_column": "text"}
    dataset.write_run(RunJson(settings))
    image = with_committed(picture, guided(picture), dataset)
    reads = Counter[str]()
    read_run = DatasetFolder.read_run

    def noted(self: DatasetFolder) -> RunJson | None:
        reads[self.root] += 1
        return read_run(self)

    monkeypatch.setattr(DatasetFolder, "read_run", noted)
    search = FindEarlier(dataset, frozenset())
    found = [
        earlier_record(next(search.process(with_columns(image, **values)))) is not None
        for values in ({}, {"prompt": "other"}, {"text": "a cat"})
    ]

    assert found == [True, True, False]
    assert reads == {dataset.root: 1}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text("ab1\u00e4", max_size=3)
    | st.datetimes(),
    lambda nested: (
        st.lists(nested, max_size=2)
        | st.dictionaries(st.sampled_from("xy"), nested, min_size=1, max_size=2)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from("abc"), values, max_size=3))
def test_columns_come_back_from_a_record_the_same(columns: dict[str, Any]) -> None:
    record = Record(Row("1", "", Status.SKIPPED, input=columns), telemetry=None)
    record = record_from_json(record.to_json())

    assert relabeled(record, columns) is record


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ({"x": 1}, {"x": 2.5}),
        ({"x": 1}, {"y": "a"}),
        ({}, {"y": "a"}),
        ({"x": {"a": 1}}, {"x": {"b": 2}}),
        ({"x": [{"a": 1}, {}]}, {"x": [{"b": 0.5}]}),
        ({"x": float("nan")}, {"x": None}),
        ({"x": None}, {}),
        ({"x": [None, ()]}, {"x": [[1]]}),
    ],
)
def test_columns_come_back_from_a_manifest_the_same(
    mine: dict[str, Any], other: dict[str, Any]
) -> None:
    record = Record(Row("1", "", Status.SKIPPED, input=as_stored(mine, other)), telemetry=None)

    assert relabeled(record, mine) is record


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"x": "a"}, {"x": "b"}),
        ({"x": "a"}, {"x": None}),
        ({"x": "a"}, {}),
        ({}, {"x": 0}),
        ({"x": 1}, {"x": True}),
        ({"x": 0}, {"x": False}),
        ({"x": 1}, {"x": "1"}),
        ({"x": [1, 2]}, {"x": [1]}),
        ({"x": {"a": 1}}, {"x": {"a": 1, "b": 2}}),
    ],
)
def test_columns_that_changed_are_taken_over(before: dict[str, Any], now: dict[str, Any]) -> None:
    row = Row("1", "", Status.UPSCALED, prompt="p", input=as_stored(before))

    changed = relabeled(Record(row, telemetry=None), now)

    assert changed == Record(dataclasses.replace(row, input=now), telemetry=None)


@pytest.mark.parametrize(
    ("before", "now", "kind", "is_same"),
    [
        (3.0, 3, pa.float64(), True),
        (3.0, 3, pa.int64(), True),
        ("3", 3, pa.int64(), False),
        (None, 3, pa.int64(), False),
    ],
)
def test_columns_are_compared_as_they_are_to_be_stored(
    before: object, now: object, kind: pa.DataType, is_same: bool
) -> None:
    record = Record(Row("1", "", Status.SKIPPED, input={"x": before}), telemetry=None)

    assert (relabeled(record, {"x": now}, pa.struct([("x", kind)])) is record) is is_same


def test_number_that_becomes_json_text_is_the_one_of_now() -> None:
    as_text = infer_input_type([{"x": 1}, {"x": "a"}])
    record = Record(Row("1", "", Status.SKIPPED, input={"x": 3.0}), telemetry=None)

    assert str(relabeled(record, {"x": 3}, as_text).row.input) == "{'x': 3}"
