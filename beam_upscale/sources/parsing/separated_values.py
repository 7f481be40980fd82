"""Parses comma- and tab-separated values, row by row, in bounded memory."""

import csv
import dataclasses
from collections.abc import Iterator
from typing import TextIO

LONGEST_LINE_CHARACTERS = 16 << 20
"""The most characters of a logical line, as lines are parsed as text; as many as a JSON line may
have bytes."""

_PASSED_OVER_TOGETHER = 1 << 20


@dataclasses.dataclass(frozen=True)
class LogicalLine:
    """The values of one row.

    Attributes:
        place: the line that it begins in; a logical line may span several lines.
        cells: its values; none if there is a problem.
        problem: the reason why this one logical line cannot be read; empty if it can.
    """

    place: str
    cells: list[str]
    problem: str = ""


class MalformedError(ValueError):
    """The error for a logical line that cannot be read, and after which no other can be found.

    Attributes:
        place: the line that it begins in.
        found: the fault.
    """

    def __init__(self, place: str, found: str) -> None:
        super().__init__(place, found)
        self.place = place
        self.found = found


def logical_lines(text: TextIO, separator: str = ",") -> Iterator[LogicalLine]:
    """Yields the logical lines of a text, except blank lines.

    Args:
        text: the text, opened with `newline=""`.
        separator: the character between cells.

    Raises:
        MalformedError: a quote is misplaced or never closed. The end of a quoted cell is searched
            for within `LONGEST_LINE_CHARACTERS` characters.
    """
    # The library's limit for a cell holds for all readers in this process.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE_CHARACTERS))
    lines = _Lines(text)
    reader = csv.reader(lines, strict=True, delimiter=separator)
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLongError:
            yield LogicalLine(lines.place, [], lines.pass_over())
            continue
        except csv.Error as error:
            raise MalformedError(lines.place, _found(lines, error)) from None
        if cells:
            yield LogicalLine(lines.place, cells)


def _found(lines: "_Lines", error: csv.Error) -> str:
    if lines.is_at_end:
        return "it ends within a quoted cell: it was cut off, or a quote is never closed"
    return str(error)


class _TooLongError(Exception):
    """A logical line has more than `LONGEST_LINE_CHARACTERS` characters."""


class _Lines(Iterator[str]):
    """The lines of a text, limited to the longest allowed logical line."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._number = 0
        self._first = 1
        self._left = LONGEST_LINE_CHARACTERS
        self._is_whole = True
        self.is_at_end = False

    @property
    def place(self) -> str:
        """The line that the logical line begins in, for messages."""
        return f"line {self._first}"

    def begin(self) -> None:
        """Begins a new logical line."""
        self._first = self._number + 1
        self._left = LONGEST_LINE_CHARACTERS

    def __next__(self) -> str:
        line = self._text.readline(self._left + 1)
        if not line:
            self.is_at_end = True
            raise StopIteration
        self._number += 1
        self._is_whole = line[-1] in "\r\n"
        if len(line) > self._left:
            raise _TooLongError
        self._left -= len(line)
        return line

    def pass_over(self) -> str:
        """Skips the rest of a line that is too long, and returns the description of that problem.

        Raises:
            MalformedError: the logical line spans several lines, so that its end cannot be found.
        """
        if self._number > self._first:
            raise MalformedError(
                self.place,
                f"a quoted cell does not end within {LONGEST_LINE_CHARACTERS:,} characters; is a "
                "quote never closed?",
            )
        while not self._is_whole and (line := self._text.readline(_PASSED_OVER_TOGETHER)):
            self._is_whole = line[-1] in "\r\n"
        return (
            f"it has more characters than a row may have; at most {LONGEST_LINE_CHARACTERS:,} are "
            "read; put images into files of their own"
        )
