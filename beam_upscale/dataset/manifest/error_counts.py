"""Counts rows by their errors, with a few examples of each, in bounded memory."""

import bisect
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.errors import shortened

_MOST_EXAMPLES = 3

# In characters; a message may quote long parts of an input.
_LONGEST_NAME = 1000
_LONGEST_MESSAGE = 1000


@dataclasses.dataclass(frozen=True, order=True)
class Example:
    """An input with an error.

    Attributes:
        input_id: the input's id.
        message: the error's message.
    """

    input_id: str
    message: str


@dataclasses.dataclass(frozen=True)
class ErrorCount:
    """The inputs of one status with one error.

    Attributes:
        status: the inputs' status.
        code: the error's code.
        images: the number of these inputs.
        examples: up to three of these inputs, the first by their ids.
    """

    status: Status
    code: str
    images: int
    examples: tuple[Example, ...]


class ErrorTally:
    """Counts the errors of rows that pass by, in any order."""

    def __init__(self) -> None:
        self._images: Counter[tuple[Status, str]] = Counter()
        self._examples: dict[tuple[Status, str], list[Example]] = {}

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yields the rows, and counts those with an error."""
        for row in rows:
            if row.error_code is not None:
                self._add(row, (row.status, str(row.error_code)))
            yield row

    def _add(self, row: Row, key: tuple[Status, str]) -> None:
        self._images[key] += 1
        examples = self._examples.setdefault(key, [])
        if len(examples) == _MOST_EXAMPLES and row.input_id >= examples[-1].input_id:
            return
        message = shortened(row.error_message or "", _LONGEST_MESSAGE)
        bisect.insort(examples, Example(row.input_id, message))
        del examples[_MOST_EXAMPLES:]

    def counts(self) -> tuple[ErrorCount, ...]:
        """Returns the counts by status, the most frequent error first."""
        order = list(Status)
        keys = sorted(self._images, key=lambda key: (order.index(key[0]), -self._images[key], key))
        return tuple(
            ErrorCount(status, code, self._images[status, code], self._shown(status, code))
            for status, code in keys
        )

    def _shown(self, status: Status, code: str) -> tuple[Example, ...]:
        return tuple(
            dataclasses.replace(each, input_id=shortened(each.input_id, _LONGEST_NAME))
            for each in self._examples[status, code]
        )
