"""Whatever happens to an output: its books are the service's ledger, and its budget holds."""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from paid_histories import (
    ESRGAN,
    FATES,
    LATENT,
    History,
    Service,
    picture,
    step_by_step,
    through_beam,
)

from beam_upscale.dataset.book_entries import work_of
from beam_upscale.dataset.hold import owners
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.verify import ProblemKind, verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.parameters import Parameters
from beam_upscale.sources.inputs.source_image import source_image

NAMES = ("a.png", "b.png", "c.png", "d.png")
AGAIN = frozenset({Status.FAILED, Status.FILTERED, Status.OVER_BUDGET})


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the runs of a history do."""

    name: str
    engine: str | tuple[str, ...]
    options: dict[str, Any]
    budgets: tuple[str, ...]

    def __repr__(self) -> str:
        return self.name


KINDS = (
    Kind("tiles", ESRGAN, {"oversize": "tile"}, ("0", "0.4", "0.6", "1", "2")),
    Kind("chain", (ESRGAN, LATENT), {"oversize": "shrink"}, ("8.2", "16.6", "24.8", "40")),
    Kind(
        "large images",
        ESRGAN,
        {"oversize": "tile", "fan_out_above": 0.0003, "output_format": "png"},
        ("0.4", "0.8", "1.2", "2"),
    ),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """What happens to the inputs, and the run after that.

    Attributes:
        changes: inputs that are written, with the seed of their content, or removed, with None.
        budget: of the run; None sets none.
        retry: statuses that are done again.
        kill_at: the moment at which the run is killed; None never does.
        fates: of the first attempts that it makes.
        lost: inputs whose worker is lost when it has the result.
        replaced: those of them that are replaced before they are done again.
        has_second: whether a second run begins at that moment.
    """

    changes: tuple[tuple[str, int | None], ...]
    budget: str | None
    retry: frozenset[Status]
    kill_at: int | None
    fates: tuple[str, ...]
    lost: frozenset[str]
    replaced: frozenset[str]
    has_second: bool = False


def steps(kind: Kind) -> st.SearchStrategy[Step]:
    """Any step."""
    names = st.sampled_from(NAMES)
    return st.builds(
        Step,
        changes=st.lists(st.tuples(names, st.one_of(st.none(), st.integers(0, 2))), max_size=3).map(
            tuple
        ),
        budget=st.one_of(st.none(), st.sampled_from(kind.budgets)),
        retry=st.sampled_from((frozenset(), AGAIN)),
        kill_at=st.one_of(st.none(), st.integers(0, 90)),
        fates=st.lists(st.sampled_from(FATES), max_size=8).map(tuple),
        lost=st.frozensets(names, max_size=2),
        replaced=st.sampled_from((frozenset(), frozenset(NAMES))),
        has_second=st.sampled_from((False, False, False, True)),
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[Kind, bool, list[Step]]:
    """A kind of runs, whether the service charges a repeat once, and what happens."""
    kind = draw(st.sampled_from(KINDS))
    return kind, draw(st.booleans()), draw(st.lists(steps(kind), min_size=2, max_size=4))


class Inputs:
    """The inputs of a history, and what they ought to be.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._contents: dict[str, bytes] = {}
        for number, name in enumerate(NAMES[:3]):
            self.put(name, number)

    def put(self, name: str, seed: int) -> None:
        """Writes an input; each name has a size of its own."""
        picture(self._folder, name, seed, width=12 if name > "b" else 8)
        self._contents[name] = (self._folder / name).read_bytes()

    def change(self, name: str, seed: int | None) -> None:
        """Writes an input, or removes it where it is not the last."""
        if seed is not None:
            self.put(name, seed)
        elif name in self._contents and len(self._contents) > 1:
            (self._folder / name).unlink()
            del self._contents[name]

    def assert_untouched(self) -> None:
        """No run has changed an input."""
        found = {path.name: path.read_bytes() for path in self._folder.iterdir()}
        assert found == self._contents


Runner = Callable[..., None]


def live(kind: Kind, charges_once: bool, happened: Sequence[Step], how: Runner) -> None:
    """Goes through a history, and looks after each step."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(os, "fsync"):
        history = History(Path(folder), Service(charges_once), kind.engine, kind.options)
        inputs = Inputs(history.inputs)
        for step in happened:
            _take(step, history, inputs, how)
        _take(Step((), None, AGAIN, None, (), frozenset(), frozenset()), history, inputs, how)
        assert {row.status for row in _rows_of(history)} == {Status.UPSCALED}
        if charges_once:
            _assert_only_others_are_unresolved(history)


def _take(step: Step, history: History, inputs: Inputs, how: Runner) -> None:
    for name, seed in step.changes:
        inputs.change(name, seed)
    history.service.begin(step.fates)
    before = history.service.total
    pending = set(step.lost)

    def is_lost(input_id: str) -> bool:
        name = Path(input_id).name
        if name not in pending:
            return False
        pending.discard(name)
        if name in step.replaced:
            inputs.put(name, 9)
        if step.has_second:
            assert_second_is_refused(history)
        return True

    budget = None if step.budget is None else Decimal(step.budget)
    ended = history.run(how, budget=budget, retry=step.retry, kill_at=step.kill_at, lost=is_lost)
    if budget is not None:
        assert history.service.total <= max(budget, before)
    history.assert_books_hold()
    inputs.assert_untouched()
    if ended:
        history.assert_complete()
        # A killed run may leave an image without a record, whose input is gone by the next run.
        problems = verify(history.dataset.root)
        assert [each for each in problems if each.kind is not ProblemKind.STRAY_FILE] == []


def assert_second_is_refused(history: History) -> None:
    """Another run finds that the output is taken."""
    with (
        pytest.raises(SettingsError) as refused,
        mock.patch.object(owners, "SECONDS_TO_SAY_WHO", 0),
    ):
        history.run(step_by_step)
    assert refused.value.code is ErrorCode.OUTPUT_HELD


def _rows_of(history: History) -> list[Any]:
    present = {str(path) for path in history.inputs.iterdir()}
    return [row for row in history.rows() if row.input_id in present]


def _assert_only_others_are_unresolved(history: History) -> None:
    """What is unresolved is of contents that the inputs do not have any more."""
    guided = LATENT in history.engine
    works = {
        str(path): work_of(source_image(str(path)).sha256(), Parameters() if guided else None)
        for path in history.inputs.iterdir()
    }
    for entry in history.unresolved():
        assert works.get(entry.input_id) != entry.work


_SETTINGS: dict[str, Any] = {"suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=15, phases=[Phase.generate], **_SETTINGS)
@given(histories())
def test_books_and_budget_hold_in_any_history(history: tuple[Kind, bool, list[Step]]) -> None:
    live(*history, step_by_step)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=120, **_SETTINGS)
@given(histories())
def test_books_and_budget_hold_in_many_histories(
    history: tuple[Kind, bool, list[Step]],
) -> None:
    live(*history, step_by_step)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=8, phases=[Phase.generate], **_SETTINGS)
@given(histories())
def test_books_and_budget_hold_in_histories_of_pipelines(
    history: tuple[Kind, bool, list[Step]],
) -> None:
    live(*history, through_beam)
