"""The budget: selects the inputs that it pays for, by their headers, before anything is spent."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import apache_beam as beam

from beam_upscale.dataset.book_entries import CallKey, State, work_of
from beam_upscale.dataset.book_sums import read_sums
from beam_upscale.dataset.books import Prepaid
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.images.decoding.pool import DecoderPool, shared_pool
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.global_window import refuse_windows
from beam_upscale.pipeline.one_image.header import plan_of
from beam_upscale.pipeline.one_image.image_errors import as_image_error
from beam_upscale.pipeline.run_state.free_repeats import prepaid, repeatable_entries
from beam_upscale.pipeline.run_state.input_state import Allowance, state_of, with_state
from beam_upscale.planning.chain import ChainPlan, Rules
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files

_WHY_TOGETHER = "a budget is for all inputs together"

# Sorts before every hash, so that no new input is admitted.
NOTHING = ""
# Sorts after every hash.
_EVERYTHING = "g"

# Claims are first added up by the first digits of their hashes, so that no worker holds them all.
_BUCKET_DIGITS = 3


@dataclasses.dataclass(frozen=True)
class Claim:
    """The credits that an input claims from the budget.

    Attributes:
        order: the hash of the input's id; the budget is assigned in this order.
        credits: the credits that the input would cost, or did cost; at least 0.
        spent: True if an earlier run spent them.
        prepaid: calls that are paid already and that `credits` leaves out; None if there are none.
    """

    order: str
    credits: Decimal
    spent: bool
    prepaid: Prepaid | None = None


def order(input_id: str) -> str:
    """Returns the position of an input in the queue for the budget: random, but reproducible."""
    return hashlib.sha256(input_id.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Admission:
    """The last claim that a budget admits, and the credits that remain.

    Attributes:
        last: the `order` of the last admitted claim; `NOTHING` if none is admitted.
        spare: the credits that remain after all admitted claims.
    """

    last: str
    spare: Decimal


def admission(claims: Iterable[Claim], left: Decimal) -> Admission:
    """Admits unspent claims in their order, up to the first that does not fit.

    Claims of 0 credits directly after the last paid one are admitted too.

    Args:
        claims: the claims, in any order; their order does not change the answer.
        left: the credits that remain of the budget.
    """
    reached = Admission(NOTHING, left)
    for claim in sorted(claims, key=lambda claim: claim.order):
        left -= claim.credits
        if left < 0:
            break
        reached = Admission(claim.order, left)
    return reached


@dataclasses.dataclass(frozen=True)
class Reach:
    """The bucket in which a budget ends; all claims of the buckets before it fit.

    Attributes:
        bucket: the first digits of `Claim.order` in the bucket where the budget ends; if all claims
            fit, a text that sorts after every hash.
        left: the credits that remain for the claims of that bucket; negative if more was spent
            than the budget.
    """

    bucket: str
    left: Decimal

    def is_last(self, position: str) -> bool:
        """Checks whether a position lies in the bucket in which the budget ends."""
        return position.startswith(self.bucket)

    def admits(self, position: str, last: str) -> bool:
        """Checks whether a position is within the budget; `last` is that of the `Admission`."""
        return position <= last if self.is_last(position) else position < self.bucket


def bucket(asked: Claim) -> str:
    """Returns the key by which a claim is added up; `NOTHING` for a claim that is spent."""
    return NOTHING if asked.spent else asked.order[:_BUCKET_DIGITS]


def reach(sums: Iterable[tuple[str, Decimal]], max_credits: Decimal) -> Reach:
    """Finds the bucket in which a budget ends.

    Args:
        sums: (bucket, sum of its claims in credits) pairs, in any order.
        max_credits: the budget in credits, for this output as a whole.
    """
    by_bucket = dict(sums)
    left = max_credits - by_bucket.pop(NOTHING, Decimal(0))
    for name, asked in sorted(by_bucket.items()):
        if asked > left:
            return Reach(name, left)
        left -= asked
    return Reach(_EVERYTHING, left)


def claim(
    source: SourceImage, rules: Rules, decoders: DecoderPool, engine: RemoteEngine | None = None
) -> Claim:
    """Computes the claim of an input; 0 credits if it will not be upscaled.

    An input that an earlier run did not upscale claims the same credits as then: unspent credits
    must not admit inputs that an uninterrupted run would not have admitted. Credits in the books of
    a service's calls, or in a committed shard, are counted there and not here.

    Args:
        source: the input.
        rules: the rules by which the run plans and prices it.
        decoders: the processes that parse its header.
        engine: the engine of the service whose calls are in the books; None if there are no books.
    """
    position = order(source.input_id)
    found = state_of(source).earlier
    earlier = None if found is None else found.record.row
    is_counted = engine is not None or (found is not None and found.is_committed)
    if earlier is not None and earlier.status is Status.UPSCALED:
        return Claim(position, Decimal(0) if is_counted else spent_on(earlier), spent=True)
    try:
        plan = plan_of(source, rules, decoders)
        known = _prepaid(source, plan, rules, engine) if earlier is None else None
    except Exception as error:
        # The input gets its failed row later: it fails in the same way when it is read.
        as_image_error(error)
        return Claim(position, Decimal(0), spent=False)
    counted = Decimal(0) if known is None else known.credits
    if earlier is not None and is_counted:
        counted = spent_on(earlier)
    return Claim(position, max(Decimal(0), plan.credits - counted), spent=False, prepaid=known)


def _prepaid(
    source: SourceImage, plan: ChainPlan, rules: Rules, engine: RemoteEngine | None
) -> Prepaid | None:
    """Finds the earlier calls for an input that a run repeats for free; may read its file.

    Raises:
        ImageError: the file or its caption cannot be read.
    """
    books = state_of(source).books
    if engine is None or books is None or not plan.is_upscaled:
        return None
    known = repeatable_entries(books, engine)
    keys = [
        CallKey(source.input_id, number, tile)
        for number, stage in enumerate(plan.stages)
        for tile in range(stage.calls)
    ]
    entries = [found for found in map(known.of_call, keys) if found]
    if not entries:
        return None
    guided = rules.is_guided
    parameters = source.parameters(rules.parameters, rules.prompt_column) if guided else None
    work = work_of(source.sha256(), parameters)
    found = (prepaid(each, work, engine, books) for each in entries)
    groups = [group for group in found if group is not None]
    paid = sum((group.first.credits for group in groups), Decimal(0))
    unresolved = sum((g.first.credits for g in groups if g.state is State.SENT), Decimal(0))
    return Prepaid(work, paid, unresolved) if paid else None


def spent_on(row: Row) -> Decimal:
    """Returns the credits an input spent: its price, or those billed for it although it failed."""
    return max(row.credits, row.billed_credits)


def spent(output: str | None, engine: RemoteEngine | None) -> Decimal:
    """Returns the credits earlier runs spent on a dataset, on inputs since removed too.

    Args:
        output: the dataset; None gives 0.
        engine: the engine of the service whose calls are in the books; calls of unknown outcome
            count as spent. None if nothing is paid: the committed rows then give the price.
    """
    if output is None:
        return Decimal(0)
    dataset = DatasetFolder(files.absolute(output))
    if engine is not None:
        return read_sums(dataset).spent
    return sum((spent_on(row) for _, row in dataset.committed_rows()), Decimal(0))


class _Claim(beam.DoFn):
    def __init__(self, rules: Rules, engine: RemoteEngine | None) -> None:
        self._rules = rules
        self._engine = engine

    def process(self, source: SourceImage) -> Iterator[tuple[SourceImage, Claim]]:
        asked = claim(source, self._rules, shared_pool(), self._engine)
        state = state_of(source)
        allowance = Allowance(asked.credits, asked.prepaid)
        yield with_state(source, dataclasses.replace(state, allowance=allowance)), asked


def _admit(
    source: SourceImage, settled: Reach, admitted: Admission | None, highest: Decimal
) -> SourceImage:
    last = NOTHING if admitted is None else admitted.last
    spare = settled.left if admitted is None else admitted.spare
    state = state_of(source)
    assert state.allowance is not None
    is_admitted = settled.admits(order(source.input_id), last)
    allowance = dataclasses.replace(
        state.allowance,
        is_within_budget=is_admitted or _is_in_books(state.allowance, settled),
        spare_calls=max(0, int(spare // highest)),
    )
    return with_state(source, dataclasses.replace(state, allowance=allowance))


def _is_in_books(allowance: Allowance, settled: Reach) -> bool:
    """Checks whether the books hold the whole cost of an input, so that it may be upscaled.

    If the books hold more than the budget, e.g. because it was lowered, calls that may not have
    been charged yet are not repeated, as that could charge them.
    """
    is_overdrawn = settled.left < 0
    may_be_charged = allowance.prepaid is not None and allowance.prepaid.unresolved > 0
    return allowance.credits == 0 and not (is_overdrawn and may_be_charged)


def _last_bucket(asked: Claim, settled: Reach) -> Iterator[tuple[None, Claim]]:
    if not asked.spent and settled.is_last(asked.order):
        yield None, asked


@dataclasses.dataclass(eq=False)
class SettleBudget(beam.PTransform):
    """Finds the claims that a budget reaches, in two steps: sums of buckets, then one bucket.

    Attributes:
        max_credits: as in `LimitCredits`.
        output: as in `LimitCredits`.
        engine: as in `LimitCredits`.
        already_spent: as in `LimitCredits`.

    Returns:
        Two PCollections of at most one element each, from the `Claim`s: a `Reach`, and the
        `Admission` of its bucket.
    """

    max_credits: Decimal
    output: str | None = None
    engine: RemoteEngine | None = None
    already_spent: Decimal | None = None

    def expand(self, claims: Any) -> Any:
        """Gathers the sums of the buckets, then the claims of the last bucket alone."""
        refuse_windows(claims, "SettleBudget", _WHY_TOGETHER)
        max_credits, output, engine = self.max_credits, self.output, self.engine
        known = self.already_spent

        def left() -> Decimal:
            return max_credits - (spent(output, engine) if known is None else known)

        settled = (
            claims
            | "ByBucket" >> beam.Map(lambda asked: (bucket(asked), asked.credits))
            | "AddUp" >> beam.CombinePerKey(sum)
            | "Key" >> beam.Map(lambda pair: (None, pair))
            | "GatherSums" >> beam.GroupByKey()
            | "Reach" >> beam.Map(lambda sums: reach(sums[1], left()))
        )
        last = (
            claims
            | "LastBucket" >> beam.FlatMap(_last_bucket, beam.pvalue.AsSingleton(settled))
            | "GatherBucket" >> beam.GroupByKey()
            | "LastAdmitted"
            >> beam.Map(
                lambda pair, found: admission(pair[1], found.left),
                beam.pvalue.AsSingleton(settled),
            )
        )
        return settled, last


@dataclasses.dataclass(eq=False)
class LimitCredits(beam.PTransform):
    """Marks each input as within the budget or beyond it.

    Attributes:
        max_credits: the budget for the output as a whole, earlier runs included; at least 0.
        rules: the rules by which the run plans and prices the inputs.
        output: the dataset, whose earlier runs count against the budget; None counts none.
        engine: the engine of the service whose calls are in the dataset's books; None if nothing
            is paid.
        already_spent: the credits that earlier runs spent, if known; None reads them when the
            pipeline runs. A runner may repeat that read after this run has spent some.

    Returns:
        The `SourceImage`s, each with its `Allowance`.
    """

    max_credits: Decimal
    rules: Rules
    output: str | None = None
    engine: RemoteEngine | None = None
    already_spent: Decimal | None = None

    def expand(self, sources: Any) -> Any:
        """Computes the claim of every input, settles the budget, and marks the inputs."""
        refuse_windows(sources, "LimitCredits", _WHY_TOGETHER)
        claimed = sources | "Claim" >> beam.ParDo(_Claim(self.rules, self.engine))
        claims = claimed | "Claims" >> beam.Map(lambda pair: pair[1])
        settle = SettleBudget(self.max_credits, self.output, self.engine, self.already_spent)
        settled, last = claims | "Settle" >> settle
        claiming = claimed | "Images" >> beam.Map(lambda pair: pair[0])
        return claiming | "Admit" >> beam.Map(
            _admit,
            beam.pvalue.AsSingleton(settled),
            beam.pvalue.AsSingleton(last, default_value=None),
            max(tier.credits for engine in self.rules.engines for tier in engine.prices),
        )
