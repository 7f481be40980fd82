import dataclasses
import datetime
import hashlib
import pickle
from decimal import Decimal
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import registry
from apache_beam.typehints.schemas import named_fields_from_element_type
from input_states import known

from beam_upscale.dataset.manifest.row import COLUMNS, Row, Status
from beam_upscale.dataset.manifest.totals import Totals
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.beam_rows import (
    input_row,
    input_type,
    passed_fields,
    result_of,
    result_row,
    result_type,
    source_of,
    totals_row,
    totals_type,
)
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.input_state import EarlierResult
from beam_upscale.sources.inputs.source_image import SourceImage, source_image

IMAGE = b"an encoded image"

CAT = source_image(
    "gs://bucket/cats/a.png",
    "cats/a.png",
    columns={"file_name": "cats/a.png", "title": "A cat", "score": 0.5, "price": Decimal("1.10")},
)

ROW = Row(
    input_id=CAT.input_id,
    source_uri=CAT.source_uri,
    status=Status.UPSCALED,
    notes=("upscaled in 2 tiles",),
    engine="esrgan-v1-x2plus",
    input_width=20,
    output_sha256=hashlib.sha256(IMAGE).hexdigest(),
    credits=Decimal("0.4000"),
    stages=({"engine": "esrgan-v1-x2plus", "credits": Decimal("0.2"), "request_ids": ["1", "2"]},),
)


def through_a_coder(row: Any, kind: Any) -> Any:
    """The row as a step finds it that a shuffle, or another language, has come before."""
    coder = registry.get_coder(kind)
    return coder.decode(coder.encode(row))


def result(source: SourceImage = CAT, row: Row | None = ROW, data: bytes | None = IMAGE) -> Any:
    """The row of a result, and its type."""
    known = input_type({})
    carried = source_of(input_row(source, {}), [name for name, _ in passed_fields(known)])
    record = None if row is None else Record(row, None)
    return result_row(UpscaledImage(carried, record, data)), result_type(passed_fields(known))


def without(row: Any, *names: str) -> beam.Row:
    return beam.Row(**{name: value for name, value in row.as_dict().items() if name not in names})


def test_an_input_comes_back_from_its_row() -> None:
    row = through_a_coder(input_row(CAT, {}), input_type({}))

    source = source_of(row, [])

    assert {field.name: getattr(source, field.name) for field in dataclasses.fields(CAT)} == {
        field.name: getattr(CAT, field.name) for field in dataclasses.fields(CAT)
    }


def test_an_inputs_row_can_be_read() -> None:
    row = through_a_coder(input_row(CAT, {"score": "number"}), input_type({"score": "number"}))

    assert (row.input_id, row.name, row.score) == ("gs://bucket/cats/a.png", "cats/a.png", 0.5)
    assert row.columns_json == (
        '{"file_name": "cats/a.png", "title": "A cat", "score": 0.5, "price": {"$decimal": "1.10"}}'
    )


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("string", "text", "text"),
        ("string", 3, "3"),
        ("string", ["a"], '["a"]'),
        ("string", "\ud800", None),
        ("integer", 3, 3),
        ("integer", 3.0, 3),
        ("integer", "3", 3),
        ("integer", 2**62 + 1, 2**62 + 1),
        ("integer", 2**63, None),
        ("integer", 3.5, None),
        ("integer", True, None),
        ("number", 3, 3.0),
        ("number", "0.25", 0.25),
        ("number", "much", None),
        ("number", datetime.date(2026, 1, 1), None),
        ("boolean", False, False),
        ("boolean", "True", True),
        ("boolean", 1, None),
        ("boolean", None, None),
    ],
)
def test_a_column_that_is_a_field_has_its_type_or_none(
    kind: str, value: Any, expected: Any
) -> None:
    source = dataclasses.replace(CAT, columns={"own": value})

    row = through_a_coder(input_row(source, {"own": kind}), input_type({"own": kind}))

    assert row.own == expected
    assert type(row.own) is type(expected)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"score": "float"}, "must be one of string, integer, number, boolean"),
        ({"name": "string"}, "cannot be a field"),
        ({"the score": "number"}, "cannot be a field"),
    ],
)
def test_a_column_that_cannot_be_a_field_is_refused(columns: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        input_type(columns)

    assert refused.value.code is ErrorCode.INVALID_OPTION


def test_a_results_row_has_the_manifests_columns_and_types() -> None:
    fields = dict(named_fields_from_element_type(result_type([])))

    assert list(fields)[: len(COLUMNS)] == COLUMNS.names


def test_a_result_comes_back_from_its_row() -> None:
    row = through_a_coder(*result())

    found = result_of(row)

    assert found.record == Record(ROW, None)
    assert found.data == IMAGE
    assert found.source.columns == CAT.columns


def test_a_results_row_can_be_read() -> None:
    row = through_a_coder(*result())

    assert (row.status, row.credits, row.input_width) == ("upscaled", Decimal("0.4"), 20)
    assert (row.error_code, list(row.notes)) == (None, ["upscaled in 2 tiles"])
    assert (row.stages[0].engine, list(row.stages[0].request_ids)) == (
        "esrgan-v1-x2plus",
        ["1", "2"],
    )
    assert (row.name, row.image) == ("cats/a.png", IMAGE)


def test_a_result_that_a_stop_left_undone_has_no_status() -> None:
    row = through_a_coder(*result(row=None, data=None))

    assert (row.input_id, row.status, row.notes) == (CAT.input_id, None, [])
    assert result_of(row).record is None


def test_a_result_of_an_earlier_run_has_no_image() -> None:
    earlier = known(CAT, earlier=EarlierResult(Record(ROW, None)))

    row = through_a_coder(*result(source=earlier, data=None))

    assert result_of(row).data is None


def test_fields_of_the_inputs_row_reach_the_results_but_for_names_of_the_manifest() -> None:
    known = input_type({"score": "number", "prompt": "string"})

    assert [name for name, _ in passed_fields(known)] == ["name", "columns_json", "score"]
    assert passed_fields(Any) == []


@pytest.mark.parametrize("carried", [None, b"", b"no pickle", pickle.dumps("no input")])
def test_a_row_that_carries_no_input_is_refused(carried: bytes | None) -> None:
    with pytest.raises(SettingsError, match="field source") as refused:
        source_of(beam.Row(name="a.png", source=carried), [])

    assert refused.value.code is ErrorCode.INVALID_FIELD


def test_a_row_without_what_carries_the_result_is_refused() -> None:
    row, _ = result()

    with pytest.raises(SettingsError, match="field result is missing"):
        result_of(without(row, "result"))


@pytest.mark.parametrize("image", [None, b"another image"])
def test_a_row_without_the_results_own_image_is_refused(image: bytes | None) -> None:
    row, _ = result()

    with pytest.raises(SettingsError, match="hand the field image on") as refused:
        result_of(beam.Row(**{**row.as_dict(), "image": image}))

    assert refused.value.code is ErrorCode.INVALID_FIELD


def test_totals_have_a_number_for_each_status() -> None:
    totals = Totals(5, {"upscaled": 4, "failed": 1}, 4, Decimal("0.8"), Decimal(0), Decimal(0), 99)

    row = through_a_coder(totals_row(totals), totals_type())

    assert (row.rows, row.upscaled, row.failed, row.skipped) == (5, 4, 1, 0)
    assert (row.credits, row.output_bytes) == (Decimal("0.8"), 99)
