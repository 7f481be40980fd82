import random

from beam_upscale.dataset.manifest.error_counts import ErrorCount, ErrorTally, Example
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.manifest.table import table


def row(number: int, code: str | None, status: Status = Status.FAILED) -> Row:
    message = None if code is None else f"message {number}"
    return Row(f"{number:03}", "", status, error_code=code, error_message=message)


def test_errors_are_counted_with_the_first_three_of_each() -> None:
    rows = [
        *(row(number, "corrupt") for number in range(10)),
        *(row(number, "truncated") for number in range(10, 22)),
        row(30, "over_budget", Status.OVER_BUDGET),
        row(31, "animated", Status.REJECTED),
        row(32, None, Status.UPSCALED),
    ]
    random.Random(0).shuffle(rows)
    tally = ErrorTally()

    stored, tally_of_stored = [table(rows[:20]), table(rows[20:])], ErrorTally()

    assert list(tally.watch(rows)) == rows
    assert list(tally_of_stored.watch_stored(stored)) == stored
    assert tally_of_stored.counts() == tally.counts()

    def examples(*numbers: int) -> tuple[Example, ...]:
        return tuple(Example(f"{number:03}", f"message {number}") for number in numbers)

    assert tally.counts() == (
        ErrorCount(Status.REJECTED, "animated", 1, examples(31)),
        ErrorCount(Status.FAILED, "truncated", 12, examples(10, 11, 12)),
        ErrorCount(Status.FAILED, "corrupt", 10, examples(0, 1, 2)),
        ErrorCount(Status.OVER_BUDGET, "over_budget", 1, examples(30)),
    )


def test_long_names_and_messages_are_shortened() -> None:
    tally = ErrorTally()
    found = Row("a" * 5000, "", Status.FAILED, error_code="corrupt", error_message="b" * 5000)

    list(tally.watch([found]))

    ((example,),) = [each.examples for each in tally.counts()]
    assert len(example.input_id) < 1100
    assert len(example.message) < 1100
