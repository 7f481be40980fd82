"""Entries of calls, and groups of them."""

import dataclasses
import json
from collections.abc import Sequence
from decimal import Decimal

import pytest
from open_entries import entry

from beam_upscale.dataset.book_entries import CallKey, State, entry_from_json, grouped, work_of
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.planning.parameters import Parameters


def test_an_entry_is_the_same_after_json() -> None:
    odd = entry("1", State.FREE, input_id="ä ☂ \n", credits=Decimal("0.2000"), repeats="0")

    assert entry_from_json(odd.to_json()) == odd


def test_keys_of_calls_have_short_names_of_their_own() -> None:
    keys = [CallKey("a", 0, 0), CallKey("a", 0, 1), CallKey("a", 1, 0), CallKey("a\0", 0, 0)]

    assert len({key.path for key in keys}) == 4
    assert all(len(key.path) == 67 for key in keys)


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
    engine = RemoteEngine("e", "h:1", ledger="ledger-1", replay_seconds=86_400)
    (group,) = grouped([entry("1", State.CHARGED)])
    latest = 1000.0 + engine.repeat_seconds

    assert group.is_repeated_free(engine, latest)
    assert not group.is_repeated_free(engine, latest + 1)
    assert group.is_repeated_free(engine, 1000.0 - 60)
    assert not group.is_repeated_free(engine, 1000.0 - 61)
    forgetful = dataclasses.replace(engine, replay_seconds=600)
    assert not any(group.is_repeated_free(forgetful, 1000.0 + late) for late in (-1, 0))
    assert not group.is_repeated_free(dataclasses.replace(engine, ledger="ledger-2"), latest)
    assert not group.is_repeated_free(RemoteEngine("e", "h:1"), latest)
    (unknown,) = grouped([entry("1", ledger=None)])
    assert not unknown.is_repeated_free(RemoteEngine("e", "h:1"), 1000.0)
    (free,) = grouped([entry("1", State.FREE)])
    assert not free.is_repeated_free(engine, 1000.0)


def test_what_a_later_version_put_into_entries_is_passed_over() -> None:
    known = entry("1")
    values = {**json.loads(known.to_json()), "currency": "credits"}

    assert entry_from_json(json.dumps(values).encode()) == known
