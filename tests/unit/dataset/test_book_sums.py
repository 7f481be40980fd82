"""What books add up to."""

import dataclasses
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from open_entries import PRICE, entry, keep

from beam_upscale.dataset import book_sums
from beam_upscale.dataset.book_entries import Entry, State, grouped
from beam_upscale.dataset.book_sums import BookSums, read_sums, with_books
from beam_upscale.dataset.books import exist
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.totals import totals


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
