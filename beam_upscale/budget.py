"""The budget: which inputs it reaches is settled from their headers, before anything is spent."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import apache_beam as beam

from beam_upscale import storage
from beam_upscale.booking import Prepaid, prepaid, repeatable_entries
from beam_upscale.books import Place, State, read_sums, work_of
from beam_upscale.chain import ChainPlan, Rules
from beam_upscale.dataset import DatasetFolder
from beam_upscale.decoding import DecoderPool, shared_pool
from beam_upscale.errors import ImageError
from beam_upscale.global_window import refuse_windows
from beam_upscale.image import ImageHeader
from beam_upscale.listing import HEADER_BYTES, SourceImage
from beam_upscale.manifest import Row, Status
from beam_upscale.remote_models import RemoteModel
from beam_upscale.stages import as_image_error

# What stands at their end, frames and orientation, decides too.
_LATE_FORMATS = frozenset({"gif", "webp"})

_WHY_TOGETHER = "a budget is for all inputs together"

# Sorts before every hash: nothing new is admitted.
NOTHING = ""
# Sorts after every hash.
_EVERYTHING = "g"

# Claims whose hashes begin alike are added up first, so that no worker holds all of them.
_BUCKET_DIGITS = 3


@dataclasses.dataclass(frozen=True)
class Claim:
    """What an input asks of the budget.

    Attributes:
        order: hash of the input's id; the budget is given out in this order.
        credits: what it would cost, or did cost.
        spent: whether an earlier run spent it.
        prepaid: what `credits` leaves out; None where that is nothing.
    """

    order: str
    credits: Decimal
    spent: bool
    prepaid: Prepaid | None = None


def order(input_id: str) -> str:
    """Where an input stands in the queue for the budget: at random, but always the same."""
    return hashlib.sha256(input_id.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Admission:
    """The end of what a budget admits, and what is left beside it.

    Attributes:
        last: the last place in the queue that is within it; `NOTHING` if none is.
        spare: credits that are left beside the claims up to there.
    """

    last: str
    spare: Decimal


def admission(claims: Iterable[Claim], left: Decimal) -> Admission:
    """Admits claims of which none is spent, in order up to the first that does not fit.

    Free ones at the end are admitted too.

    Args:
        claims: in any order; equal claims give an equal answer.
        left: of the budget.
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
    """How far a budget goes: claims before `bucket` fit, and of those in it as many as `left` pays.

    Attributes:
        bucket: what the orders of claims begin with among which it ends; every hash sorts before
            it where all fit.
        left: credits for claims in that bucket.
    """

    bucket: str
    left: Decimal

    def is_last(self, place: str) -> bool:
        """Whether an order is one of the bucket in which the budget ends."""
        return place.startswith(self.bucket)

    def admits(self, place: str, last: str) -> bool:
        """Whether an order is within the budget, with the last of the bucket's `Admission`."""
        return place <= last if self.is_last(place) else place < self.bucket


def bucket(asked: Claim) -> str:
    """What a claim is added up with; what was spent stands apart."""
    return NOTHING if asked.spent else asked.order[:_BUCKET_DIGITS]


def reach(sums: Iterable[tuple[str, Decimal]], max_credits: Decimal) -> Reach:
    """Where a budget ends.

    Args:
        sums: of the claims of each bucket, in any order.
        max_credits: the budget, for this output as a whole.
    """
    by_bucket = dict(sums)
    left = max_credits - by_bucket.pop(NOTHING, Decimal(0))
    for name, asked in sorted(by_bucket.items()):
        if asked > left:
            return Reach(name, left)
        left -= asked
    return Reach(_EVERYTHING, left)


def read_header(source: SourceImage, decoders: DecoderPool, max_bytes: int) -> ImageHeader:
    """An input's header, from the beginning of its file where that is enough.

    Args:
        source: the input.
        decoders: where headers are read.
        max_bytes: of a larger file nothing is read, as in a run.

    Raises:
        ImageError: the file or its header cannot be read.
    """
    if source.data is not None or source.uri is None:
        return decoders.read_header(source.read(max_bytes))
    start = source.read_start()
    if len(start) != HEADER_BYTES:
        # All of it, which may be more where no less can be read.
        storage.check_size(len(start), max_bytes)
        return decoders.read_header(start)
    try:
        header = decoders.read_header(start)
    except ImageError:
        return decoders.read_header(source.read(max_bytes))
    if header.format in _LATE_FORMATS:
        return decoders.read_header(source.read(max_bytes))
    source.check_size(max_bytes)
    return header


def decide(source: SourceImage, rules: Rules, decoders: DecoderPool) -> ChainPlan:
    """What the rules say of an input, from its header and its parameters alone.

    Raises:
        ImageError: the file, its header or its caption cannot be read, or a column is no parameter;
            whatever else goes wrong is one image's, as in a run: see `as_image_error`.
    """
    try:
        if rules.is_guided:
            rules.check(source.parameters(rules.parameters, rules.prompt_column))
        header = read_header(source, decoders, rules.options.max_input_bytes)
        return rules.plan(header.width, header.height, frames=header.frames)
    except ImageError:
        raise
    except Exception as error:
        raise as_image_error(error) from error


def claim(
    source: SourceImage, rules: Rules, decoders: DecoderPool, model: RemoteModel | None = None
) -> Claim:
    """What an input asks of the budget; nothing if it will not be upscaled.

    An input that an earlier run did not upscale asks for what it asked then, so that what it did
    not spend makes no room that an uninterrupted run would not have had. What stands in the books
    of a service's calls, or in a committed shard, is counted there.

    Args:
        source: the input.
        rules: as it will be planned and priced.
        decoders: where its header is read.
        model: how the service is called whose calls are in the books; None where there are none.
    """
    place = order(source.input_id)
    earlier = None if source.earlier is None else source.earlier.row
    is_counted = source.committed or model is not None
    if earlier is not None and earlier.status is Status.UPSCALED:
        return Claim(place, Decimal(0) if is_counted else spent_on(earlier), spent=True)
    try:
        decision = decide(source, rules, decoders)
        known = _prepaid(source, decision, rules, model) if earlier is None else None
    except Exception as error:
        # It has no row here; it fails alike when it is read.
        as_image_error(error)
        return Claim(place, Decimal(0), spent=False)
    counted = Decimal(0) if known is None else known.credits
    if earlier is not None and is_counted:
        counted = spent_on(earlier)
    return Claim(place, max(Decimal(0), decision.credits - counted), spent=False, prepaid=known)


def _prepaid(
    source: SourceImage, decision: ChainPlan, rules: Rules, model: RemoteModel | None
) -> Prepaid | None:
    """Finds the earlier calls for an input that a run repeats for free; may read its file.

    Raises:
        ImageError: the file or its caption cannot be read.
    """
    books = source.books
    if model is None or books is None or not decision.is_upscaled:
        return None
    known = repeatable_entries(books, model)
    places = [
        Place(source.input_id, number, tile)
        for number, stage in enumerate(decision.stages)
        for tile in range(stage.calls)
    ]
    entries = [found for found in map(known.at, places) if found]
    if not entries:
        return None
    guided = rules.is_guided
    parameters = source.parameters(rules.parameters, rules.prompt_column) if guided else None
    work = work_of(source.sha256(), parameters)
    found = (prepaid(each, work, model, books) for each in entries)
    groups = [group for group in found if group is not None]
    paid = sum((group.first.credits for group in groups), Decimal(0))
    unresolved = sum((g.first.credits for g in groups if g.state is State.SENT), Decimal(0))
    return Prepaid(work, paid, unresolved) if paid else None


def spent_on(row: Row) -> Decimal:
    """What an input took of the budget: its price, or what was billed for it though it failed."""
    return max(row.credits, row.billed_credits)


def spent(output: str | None, model: RemoteModel | None) -> Decimal:
    """Credits that earlier runs spent on all inputs of a dataset, also on those that are gone.

    Args:
        output: the dataset; None counts none.
        model: how a service is called, whose calls are in the books, with what is not known of
            them; None where nothing is paid, and committed rows tell what would have been.
    """
    if output is None:
        return Decimal(0)
    dataset = DatasetFolder(storage.absolute(output))
    if model is not None:
        return read_sums(dataset).spent
    return sum((spent_on(row) for _, row in dataset.committed_rows()), Decimal(0))


class _Claim(beam.DoFn):
    def __init__(self, rules: Rules, model: RemoteModel | None) -> None:
        self._rules = rules
        self._model = model

    def process(self, source: SourceImage) -> Iterator[tuple[SourceImage, Claim]]:
        asked = claim(source, self._rules, shared_pool(), self._model)
        yield dataclasses.replace(source, claimed=asked.credits, prepaid=asked.prepaid), asked


def _admit(
    source: SourceImage, settled: Reach, admitted: Admission | None, highest: Decimal
) -> SourceImage:
    last = NOTHING if admitted is None else admitted.last
    spare = settled.left if admitted is None else admitted.spare
    is_within = settled.admits(order(source.input_id), last) or _is_in_books(source, settled)
    return dataclasses.replace(
        source, within_budget=is_within, spare_calls=max(0, int(spare // highest))
    )


def _is_in_books(source: SourceImage, settled: Reach) -> bool:
    """Tells whether the books hold the whole cost of an input, so that it may be done.

    Where they hold more than the budget, as one that was lowered, calls that are not known to be
    charged must not be: they are not repeated.
    """
    is_overdrawn = settled.left < 0
    may_be_charged = source.prepaid is not None and source.prepaid.unresolved > 0
    return source.claimed == 0 and not (is_overdrawn and may_be_charged)


def _last_bucket(asked: Claim, settled: Reach) -> Iterator[tuple[None, Claim]]:
    if not asked.spent and settled.is_last(asked.order):
        yield None, asked


@dataclasses.dataclass(eq=False)
class SettleBudget(beam.PTransform):
    """Settles which claims a budget reaches, in two steps: sums of buckets, then one bucket.

    Attributes:
        max_credits: as `LimitCredits`.
        output: likewise.
        model: likewise.
        already_spent: likewise.

    Returns:
        Of the `Claim`s two PCollections of one element at most: a `Reach`, and the `Admission` of
        its bucket.
    """

    max_credits: Decimal
    output: str | None = None
    model: RemoteModel | None = None
    already_spent: Decimal | None = None

    def expand(self, claims: Any) -> Any:
        """Gathers what is small."""
        refuse_windows(claims, "SettleBudget", _WHY_TOGETHER)
        max_credits, output, model = self.max_credits, self.output, self.model
        known = self.already_spent

        def left() -> Decimal:
            return max_credits - (spent(output, model) if known is None else known)

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
    """Marks the inputs that a budget does not reach.

    Attributes:
        max_credits: for the output as a whole, earlier runs included; at least 0.
        rules: as the inputs will be planned and priced.
        output: the dataset, for which earlier runs have spent of it; None counts none.
        model: how a service is called whose calls are in the dataset's books; None where nothing is
            paid.
        already_spent: what earlier runs spent of it, where that is known; None looks it up when
            the pipeline runs. A runner may repeat that look when this run has spent some.

    Returns:
        The `SourceImage`s, with `within_budget`, `claimed`, `prepaid` and `spare_calls` settled.
    """

    max_credits: Decimal
    rules: Rules
    output: str | None = None
    model: RemoteModel | None = None
    already_spent: Decimal | None = None

    def expand(self, sources: Any) -> Any:
        """Asks every input's claim, settles the budget, and marks the inputs."""
        refuse_windows(sources, "LimitCredits", _WHY_TOGETHER)
        claimed = sources | "Claim" >> beam.ParDo(_Claim(self.rules, self.model))
        claims = claimed | "Claims" >> beam.Map(lambda pair: pair[1])
        settle = SettleBudget(self.max_credits, self.output, self.model, self.already_spent)
        settled, last = claims | "Settle" >> settle
        images = claimed | "Images" >> beam.Map(lambda pair: pair[0])
        return images | "Admit" >> beam.Map(
            _admit,
            beam.pvalue.AsSingleton(settled),
            beam.pvalue.AsSingleton(last, default_value=None),
            max(tier.credits for engine in self.rules.engines for tier in engine.prices),
        )
