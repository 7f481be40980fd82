import dataclasses
import itertools
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.dataset import book_files, book_sums, books
from beam_upscale.dataset.book_entries import Entry, Place, State, entry_from_json, grouped, work_of
from beam_upscale.dataset.book_files import check, open_uri, read_entry
from beam_upscale.dataset.book_sums import BookSums, read_sums, with_books
from beam_upscale.dataset.books import are_kept, close, close_rows, enter_missing, enter_row, exist
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.manifest.totals import totals
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.settings.run_record import (
    continue_record,
    refuse_foreign_files,
    run_record,
)
from beam_upscale.planning.parameters import Parameters
from beam_upscale.storage import files as storage_files
from beam_upscale.storage.uris import uris

PRICE = Decimal("0.2")


def entry(id_: str, state: State = State.SENT, **fields: object) -> Entry:
    values = {
        "n": 1,
        "request_id": "r",
        "input_id": "in/a.png",
        "stage": 0,
        "tile": 0,
        "engine": "esrgan-v1-x2plus",
        "work": "w",
        "credits": PRICE,
        "run": "run-1",
        "endpoint": "localhost:1",
        "ledger": "ledger-1",
        "sent_at": 1000.0,
        **fields,
    }
    return Entry(id_, state=state, **values)  # type: ignore[arg-type]


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetFolder:
    """An output without books."""
    return DatasetFolder(str(tmp_path / "out"))


def keep(dataset: DatasetFolder, *entries: Entry) -> None:
    """Writes open entries."""
    for each in entries:
        dataset.write(open_uri(dataset, each.place, each.n), each.to_json())


def files(dataset: DatasetFolder, folder: str) -> list[str]:
    found = storage_files.list_below(uris.join(dataset.root, "books", folder))
    return sorted(each.name for each in found)


# Entries


def test_an_entry_is_the_same_after_json() -> None:
    odd = entry("1", State.FREE, input_id="ä ☂ \n", credits=Decimal("0.2000"), repeats="0")

    assert entry_from_json(odd.to_json()) == odd


def test_places_have_short_names_of_their_own() -> None:
    places = [Place("a", 0, 0), Place("a", 0, 1), Place("a", 1, 0), Place("a\0", 0, 0)]

    assert len({place.key for place in places}) == 4
    assert all(len(place.key) == 67 for place in places)


def test_work_is_the_content_and_the_parameters_of_an_input() -> None:
    works = [
        work_of("1", None),
        work_of("2", None),
        work_of("1", Parameters()),
        work_of("1", Parameters(prompt="a cat")),
        work_of("1", Parameters(seed=7)),
    ]

    assert len(set(works)) == 5
    assert work_of("1", Parameters(seed=7)) == works[-1]


# Groups


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([State.SENT], State.SENT),
        ([State.FREE], State.FREE),
        ([State.SENT, State.FREE], State.SENT),
        ([State.SENT, State.CHARGED], State.CHARGED),
        ([State.CHARGED, State.FREE], State.CHARGED),
        ([State.FREE, State.FREE], State.FREE),
    ],
)
def test_a_group_is_charged_or_open_or_free(states: Sequence[State], expected: State) -> None:
    repeats = [None, *("0" for _ in states[1:])]
    pairs = zip(states, repeats, strict=True)
    entries = [entry(str(n), state, repeats=of) for n, (state, of) in enumerate(pairs)]

    (group,) = grouped(entries)

    assert (group.first.id, group.state) == ("0", expected)


def test_the_latest_group_comes_first_and_what_is_settled_counts() -> None:
    old, new = entry("old"), entry("new", sent_at=2000.0)

    groups = grouped([new, old, dataclasses.replace(old, state=State.FREE), old])

    assert [group.first.id for group in groups] == ["new", "old"]
    assert [group.state for group in groups] == [State.SENT, State.FREE]


def test_a_group_is_repeated_for_free_only_at_its_ledger_and_in_time() -> None:
    model = RemoteEngine("e", "h:1", ledger="ledger-1", replay_seconds=86_400)
    (group,) = grouped([entry("1", State.CHARGED)])
    latest = 1000.0 + model.repeat_seconds

    assert group.is_repeated_free(model, latest)
    assert not group.is_repeated_free(model, latest + 1)
    assert group.is_repeated_free(model, 1000.0 - 60)
    assert not group.is_repeated_free(model, 1000.0 - 61)
    forgetful = dataclasses.replace(model, replay_seconds=600)
    assert not any(group.is_repeated_free(forgetful, 1000.0 + late) for late in (-1, 0))
    assert not group.is_repeated_free(dataclasses.replace(model, ledger="ledger-2"), latest)
    assert not group.is_repeated_free(RemoteEngine("e", "h:1"), latest)
    (unknown,) = grouped([entry("1", ledger=None)])
    assert not unknown.is_repeated_free(RemoteEngine("e", "h:1"), 1000.0)
    (free,) = grouped([entry("1", State.FREE)])
    assert not free.is_repeated_free(model, 1000.0)


# Sums


def test_books_that_are_not_there_add_up_to_nothing(dataset: DatasetFolder) -> None:
    assert read_sums(dataset) == BookSums()
    assert not exist(dataset)


def test_groups_count_once_and_what_is_open_counts(dataset: DatasetFolder) -> None:
    keep(
        dataset,
        entry("1", State.CHARGED),
        entry("2", State.CHARGED, n=2, repeats="1"),
        entry("3", n=3, credits=Decimal(8)),
        entry("4", State.FREE, n=4),
        entry("5", tile=1),
        entry("6", State.CHARGED, tile=1, n=2, repeats="5"),
    )

    assert read_sums(dataset) == BookSums(2 * PRICE, Decimal(8), 1)
    assert read_sums(dataset).spent == Decimal("8.4")


def test_totals_have_the_sums_of_the_books(dataset: DatasetFolder) -> None:
    keep(dataset, entry("1", State.CHARGED), entry("2", n=2))

    found = with_books(totals(()), dataset)

    assert (found.charged_credits, found.unresolved_credits) == (PRICE, PRICE)
    assert (found.billed_credits, found.unresolved_calls) == (0, 1)


entries_of_groups = st.lists(
    st.tuples(
        st.sampled_from(State),
        st.one_of(st.none(), st.integers(0, 9)),
        st.sampled_from([PRICE, Decimal(8), Decimal("12.0001")]),
    ),
    max_size=10,
).map(
    lambda drawn: [
        # A repeat names an entry before it, and is of its price.
        entry(str(number), state, n=number, repeats=None if of is None or of >= number else str(of))
        for number, (state, of, _) in enumerate(drawn)
    ]
)


@given(entries_of_groups, st.randoms())
def test_where_entries_are_and_how_often_changes_no_sum(
    entries: list[Entry], random: object
) -> None:
    roots = {each.id: each for each in entries if each.repeats is None}
    entries = [each for each in entries if each.group in roots]
    # What stands in two files stood there as sent in the one of them.
    twice = [dataclasses.replace(each, state=State.SENT) for each in entries]
    mixed = [*entries, *twice, *entries]
    random.shuffle(mixed)  # type: ignore[attr-defined]
    adder = book_sums.Adder()
    for each in mixed:
        adder.add([each])

    found = adder.sums()

    groups = grouped(entries)
    charged = [group.first.credits for group in groups if group.state is State.CHARGED]
    waiting = [group.first.credits for group in groups if group.state is State.SENT]
    assert found == BookSums(sum(charged, Decimal(0)), sum(waiting, Decimal(0)), len(waiting))


# Files of others, and damaged ones


@pytest.mark.parametrize(
    "name", ["closed/.DS_Store", "closed/._x.parquet", "open/._x.json", "open/ab/.x", "open/x.json"]
)
def test_files_of_others_are_passed_over(dataset: DatasetFolder, name: str) -> None:
    keep(dataset, entry("1", State.CHARGED), entry("2", tile=1))
    close(dataset)
    place(dataset, name, b"\0\0Bud1\xff")

    check(dataset)
    close(dataset)

    assert read_sums(dataset) == BookSums(PRICE, PRICE, 1)


def place(dataset: DatasetFolder, name: str, data: bytes) -> str:
    path = Path(dataset.root, "books", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def test_what_a_later_version_put_into_entries_is_passed_over() -> None:
    known = entry("1")
    values = {**json.loads(known.to_json()), "currency": "credits"}

    assert entry_from_json(json.dumps(values).encode()) == known


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (f"open/00/{'0' * 64}.1.json", b""),
        (f"open/00/{'0' * 64}.1.json", entry("1").to_json()[:-9]),
        (f"open/00/{'0' * 64}.1.json", b'{"id": "1"}'),
        (f"open/00/row-{'0' * 64}.json", b"\xff"),
        ("closed/x.parquet", b""),
        ("closed/x.parquet", b"PAR1 of something PAR1"),
    ],
    ids=["empty", "half", "without credits", "no text", "empty closed", "no table"],
)
def test_what_is_damaged_is_named(
    dataset: DatasetFolder, name: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_files, "_PAUSES", (0.0,))
    keep(dataset, entry("1", State.CHARGED))
    uri = place(dataset, name, data)

    for read in (check, read_sums):
        with pytest.raises(SettingsError) as raised:
            read(dataset)
        assert raised.value.code is ErrorCode.BOOKS_DAMAGED
        assert raised.value.message.startswith(f"{uri} is damaged")
        assert "\n" not in raised.value.message


def test_an_entry_that_is_being_written_is_awaited(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = place(dataset, f"open/00/{'0' * 64}.1.json", b"")
    monkeypatch.setattr(
        "time.sleep", lambda _: Path(uri).write_bytes(entry("1").to_json()) and None
    )

    assert read_entry(uri) == entry("1")


# Closing


def test_what_is_settled_is_closed_and_what_is_not_stays_open(dataset: DatasetFolder) -> None:
    settled = [entry(str(n), State.CHARGED, tile=n) for n in range(5)]
    pending = entry("p", tile=9, repeats=None)
    keep(dataset, *settled, pending)
    before = read_sums(dataset)

    close(dataset)

    assert files(dataset, "open") == [f"{pending.place.key}.1.json"]
    closed = [each for some in book_files.closed(dataset) for each in some]
    assert sorted(closed, key=lambda each: each.id) == [*settled, pending]
    assert read_sums(dataset) == before == BookSums(5 * PRICE, PRICE, 1)

    keep(dataset, dataclasses.replace(pending, state=State.FREE))
    close(dataset)

    assert files(dataset, "open") == []
    assert "unresolved.parquet" not in files(dataset, "closed")
    assert read_sums(dataset) == BookSums(5 * PRICE)


def test_what_is_left_of_an_open_entry_is_its_copy(dataset: DatasetFolder) -> None:
    lost, settled, waiting = (entry(str(tile), tile=tile) for tile in range(3))
    keep(dataset, lost, settled, waiting)
    close(dataset)
    Path(open_uri(dataset, lost.place, 1)).unlink()
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
    before, left, delete = read_sums(dataset), itertools.count(), storage_files.delete

    def breaks(uri: str, guard: object = None) -> None:
        if next(left) >= deleted:
            raise OSError("the machine is gone")
        delete(uri)

    monkeypatch.setattr(storage_files, "delete", breaks)
    with pytest.raises(OSError, match="gone"):
        close(dataset)
    assert read_sums(dataset) == before

    monkeypatch.setattr(storage_files, "delete", delete)
    keep(dataset, entry("new", State.CHARGED, tile=10))
    close(dataset)

    assert read_sums(dataset) == BookSums(before.charged + PRICE, before.unresolved, 1)
    assert len(files(dataset, "open")) == 1


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
    assert not are_kept({"format": "beam-upscale/1"})
    assert are_kept(run_record(None, Layout.FILES))


def test_books_of_a_later_version_are_not_taken_for_none(dataset: DatasetFolder) -> None:
    later = {**run_record(None, Layout.FILES), "books": books.BOOKS_FORMAT + 1}

    for read in (are_kept, lambda run: continue_record(run, run_record(None, Layout.FILES))):
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
    assert files(dataset, "open") == []
