"""The budget: which inputs it reaches is settled from their headers, before anything is spent."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import apache_beam as beam

from beam_upscale import storage
from beam_upscale.chain import ChainPlan, Rules
from beam_upscale.dataset import DatasetFolder
from beam_upscale.decoding import DecoderPool, shared_pool
from beam_upscale.errors import ImageError
from beam_upscale.global_window import refuse_windows
from beam_upscale.image import ImageHeader
from beam_upscale.listing import HEADER_BYTES, SourceImage
from beam_upscale.manifest import Row, Status

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
    """

    order: str
    credits: Decimal
    spent: bool


def order(input_id: str) -> str:
    """Where an input stands in the queue for the budget: at random, but always the same."""
    return hashlib.sha256(input_id.encode()).hexdigest()


def last_admitted(claims: Iterable[Claim], max_credits: Decimal) -> str:
    """The last place in the queue that the budget reaches.

    What earlier runs spent comes off first. Then claims are admitted in order up to the first that
    does not fit; free ones at the end are admitted too.

    Args:
        claims: in any order; equal claims give an equal answer.
        max_credits: the budget, for this output as a whole.

    Returns:
        An `order`; inputs up to and including it are within the budget. `NOTHING` if none is.
    """
    claims = list(claims)
    left = max_credits - sum((claim.credits for claim in claims if claim.spent), Decimal(0))
    reached = NOTHING
    for claim in sorted((c for c in claims if not c.spent), key=lambda claim: claim.order):
        left -= claim.credits
        if left < 0:
            break
        reached = claim.order
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
        """Whether an order is within the budget, with the `last_admitted` of the bucket."""
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
        ImageError: the file, its header or its caption cannot be read, or a column is no parameter.
    """
    if rules.is_guided:
        rules.check(source.parameters(rules.parameters, rules.prompt_column))
    header = read_header(source, decoders, rules.options.max_input_bytes)
    return rules.plan(header.width, header.height, frames=header.frames)


def claim(source: SourceImage, rules: Rules, decoders: DecoderPool) -> Claim:
    """What an input asks of the budget; nothing if it will not be upscaled.

    An input that an earlier run did not upscale asks for what it asked then, so that what it did
    not spend makes no room that an uninterrupted run would not have had.
    """
    place = order(source.input_id)
    earlier = None if source.earlier is None else source.earlier.row
    if earlier is not None and earlier.status is Status.UPSCALED:
        # What stands in a committed shard is counted there.
        return Claim(place, Decimal(0) if source.committed else spent_on(earlier), spent=True)
    counted = spent_on(earlier) if earlier is not None and source.committed else Decimal(0)
    try:
        asked = decide(source, rules, decoders).credits
    except ImageError:
        asked = Decimal(0)
    return Claim(place, max(Decimal(0), asked - counted), spent=False)


def spent_on(row: Row) -> Decimal:
    """What an input took of the budget: its price, or what was billed for it though it failed."""
    return max(row.credits, row.billed_credits)


def committed(output: str | None) -> Decimal:
    """Credits spent on all inputs in a dataset's committed shards, also on those that are gone."""
    if output is None:
        return Decimal(0)
    dataset = DatasetFolder(storage.absolute(output))
    return sum((spent_on(row) for _, row in dataset.committed_rows()), Decimal(0))


class _Claim(beam.DoFn):
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def process(self, source: SourceImage) -> Iterator[tuple[SourceImage, Claim]]:
        asked = claim(source, self._rules, shared_pool())
        yield dataclasses.replace(source, claimed=asked.credits), asked


def _admit(source: SourceImage, settled: Reach, last: str) -> SourceImage:
    return dataclasses.replace(source, within_budget=settled.admits(order(source.input_id), last))


def _last_bucket(asked: Claim, settled: Reach) -> Iterator[tuple[None, Claim]]:
    if not asked.spent and settled.is_last(asked.order):
        yield None, asked


@dataclasses.dataclass(eq=False)
class SettleBudget(beam.PTransform):
    """Settles which claims a budget reaches, in two steps: sums of buckets, then one bucket.

    Attributes:
        max_credits: as `LimitCredits`.
        output: likewise.

    Returns:
        Of the `Claim`s two PCollections of one element at most: a `Reach`, and the `last_admitted`
        of its bucket.
    """

    max_credits: Decimal
    output: str | None = None

    def expand(self, claims: Any) -> Any:
        """Gathers what is small."""
        refuse_windows(claims, "SettleBudget", _WHY_TOGETHER)
        max_credits, output = self.max_credits, self.output
        settled = (
            claims
            | "ByBucket" >> beam.Map(lambda asked: (bucket(asked), asked.credits))
            | "AddUp" >> beam.CombinePerKey(sum)
            | "Key" >> beam.Map(lambda pair: (None, pair))
            | "GatherSums" >> beam.GroupByKey()
            | "Reach" >> beam.Map(lambda sums: reach(sums[1], max_credits - committed(output)))
        )
        last = (
            claims
            | "LastBucket" >> beam.FlatMap(_last_bucket, beam.pvalue.AsSingleton(settled))
            | "GatherBucket" >> beam.GroupByKey()
            | "LastAdmitted"
            >> beam.Map(
                lambda pair, found: last_admitted(pair[1], found.left),
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
        output: the dataset, whose committed rows have spent of it; None counts none.

    Returns:
        The `SourceImage`s, with `within_budget` and `claimed` settled.
    """

    max_credits: Decimal
    rules: Rules
    output: str | None = None

    def expand(self, sources: Any) -> Any:
        """Asks every input's claim, settles the budget, and marks the inputs."""
        refuse_windows(sources, "LimitCredits", _WHY_TOGETHER)
        claimed = sources | "Claim" >> beam.ParDo(_Claim(self.rules))
        claims = claimed | "Claims" >> beam.Map(lambda pair: pair[1])
        settled, last = claims | "Settle" >> SettleBudget(self.max_credits, self.output)
        images = claimed | "Images" >> beam.Map(lambda pair: pair[0])
        return images | "Admit" >> beam.Map(
            _admit,
            beam.pvalue.AsSingleton(settled),
            beam.pvalue.AsSingleton(last, default_value=NOTHING),
        )
