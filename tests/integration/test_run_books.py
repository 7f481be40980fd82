"""What runs and pipelines of one's own leave in the books of their outputs."""

import dataclasses
import json
from decimal import Decimal
from pathlib import Path
from unittest import mock

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from paid_histories import (
    ANSWER,
    ESRGAN,
    LOST,
    NO_KEY,
    Failpoint,
    History,
    Service,
    called,
    picture,
    small_engines,
    through_beam,
)

from beam_upscale.dataset.book_sums import BookSums
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.read import ReadImages
from beam_upscale.pipeline.request import Run
from beam_upscale.pipeline.run import run
from beam_upscale.pipeline.upscale import Upscale
from beam_upscale.pipeline.write import WriteDataset
from beam_upscale.planning import engines
from beam_upscale.sources.inputs.source_image import source_image
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

PRICE = Decimal("0.2")


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Three inputs, and a service that charges once."""
    history = History(tmp_path, Service(charges_once=True))
    for number in range(3):
        picture(history.inputs, f"{number}.png", number)
    return history


def totals(history: History) -> dict[str, object]:
    found = json.loads(Path(history.dataset.run_json).read_text())["totals"]
    names = ("billed_credits", "charged_credits", "unresolved_credits", "unresolved_calls")
    return {name: Decimal(found[name]) for name in names}


def test_run_json_has_what_was_charged_and_what_may_have_been(history: History) -> None:
    history.service.charges_once = False
    history.service.begin([ANSWER, LOST])

    assert history.run(through_beam)

    assert totals(history) == {
        "billed_credits": 3 * PRICE,
        "charged_credits": 3 * PRICE,
        "unresolved_credits": PRICE,
        "unresolved_calls": 1,
    }
    assert history.service.total == 4 * PRICE
    assert list(verify(history.dataset.root)) == []


def test_a_run_that_is_stopped_says_what_was_charged(history: History) -> None:
    history.service.begin([ANSWER, NO_KEY])

    assert history.run(through_beam)

    assert totals(history)["charged_credits"] == history.service.total > 0
    assert totals(history)["unresolved_calls"] == 0


def test_books_that_were_changed_are_noticed(history: History) -> None:
    assert history.run(through_beam)
    for entry in list(files.list_below(uris.join(history.dataset.root, "books"))):
        files.delete(entry.uri)

    (problem,) = verify(history.dataset.root)

    assert problem.path == "books"
    assert "charged_credits sums to 0" in problem.message


def test_rows_of_an_earlier_version_count_against_a_budget(history: History) -> None:
    assert history.run(through_beam)
    as_an_earlier_version_left_it(history)
    for path in history.inputs.iterdir():
        path.unlink()
    for number in range(3):
        picture(history.inputs, f"new-{number}.png", number)

    assert history.run(through_beam, budget=Decimal("0.8"))

    statuses = sorted(row.status for row in history.rows())
    assert statuses == [Status.OVER_BUDGET, Status.OVER_BUDGET, *[Status.UPSCALED] * 4]
    assert totals(history)["charged_credits"] == history.service.total == Decimal("0.8")


def as_an_earlier_version_left_it(history: History) -> None:
    """Takes the books away, and what tells that there are any."""
    files.delete(uris.join(history.dataset.root, "books"))
    path = Path(history.dataset.run_json)
    values = json.loads(path.read_text())
    del values["books"]
    path.write_text(json.dumps(values))


def test_a_pipeline_of_ones_own_enters_rows_of_an_earlier_version(history: History) -> None:
    with_own_pipeline(history, books=history.dataset.root)
    as_an_earlier_version_left_it(history)
    picture(history.inputs, "new.png", 9)
    history.service.charges_once = False

    with_own_pipeline(history, books=history.dataset.root, only="new.png")

    assert totals(history)["billed_credits"] == 4 * PRICE
    assert history.sums() == BookSums(4 * PRICE)


def test_overwriting_begins_new_books_and_says_what_the_old_ones_held(history: History) -> None:
    assert history.run(through_beam)
    notes: list[str] = []

    def overwriting(request: Run, _: object) -> None:
        run(dataclasses.replace(request, overwrite=True), on_note=notes.append)

    history.service.charges_once = False
    assert history.run(overwriting, budget=3 * PRICE)

    (note,) = notes
    assert "0.6000 credits charged and 0 unresolved" in note
    assert history.sums() == BookSums(3 * PRICE)
    assert history.service.total == 6 * PRICE


def overwritten(history: History) -> str:
    """What a run says before it begins an output anew."""
    notes: list[str] = []

    def overwriting(request: Run, _: object) -> None:
        run(dataclasses.replace(request, overwrite=True), on_note=notes.append)

    assert history.run(overwriting)
    (note,) = notes
    return note


def test_damaged_books_forbid_a_run_before_anything_is_begun(history: History) -> None:
    assert history.run(through_beam)
    damaged = Path(history.dataset.root, "books/closed/damaged.parquet")
    damaged.write_bytes(b"")
    before = Path(history.dataset.run_json).read_bytes()
    spent = history.service.total

    def refused(request: Run, _: object) -> None:
        with pytest.raises(SettingsError, match=r"damaged\.parquet is damaged") as raised:
            run(request)
        assert raised.value.code is ErrorCode.BOOKS_DAMAGED

    history.run(refused)

    assert history.service.total == spent
    assert Path(history.dataset.run_json).read_bytes() == before
    assert "the old books could not be read: " in overwritten(history)
    assert not damaged.exists()


def test_overwriting_says_what_rows_without_books_were_billed(history: History) -> None:
    assert history.run(through_beam)
    as_an_earlier_version_left_it(history)

    assert "0.6000 credits were billed" in overwritten(history)


@pytest.mark.parametrize("budget", [None, 3 * PRICE])
def test_a_later_run_finds_out_whether_a_lost_call_was_charged(
    history: History, budget: Decimal | None
) -> None:
    history.options = {"retry_seconds": 0.001}
    history.service.begin([LOST])
    assert history.run(through_beam, budget=budget)
    assert history.sums() == BookSums(2 * PRICE, PRICE, 1)
    assert [row.status for row in history.rows()].count(Status.FAILED) == 1

    for _ in range(2):
        assert history.run(through_beam, budget=budget)

        assert history.sums() == BookSums(3 * PRICE)
        assert {row.status for row in history.rows()} == {Status.UPSCALED}
    assert history.service.total == 3 * PRICE


# Pipelines of one's own


def test_an_input_that_names_books_is_booked_before_its_call(history: History) -> None:
    history.service.charges_once = False
    history.service.begin([LOST])

    with_own_pipeline(history, books=history.dataset.root)

    assert history.sums() == BookSums(3 * PRICE, PRICE, 1)
    assert totals(history)["charged_credits"] == 3 * PRICE


def test_what_is_in_no_books_is_entered_with_its_row(history: History) -> None:
    history.service.charges_once = False
    history.service.begin([LOST])

    with_own_pipeline(history, books=None)

    assert history.sums() == BookSums(3 * PRICE)
    assert totals(history)["charged_credits"] == totals(history)["billed_credits"] == 3 * PRICE


def with_own_pipeline(history: History, books: str | None, only: str = "*.png") -> None:
    sources = [source_image(str(path)) for path in sorted(history.inputs.glob(only))]
    with (
        mock.patch.object(engines, "ENGINES", small_engines()),
        called(history.service, Failpoint(None)) as endpoint,
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
    ):
        _ = (
            pipeline
            | beam.Create(sources)
            | Upscale(ESRGAN, backend="grpc", endpoint=endpoint, books=books)
            | WriteDataset(history.dataset.root)
        )


def test_inputs_that_were_read_for_an_output_are_booked_there(history: History) -> None:
    with (
        mock.patch.object(engines, "ENGINES", small_engines()),
        called(history.service, Failpoint(None)) as endpoint,
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
    ):
        _ = (
            pipeline
            | ReadImages(str(history.inputs), output=history.dataset.root)
            | Upscale(ESRGAN, backend="grpc", endpoint=endpoint)
            | WriteDataset(history.dataset.root)
        )

    assert {entry.ledger for entry in history.entries()} == {"the-ledger"}
    assert history.sums() == BookSums(3 * PRICE)


def test_a_local_run_keeps_no_books(tmp_path: Path, tiny_weights: Path) -> None:
    from runs import upscale

    picture(tmp_path / "in", "a.png", 0)

    result = upscale(tmp_path / "in", tmp_path / "out", tiny_weights)

    assert result.totals.charged_credits == result.totals.unresolved_credits == 0
    assert not (tmp_path / "out/books").exists()
    run_json = DatasetFolder(str(tmp_path / "out")).read_run()
    assert run_json is not None and run_json.totals is not None
    assert run_json.totals.unresolved_calls == 0
