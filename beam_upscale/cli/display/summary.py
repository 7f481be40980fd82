"""Prints the summary at the end of `run`: the inputs by outcome, the errors, price and pace."""

from collections.abc import Iterable, Iterator

from beam_upscale.cli.display.printing import Column, Printer, amount
from beam_upscale.cli.display.progress import clock
from beam_upscale.dataset.manifest.error_counts import ErrorCount
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.manifest.totals import Totals
from beam_upscale.pipeline.request import Pace, RunResult

HOW_TO_GO_ON = "what was done is kept, the same command without --overwrite goes on"

# Inputs that `--retry` does again. Rejected inputs are done again once the rule has changed.
_RETRIED = (Status.FAILED, Status.FILTERED, Status.OVER_BUDGET)


def print_result(printer: Printer, output: str, result: RunResult) -> None:
    """Prints the summary of a run.

    Args:
        printer: the printer of standard output.
        output: the dataset's root, as given to the run.
        result: the result of the run.
    """
    totals = result.totals
    printer.line(f"{totals.rows:,} inputs")
    counts = [(status, totals.by_status.get(status, 0)) for status in Status]
    printer.table(
        [Column("status"), Column("images", is_number=True)],
        [(status, f"{count:,}") for status, count in counts if count],
    )
    for line in _lines(output, result):
        printer.line(line)


def _lines(output: str, result: RunResult) -> Iterator[str]:
    yield from error_lines(result.errors)
    yield from _price(result.totals)
    if result.pace is not None:
        yield _pace(result.pace)
    yield from _retries(result.errors)
    if result.stopped is not None:
        yield f"stopped: {result.stopped}; {HOW_TO_GO_ON}"
        return
    yield f"dataset {output} (manifest in {output}/manifest, settings in {output}/run.json)"


def error_lines(errors: Iterable[ErrorCount]) -> Iterator[str]:
    """Yields the number of images with each error, and examples below it."""
    for error in errors:
        yield f"{error.status}  {error.code}  {error.images:,} of the images"
        for example in error.examples:
            yield f"    {example.input_id}: {example.message}"
        others = error.images - len(error.examples)
        if others:
            yield f"    and {others:,} more"


def _price(totals: Totals) -> Iterator[str]:
    yield (
        f"list price {amount(totals.credits)} credits (${amount(totals.usd)}), "
        f"billed {amount(totals.billed_credits)} credits"
    )
    if totals.charged_credits != totals.billed_credits or totals.unresolved_credits:
        yield (
            f"charged for this output in all {amount(totals.charged_credits)} credits; unresolved "
            f"{amount(totals.unresolved_credits)} credits of {totals.unresolved_calls:,} calls "
            "whose answers are not known"
        )


def _pace(pace: Pace) -> str:
    """Describes the pace of this run alone; only the counts include earlier runs."""
    seconds = max(pace.seconds, 0.001)
    megapixels = pace.pixels / 1e6
    return (
        f"took {clock(pace.seconds)} for {pace.images:,} images of this run: "
        f"{pace.images / seconds:.3g} images/s, {megapixels / seconds:.3g} Mpx/s of input"
    )


def _retries(errors: Iterable[ErrorCount]) -> Iterator[str]:
    found = {error.status for error in errors}
    again = [status for status in _RETRIED if status in found]
    if again:
        budget = ", and a higher --max-credits" if Status.OVER_BUDGET in found else ""
        yield f"to try these again: the same command with --retry {','.join(again)}{budget}"
    if Status.REJECTED in found:
        yield (
            "what a rule rejected is done by the same command with another rule "
            "(--oversize, --max-input-pixels, --max-input-bytes)"
        )
