import dataclasses
import hashlib
import io
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st
from input_states import known
from PIL import Image

from beam_upscale.dataset.book_entries import work_of
from beam_upscale.dataset.books import Prepaid, RunBooks, close
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.inference.paid_calls import Fate
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.budget import (
    NOTHING,
    Claim,
    LimitCredits,
    admission,
    bucket,
    claim,
    order,
    reach,
    spent,
    spent_on,
)
from beam_upscale.pipeline.run_state.booking import ImageBooking
from beam_upscale.pipeline.run_state.input_state import Allowance, EarlierResult, state_of
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import get_engine
from beam_upscale.planning.plan_options import Animated, Oversize, PlanOptions
from beam_upscale.sources.inputs.source_image import SourceImage, source_image

ENGINE = get_engine("esrgan-v1-x2plus")
RULES = Rules((ENGINE,))
PRICE = Decimal("0.2")

claims = st.lists(
    st.builds(
        Claim,
        order=st.integers(0, 10**6).map(lambda number: order(str(number))),
        credits=st.sampled_from([Decimal(0), PRICE, Decimal(8), Decimal(12)]),
        spent=st.booleans(),
    ),
    unique_by=lambda claim: claim.order,
    max_size=30,
)
budgets = st.integers(0, 1000).map(lambda tenths: Decimal(tenths) / 10)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def last_admitted(claims: Sequence[Claim], budget: Decimal) -> str:
    """The last place that a budget reaches, from which what was spent comes off first."""
    spent = sum((claim.credits for claim in claims if claim.spent), Decimal(0))
    return admission((claim for claim in claims if not claim.spent), budget - spent).last


def admitted(claims: Sequence[Claim], budget: Decimal) -> set[str]:
    reached = last_admitted(claims, budget)
    return {claim.order for claim in claims if not claim.spent and claim.order <= reached}


# The rule


@given(claims, budgets)
def test_the_budget_is_never_exceeded(claims: list[Claim], budget: Decimal) -> None:
    within = admitted(claims, budget)
    spent = sum((claim.credits for claim in claims if claim.spent), Decimal(0))

    new = sum((claim.credits for claim in claims if claim.order in within), Decimal(0))

    assert new <= max(Decimal(0), budget - spent)


@given(claims, budgets, st.randoms())
def test_what_is_admitted_does_not_depend_on_the_order_of_claims(
    claims: list[Claim], budget: Decimal, shuffle: random.Random
) -> None:
    before = last_admitted(claims, budget)
    shuffle.shuffle(claims)

    assert last_admitted(claims, budget) == before


@given(claims, budgets, budgets)
def test_a_larger_budget_admits_no_less(
    claims: list[Claim], budget: Decimal, more: Decimal
) -> None:
    assert admitted(claims, budget) <= admitted(claims, budget + more)


@given(claims)
def test_a_budget_for_all_admits_all(claims: list[Claim]) -> None:
    total = sum((claim.credits for claim in claims), Decimal(0))

    assert admitted(claims, total) == {claim.order for claim in claims if not claim.spent}


@given(claims, budgets)
def test_the_first_that_is_left_out_would_not_fit(claims: list[Claim], budget: Decimal) -> None:
    within = admitted(claims, budget)
    new = sorted((claim for claim in claims if not claim.spent), key=lambda claim: claim.order)
    spent = sum((claim.credits for claim in claims if claim.spent), Decimal(0))

    left_out = [place for place, each in enumerate(new) if each.order not in within]
    if left_out:
        assert spent + sum(each.credits for each in new[: left_out[0] + 1]) > budget


@given(claims, budgets)
def test_two_steps_admit_what_one_does(claims: list[Claim], budget: Decimal) -> None:
    sums: dict[str, Decimal] = {}
    for each in claims:
        sums[bucket(each)] = sums.get(bucket(each), Decimal(0)) + each.credits

    settled = reach(sums.items(), budget)

    new = [claim for claim in claims if not claim.spent]
    last = last_admitted([each for each in new if settled.is_last(each.order)], settled.left)
    within = {claim.order for claim in new if settled.admits(claim.order, last)}
    assert within == admitted(claims, budget)


def test_a_budget_that_is_spent_admits_nothing() -> None:
    claims = [Claim("a", PRICE, spent=True), Claim("b", PRICE, spent=False)]

    assert last_admitted(claims, Decimal("0.39")) == NOTHING
    assert last_admitted(claims, Decimal("0.4")) == "b"
    assert last_admitted([], Decimal(1)) == NOTHING


def test_a_budget_is_exact() -> None:
    claims = [Claim(order(str(number)), PRICE, spent=False) for number in range(50)]

    assert len(admitted(claims, Decimal("10.0"))) == 50
    assert len(admitted(claims, Decimal("9.99"))) == 49


# Claims


def test_a_claim_is_what_the_plan_says() -> None:
    images = {
        "small": SourceImage("small", data=png(20, 10)),
        "large": SourceImage("large", data=png(1025, 1024)),
        "broken": SourceImage("broken", data=b"no image"),
        "missing": SourceImage("missing", uri="/no/such/file.png"),
    }

    def prices(options: PlanOptions) -> dict[str, Decimal]:
        pool = shared_pool()
        return {
            id_: claim(each, Rules((ENGINE,), options), pool).credits
            for id_, each in images.items()
        }

    rejecting = prices(PlanOptions())
    tiling = prices(PlanOptions(oversize=Oversize.TILE))
    assert rejecting == {"small": PRICE, "large": 0, "broken": 0, "missing": 0}
    assert tiling["large"] > PRICE
    assert prices(PlanOptions(min_side=10))["small"] == 0


def test_what_an_earlier_run_did_is_spent() -> None:
    row = Row("a", "a", Status.UPSCALED, credits=PRICE)
    image = known(
        SourceImage("a", uri="/no/such/file.png"), earlier=EarlierResult(Record(row, None))
    )

    assert claim(image, RULES, shared_pool()) == Claim(order("a"), PRICE, True)


def test_what_an_earlier_run_left_asks_for_what_it_asked_then() -> None:
    row = Row("a", "a", Status.OVER_BUDGET, input_width=20, input_height=10)
    image = known(SourceImage("a", data=png(20, 10)), earlier=EarlierResult(Record(row, None)))

    assert claim(image, RULES, shared_pool()) == Claim(order("a"), PRICE, False)


def test_what_a_run_will_refuse_asks_for_nothing() -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    image = SourceImage("a", data=buffer.getvalue())
    refusing = PlanOptions(animated=Animated.REJECT)

    assert claim(image, RULES, shared_pool()).credits == PRICE
    assert claim(image, Rules((ENGINE,), refusing), shared_pool()).credits == 0


# In a pipeline


@pytest.mark.parametrize(("budget", "count"), [("0", 0), ("0.59", 2), ("0.6", 3), ("100", 5)])
def test_a_pipeline_admits_as_far_as_the_budget_goes(
    tmp_path: Path, photograph: Callable[..., Image.Image], budget: str, count: int
) -> None:
    for number in range(5):
        photograph(number).save(tmp_path / f"{number}.png")
    images = [source_image(f"{tmp_path}/{number}.png") for number in range(5)]
    queue = sorted(images, key=lambda image: order(image.input_id))
    expected = [(image.input_id, place < count) for place, image in enumerate(queue)]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        admitted = (
            pipeline
            | beam.Create(images)
            | LimitCredits(Decimal(budget), RULES)
            | beam.Map(lambda image: (image.input_id, allowance_of(image).is_within_budget))
        )
        assert_that(admitted, equal_to(expected))


def test_inputs_leave_with_what_the_budget_has_for_them() -> None:
    sources = [SourceImage("a", data=png(20, 10)), SourceImage("broken", data=b"no image")]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        claimed = (
            pipeline
            | beam.Create(sources)
            | LimitCredits(Decimal(1), RULES)
            | beam.Map(lambda image: (image.input_id, allowance_of(image).credits))
        )
        assert_that(claimed, equal_to([("a", PRICE), ("broken", Decimal(0))]))


# What was billed for nothing


def failed_record(source: SourceImage, billed: str) -> Record:
    row = Row(source.input_id, source.source_uri, Status.FAILED, billed_credits=Decimal(billed))
    return Record(row, telemetry=None)


def test_what_was_billed_for_an_image_that_failed_is_spent() -> None:
    row = Row("a", "a", Status.FAILED, billed_credits=PRICE)

    assert spent_on(row) == PRICE
    assert spent_on(dataclasses.replace(row, status=Status.UPSCALED, credits=2 * PRICE)) == (
        2 * PRICE
    )


@pytest.mark.parametrize(("committed", "asked"), [(True, "0.2"), (False, "0.4")])
def test_a_failed_image_and_what_it_was_billed_take_its_price_and_no_more(
    committed: bool, asked: str
) -> None:
    """A committed row's part is counted with its shard."""
    rules = Rules((ENGINE,), PlanOptions(oversize=Oversize.TILE))
    source = SourceImage("a", data=png(1500, 1000))
    source = known(source, earlier=EarlierResult(failed_record(source, "0.2"), committed))

    assert claim(source, rules, shared_pool()) == Claim(order("a"), Decimal(asked), spent=False)


# What is in the books


def test_what_the_books_hold_is_spent(tmp_path: Path) -> None:
    run, _ = booked(tmp_path, Fate.CHARGED), booked(tmp_path, None, "b")

    assert spent(run.dataset.root, PINNED) == 2 * PRICE
    assert spent(run.dataset.root, None) == 0
    assert spent(None, PINNED) == 0


@pytest.mark.parametrize("fate", [Fate.CHARGED, None])
def test_a_claim_is_without_what_is_repeated_for_free(tmp_path: Path, fate: Fate | None) -> None:
    booked(tmp_path, fate)
    run = later_run(tmp_path)
    source = known(SourceImage("a", data=png(20, 10)), books=run)

    found = claim(source, RULES, shared_pool(), PINNED)
    changed = claim(dataclasses.replace(source, data=png(20, 11)), RULES, shared_pool(), PINNED)
    elsewhere = claim(source, RULES, shared_pool(), dataclasses.replace(PINNED, ledger="another"))

    unresolved = PRICE if fate is None else Decimal(0)
    assert (found.credits, found.prepaid) == (0, Prepaid(WORK, PRICE, unresolved))
    assert (changed.credits, changed.prepaid) == (PRICE, None)
    assert (elsewhere.credits, elsewhere.prepaid) == (PRICE, None)


def test_what_earlier_rows_took_is_counted_in_the_books_and_not_again(tmp_path: Path) -> None:
    rules = Rules((ENGINE,), PlanOptions(oversize=Oversize.TILE))
    source = known(SourceImage("a", data=png(1500, 1000)), books=later_run(tmp_path))
    done = Row("a", "a", Status.UPSCALED, credits=PRICE)

    failed = claim(
        known(source, earlier=EarlierResult(failed_record(source, "0.2"))),
        *(rules, shared_pool(), PINNED),
    )
    upscaled = claim(
        known(source, earlier=EarlierResult(Record(done, None))), rules, shared_pool(), PINNED
    )

    assert failed == Claim(order("a"), Decimal("0.2"), spent=False)
    assert upscaled == Claim(order("a"), Decimal(0), spent=True)


@pytest.mark.parametrize(
    ("fate", "budget", "within", "spare"),
    [
        (None, "0.2", {"b"}, 0),
        (None, "0.4", {"a", "b"}, 0),
        (None, "0.8", {"a", "b"}, 2),
        (Fate.CHARGED, "0.1", {"b"}, 0),
        # The repeat may be charged for the first time, and the books hold more than the budget.
        (None, "0.1", set(), 0),
    ],
)
def test_free_repeats_are_within_a_budget_and_what_is_left_is_to_spare(
    tmp_path: Path, fate: Fate | None, budget: str, within: set[str], spare: int
) -> None:
    """What is charged for `b` already takes its part of a budget."""
    booked(tmp_path, fate, "b")
    run = later_run(tmp_path)
    sources = [known(SourceImage(name, data=png(20, 10)), books=run) for name in ("a", "b")]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        admitted = (
            pipeline
            | beam.Create(sources)
            | LimitCredits(Decimal(budget), RULES, run.dataset.root, PINNED)
            | beam.Map(described)
        )
        expected = [(name, name in within, spare) for name in ("a", "b")]
        assert_that(admitted, equal_to(expected))


def test_what_was_spent_before_is_not_looked_up_again_where_it_is_known(tmp_path: Path) -> None:
    """A runner may repeat the look when this run has spent all that the budget has."""
    run = booked(tmp_path, Fate.CHARGED, name="of this run")

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        admitted = (
            pipeline
            | beam.Create([SourceImage("a", data=png(20, 10))])
            | LimitCredits(PRICE, RULES, run.dataset.root, PINNED, already_spent=Decimal(0))
            | beam.Map(lambda image: allowance_of(image).is_within_budget)
        )
        assert_that(admitted, equal_to([True]))


def allowance_of(image: SourceImage) -> Allowance:
    allowance = state_of(image).allowance
    assert allowance is not None
    return allowance


def described(image: SourceImage) -> tuple[str, bool, int]:
    allowance = allowance_of(image)
    return image.input_id, allowance.is_within_budget, allowance.spare_calls


PINNED = RemoteEngine(ENGINE.name, "h:1", ledger="ledger-1", replay_seconds=86_400)
WORK = work_of(hashlib.sha256(png(20, 10)).hexdigest(), None)


def booked(folder: Path, fate: Fate | None, name: str = "a") -> RunBooks:
    """A run that has sent a call for a picture of 20 x 10 pixels."""
    run = RunBooks.begin(DatasetFolder(str(folder / "out")))
    call = ImageBooking(run, name, WORK).call((0, 0), "r", PRICE, PINNED)
    call.begin()
    if fate is not None:
        call.settle(fate)
    return run


def later_run(folder: Path) -> RunBooks:
    """The run after it."""
    dataset = DatasetFolder(str(folder / "out"))
    close(dataset)
    return RunBooks.begin(dataset)
