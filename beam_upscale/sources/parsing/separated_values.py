"""Comma- and tab-separated values, record by record, in bounded memory."""

import csv
import dataclasses
from collections.abc import Iterator
from typing import TextIO

LONGEST_RECORD = 16 << 20
"""Characters that a record may have: as many as a JSON line may have bytes."""

_PASSED_OVER_TOGETHER = 1 << 20


@dataclasses.dataclass(frozen=True)
class Record:
    """The values of one row.

    Attributes:
        place: the line that it begins in; it may go on over several.
        cells: its values; none where there is a problem.
        problem: why it cannot be read, while those after it can; empty where it can.
    """

    place: str
    cells: list[str]
    problem: str = ""


class MalformedError(ValueError):
    """A record that cannot be read, nor what comes after it.

    Attributes:
        place: the line that it begins in.
        found: what is wrong.
    """

    def __init__(self, place: str, found: str) -> None:
        super().__init__(place, found)
        self.place = place
        self.found = found


def records(text: TextIO, separator: str = ",") -> Iterator[Record]:
    """The records of a text, but for blank lines.

    Args:
        text: opened with `newline=""`.
        separator: between cells.

    Raises:
        MalformedError: quotes are not where they may be, or are never closed. One that is open is
            looked for no further than a record may be long.
    """
    # The library's own limit for a cell, of all readers in this process.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))
    lines = _Lines(text)
    reader = csv.reader(lines, strict=True, delimiter=separator)
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLongError:
            yield Record(lines.place, [], lines.pass_over())
            continue
        except csv.Error as error:
            raise MalformedError(lines.place, _found(lines, error)) from None
        if cells:
            yield Record(lines.place, cells)


def _found(lines: "_Lines", error: csv.Error) -> str:
    if lines.is_at_end:
        return "it ends within a quoted cell: it was cut off, or a quote is never closed"
    return str(error)


class _TooLongError(Exception):
    """A record goes on beyond what one may have."""


class _Lines(Iterator[str]):
    """The lines of a text, as long as a record may be."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._number = 0
        self._first = 1
        self._left = LONGEST_RECORD
        self._is_whole = True
        self.is_at_end = False

    @property
    def place(self) -> str:
        """The line that the record begins in."""
        return f"line {self._first}"

    def begin(self) -> None:
        """Begins with a record."""
        self._first = self._number + 1
        self._left = LONGEST_RECORD

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
        """Passes over the rest of a line that is too long, and says what is wrong with it.

        Raises:
            MalformedError: it goes on over several lines: nothing tells where it ends.
        """
        if self._number > self._first:
            raise MalformedError(
                self.place,
                f"a quoted cell does not end within {LONGEST_RECORD:,} characters; is a quote "
                "never closed?",
            )
        while not self._is_whole and (line := self._text.readline(_PASSED_OVER_TOGETHER)):
            self._is_whole = line[-1] in "\r\n"
        return (
            f"it has more characters than a row may have; at most {LONGEST_RECORD:,} are read; put "
            "images into files of their own"
        )
