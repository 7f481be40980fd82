"""Counts rows by their errors, with a few examples of each, in bounded memory."""

import bisect
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.errors import shortened

_MOST_EXAMPLES = 3

# In characters; a message may quote long parts of an input.
_LONGEST_NAME = 1000
_LONGEST_MESSAGE = 1000

COUNTED = ("input_id", "status", "error_code", "error_message")
"""The columns of stored rows that `ErrorTally.watch_stored` reads."""


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
                self._add(row.input_id, row.status, str(row.error_code), row.error_message)
            yield row

    def watch_stored(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yields tables of stored rows, and counts those with an error."""
        for table in tables:
            with_error = table.filter(pc.is_valid(table["error_code"])).select(COUNTED)
            for input_id, status, code, message in zip(
                *with_error.to_pydict().values(), strict=True
            ):
                self._add(input_id, Status(status), code, message)
            yield table

    def _add(self, input_id: str, status: Status, code: str, message: str | None) -> None:
        key = status, code
        self._images[key] += 1
        examples = self._examples.setdefault(key, [])
        if len(examples) == _MOST_EXAMPLES and input_id >= examples[-1].input_id:
            return
        bisect.insort(examples, Example(input_id, shortened(message or "", _LONGEST_MESSAGE)))
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
