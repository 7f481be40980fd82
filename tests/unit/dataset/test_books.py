import dataclasses
import itertools
from decimal import Decimal
from pathlib import Path

import pytest
from open_entries import PRICE, entry, keep, place

from beam_upscale.dataset import book_files, books
from beam_upscale.dataset.book_entries import State
from beam_upscale.dataset.book_files import open_uri
from beam_upscale.dataset.book_sums import BookSums, read_sums
from beam_upscale.dataset.books import are_kept, close, close_rows, enter_missing, enter_row, exist
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.settings.run_start import (
    continue_run,
    new_run,
    refuse_foreign_files,
)
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris


def names_in(dataset: DatasetFolder, folder: str) -> list[str]:
    found = files.list_below(uris.join(dataset.root, "books", folder))
    return sorted(each.name for each in found)


# Closing


def test_what_is_settled_is_closed_and_what_is_not_stays_open(dataset: DatasetFolder) -> None:
    settled = [entry(str(n), State.CHARGED, tile=n) for n in range(5)]
    pending = entry("p", tile=9, repeats=None)
    keep(dataset, *settled, pending)
    before = read_sums(dataset)

    close(dataset)

    assert names_in(dataset, "open") == [f"{pending.key.path}.1.json"]
    closed = [each for some in book_files.closed(dataset) for each in some]
    assert sorted(closed, key=lambda each: each.id) == [*settled, pending]
    assert read_sums(dataset) == before == BookSums(5 * PRICE, PRICE, 1)

    keep(dataset, dataclasses.replace(pending, state=State.FREE))
    close(dataset)

    assert names_in(dataset, "open") == []
    assert "unresolved.parquet" not in names_in(dataset, "closed")
    assert read_sums(dataset) == BookSums(5 * PRICE)


def test_what_is_left_of_an_open_entry_is_its_copy(dataset: DatasetFolder) -> None:
    lost, settled, waiting = (entry(str(tile), tile=tile) for tile in range(3))
    keep(dataset, lost, settled, waiting)
    close(dataset)
    Path(open_uri(dataset, lost.key, 1)).unlink()
    keep(dataset, dataclasses.replace(settled, state=State.CHARGED))
    assert read_sums(dataset) == BookSums(PRICE, 2 * PRICE, 2)

    for _ in range(3):
        close(dataset)

        assert read_sums(dataset) == BookSums(PRICE, 2 * PRICE, 2)


def test_closing_nothing_writes_nothing(dataset: DatasetFolder) -> None:
    close(dataset)

    assert not exist(dataset)


@pytest.mark.parametrize("deleted", [0, 1, 3])
def test_closing_that_breaks_off_changes_no_sum(
    dataset: DatasetFolder, deleted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(dataset, *(entry(str(n), State.CHARGED, tile=n) for n in range(4)), entry("p", tile=9))
    before, left, delete = read_sums(dataset), itertools.count(), files.delete

    def breaks(uri: str, guard: object = None) -> None:
        if next(left) >= deleted:
            raise OSError("the machine is gone")
        delete(uri)

    monkeypatch.setattr(files, "delete", breaks)
    with pytest.raises(OSError, match="gone"):
        close(dataset)
    assert read_sums(dataset) == before

    monkeypatch.setattr(files, "delete", delete)
    keep(dataset, entry("new", State.CHARGED, tile=10))
    close(dataset)

    assert read_sums(dataset) == BookSums(before.charged + PRICE, before.unresolved, 1)
    assert len(names_in(dataset, "open")) == 1


def test_a_commit_closes_the_calls_of_its_rows(dataset: DatasetFolder) -> None:
    row = Row("a", "a", Status.UPSCALED, calls=2, request_ids=("1", "2"))
    chain = Row(
        *("b", "b", Status.UPSCALED),
        calls=3,
        request_ids=("3", "4"),
        stages=({"calls": 1}, {"calls": 2}),
    )
    free = Row("c", "c", Status.UPSCALED, calls=1)
    of_rows = [
        entry("1", State.CHARGED, input_id="a"),
        entry("2", input_id="a", tile=1),
        entry("3", State.CHARGED, input_id="a", tile=1, n=2, repeats="2"),
        entry("4", State.CHARGED, input_id="b"),
        entry("5", State.CHARGED, input_id="b", stage=1),
        entry("6", State.CHARGED, input_id="b", stage=1, tile=1),
    ]
    others = [
        entry("7", State.CHARGED, input_id="c"),
        entry("8", State.CHARGED, input_id="a", tile=2),
    ]
    keep(dataset, *of_rows, *others)
    before = read_sums(dataset)

    close_rows([row, chain, free], dataset)

    kept = [each for some in book_files.open_entries(dataset) for each in some]
    assert sorted(each.id for each in kept) == ["2", "3", "7", "8"]
    assert read_sums(dataset) == before


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("notes.txt", b"mine"),
        ("open/00/mine.json", b"{}"),
        (f"open/00/{'0' * 64}.1.json", b"{}"),
        ("closed/mine.parquet", b"mine"),
    ],
)
def test_books_of_a_pipeline_that_was_gone_before_its_run_json_are_no_foreign_files(
    dataset: DatasetFolder, name: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_files, "_PAUSES", ())
    keep(dataset, entry("1", State.CHARGED), entry("2", n=2))
    place(dataset, ".DS_Store", b"x")
    refuse_foreign_files(dataset)
    close(dataset)
    refuse_foreign_files(dataset)
    image = Path(dataset.resolve("images/a.png"))
    image.parent.mkdir()
    image.touch()
    with pytest.raises(SettingsError, match=r"has images, books, but no run\.json"):
        refuse_foreign_files(dataset)
    image.unlink()

    place(dataset, name, data)

    with pytest.raises(SettingsError, match=r"has books, but no run\.json"):
        refuse_foreign_files(dataset)


# Rows without entries


def test_what_rows_were_billed_beyond_the_books_is_entered_once(dataset: DatasetFolder) -> None:
    keep(
        dataset,
        entry("e1", State.CHARGED, request_id="1"),
        entry("e2", State.CHARGED, n=2, request_id="1", repeats="e1"),
        entry("e3", n=3, request_id="4"),
        entry("e4", State.FREE, n=4, request_id="5"),
    )
    rows = [
        Row("a", "a", Status.UPSCALED, billed_credits=PRICE, request_ids=("1",)),
        Row("b", "b", Status.FAILED, billed_credits=Decimal(12), request_ids=("2", "3")),
        Row("c", "c", Status.SKIPPED),
        Row("d", "d", Status.FAILED, billed_credits=2 * PRICE, request_ids=("4", "6")),
        Row("e", "e", Status.UPSCALED, billed_credits=PRICE, request_ids=("5",)),
    ]

    for _ in range(2):
        enter_missing(rows, dataset)

        assert read_sums(dataset) == BookSums(Decimal("12.6"), PRICE, 1)


def test_books_are_kept_since_run_json_says_so() -> None:
    assert are_kept(None)
    assert not are_kept(RunJson())
    assert are_kept(new_run(None, Layout.FILES))


def test_books_of_a_later_version_are_not_taken_for_none(dataset: DatasetFolder) -> None:
    later = RunJson(layout="files", books=books.BOOKS_FORMAT + 1)

    for read in (are_kept, lambda run: continue_run(run, new_run(None, Layout.FILES))):
        with pytest.raises(SettingsError, match="has books of format 2, and this") as raised:
            read(later)
        assert raised.value.code is ErrorCode.BOOKS_UNKNOWN


def test_a_row_of_calls_in_no_books_is_entered_once(dataset: DatasetFolder) -> None:
    row = Row("a", "a", Status.UPSCALED, billed_credits=PRICE, request_ids=("1",))

    enter_row(row, dataset)
    enter_row(row, dataset)
    enter_row(Row("b", "b", Status.UPSCALED), dataset)

    assert read_sums(dataset) == BookSums(PRICE)
    close(dataset)
    assert read_sums(dataset) == BookSums(PRICE)
    assert names_in(dataset, "open") == []
