"""Reports of an `Upscale` on inputs that it left to a later run."""

import dataclasses

import apache_beam as beam
import pytest
from persisted_results import result

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.commit.postponed import (
    POSTPONED,
    Postponed,
    ReportPostponed,
    TakePostponed,
    reports_beside,
)
from beam_upscale.pipeline.run_state.stop import clear_stop, stop_reason

STOP = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")


def test_a_result_with_a_row_is_passed_on_without_a_report() -> None:
    upscaled = result("a", b"image")

    assert list(ReportPostponed().process(upscaled)) == [upscaled]


@pytest.mark.parametrize("stop", [None, STOP])
def test_a_result_without_a_row_is_reported_and_passed_on(stop: SettingsError | None) -> None:
    postponed = dataclasses.replace(result("a", None, shard=3), record=None, stop=stop)

    report, passed = ReportPostponed().process(postponed)

    assert passed is postponed
    assert (report.tag, report.value) == (POSTPONED, Postponed(3, stop))


@pytest.mark.parametrize("stop", [None, STOP])
def test_a_report_keeps_its_shard_open_and_stops_the_run_if_it_must(
    dataset: DatasetFolder, stop: SettingsError | None
) -> None:
    assert list(TakePostponed(dataset).process(Postponed(3, stop))) == [(3, None)]

    assert stop_reason(dataset) == (None if stop is None else str(stop))
    clear_stop(dataset)


def test_reports_are_found_beside_results() -> None:
    pipeline = beam.Pipeline()
    step = beam.ParDo(ReportPostponed()).with_outputs(POSTPONED, main="results")
    others = pipeline | beam.Create([])
    results, reports = others | step

    assert reports_beside(results) is reports
    assert reports_beside(others) is None
