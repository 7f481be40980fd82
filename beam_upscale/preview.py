"""What a run would do and cost: headers only, no model, nothing spent."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from beam_upscale.budget import Claim, decide, last_admitted, order
from beam_upscale.chain import Rules
from beam_upscale.decoding import DecoderPool, shared_pool, usable_cores
from beam_upscale.engines import USD_PER_CREDIT
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.listing import SourceImage
from beam_upscale.manifest import Status, status_of
from beam_upscale.plan import Action


@dataclasses.dataclass(frozen=True)
class PlannedImage:
    """What would become of one input.

    Attributes:
        input_id: the input.
        status: as far as its header tells; what the pixels hide shows only in a run.
        error_code: why not, where it would not be upscaled.
        message: likewise.
        width: input pixels, None where the header cannot be read.
        height: likewise.
        output_width: pixels of the result, None where there is none.
        output_height: likewise.
        calls: priced pieces.
        credits: their price.
    """

    input_id: str
    status: Status
    error_code: ErrorCode | None = None
    message: str = ""
    width: int | None = None
    height: int | None = None
    output_width: int | None = None
    output_height: int | None = None
    calls: int = 0
    credits: Decimal = Decimal(0)


@dataclasses.dataclass(frozen=True)
class StatusTotals:
    """Sums over the inputs of one status.

    Attributes:
        images: inputs.
        calls: priced pieces.
        credits: their price.
        usd: the same in dollars.
    """

    images: int
    calls: int
    credits: Decimal
    usd: Decimal


def preview(
    sources: Iterable[SourceImage],
    rules: Rules,
    max_credits: Decimal | None = None,
) -> list[PlannedImage]:
    """Plans every input.

    Args:
        sources: the inputs; their headers are read, in as many threads as there are CPUs.
        rules: as the run would have them.
        max_credits: the budget; None sets none.

    Returns:
        One `PlannedImage` for each input, in the same order.
    """
    decoders = shared_pool()
    with ThreadPoolExecutor(max_workers=usable_cores()) as executor:
        planned = list(executor.map(lambda source: _planned(source, rules, decoders), sources))
    return planned if max_credits is None else list(_within(planned, max_credits))


def _planned(source: SourceImage, rules: Rules, decoders: DecoderPool) -> PlannedImage:
    try:
        decision = decide(source, rules, decoders)
    except ImageError as error:
        return PlannedImage(source.input_id, status_of(error.code), error.code, error.message)
    found = PlannedImage(
        input_id=source.input_id,
        status=Status.UPSCALED,
        error_code=decision.error_code,
        message=decision.message,
        width=decision.input_width,
        height=decision.input_height,
    )
    if decision.action is Action.SKIP:
        return dataclasses.replace(found, status=Status.SKIPPED)
    if decision.error_code is not None:
        return dataclasses.replace(found, status=status_of(decision.error_code))
    return dataclasses.replace(
        found,
        output_width=decision.output_width,
        output_height=decision.output_height,
        calls=decision.calls,
        credits=decision.credits,
    )


def _within(planned: list[PlannedImage], max_credits: Decimal) -> Iterator[PlannedImage]:
    claims = [Claim(order(image.input_id), image.credits, spent=False) for image in planned]
    reached = last_admitted(claims, max_credits)
    for image in planned:
        if image.status is not Status.UPSCALED or order(image.input_id) <= reached:
            yield image
            continue
        yield dataclasses.replace(
            image,
            status=Status.OVER_BUDGET,
            error_code=ErrorCode.OVER_BUDGET,
            message=f"{image.credits} credits would exceed --max-credits",
            calls=0,
            credits=Decimal(0),
        )


def by_status(planned: Iterable[PlannedImage]) -> dict[Status, StatusTotals]:
    """Sums for each status that occurs, exact to the last digit."""
    images: Counter[Status] = Counter()
    calls: Counter[Status] = Counter()
    prices: dict[Status, Decimal] = {}
    for image in planned:
        images[image.status] += 1
        calls[image.status] += image.calls
        prices[image.status] = prices.get(image.status, Decimal(0)) + image.credits
    return {
        status: StatusTotals(
            images[status], calls[status], prices[status], prices[status] * USD_PER_CREDIT
        )
        for status in Status
        if images[status]
    }
